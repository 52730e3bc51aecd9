package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func newDir(t testing.TB) *Dir {
	t.Helper()
	d, err := OpenDir(filepath.Join(t.TempDir(), "root"))
	check(t, err)
	return d
}

func put(t testing.TB, s Writer, name, content string) {
	t.Helper()
	check(t, s.Put(context.Background(), name, strings.NewReader(content), int64(len(content))))
}

func get(t testing.TB, s Reader, name string) string {
	t.Helper()
	r, err := s.Get(context.Background(), name, 0, -1)
	check(t, err)
	defer r.Close()
	data, err := io.ReadAll(r)
	check(t, err)
	return string(data)
}

func list(t testing.TB, s Reader) []string {
	t.Helper()
	var names []string
	for info, err := range s.List(context.Background(), "") {
		check(t, err)
		names = append(names, info.Name)
	}
	return names
}

// tree lists what is below a folder, but for the empty folder of what has no name yet.
func tree(t testing.TB, root string) []string {
	t.Helper()
	var paths []string
	check(t, filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, path); rel != "." && rel != incomingName {
			paths = append(paths, rel)
		}
		return err
	}))
	return paths
}

func TestNames(t *testing.T) {
	for _, name := range []string{
		"a", "0", "A.b_c-d/e", "1/2/3/4/5/6/7/8", strings.Repeat("a", 128), strings.Repeat(strings.Repeat("a", 128)+"/", 7) + strings.Repeat("a", 128),
	} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "../a", "a/../b", ".incoming/x", "-a", "_a", "a b", "a\x00", "ä", "a\\b", "a/.b", "1/2/3/4/5/6/7/8/9",
		strings.Repeat("a", 129), strings.Repeat("a/", 1<<20), strings.Repeat("\xff", 1<<20),
	} {
		if err := CheckName(name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.40q: %v", name, err)
		} else if len(err.Error()) > 4096 {
			t.Errorf("%.40q: the error is %d bytes long", name, len(err.Error()))
		}
	}
}

// TestDirIsPrivate looks at modes: what is in a folder may be a secret.
func TestDirIsPrivate(t *testing.T) {
	d := newDir(t)
	put(t, d, "job/objects/a", "x")
	check(t, filepath.WalkDir(d.root, func(path string, e os.DirEntry, err error) error {
		check(t, err)
		info, err := e.Info()
		check(t, err)
		want := os.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s is %04o", path, info.Mode().Perm())
		}
		return nil
	}))
	open := filepath.Join(t.TempDir(), "open")
	check(t, os.Mkdir(open, 0o700))
	check(t, os.WriteFile(filepath.Join(open, "x"), nil, 0o600))
	check(t, os.Chmod(open, 0o755))
	if _, err := OpenDir(open); err == nil {
		t.Error("a folder that is open to others is taken")
	}
}

// TestDirFollowsNoLink puts links, a FIFO and folders where objects would be.
func TestDirFollowsNoLink(t *testing.T) {
	ctx := context.Background()
	d := newDir(t)
	put(t, d, "real/a", "secret")
	outside := filepath.Join(t.TempDir(), "outside")
	check(t, os.Mkdir(outside, 0o700))
	check(t, os.WriteFile(filepath.Join(outside, "a"), []byte("outside"), 0o600))
	check(t, os.Symlink(filepath.Join(outside, "a"), d.Path("link")))
	check(t, os.Symlink(outside, d.Path("folder")))
	check(t, syscall.Mkfifo(d.Path("fifo"), 0o600))
	for _, name := range []string{"link", "folder/a", "fifo"} {
		if r, err := d.Get(ctx, name, 0, -1); !errors.Is(err, ErrDamaged) {
			t.Errorf("get %s: %v, %v", name, r, err)
		}
		if _, err := d.Stat(ctx, name); !errors.Is(err, ErrDamaged) {
			t.Errorf("stat %s: %v", name, err)
		}
		if err := d.Put(ctx, name, strings.NewReader("x"), 1); !errors.Is(err, ErrDamaged) {
			t.Errorf("put %s: %v", name, err)
		}
	}
	if err := d.Remove(ctx, "folder/a"); !errors.Is(err, ErrDamaged) {
		t.Errorf("remove: %v", err)
	}
	if _, err := d.Stat(ctx, "real"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a folder is an object: %v", err)
	}
	wantErr(t, d.Put(ctx, "real", strings.NewReader("x"), 1), ErrExists)
	wantErr(t, d.Put(ctx, "real/a/b", strings.NewReader("x"), 1), ErrExists)
	check(t, d.Remove(ctx, "real"))
	check(t, d.Remove(ctx, "real/a/b"))
	check(t, os.Mkdir(d.Path(".quarantine"), 0o700))
	check(t, os.WriteFile(d.Path(".quarantine")+"/x", nil, 0o600))
	if got := list(t, d); !slices.Equal(got, []string{"real/a"}) {
		t.Errorf("list: %q", got)
	}
	if got := get(t, d, "real/a"); got != "secret" {
		t.Errorf("got %q", got)
	}
	if left := tree(t, outside); len(left) != 1 {
		t.Errorf("outside: %q", left)
	}
}

// TestRemovePartials keeps what is young, and what has a name.
func TestRemovePartials(t *testing.T) {
	ctx := context.Background()
	d := newDir(t)
	put(t, d, "job/a", "x")
	in, err := d.Create(ctx)
	check(t, err)
	_, err = in.Write([]byte("begun"))
	check(t, err)
	check(t, d.RemovePartials(24*time.Hour))
	if left := tree(t, d.incoming()); len(left) != 1 {
		t.Fatalf("a young one is gone: %q", left)
	}
	old := time.Now().Add(-25 * time.Hour)
	check(t, os.Chtimes(in.f.Name(), old, old))
	check(t, d.RemovePartials(24*time.Hour))
	if left := tree(t, d.root); !slices.Equal(left, []string{"job", "job/a"}) {
		t.Fatalf("left: %q", left)
	}
	if err := in.Commit("job/b"); err == nil {
		t.Fatal("what was taken away has been given a name")
	}
	check(t, in.Discard())
}

// TestIncoming gives a name to what was written without one.
func TestIncoming(t *testing.T) {
	ctx := context.Background()
	d := newDir(t)
	for i := range 2 { // the second is kept
		in, err := d.Create(ctx)
		check(t, err)
		_, err = io.Copy(in, strings.NewReader("content"))
		check(t, err)
		check(t, in.Commit("job/a"))
		check(t, in.Discard())
		if _, err := in.Write([]byte("x")); err == nil {
			t.Error("written after the end")
		}
		if got := get(t, d, "job/a"); got != "content" {
			t.Errorf("round %d: %q", i, got)
		}
	}
	for name, want := range map[string]error{"job/a": ErrExists, "../a": ErrInvalid, "job": ErrExists} {
		in, err := d.Create(ctx)
		check(t, err)
		wantErr(t, in.Commit(name), want)
	}
	in, err := d.Create(ctx)
	check(t, err)
	check(t, in.Discard())
	if left := tree(t, d.root); !slices.Equal(left, []string{"job", "job/a"}) {
		t.Errorf("left: %q", left)
	}
}

// TestPruneAndPut lets two processes' worth of callers remove and put in one folder at once: nobody's folder goes from under
// them.
func TestPruneAndPut(t *testing.T) {
	ctx := context.Background()
	one := newDir(t)
	two := &Dir{root: one.root}
	var wg sync.WaitGroup
	for i, d := range []*Dir{one, two, one, two} {
		wg.Go(func() {
			name := "job/deep/" + string(rune('a'+i))
			for range 100 {
				if err := d.Put(ctx, name, bytes.NewReader([]byte("x")), 1); err != nil {
					t.Error(err)
					return
				}
				if _, err := d.Stat(ctx, name); err != nil {
					t.Error(err)
				}
				if err := d.Remove(ctx, name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left := tree(t, one.root); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}
