package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func TestDedup(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	first := sealed(t, s, key1, sample()).Ingested
	// hostA-2 has 16 pages of hostA-1's, which has two pages twice; four pages are zeros, once in each.
	if first.Zero != 8<<12 || first.Known < (16+2-4)<<12 {
		t.Fatalf("within a cut: %+v", first)
	}
	second := sealed(t, s, key2, changed(5)).Ingested
	if second.New != 3<<12 {
		t.Fatalf("across cuts: %+v", second)
	}
	third := sealed(t, s, key3, changed(5)).Ingested
	if third.New != 0 || len(third.Packs) != 0 {
		t.Fatalf("nothing has changed: %+v", third)
	}
	other := Key{"ring", key3.Snapshot, "hostB"}
	if made := sealed(t, s, other, sample()).Ingested; made.New > 3<<12 {
		t.Fatalf("across hosts: %+v", made)
	}
	elsewhere := Key{"bank", key3.Snapshot, "hostA"}
	if made := sealed(t, s, elsewhere, sample()).Ingested; made.New != first.New {
		t.Fatalf("jobs share nothing: %+v", made)
	}
	info := infoOf(Key{"ring", "20261122-104801-x7k2", "hostA"})
	info.JobKey[0]++ // the job has another key now
	p, err := s.Begin(Key{"ring", "20261122-104801-x7k2", "hostA"})
	ok(t, err)
	ok(t, fill(p, sample()))
	if made, err := p.Seal(ctx, info); err != nil || made.Ingested.New != first.New {
		t.Fatalf("keys share nothing: %+v, %v", made, err)
	}
	for _, key := range []Key{key1, key2} { // what the others build on stays
		ok(t, s.Remove(key))
	}
	_, err = s.Collect(ctx, "", false)
	ok(t, err)
	same(t, s, key3, "", changed(5))
	same(t, s, other, "", sample())
	same(t, s, elsewhere, "", sample())
}

// TestSparsePacksAreAbandoned: a pack of which less than half is used is not built on, and goes with the cuts that use it.
func TestSparsePacksAreAbandoned(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	old := random(100<<12, 1)
	with := func(kept int) files { // so many of the old pages
		pages := random(100<<12, byte(10+kept))
		copy(pages, old[:kept<<12])
		return files{"hostA-1/pages-1.img": pages}
	}
	first := sealed(t, s, key1, with(100)).Manifest
	// Of the first pack 40 pages are in use afterwards: it is known to the second cut, and not to the third.
	if made := sealed(t, s, key2, with(40)); made.Ingested.New != 60<<12 {
		t.Fatalf("%+v", made.Ingested)
	}
	made := sealed(t, s, key3, with(40))
	if made.Ingested.New != 40<<12 {
		t.Fatalf("%+v", made.Ingested)
	}
	ok(t, s.Remove(key1))
	ok(t, s.Remove(key2))
	_, err := s.Collect(ctx, "ring", false)
	ok(t, err)
	if _, err := s.objects.Stat(ctx, ObjectName("ring", first.Packs[0].Digest)); err == nil {
		t.Fatal("the first pack is still there")
	}
	same(t, s, key3, "", with(40))
}

// memory is a member's memory: random pages, of which some have changed since.
type memory struct {
	size    int64
	changed map[int64]byte // pages, and the seed of what they hold now
}

// write makes the file of all pages.
func (m memory) write(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	ok(t, err)
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, m.reader(), make([]byte, 1<<20))
	ok(t, err)
	ok(t, f.Close())
}

func (m memory) reader() io.Reader {
	return io.LimitReader(&pages{m: m, rng: rand.NewChaCha8([32]byte{1})}, m.size)
}

// pages reads memory page by page.
type pages struct {
	m    memory
	rng  *rand.ChaCha8
	at   int64
	page [4096]byte
	left []byte
}

func (p *pages) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		_, _ = p.rng.Read(p.page[:])
		if seed, ok := p.m.changed[p.at]; ok {
			var key [32]byte
			copy(key[:], p.page[:31])
			key[31] = seed
			_, _ = rand.NewChaCha8(key).Read(p.page[:])
		}
		p.at++
		p.left = p.page[:]
	}
	n := copy(b, p.left)
	p.left = p.left[n:]
	return n, nil
}

// TestOnlyWhatHasChangedMoves is the promise: of 1 GiB of random memory, 5 % of its pages changed at random, hardly more than these are stored and
// moved; and hardly anything if nothing has changed.
func TestOnlyWhatHasChangedMoves(t *testing.T) {
	size := int64(1 << 30)
	if raceEnabled {
		size = 128 << 20 // scripts/test runs the whole of it without the race detector
	}
	ctx := context.Background()
	s, other := newStore(t), newStore(t)
	m := memory{size: size, changed: map[int64]byte{}}
	cut := func(key Key) Moved {
		p, err := s.Begin(key)
		ok(t, err)
		dir, err := p.Dir("hostA-1")
		ok(t, err)
		m.write(t, filepath.Join(dir, "pages-1.img"))
		made, err := p.Seal(ctx, infoOf(key))
		ok(t, err)
		ok(t, s.Commit(key))
		moved, err := s.Push(ctx, key, asPeer(other))
		ok(t, err)
		t.Logf("%s: %+v; moved %+v", key.Snapshot, made.Ingested, moved)
		return moved
	}
	if moved := cut(key1); moved.Bytes < size {
		t.Errorf("%d bytes of random memory moved as %d", size, moved.Bytes)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, page := range rng.Perm(int(size >> 12))[:size>>12/20] {
		m.changed[int64(page)] = 1
	}
	bytesChanged := int64(len(m.changed)) << 12
	if moved := cut(key2); moved.Bytes > bytesChanged*13/10 {
		t.Errorf("%d bytes were changed, %d were moved", bytesChanged, moved.Bytes)
	}
	if moved := cut(key3); moved.Bytes > size/100 {
		t.Errorf("nothing was changed, %d bytes were moved", moved.Bytes)
	}
	out := filepath.Join(t.TempDir(), "out")
	_, err := other.Unpack(ctx, key3, "", jobKey, out, nil)
	ok(t, err)
	got, want := sha256.New(), sha256.New()
	f, err := os.Open(filepath.Join(out, "hostA-1", "pages-1.img"))
	ok(t, err)
	defer f.Close()
	for h, r := range map[hash.Hash]io.Reader{got: f, want: m.reader()} {
		_, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 1<<20))
		ok(t, err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("what comes out of the other store is not what went in")
	}
}
