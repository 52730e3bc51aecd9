package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ss/store/blob"
	"ss/store/keys"
)

var (
	key1   = Key{"ring", "20261122-104501-x7k2", "hostA"}
	key2   = Key{"ring", "20261122-104601-a1b2", "hostA"}
	key3   = Key{"ring", "20261122-104701-c3d4", "hostA"}
	jobKey = keys.Job{1, 2, 3}
)

func ok(t testing.TB, err error) {
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

// wantDamage wants an *IntegrityError about an object.
func wantDamage(t testing.TB, err error, object string) {
	t.Helper()
	for _, fault := range faultsOf("", err) {
		if fault.Object == object {
			return
		}
	}
	t.Fatalf("error %v, want damage of %s", err, object)
}

// newStore makes a store that must be consistent at the end of the test.
func newStore(t testing.TB, opt ...Options) *Store {
	t.Helper()
	opt = append(opt, Options{})
	s, err := Open(filepath.Join(t.TempDir(), "images"), opt[0])
	ok(t, err)
	t.Cleanup(func() {
		if !t.Failed() {
			s.pins.until = map[string]time.Time{} // as an agent starts
			ok(t, s.RemovePartials(context.Background()))
			ok(t, s.Check(context.Background()))
		}
	})
	return s
}

// files are what a set is made of, by path.
type files map[string][]byte

// random is n bytes that nobody can compress; the same for the same seed.
func random(n int, seed byte) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// sample has pages, some of them zeros and some twice, and the small files beside them.
func sample() files {
	pages := random(40<<12, 1)
	copy(pages[8<<12:12<<12], make([]byte, 4<<12))
	copy(pages[20<<12:22<<12], pages[:2<<12])
	return files{
		"hostA-1/pages-1.img":       pages,
		"hostA-1/core-1001.img":     []byte("the registers"),
		"hostA-1/files/a/ghost.img": []byte("unlinked"),
		"hostA-1/empty.img":         {},
		"hostA-2/pages-1.img":       append(slices.Clone(pages[:16<<12]), random(4<<12, 2)...),
		"hostA-2-and-more/tty-info": []byte("x"),
	}
}

// changed is the sample with some pages changed.
func changed(seed byte) files {
	fs := sample()
	pages := slices.Clone(fs["hostA-1/pages-1.img"])
	copy(pages[4<<12:7<<12], random(3<<12, seed))
	fs["hostA-1/pages-1.img"] = pages
	return fs
}

// fill puts files into a partial set as CRIU would: readable by all.
func fill(p *Partial, content files) error {
	for path, data := range content {
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

// epoch is that of a set, from the second in its name, so that they go up as in life.
func infoOf(key Key) Info {
	epoch := uint64(0)
	for _, c := range key.Snapshot {
		if '0' <= c && c <= '9' {
			epoch = epoch*10%1e12 + uint64(c-'0')
		}
	}
	return Info{Epoch: epoch, Meta: json.RawMessage(`{"frozen_ms":12.5}`), JobKey: jobKey}
}

// store makes a set, or nothing.
func store(s *Store, key Key, content files) (Sealed, error) {
	p, err := s.Begin(key)
	if err != nil {
		return Sealed{}, err
	}
	var sealed Sealed
	if err = fill(p, content); err == nil {
		sealed, err = p.Seal(context.Background(), infoOf(key))
	}
	if err != nil {
		return Sealed{}, errors.Join(err, p.Discard())
	}
	return sealed, nil
}

func sealed(t testing.TB, s *Store, key Key, content files) Sealed {
	t.Helper()
	made, err := store(s, key, content)
	ok(t, err)
	return made
}

// same unpacks a set and compares what comes out with what went in.
func same(t testing.TB, s *Store, key Key, digest string, want files) {
	t.Helper()
	ok(t, unpacksTo(s, key, digest, filepath.Join(t.TempDir(), "out"), want))
}

func unpacksTo(s *Store, key Key, digest, dir string, want files) error {
	x, err := s.Unpack(context.Background(), key, digest, jobKey, dir, nil)
	if err != nil {
		return err
	}
	if string(x.Meta) != `{"frozen_ms":12.5}` {
		return fmt.Errorf("meta %q", x.Meta)
	}
	got := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		got++
		rel, _ := filepath.Rel(dir, path)
		data, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(data, want[rel]) {
			err = fmt.Errorf("%s is not what it was", rel)
		}
		return err
	})
	if err == nil && got != len(want) {
		err = fmt.Errorf("%d files, want %d", got, len(want))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// objectsOf lists the names of a job's objects.
func objectsOf(t testing.TB, s *Store, job string) []string {
	t.Helper()
	var names []string
	for info, err := range s.objects.List(context.Background(), job+"/objects/") {
		ok(t, err)
		names = append(names, info.Name)
	}
	return names
}

// tree lists what there is below dir.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var paths []string
	ok(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			rel, _ := filepath.Rel(dir, path)
			paths = append(paths, rel)
		}
		return err
	}))
	return paths
}

// flip changes one bit of a file, n counted over the whole of it.
func flip(t testing.TB, path string, n int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(t, err)
	defer f.Close()
	info, err := f.Stat()
	ok(t, err)
	n %= info.Size() * 8
	b := make([]byte, 1)
	_, err = f.ReadAt(b, n/8)
	ok(t, err)
	b[0] ^= 1 << (n % 8)
	_, err = f.WriteAt(b, n/8)
	ok(t, err)
}

// peer is another store as a Push sees it: over the wire nothing is removed.
type peer struct {
	blob.Reader
	blob.Writer
}

func (peer) Remove(_ context.Context, name string) error {
	return fmt.Errorf("remove %s: %w", name, blob.ErrDenied)
}

// ComparesObjects is Comparing's: an agent compares what it is sent.
func (peer) ComparesObjects() {}

func asPeer(s *Store) peer { p := s.ForPeers(); return peer{p, p} }

// source is another store as a Fetch sees it.
func asSource(name string, s *Store) Source { return Source{Name: name, Reader: s.ForPeers()} }

// bent is a source that does something to what is read from it.
type bent struct {
	blob.Reader
	get func(name string, r io.ReadCloser) (io.ReadCloser, error)
}

func (b bent) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	r, err := b.Reader.Get(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	return b.get(name, r)
}

// reading is a reader with another one's Close.
type reading struct {
	io.Reader
	io.Closer
}
