package pack

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
)

// 64 MiB of random memory, a twentieth of its pages changed, and not changed at all.
func TestSecondCutStoresWhatChanged(t *testing.T) {
	const size = 64 << 20
	dir, m := t.TempDir(), newMemory()
	path := filepath.Join(dir, "pages-1.img")
	data := random(1, size)
	write := func() {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	x, first := m.store(t, dir, nil)
	if most := int64(size + size/50); first.New != size || first.Wrote > most || len(first.Packs) != 3 && len(first.Packs) != 2 {
		t.Errorf("first: %+v, at most %d expected", first, most)
	}
	indexOf := func(what string, x Index, most int) {
		t.Helper()
		sealed, err := x.Encode(testKey)
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) > most {
			t.Errorf("%s: index has %d bytes, at most %d expected", what, len(sealed), most)
		}
	}
	indexOf("first", x, 400)

	r, changed := rand.New(rand.NewPCG(5, 6)), int64(0)
	for _, page := range r.Perm(size / ChunkSize)[:size/ChunkSize/20] {
		copy(data[page*ChunkSize:], random(byte(page), ChunkSize))
		binary.LittleEndian.PutUint64(data[page*ChunkSize:], uint64(page))
		changed += ChunkSize
	}
	write()
	y, second := m.store(t, dir, m.known(t, x.Packs...))
	if second.New != changed || second.Wrote*10 > changed*11 {
		t.Errorf("%d bytes changed, second: %+v", changed, second)
	}
	indexOf("second", y, 6000) // 819 changed pages
	if used := y.Used(); len(used) != len(first.Packs)+1 || used[len(used)-1] != int(changed/ChunkSize) {
		t.Errorf("chunks used: %v", used)
	}
	got := readFiles(t, m.unpack(t, y))
	if !bytes.Equal(got["pages-1.img"], data) {
		t.Error("the second cut is not what it was")
	}

	z, third := m.store(t, dir, m.known(t, y.Packs...))
	if third.New != 0 || third.Wrote != 0 || len(third.Packs) != 0 || third.Known != size {
		t.Errorf("third: %+v", third)
	}
	indexOf("third", z, 6000)
}

func TestWhatIsStoredOnce(t *testing.T) {
	pages := random(1, 500*ChunkSize)
	cases := map[string]struct {
		first, second map[string][]byte
		fresh, zero   int64
	}{
		"shifted by a page":    {map[string][]byte{"a": pages}, map[string][]byte{"a": append(make([]byte, ChunkSize), pages...)}, 0, ChunkSize},
		"a mapping before":     {map[string][]byte{"a": pages}, map[string][]byte{"a": append(random(2, 3*ChunkSize), pages...)}, 3 * ChunkSize, 0},
		"another file":         {map[string][]byte{"a": pages}, map[string][]byte{"b": pages, "c": pages[77*ChunkSize:]}, 0, 0},
		"within one ingest":    {nil, map[string][]byte{"m1/a": pages, "m2/a": pages, "m2/b": bytes.Repeat(pages[:ChunkSize], 9)}, 500 * ChunkSize, 0},
		"a part of a page":     {map[string][]byte{"a": pages}, map[string][]byte{"a": pages[:100]}, 100, 0},
		"zeros cost nothing":   {nil, map[string][]byte{"a": make([]byte, 300*ChunkSize+7)}, 0, 300*ChunkSize + 7},
		"zeros, short and not": {nil, map[string][]byte{"a": append(make([]byte, 99), 1)}, 100, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			x, _ := m.store(t, writeFiles(t, c.first), nil)
			y, done := m.store(t, writeFiles(t, c.second), m.known(t, x.Packs...))
			if done.New != c.fresh || done.Zero != c.zero {
				t.Errorf("%+v, want %d new and %d zero", done, c.fresh, c.zero)
			}
			sameFiles(t, readFiles(t, m.unpack(t, y)), c.second)
		})
	}
}

// An index names no pack that it does not use, and files written by want are those alone.
func TestIndexNamesWhatItUses(t *testing.T) {
	m := newMemory()
	a, _ := m.store(t, writeFiles(t, map[string][]byte{"a": random(1, segmentSize)}), nil)
	b, _ := m.store(t, writeFiles(t, map[string][]byte{"b": random(2, segmentSize)}), nil)
	c, _ := m.store(t, writeFiles(t, map[string][]byte{"a": random(1, segmentSize)}), nil) // the same again, not known
	kn := m.known(t, b.Packs[0], a.Packs[0], c.Packs[0])
	files := map[string][]byte{"x": random(1, 3*ChunkSize), "y": random(3, 5)}
	x, done := m.store(t, writeFiles(t, files), kn)
	if len(x.Packs) != 2 || x.Packs[0] != a.Packs[0] || x.Packs[1] != done.Packs[0] {
		t.Errorf("packs %+v", x.Packs)
	}
	dir := t.TempDir()
	if err := Unpack(t.Context(), x, testKey, m, dir, func(path string) bool { return path == "y" }); err != nil {
		t.Fatal(err)
	}
	sameFiles(t, readFiles(t, dir), map[string][]byte{"y": files["y"]})
}

func TestModesAndHoles(t *testing.T) {
	dir := writeFiles(t, map[string][]byte{"d/r": {1}, "x": make([]byte, 64<<20), "w": {2}})
	for path, mode := range map[string]os.FileMode{"d/r": 0o400, "x": 0o755, "w": 0o666} {
		if err := os.Chmod(filepath.Join(dir, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	m := newMemory()
	x, _ := m.store(t, dir, nil)
	to := m.unpack(t, x)
	for path, mode := range map[string]os.FileMode{"d/r": 0o400, "x": 0o700, "w": 0o600, "d": os.ModeDir | 0o700} {
		info, err := os.Stat(filepath.Join(to, path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), mode)
		}
	}
	if n := blocksOf(t, filepath.Join(to, "x")); n > 64 {
		t.Errorf("64 MiB of zeros fill %d blocks", n)
	}
	// What is there is never written over.
	if err := Unpack(t.Context(), x, testKey, m, to, nil); !os.IsExist(err) && err == nil {
		t.Error("unpacked over files that are there")
	}
}

// Holes are not read, and a file with holes is stored as the same file without.
func TestHolesAreNotRead(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		size := r.Int64N(6 * segmentSize)
		dense, dir := make([]byte, size), t.TempDir()
		f, err := os.Create(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		for range r.IntN(6) {
			at := r.Int64N(size + 1)
			data := random(byte(r.Uint32()), int(min(size-at, r.Int64N(segmentSize))))
			copy(dense[at:], data)
			if _, err := f.WriteAt(data, at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		m := newMemory()
		x, _ := m.store(t, dir, nil)
		y, _ := m.store(t, writeFiles(t, map[string][]byte{"f": dense}), nil)
		if x.Files[0].Root != y.Files[0].Root || !slices.Equal(x.Files[0].Runs, y.Files[0].Runs) {
			t.Errorf("with holes it is %+v, without %+v", x.Files, y.Files)
		}
		sameFiles(t, readFiles(t, m.unpack(t, x)), map[string][]byte{"f": dense})
	}

	dir := writeFiles(t, map[string][]byte{"f": {1}})
	const size = 16<<30 + 5
	if err := os.Truncate(filepath.Join(dir, "f"), size); err != nil {
		t.Fatal(err)
	}
	m, works := newMemory(), atomic.Int32{}
	x, done, err := Ingest(t.Context(), dir, testKey, nil, m, IngestOptions{Pause: func(context.Context) error { works.Add(1); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if works := works.Load(); works > 4 || done.Bytes != size || done.New != ChunkSize {
		t.Errorf("%d blocks and segments were worked on for a hole, %+v", works, done)
	}
	if err := Check(t.Context(), x, testKey, m); err != nil {
		t.Error(err)
	}
}

func TestKnownIsSmall(t *testing.T) {
	const packs, chunks = 128, 8192 // 4 GiB
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	table := make([]Name, chunks)
	r := rand.NewChaCha8([32]byte{9})
	before := heap()
	kn := &Known{}
	for i := range packs {
		for j := range table {
			_, _ = r.Read(table[j][:])
		}
		kn.Add(PackRef{Object: Object{Size: int64(i)}}, table)
	}
	each := float64(heap()-before) / (packs * chunks)
	t.Logf("%.1f bytes a chunk", each)
	if each > 64 {
		t.Errorf("%.1f bytes a chunk", each)
	}
	for j := range table {
		if pack, chunk, ok := kn.find(&table[j]); !ok || pack != packs-1 || chunk != j {
			t.Fatalf("chunk %d is at %d, %d, %t", j, pack, chunk, ok)
		}
	}
	if _, _, ok := kn.find(&Name{1}); ok {
		t.Error("what was never added is found")
	}
}

// Names whose first bytes are equal, as those of MACs hardly ever are, are still told apart.
func TestKnownTellsNamesApart(t *testing.T) {
	kn := &Known{}
	var table []Name
	for i := range 3000 {
		n := Name{5, 5, 5, 5}
		binary.BigEndian.PutUint32(n[20:], uint32(i))
		table = append(table, n)
	}
	kn.Add(PackRef{}, table[:1000])
	kn.Add(PackRef{}, table[500:])
	for i := range table {
		pack, chunk, ok := kn.find(&table[i])
		if want := [2]int{0, i}; !ok || (i < 1000) != (pack == 0) || i < 1000 && chunk != want[1] || i >= 1000 && chunk != i-500 {
			t.Fatalf("name %d is at %d, %d, %t", i, pack, chunk, ok)
		}
	}
}
