package images

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ss/store/keys"
	"ss/store/pack"
)

func TestLifeOfASet(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	p, err := s.Begin(key1)
	ok(t, err)
	ok(t, fill(p, sample()))
	_, err = p.Dir("hostA-3") // nothing will be put there
	ok(t, err)
	_, err = s.Begin(key1)
	wantErr(t, err, ErrExists)
	if sets, err := s.Sets(); err != nil || len(sets) != 0 {
		t.Fatalf("a partial set is visible: %v, %v", sets, err)
	}
	_, err = s.Manifest(key1)
	wantErr(t, err, ErrNotFound)
	wantErr(t, s.Commit(key1), ErrNotFound)

	var read int64
	info := infoOf(key1)
	info.Progress = func(n int64) { read = n }
	made, err := p.Seal(ctx, info)
	ok(t, err)
	ok(t, p.Discard()) // does nothing now
	m := made.Manifest
	if m.Key() != key1 || m.Epoch != info.Epoch || m.KeyID != jobKey.ID() || m.Files != len(sample()) || m.Bytes != made.Ingested.Bytes || read != m.Bytes || len(m.Digest) != 64 {
		t.Fatalf("%+v, %d bytes read", m, read)
	}
	if left := tree(t, s.staging); len(left) != 0 {
		t.Fatalf("left in the staging folder: %q", left)
	}
	for _, look := range []func() (Manifest, error){
		func() (Manifest, error) { return s.Manifest(key1) },
		func() (Manifest, error) { return s.Verify(ctx, key1, "") },
		func() (Manifest, error) { return s.VerifyData(ctx, key1, m.Digest, jobKey) },
		func() (Manifest, error) { m, _, err := s.Index(ctx, key1, m.Digest, jobKey); return m, err },
	} {
		got, err := look()
		if diff := cmp.Diff(m, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	}
	same(t, s, key1, m.Digest, sample())
	_, err = s.Begin(key1)
	wantErr(t, err, ErrExists)

	_, err = s.Unpack(ctx, key1, "", keys.Job{9}, filepath.Join(t.TempDir(), "out"), nil)
	wantErr(t, err, pack.ErrKey)
	_, err = s.Unpack(ctx, key1, m.Index.Digest, jobKey, filepath.Join(t.TempDir(), "out"), nil)
	wantDamage(t, err, SetName(key1))
	some := filepath.Join(t.TempDir(), "out")
	_, err = s.Unpack(ctx, key1, "", jobKey, some, func(path string) bool { return path == "hostA-1/core-1001.img" })
	ok(t, err)
	if diff := cmp.Diff([]string{"hostA-1", "hostA-1/core-1001.img"}, tree(t, some)); diff != "" {
		t.Fatal(diff)
	}
}

func TestCommitAndRemove(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	m := sealed(t, s, key1, sample()).Manifest
	keys, err := s.InDoubt()
	ok(t, err)
	if diff := cmp.Diff([]Key{key1}, keys); diff != "" {
		t.Fatal(diff)
	}
	ok(t, s.Commit(key1))
	ok(t, s.Commit(key1))
	sets, err := s.Sets()
	ok(t, err)
	if diff := cmp.Diff([]Set{{key1, true, m}}, sets); diff != "" {
		t.Fatal(diff)
	}
	ok(t, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if info, err := d.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", path, info.Mode())
		}
		return err
	}))
	usage, err := s.Usage(ctx)
	ok(t, err)
	if len(usage) != 1 || usage[0].Job != "ring" || usage[0].Sets != 1 || usage[0].Logical != m.Bytes || usage[0].Stored <= 0 {
		t.Fatalf("%+v", usage)
	}

	ok(t, s.Remove(key1))
	ok(t, s.Remove(key1))
	_, err = s.Manifest(key1)
	wantErr(t, err, ErrNotFound)
	dry, err := s.Collect(ctx, "", true)
	ok(t, err)
	g, err := s.Collect(ctx, "", false)
	ok(t, err)
	if g != dry || g.Objects != len(m.Objects()) || g.Bytes != usage[0].Stored {
		t.Fatalf("%+v, dry %+v", g, dry)
	}
	// A mark that had stayed would commit what comes under that key later.
	sealed(t, s, key1, sample())
	if sets, err := s.Sets(); err != nil || len(sets) != 1 || sets[0].Committed {
		t.Fatal(sets, err)
	}
	ok(t, s.Remove(key1))
	ok(t, s.RemovePartials(ctx))
	if left := tree(t, s.dir); len(left) != 0 && !slices.Equal(left, []string{".incoming"}) {
		t.Fatalf("left behind: %q", left)
	}
	if staging, objects, err := s.Space(); err != nil || staging <= 0 || objects <= 0 {
		t.Fatal(staging, objects, err)
	}
}

func TestDiscard(t *testing.T) {
	s := newStore(t)
	p, err := s.Begin(key1)
	ok(t, err)
	ok(t, fill(p, sample()))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = p.Seal(ctx, infoOf(key1))
	wantErr(t, err, context.Canceled)
	ok(t, p.Discard())
	ok(t, p.Discard())
	if left := append(tree(t, s.staging), objectsOf(t, s, "ring")...); len(left) != 0 {
		t.Fatalf("left behind: %q", left)
	}
	_, err = p.Seal(context.Background(), infoOf(key1))
	wantErr(t, err, ErrInvalid)
	sealed(t, s, key1, sample())
}

func TestSealRefusesWhatIsNoImage(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"link": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"FIFO": func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			p, err := s.Begin(key1)
			ok(t, err)
			dir, err := p.Dir("hostA-1")
			ok(t, err)
			ok(t, put(filepath.Join(dir, "core-1.img")))
			if _, err = p.Seal(context.Background(), infoOf(key1)); err == nil {
				t.Fatal("sealed")
			}
			ok(t, p.Discard())
		})
	}
}

func TestNames(t *testing.T) {
	s := newStore(t)
	for _, bad := range []Key{{"", "s", "h"}, {"j", "..", "h"}, {"j", "s", ".h"}, {"j/k", "s", "h"}} {
		_, err := s.Begin(bad)
		wantErr(t, err, ErrInvalid)
		_, err = s.Manifest(bad)
		wantErr(t, err, ErrInvalid)
		wantErr(t, s.Commit(bad), ErrInvalid)
		wantErr(t, s.Remove(bad), ErrInvalid)
	}
	p, err := s.Begin(Key{"j", "s", "h.committed"})
	ok(t, err)
	for _, bad := range []string{"", "..", "a/b", ".x"} {
		_, err := p.Dir(bad)
		wantErr(t, err, ErrInvalid)
	}
	ok(t, p.Discard())
}

func TestOldLayoutIsRefused(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.Chmod(dir, 0o700))
	set := filepath.Join(dir, "ring", "20261122-104501-x7k2", "hostA")
	ok(t, os.MkdirAll(filepath.Dir(set), 0o700))
	_, err := Open(filepath.Join(dir), Options{Staging: t.TempDir()})
	if err == nil { // the staging folder of a test is empty, so it is made private
		ok(t, os.MkdirAll(set, 0o700))
		ok(t, os.WriteFile(filepath.Join(set, "manifest.json"), []byte("{}"), 0o600))
		_, err = Open(dir, Options{Staging: t.TempDir()})
	}
	wantErr(t, err, ErrUnknownVersion, dir, "older form", "move the folder away")
}

func TestOpenToOthersIsRefused(t *testing.T) {
	for _, which := range []string{"images", "staging"} {
		root := t.TempDir()
		ok(t, os.MkdirAll(filepath.Join(root, which, "x"), 0o755))
		ok(t, os.Chmod(filepath.Join(root, which), 0o755))
		if _, err := Open(filepath.Join(root, "images"), Options{}); err == nil {
			t.Fatalf("%s that is open to others is used", which)
		}
	}
}

func TestStagingLimit(t *testing.T) {
	s := newStore(t, Options{StagingLimit: 1 << 20})
	before, _, err := s.Space()
	ok(t, err)
	p, err := s.Begin(key1)
	ok(t, err)
	ok(t, fill(p, files{"hostA-1/pages-1.img": random(600<<10, 1)}))
	after, _, err := s.Space()
	ok(t, err)
	if before != 1<<20 || after > before-600<<10 {
		t.Fatalf("%d, then %d", before, after)
	}
	q, err := s.Begin(key2)
	ok(t, err)
	ok(t, fill(q, files{"hostA-1/pages-1.img": random(600<<10, 2)}))
	_, err = s.Begin(key3)
	wantErr(t, err, ErrNoSpace, s.staging)
	_, err = p.Seal(context.Background(), infoOf(key1))
	ok(t, err)
	r, err := s.Begin(key3)
	ok(t, err)
	ok(t, errors.Join(q.Discard(), r.Discard()))
	if now, _, err := s.Space(); err != nil || now != before {
		t.Fatal(now, err)
	}
}

func TestRemovePartials(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	ok(t, s.Commit(sealed(t, s, key1, sample()).Manifest.Key()))
	for _, key := range []Key{key2, {"bank", "s1", "hostB"}} {
		p, err := s.Begin(key)
		ok(t, err)
		ok(t, fill(p, sample()))
	}
	sealed(t, s, key3, changed(9))
	ok(t, s.Remove(key3)) // its objects are garbage now
	in, err := s.objects.Create(ctx)
	ok(t, err)
	_, err = in.Write([]byte("x"))
	ok(t, err)
	ok(t, os.MkdirAll(filepath.Join(s.staging, "lost+found", "x"), 0o700)) // somebody else's
	if err := s.Check(ctx); err == nil {
		t.Fatal("Check finds nothing")
	}
	ok(t, s.RemovePartials(ctx))
	ok(t, s.Check(ctx))
	if diff := cmp.Diff([]string{"lost+found", "lost+found/x"}, tree(t, s.staging)); diff != "" {
		t.Fatal(diff)
	}
	same(t, s, key1, "", sample())
}

func TestCuts(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	ok(t, s.PutCut(ctx, "ring", "s1", []byte("one")))
	ok(t, s.PutCut(ctx, "ring", "s2", []byte("two")))
	ok(t, s.PutCut(ctx, "bank", "s1", []byte("three")))
	ok(t, s.PutCut(ctx, "ring", "s1", []byte("ONE"))) // signed again
	ok(t, s.PutCut(ctx, "ring", "s2", []byte("two, longer")))
	wantErr(t, s.PutCut(ctx, "ring", "../x", nil), ErrInvalid)
	want := map[string]map[string][]byte{"ring": {"s1": []byte("ONE"), "s2": []byte("two, longer")}, "bank": {"s1": []byte("three")}}
	got, err := s.Cuts(ctx)
	ok(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	ok(t, s.RemoveCut(ctx, "ring", "s2"))
	ok(t, s.RemoveCut(ctx, "ring", "s2"))
	if got, err := s.Cuts(ctx); err != nil || len(got["ring"]) != 1 {
		t.Fatal(got, err)
	}
}

// TestNewerFormIsRefused: an agent that is older than its images says so, and leaves everything as it is, what it could tidy up too.
func TestNewerFormIsRefused(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "images")
	s := reopen(t, dir)
	sealed(t, s, key1, sample())
	p, err := s.Begin(key2)
	ok(t, err)
	ok(t, fill(p, sample()))
	for _, job := range []string{"ring", "bank"} {
		path := s.objects.Path(ObjectName(job, digest([]byte(job))))
		ok(t, os.MkdirAll(filepath.Dir(path), 0o700))
		ok(t, os.WriteFile(path, []byte(job), 0o600))
	}
	ok(t, os.WriteFile(filepath.Join(dir, ".incoming", "x"), []byte("begun"), 0o600))
	newer := s.objects.Path(SetName(key3))
	ok(t, os.MkdirAll(filepath.Dir(newer), 0o700))
	ok(t, os.WriteFile(newer, []byte(`{"schema":3,"chunks":[]}`), 0o600))
	before := tree(t, filepath.Dir(dir))

	_, err = Open(dir, Options{})
	wantErr(t, err, ErrUnknownVersion, dir, key3.String(), "schema 3", "newer one")
	_, err = s.Collect(ctx, "ring", false)
	wantErr(t, err, ErrUnknownVersion)
	_, err = s.Fetch(ctx, key3, "", false, nil)
	wantErr(t, err, ErrUnknownVersion)
	if after := tree(t, filepath.Dir(dir)); !slices.Equal(before, after) {
		t.Errorf("there was %q, and is %q", before, after)
	}

	// What has no version at all is damaged, and no newer program's work.
	ok(t, os.WriteFile(newer, []byte(`null`), 0o600))
	s = reopen(t, dir)
	ok(t, s.RemovePartials(ctx))
	if found, err := s.Damaged(); err != nil || len(found) != 1 {
		t.Errorf("%v %v", found, err)
	}
}
