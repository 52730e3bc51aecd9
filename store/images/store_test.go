package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var testKey = Key{"ring", "20261122-104501-x7k2", "hostA"}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want one that is %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// wantDamage wants an *IntegrityError about path, of one of the kinds.
func wantDamage(t testing.TB, err error, path string, kinds ...Kind) {
	t.Helper()
	var damage *IntegrityError
	if !errors.As(err, &damage) || damage.Path != path || !slices.Contains(kinds, damage.Kind) {
		t.Fatalf("error %v (%+v), want damage of %s: %q", err, damage, path, kinds)
	}
}

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "images"))
	check(t, err)
	return s
}

// content is what the sample's files hold: larger than a chunk, empty, in a folder of its own.
func content() map[string][]byte {
	rng := rand.NewChaCha8([32]byte{1})
	pages := make([]byte, 2*chunkSize+17)
	_, _ = rng.Read(pages)
	exact := make([]byte, chunkSize)
	_, _ = rng.Read(exact)
	return map[string][]byte{
		"hostA-1/core-1001.img":      []byte("the registers"),
		"hostA-1/pages-1.img":        pages,
		"hostA-1/files/a/ghost.img":  []byte("unlinked"),
		"hostA-1/empty.img":          {},
		"hostA-2/core-1001.img":      []byte("the other's registers"),
		"hostA-2/pages-1.img":        exact,
		"hostA-2-and-more/tty-info-": []byte("x"), // sorts between "hostA-2" and "hostA-2/"
	}
}

// fill puts the sample into a partial set as CRIU would: readable by all.
func fill(p *Partial) error {
	for path, data := range content() {
		member, rest, _ := strings.Cut(path, "/")
		dir, err := p.Dir(member)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, rest)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, rest), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

var info = Info{Epoch: 7, Meta: json.RawMessage(`{"frozen_ms": 12.5, "criu": "<4.2.1>"}`)}

func sealed(t testing.TB, s *Store, key Key) Manifest {
	t.Helper()
	p, err := s.Begin(key)
	check(t, err)
	check(t, fill(p))
	m, err := p.Seal(context.Background(), info)
	check(t, err)
	return m
}

// tree lists what there is below dir.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var paths []string
	check(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			rel, _ := filepath.Rel(dir, path)
			paths = append(paths, rel)
		}
		return err
	}))
	return paths
}

func TestLifeOfASet(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	p, err := s.Begin(testKey)
	check(t, err)
	check(t, fill(p))
	_, err = p.Dir("hostA-3") // nothing will be put there
	check(t, err)
	_, err = s.Begin(testKey)
	wantErr(t, err, ErrExists)
	if sets, err := s.Sets(); err != nil || len(sets) != 0 {
		t.Fatalf("a partial set is visible: %v, %v", sets, err)
	}
	_, err = s.Manifest(testKey)
	wantErr(t, err, ErrNotFound)
	wantErr(t, s.Commit(testKey), ErrNotFound)

	m, err := p.Seal(ctx, info)
	check(t, err)
	check(t, p.Discard()) // does nothing now
	var paths []string
	for _, f := range m.Files {
		paths = append(paths, f.Path)
		if f.Size != int64(len(content()[f.Path])) || f.Mode != 0o600 {
			t.Errorf("%+v", f)
		}
	}
	if len(paths) != len(content()) || !slices.IsSorted(paths) {
		t.Fatalf("paths: %q", paths)
	}
	if m.Epoch != 7 || m.Key() != testKey || len(m.Digest) != 64 || m.Bytes("hostA-2") != chunkSize+21 {
		t.Fatalf("%+v", m)
	}
	for _, check := range []func() (Manifest, error){
		func() (Manifest, error) { return s.Manifest(testKey) },
		func() (Manifest, error) { return s.Verify(ctx, testKey, "") },
		func() (Manifest, error) { return s.Verify(ctx, testKey, m.Digest) },
	} {
		got, err := check()
		if diff := cmp.Diff(m, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	}
	_, err = s.Begin(testKey)
	wantErr(t, err, ErrExists)

	if left := tree(t, filepath.Dir(s.setDir(testKey))); slices.Contains(left, "hostA/hostA-3") || slices.Contains(left, ".hostA.partial") {
		t.Fatalf("left behind: %q", left)
	}
}

func TestCommitAndRemove(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	m := sealed(t, s, testKey)
	keys, err := s.InDoubt()
	check(t, err)
	if diff := cmp.Diff([]Key{testKey}, keys); diff != "" {
		t.Fatal(diff)
	}
	check(t, s.Commit(testKey))
	check(t, s.Commit(testKey))
	sets, err := s.Sets()
	check(t, err)
	if diff := cmp.Diff([]Set{{testKey, true}}, sets); diff != "" {
		t.Fatal(diff)
	}
	_, err = s.Verify(ctx, testKey, m.Digest) // the marker is no damage
	check(t, err)
	dir, err := s.Dir(testKey, "hostA-2")
	check(t, err)
	if data, err := os.ReadFile(filepath.Join(dir, "core-1001.img")); err != nil || string(data) != "the other's registers" {
		t.Fatal(string(data), err)
	}
	for _, bad := range []string{"hostA-3", "..", "", manifestName, committedName} {
		_, err = s.Dir(testKey, bad)
		wantErr(t, err, ErrNotFound)
	}
	check(t, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if info, err := d.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", path, info.Mode())
		}
		return err
	}))

	check(t, s.Remove(testKey))
	check(t, s.Remove(testKey))
	if left := tree(t, s.dir); len(left) != 0 {
		t.Fatalf("left behind: %q", left)
	}
	if n, err := s.Space(); err != nil || n <= 0 {
		t.Fatal(n, err)
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	s := newStore(t)
	other := Key{testKey.Job, testKey.Snapshot, "hostB"}
	elsewhere := Key{"bank", "s1", "hostA"}
	for _, key := range []Key{testKey, other, elsewhere} {
		sealed(t, s, key)
	}
	check(t, s.Remove(testKey))
	check(t, os.MkdirAll(filepath.Join(s.dir, "lost+found", "x"), 0o700))
	keys, err := s.InDoubt()
	check(t, err)
	if diff := cmp.Diff([]Key{elsewhere, other}, keys); diff != "" {
		t.Fatal(diff)
	}
	check(t, s.RemovePartials(nil))
	for _, key := range keys {
		_, err := s.Verify(context.Background(), key, "")
		check(t, err)
	}
}

func TestRemovePartials(t *testing.T) {
	s := newStore(t)
	keep := Key{"ring", "s1", "hostA"}
	for _, key := range []Key{keep, {"ring", "s2", "hostA"}, {"bank", "s1", "hostB"}} {
		p, err := s.Begin(key)
		check(t, err)
		check(t, fill(p))
	}
	check(t, os.MkdirAll(filepath.Join(s.dir, "ring", "s0", ".hostA"+removedSuffix, "m"), 0o700))
	check(t, os.MkdirAll(filepath.Join(s.dir, "empty", "s0"), 0o700))
	keys, err := s.Partials()
	check(t, err)
	if len(keys) != 3 {
		t.Fatalf("partials: %v", keys)
	}
	check(t, s.RemovePartials(func(k Key) bool { return k == keep }))
	keys, err = s.Partials()
	check(t, err)
	if diff := cmp.Diff([]Key{keep}, keys); diff != "" {
		t.Fatal(diff)
	}
	check(t, s.RemovePartials(nil))
	if left := tree(t, s.dir); len(left) != 0 {
		t.Fatalf("left behind: %q", left)
	}
}

func TestBadNames(t *testing.T) {
	s := newStore(t)
	for _, key := range []Key{{}, {"..", "s", "h"}, {"j", "s", "../h"}, {"j", "s", ".h"}, {"j/k", "s", "h"}, {"j", "", "h"}, {"j", "s", strings.Repeat("h", 64)}} {
		_, err := s.Begin(key)
		wantErr(t, err, ErrInvalid)
		_, err = s.Manifest(key)
		wantErr(t, err, ErrInvalid)
		wantErr(t, s.Remove(key), ErrInvalid)
		wantErr(t, s.Commit(key), ErrInvalid)
	}
	p, err := s.Begin(testKey)
	check(t, err)
	for _, member := range []string{"", "..", ".", "a/b", manifestName, committedName} {
		_, err := p.Dir(member)
		wantErr(t, err, ErrInvalid)
	}
	check(t, p.Discard())

	dir := t.TempDir() // 0755, and not empty
	check(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Fatalf("a folder open to others: %v", err)
	}
}

func TestSealRefuses(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"symbolic link": func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "core.img")) },
		"fifo":          func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600) },
		"not UTF-8":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\xff"), nil, 0o600) },
		"line feed":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\nb"), nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			p, err := s.Begin(testKey)
			check(t, err)
			check(t, fill(p))
			dir, err := p.Dir("hostA-1")
			check(t, err)
			check(t, spoil(dir))
			if m, err := p.Seal(context.Background(), info); err == nil {
				t.Fatalf("sealed %+v", m)
			}
			check(t, p.Discard())
			check(t, p.Discard())
			if left := tree(t, s.dir); len(left) != 0 {
				t.Fatalf("left behind: %q", left)
			}
		})
	}
	s := newStore(t)
	p, err := s.Begin(testKey)
	check(t, err)
	check(t, fill(p))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = p.Seal(ctx, info)
	wantErr(t, err, context.Canceled)
	_, err = p.Seal(context.Background(), Info{Meta: json.RawMessage(`{`)})
	if err == nil {
		t.Fatal("sealed with broken metadata")
	}
	check(t, p.Discard())
}

// TestEveryDamage damages each file and the manifest, one at a time, and each is found by Verify and by Send.
// reader is one of the two ways to read a whole set.
type reader func(ctx context.Context, key Key, wantDigest string) (Manifest, error)

func eachReader(t *testing.T, f func(*testing.T, *Store, reader)) {
	t.Run("Verify", func(t *testing.T) { s := newStore(t); f(t, s, s.Verify) })
	t.Run("Scan", func(t *testing.T) { s := newStore(t); f(t, s, s.Scan) })
}

func TestEveryDamage(t *testing.T) { eachReader(t, everyDamage) }

func everyDamage(t *testing.T, s *Store, read reader) {
	ctx := context.Background()
	m := sealed(t, s, testKey)
	root := s.setDir(testKey)
	paths := []string{manifestName}
	for _, f := range m.Files {
		paths = append(paths, f.Path)
	}
	send := func() error { return s.Send(ctx, testKey, func(Frame) error { return nil }) }
	for _, path := range paths {
		full := filepath.Join(root, path)
		good, err := os.ReadFile(full)
		check(t, err)
		damage := func(what string, bad []byte, sendFinds bool) {
			t.Helper()
			check(t, os.WriteFile(full, bad, 0o600))
			_, err := read(ctx, testKey, m.Digest)
			wantDamage(t, err, path, KindDigest, KindSize)
			if sendFinds {
				if err := send(); !errors.As(err, new(*IntegrityError)) && !errors.Is(err, ErrUnknownVersion) {
					t.Errorf("%s of %s was sent: %v", what, path, err)
				}
			}
			check(t, os.WriteFile(full, good, 0o600))
		}
		// Send cannot know that a manifest is another valid one; whoever receives it can.
		known := path != manifestName
		for _, at := range []int{0, len(good) / 2, len(good) - 1} {
			if len(good) > 0 {
				bad := bytes.Clone(good)
				bad[at] ^= 1 << (at % 8)
				damage("flipped bit", bad, known)
				damage("truncation", good[:at], true)
			}
		}
		damage("growth", append(bytes.Clone(good), 'x'), true)
		check(t, os.Remove(full))
		_, err = read(ctx, testKey, m.Digest)
		wantDamage(t, err, path, KindMissing)
		check(t, os.Symlink(filepath.Join(t.TempDir(), "copy"), full))
		_, err = read(ctx, testKey, m.Digest)
		wantDamage(t, err, path, KindType)
		check(t, os.Remove(full))
		check(t, os.WriteFile(full, good, 0o600))
		if path != manifestName {
			check(t, os.Chmod(full, 0o640))
			_, err = read(ctx, testKey, m.Digest)
			wantDamage(t, err, path, KindMode)
			check(t, os.Chmod(full, 0o600))
		}
	}
}

func TestForeignFiles(t *testing.T) { eachReader(t, foreignFiles) }

func foreignFiles(t *testing.T, s *Store, read reader) {
	ctx := context.Background()
	m := sealed(t, s, testKey)
	root := s.setDir(testKey)
	for _, extra := range []string{"x", "hostA-1/x", "hostA-1/files/x", "hostA-9/"} {
		full := filepath.Join(root, extra)
		if strings.HasSuffix(extra, "/") {
			check(t, os.Mkdir(full, 0o700))
		} else {
			check(t, os.WriteFile(full, nil, 0o600))
		}
		_, err := read(ctx, testKey, m.Digest)
		wantDamage(t, err, strings.TrimSuffix(extra, "/"), KindExtra)
		check(t, os.Remove(full))
	}
	check(t, os.WriteFile(filepath.Join(root, committedName), []byte("x"), 0o600))
	_, err := read(ctx, testKey, m.Digest)
	wantDamage(t, err, committedName, KindExtra)
	check(t, os.Remove(filepath.Join(root, committedName)))
	_, err = read(ctx, testKey, m.Digest)
	check(t, err)

	// All faults at once, and a folder that became a link.
	check(t, os.Remove(filepath.Join(root, "hostA-1/core-1001.img")))
	check(t, os.Rename(filepath.Join(root, "hostA-2"), filepath.Join(t.TempDir(), "moved")))
	check(t, os.Symlink("/etc", filepath.Join(root, "hostA-2")))
	_, err = read(ctx, testKey, m.Digest)
	for _, want := range []string{"hostA-1/core-1001.img", "hostA-2: not a regular file"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestMovedSet(t *testing.T) {
	s := newStore(t)
	m := sealed(t, s, testKey)
	other := Key{testKey.Job, testKey.Snapshot, "hostB"}
	check(t, os.Rename(s.setDir(testKey), s.setDir(other)))
	_, err := s.Verify(context.Background(), other, m.Digest)
	wantDamage(t, err, manifestName, KindManifest)
}

func TestUnknownVersion(t *testing.T) {
	s := newStore(t)
	sealed(t, s, testKey)
	path := filepath.Join(s.setDir(testKey), manifestName)
	data, err := os.ReadFile(path)
	check(t, err)
	check(t, os.WriteFile(path, bytes.Replace(data, []byte(`"schema":1`), []byte(`"schema":2,"packs":[]`), 1), 0o600))
	before := tree(t, s.dir)
	_, err = s.Verify(context.Background(), testKey, "")
	wantErr(t, err, ErrUnknownVersion, "newer ssagent")
	_, err = s.Manifest(testKey)
	wantErr(t, err, ErrUnknownVersion)
	wantErr(t, s.Send(context.Background(), testKey, func(Frame) error { return nil }), ErrUnknownVersion)
	check(t, s.RemovePartials(nil))
	if diff := cmp.Diff(before, tree(t, s.dir)); diff != "" {
		t.Fatal(diff)
	}
}

// BenchmarkSeal measures hashing and making durable: what follows a dump.
func BenchmarkSeal(b *testing.B) {
	const size = 512 << 20
	s := newStore(b)
	page := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(page)
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		p, err := s.Begin(testKey)
		check(b, err)
		dir, err := p.Dir("m")
		check(b, err)
		f, err := os.Create(filepath.Join(dir, "pages-1.img"))
		check(b, err)
		for range size / len(page) {
			_, err := f.Write(page)
			check(b, err)
		}
		check(b, f.Close())
		b.StartTimer()
		_, err = p.Seal(context.Background(), info)
		check(b, err)
		b.StopTimer()
		check(b, s.Remove(testKey))
		b.StartTimer()
	}
}

// A checksum belongs to each part of a large file, and each part is looked at.
func TestScanLooksAtEveryPart(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	p, err := s.Begin(testKey)
	check(t, err)
	dir, err := p.Dir("hostA-1")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "pages-1.img"), bytes.Repeat([]byte("page"), (2*PartSize+4096)/4), 0o600))
	m, err := p.Seal(ctx, Info{})
	check(t, err)
	if got := len(m.Files[0].CRC32C); got != 3 {
		t.Fatalf("%d checksums for two parts and a bit", got)
	}
	_, err = s.Scan(ctx, testKey, m.Digest)
	check(t, err)
	f, err := os.OpenFile(filepath.Join(s.setDir(testKey), "hostA-1/pages-1.img"), os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	for _, at := range []int64{0, PartSize - 1, PartSize, 2*PartSize - 1, 2 * PartSize, 2*PartSize + 4095} {
		var b [1]byte
		_, err := f.ReadAt(b[:], at)
		check(t, err)
		_, err = f.WriteAt([]byte{b[0] ^ 1}, at)
		check(t, err)
		_, err = s.Scan(ctx, testKey, m.Digest)
		wantDamage(t, err, "hostA-1/pages-1.img", KindDigest)
		_, err = f.WriteAt(b[:], at)
		check(t, err)
	}
}
