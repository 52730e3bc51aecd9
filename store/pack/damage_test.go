package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
)

func crc32c(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// bits are those to be flipped one by one: all of the head and of the trailer, and 1,000 anywhere.
func bits(size int) []int {
	var all []int
	for i := range headSize * 8 {
		all = append(all, i)
	}
	for i := range trailerSize * 8 {
		all = append(all, size*8-1-i)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		all = append(all, r.IntN(size*8))
	}
	return all
}

// lengths are where an object may end too early: 64 of all, and each of the first and last 20.
func lengths(size int) []int {
	var all []int
	for i := range 20 {
		all = append(all, i, size-1-i)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 64 {
		all = append(all, r.IntN(size))
	}
	return all
}

func flip(data []byte, bit int) []byte {
	data = bytes.Clone(data)
	data[bit/8] ^= 1 << (bit % 8)
	return data
}

// unpackDamaged fails if a file holds anything but what it should or, where nothing was written, zeros.
func unpackDamaged(t *testing.T, x Index, pack []byte, want map[string][]byte, check bool) error {
	t.Helper()
	m := newMemory()
	m.objects[x.Packs[0].Digest] = pack
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	err = Unpack(t.Context(), x, goldenKey, m, dir, nil)
	m.idle(t)
	for path, data := range readFiles(t, dir) {
		for off := 0; off < len(data); off += ChunkSize {
			chunk := data[off:min(off+ChunkSize, len(data))]
			if !isZero(chunk) && !bytes.Equal(chunk, want[path][off:min(off+ChunkSize, len(want[path]))]) {
				t.Errorf("%s: wrong bytes at %d were written", path, off)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if check {
		if err := Check(t.Context(), x, goldenKey, m); !errors.Is(err, ErrDamaged) {
			t.Errorf("Check: %v", err)
		}
	}
	return err
}

func TestDamagedPack(t *testing.T) {
	pack, index := readGolden(t)
	x, err := DecodeIndex(index, goldenKey)
	if err != nil {
		t.Fatal(err)
	}
	want := goldenFiles()
	damaged := func(what string, at int, data []byte) {
		err := unpackDamaged(t, x, data, want, at%8 == 0)
		damage, ok := errors.AsType[*DamageError](err)
		if !errors.Is(err, ErrDamaged) || !ok || damage.Digest != x.Packs[0].Digest {
			t.Errorf("%s %d: %v", what, at, err)
		}
	}
	for _, bit := range bits(len(pack)) {
		damaged("bit", bit, flip(pack, bit))
		_, err := ReadTable(bytes.NewReader(flip(pack, bit)), int64(len(pack)), goldenKey)
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("bit %d: table: %v", bit, err)
		}
	}
	for _, n := range lengths(len(pack)) {
		damaged("length", n, pack[:n])
		if _, err := ReadTable(bytes.NewReader(pack[:n]), int64(n), goldenKey); !errors.Is(err, ErrDamaged) {
			t.Errorf("length %d: table: %v", n, err)
		}
		if _, err := ReadTable(bytes.NewReader(pack[:n]), int64(len(pack)), goldenKey); !errors.Is(err, ErrDamaged) {
			t.Errorf("length %d: table: %v", n, err)
		}
	}
	// Parts that are genuine, and in another place.
	damaged("a pack twice", 0, append(bytes.Clone(pack), pack...)[len(pack)-30:][:len(pack)])
}

func TestDamagedIndex(t *testing.T) {
	_, index := readGolden(t)
	for _, bit := range bits(len(index)) {
		if _, err := DecodeIndex(flip(index, bit), goldenKey); !errors.Is(err, ErrDamaged) {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
	for _, n := range lengths(len(index)) {
		if _, err := DecodeIndex(index[:n], goldenKey); !errors.Is(err, ErrDamaged) {
			t.Errorf("length %d: %v", n, err)
		}
	}
	if _, err := DecodeIndex(append(bytes.Clone(index), 0), goldenKey); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
}

// sealedIndex is an index that a holder of the key made badly.
func sealedIndex(body []byte) []byte {
	h := newHead(indexMagic, testKey, [32]byte{1})
	return append(h[:], newBox(h, testKey, indexLabel).seal(shrinkBody(body), kindIndex, 0, nil)...)
}

// badIndexes are what makes an index none.
var badIndexes = map[string]func(x *Index){
	"absolute":           func(x *Index) { x.Files[0].Path = "/a" },
	"parent":             func(x *Index) { x.Files[0].Path = "../a" },
	"inner parent":       func(x *Index) { x.Files[0].Path = "a/../b" },
	"dot":                func(x *Index) { x.Files[0].Path = "." },
	"no path":            func(x *Index) { x.Files[0].Path = "" },
	"folder":             func(x *Index) { x.Files[0].Path = "a/" },
	"control":            func(x *Index) { x.Files[0].Path = "a\n" },
	"backslash":          func(x *Index) { x.Files[0].Path = `a\b` },
	"not UTF-8":          func(x *Index) { x.Files[0].Path = "a\xff" },
	"long element":       func(x *Index) { x.Files[0].Path = "a" + strings.Repeat("b", 255) },
	"long path":          func(x *Index) { x.Files[0].Path = strings.Repeat("aa/", 400) + "b" },
	"order":              func(x *Index) { x.Files[0].Path = "cc" },
	"twice":              func(x *Index) { x.Files[0].Path = "c" },
	"file and folder":    func(x *Index) { x.Files[1].Path = "a/b/c" },
	"negative size":      func(x *Index) { x.Files[0].Size = -1 },
	"mode":               func(x *Index) { x.Files[0].Mode = 0o4600 },
	"group's mode":       func(x *Index) { x.Files[0].Mode = 0o640 },
	"too few chunks":     func(x *Index) { x.Files[0].Size = 4097 },
	"too many chunks":    func(x *Index) { x.Files[0].Runs[0].Count = 2 },
	"empty run":          func(x *Index) { x.Files[0].Runs = []Run{{Count: 0}, {Count: 1}} },
	"negative run":       func(x *Index) { x.Files[0].Runs = []Run{{Count: -1}, {Count: 2}} },
	"no such pack":       func(x *Index) { x.Files[0].Runs[0].Pack = 1 },
	"negative pack":      func(x *Index) { x.Files[0].Runs[0].Pack = -1 },
	"no such segment":    func(x *Index) { x.Files[0].Runs[0].Segment = 2 },
	"no such chunk":      func(x *Index) { x.Files[2].Runs[0].First = 34 },
	"first of a segment": func(x *Index) { x.Files[0].Runs[0].First = 64 },
	"negative first":     func(x *Index) { x.Files[2].Runs[0].First = -1 },
	"huge segment":       func(x *Index) { x.Files[0].Runs[0].Segment = 1 << 58 },
	"digest":             func(x *Index) { x.Packs[0].Digest = strings.Repeat("AB", 32) },
	"short digest":       func(x *Index) { x.Packs[0].Digest = "ab" },
	"pack twice":         func(x *Index) { x.Packs = append(x.Packs, x.Packs[0]) },
	"pack of no chunks":  func(x *Index) { x.Packs[0].Chunks = 0 },
	"pack of many":       func(x *Index) { x.Packs[0].Chunks = maxPackChunks + 1 },
	"small pack":         func(x *Index) { x.Packs[0].Size = 3 },
	"huge pack":          func(x *Index) { x.Packs[0].Size = maxPackSize + 1 },
	"overflow":           func(x *Index) { x.Files[0].Size, x.Files[1].Size = 1<<62, 1<<62+5 },
}

func TestIndexIsValidated(t *testing.T) {
	pack := PackRef{Object{Digest: strings.Repeat("ab", 32), Size: 1000}, 100}
	file := func(path string, size int64, runs ...Run) File { return File{Path: path, Size: size, Runs: runs} }
	one := Run{Count: 1}
	good := Index{Packs: []PackRef{pack}, Files: []File{file("a/b", 4096, one), file("c", 1, one), file("d", 3*4096, Run{Count: 3, Segment: 1, First: 33})}}
	clone := func() Index {
		x := Index{Packs: []PackRef{pack}, Files: append([]File(nil), good.Files...)}
		for i := range x.Files {
			x.Files[i].Runs = append([]Run(nil), x.Files[i].Runs...)
		}
		return x
	}
	decode := func(x Index) error {
		body, err := x.encodeBody(nil)
		if err != nil {
			return ErrDamaged
		}
		_, err = DecodeIndex(sealedIndex(body), testKey)
		return err
	}
	if err := decode(clone()); err != nil {
		t.Fatal(err)
	}
	for name, change := range badIndexes {
		x := clone()
		change(&x)
		if _, err := x.Encode(testKey); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: Encode: %v", name, err)
		}
		if err := Unpack(t.Context(), x, testKey, newMemory(), t.TempDir(), nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: Unpack: %v", name, err)
		}
		switch name { // the form has no way to write these
		case "negative size", "mode", "group's mode", "negative run", "no such pack", "negative pack", "first of a segment", "negative first",
			"huge segment", "digest", "short digest":
		default:
			if err := decode(x); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: DecodeIndex: %v", name, err)
			}
		}
	}
}

func TestLittleMakesNobodyAskForMuch(t *testing.T) {
	bomb := shrinkBody(make([]byte, maxBody))
	if len(bomb) < maxBody {
		t.Errorf("%d bytes of zeros are %d bytes compressed", maxBody, len(bomb))
	}
	frame := newCompressor(1, segmentSize).EncodeAll(make([]byte, maxBody), nil)
	plain := append([]byte{0x81, 0x80, 0x80, 0x40}, frame...) // maxBody, compressed
	if _, err := decodeIndex(plain); !errors.Is(err, ErrDamaged) {
		t.Errorf("%d bytes for %d: %v", len(plain), maxBody, err)
	}
	plain = append([]byte{0x81, 0x01}, frame...) // 64 bytes, and there are more
	if _, err := decodeIndex(plain); !errors.Is(err, ErrDamaged) {
		t.Errorf("a frame of more than it says: %v", err)
	}
}

// TestPathsThatGrow: an index whose paths would each be longer than the one before by as much as a path may have is refused at the first that is
// too long, and not when a tebibyte of them has been put together.
func TestPathsThatGrow(t *testing.T) {
	const files = 500
	body := []byte{0, 0} // no packs, no meta
	body = binary.AppendUvarint(body, files)
	for i := range files {
		body = binary.AppendUvarint(body, uint64(i*maxPath)) // of the path before
		body = binary.AppendUvarint(body, maxPath)
		body = append(body, strings.Repeat("a/", maxPath/2)...)
		body = append(body, make([]byte, 1+1+32)...) // an empty file
	}
	before := allocated()
	_, err := decodeBody(body)
	if !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	if took := allocated() - before; took > 32<<20 {
		t.Errorf("%d bytes were allocated for %d", took, len(body))
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
