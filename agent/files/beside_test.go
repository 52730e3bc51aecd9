package files

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// instant is a time that all files made before it are older than, and all made after it are not: the kernel notes times of change in ticks.
func instant(t *testing.T, dir string) time.Time {
	t.Helper()
	stamp := func() time.Time {
		path := filepath.Join(dir, "stamp")
		must(t, os.WriteFile(path, nil, 0o600))
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		must(t, os.Remove(path))
		return time.Unix(st.Ctim.Unix())
	}
	for first := stamp(); ; {
		if now := stamp(); now.After(first) {
			return first
		}
	}
}

func lookBeside(t *testing.T, since time.Time, held, works, skip []string) []Changed {
	t.Helper()
	kept := map[string]bool{}
	for _, name := range held {
		kept[name] = true
	}
	b, err := NewBeside(since, kept, skip)
	must(t, err)
	found, err := b.Look(t.Context(), held, works)
	must(t, err)
	return found
}

// folders makes a database's folders, with a file in each.
func folders(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, sub := range []string{"base/5", "wal", "empty", "declared", "removed"} {
		must(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	for _, name := range []string{"conf", "base/5/1", "base/5/2", "base/5/fork", "wal/1", "removed/1", "declared/1"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	return dir
}

// TestBeside: files that changed after the cut beside those in it, and folders from which names went, are found, from the folder that the program works in
// downwards. What the cut has, what has not changed, what is declared, and what is not a regular file are left out.
func TestBeside(t *testing.T) {
	dir := folders(t)
	elsewhere := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	since := instant(t, elsewhere)
	held := []string{at("base/5/1"), at("wal/1")}
	for _, name := range []string{"base/5/1", "base/5/2", "base/5/new", "conf", "declared/2"} {
		must(t, os.WriteFile(at(name), []byte("changed"), 0o644))
	}
	must(t, os.Remove(at("removed/1")))
	must(t, os.WriteFile(filepath.Join(elsewhere, "f"), nil, 0o644))
	must(t, os.Symlink(elsewhere, at("base/link")))
	must(t, unix.Mkfifo(at("base/5/fifo"), 0o600))
	must(t, os.Chtimes(at("base/5/2"), since.Add(-time.Hour), since.Add(-time.Hour))) // hides nothing
	got := lookBeside(t, since, held, []string{"/", dir}, []string{at("declared")})
	if len(got) != 1 || got[0].Folder != dir || got[0].Shared || got[0].Bounded+got[0].Unknown != "" {
		t.Fatalf("%+v", got)
	}
	if want := []string{at("conf"), at("base/5/2"), at("base/5/new")}; !slices.Equal(got[0].Files, want) {
		t.Errorf("files %q, want %q", got[0].Files, want)
	}
	if want := []string{at("base"), at("removed")}; !slices.Equal(got[0].Folders, want) { // in base a link was made
		t.Errorf("folders %q, want %q", got[0].Folders, want)
	}

	if got := lookBeside(t, time.Now().Add(time.Hour), held, []string{dir}, nil); len(got) > 0 {
		t.Errorf("nothing has changed since: %+v", got)
	}
	if got := lookBeside(t, since, held, []string{at("empty")}, nil); len(got) != 1 || got[0].Folder != at("base/5") || len(got[0].Files) != 2 {
		t.Errorf("a program that works elsewhere: %+v", got)
	}
	if got := lookBeside(t, since, []string{at("gone/f")}, nil, nil); len(got) > 0 {
		t.Errorf("a folder that is gone: %+v", got)
	}
}

// TestBesideInSharedFolders: of folders in which everybody has files, those count whose names begin with that of a file of the cut.
func TestBesideInSharedFolders(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Chmod(dir, 0o1777))
	must(t, os.Mkdir(filepath.Join(dir, "db.d"), 0o755))
	since := instant(t, t.TempDir())
	for _, name := range []string{"db", "db-journal", "other", "db.d/f"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	got := lookBeside(t, since, []string{filepath.Join(dir, "db")}, []string{dir}, nil)
	if len(got) != 1 || !got[0].Shared || !slices.Equal(got[0].Files, []string{filepath.Join(dir, "db-journal")}) || len(got[0].Folders) > 0 {
		t.Errorf("%+v", got)
	}
}

// TestBesideRoots: where a look begins.
func TestBesideRoots(t *testing.T) {
	for _, row := range []struct {
		held, works, skip, whole, shared []string
	}{
		{held: []string{"/pg/base/5/1", "/pg/wal/1"}, works: []string{"/pg"}, whole: []string{"/pg"}},
		{held: []string{"/pg/base/5/1", "/pg/wal/1"}, works: []string{"/"}, whole: []string{"/pg/base/5", "/pg/wal"}},
		{held: []string{"/pg/a", "/pg/base/1"}, works: []string{"/pg/base"}, whole: []string{"/pg"}},
		{held: []string{"/pgother/a"}, works: []string{"/pg"}, whole: []string{"/pgother"}},
		{held: []string{"/var/lib/db/a", "/var/log/db.log", "/srv/x"}, works: []string{"/var/lib"}, whole: []string{"/var/lib/db"}, shared: []string{"/srv", "/var/log"}},
		{held: []string{"/home/u/f", "/home/u/app/f"}, works: []string{"/home/u"}, whole: []string{"/home/u/app"}, shared: []string{"/home/u"}},
		{held: []string{"/state/f", "/pg/x/f", "relative"}, works: []string{"/pg/x"}, skip: []string{"/state", "/pg"}},
		{held: []string{"/f"}, works: []string{"/"}, shared: []string{"/"}},
	} {
		b := &Beside{skip: row.skip, mounts: proc.MountTable{}}
		whole, shared := b.roots(row.held, row.works)
		if names := slices.Sorted(maps.Keys(shared)); !slices.Equal(whole, row.whole) || !slices.Equal(names, row.shared) {
			t.Errorf("%q, at work in %q: %q and of shared ones %q, want %q and %q", row.held, row.works, whole, names, row.whole, row.shared)
		}
	}
}

// TestBesideIsBounded: a look ends after so many entries, or so long, or so deep, and says so. It ends with its caller.
func TestBesideIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		must(t, os.MkdirAll(fmt.Sprintf("%s/%d/%d", dir, i%5, i), 0o755))
	}
	held := []string{dir + "/held"}
	for _, row := range []struct {
		bound func(b *Beside)
		says  string
	}{
		{func(b *Beside) { b.left = 20 }, "entries"},
		{func(b *Beside) { b.until = time.Now() }, "within"},
		{func(*Beside) {}, ""},
	} {
		b, err := NewBeside(time.Now().Add(time.Hour), nil, nil)
		must(t, err)
		row.bound(b)
		found, err := b.Look(t.Context(), held, nil)
		must(t, err)
		if said := len(found) == 1 && found[0].Bounded != "" && strings.Contains(found[0].Bounded, row.says); said != (row.says != "") {
			t.Errorf("%q: %+v", row.says, found)
		}
	}
	deep := t.TempDir()
	must(t, os.MkdirAll(deep+strings.Repeat("/d", depthBeside+2), 0o755))
	b, err := NewBeside(time.Now().Add(time.Hour), nil, nil)
	must(t, err)
	if found, err := b.Look(t.Context(), []string{deep + "/held"}, nil); err != nil || len(found) != 1 || !strings.Contains(found[0].Bounded, "folders deep") {
		t.Errorf("folders in folders: %+v, %v", found, err)
	}
	b, err = NewBeside(time.Now(), nil, nil)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Look(ctx, held, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("its caller is gone: %v", err)
	}
}

// TestBesideOnAnotherClock: nothing is said of file systems whose times are those of another host, and they are not asked, as they may let a look wait.
func TestBesideOnAnotherClock(t *testing.T) {
	dir := t.TempDir()
	since := instant(t, t.TempDir())
	must(t, os.WriteFile(dir+"/new", nil, 0o644))
	b, err := NewBeside(since, nil, nil)
	must(t, err)
	nfs := *b.mounts[0]
	nfs.Mountpoint, nfs.FSType = dir, "nfs4"
	b.mounts = append(b.mounts, &nfs)
	found, err := b.Look(t.Context(), []string{dir + "/sub/held"}, []string{dir})
	must(t, err)
	if len(found) != 1 || !strings.Contains(found[0].Unknown, "nfs4") || len(found[0].Files) > 0 {
		t.Errorf("%+v", found)
	}
}

// TestBesideLeavesMountsAlone needs root. What is mounted in a folder is not looked at: it may be another host's.
func TestBesideLeavesMountsAlone(t *testing.T) {
	_, home := playground(t)
	since := instant(t, t.TempDir())
	must(t, os.Mkdir(home+"/mounted", 0o755))
	must(t, unix.Mount("tmpfs", home+"/mounted", "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(home+"/mounted", unix.MNT_DETACH)) })
	must(t, os.WriteFile(home+"/mounted/new", nil, 0o644))
	must(t, os.WriteFile(home+"/new", nil, 0o644))
	got := lookBeside(t, since, []string{home + "/held"}, nil, nil)
	if len(got) != 1 || !slices.Equal(got[0].Files, []string{home + "/new"}) {
		t.Errorf("%+v", got)
	}
}
