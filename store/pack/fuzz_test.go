package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// isRefusal fails unless an error is one that a caller can tell.
func isRefusal(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnknownVersion) && !errors.Is(err, ErrKey) {
		t.Errorf("an error of another kind: %v", err)
	}
}

// goldenParts are the golden pack and index without their encryption.
func goldenParts(t testing.TB) (segments, table, index []byte) {
	t.Helper()
	pack, sealed := readGolden(t)
	p, err := openPack(bytes.NewReader(pack), int64(len(pack)), goldenKey)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range p.table.segments {
		plain, err := p.box.open(bytes.Clone(pack[e.off:e.off+int64(e.length)]), kindSegment, uint64(i), nil)
		if err != nil {
			t.Fatal(err)
		}
		segments = append(segments, plain...)
	}
	h, err := parseHead(sealed, indexMagic, "image index", goldenKey)
	if err != nil {
		t.Fatal(err)
	}
	index, err = newBox(h, goldenKey, indexLabel).open(bytes.Clone(sealed[headSize:]), kindIndex, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	return segments, p.table.encode(nil), index
}

func FuzzDecodeIndex(f *testing.F) {
	_, index := readGolden(f)
	f.Add(index)
	f.Add(index[:headSize])
	f.Add(flip(index, 77))
	f.Fuzz(func(t *testing.T, data []byte) {
		if x, err := DecodeIndex(data, goldenKey); err != nil {
			isRefusal(t, err)
		} else if err := x.validate(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzIndexBody has what is below the encryption.
func FuzzIndexBody(f *testing.F) {
	_, _, plain := goldenParts(f)
	f.Add(plain)
	x, err := decodeIndex(plain)
	if err != nil {
		f.Fatal(err)
	}
	pack := PackRef{Object{Digest: strings.Repeat("cd", 32), Size: 1 << 20}, 1000}
	x.Packs = append(x.Packs, pack)
	x.Files = append(x.Files, File{Path: "m2/z", Size: 500*ChunkSize + 1, Mode: 0o600, Runs: []Run{
		{Count: 100, Pack: 1}, {Count: 1, Pack: 0, Segment: 1, First: 1}, {Count: 200, Zero: true}, {Count: 199, Pack: 1, Segment: 10, First: 63}, {Count: 1, Pack: 1},
	}})
	if err := x.validate(); err != nil {
		f.Fatal(err)
	}
	for _, x := range []Index{{}, {Packs: x.Packs[1:]}, {Files: x.Files[:1]}, x} {
		body, err := x.encodeBody(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(binary.AppendUvarint(nil, uint64(len(body))<<1), body...))
		f.Add(append(binary.AppendUvarint(nil, uint64(len(body))<<1|1), newCompressor(1, segmentSize).EncodeAll(body, nil)...))
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		x, err := decodeIndex(plain)
		if err != nil {
			isRefusal(t, err)
			return
		}
		body, err := x.encodeBody(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeBody(body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(x, again, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		for i, n := range x.Used() {
			if n > x.Packs[i].Chunks {
				t.Errorf("%d chunks of %d are used", n, x.Packs[i].Chunks)
			}
		}
		if x.Bytes() < 0 {
			t.Error("negative size")
		}
	})
}

func FuzzReadTable(f *testing.F) {
	pack, _ := readGolden(f)
	f.Add(pack)
	f.Add(pack[:headSize+trailerSize])
	f.Add(flip(pack, len(pack)*8-90))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := ReadTable(bytes.NewReader(data), int64(len(data)), goldenKey); err != nil {
			isRefusal(t, err)
		}
	})
}

// FuzzTable has what is below the encryption.
func FuzzTable(f *testing.F) {
	pack, _ := readGolden(f)
	_, table, _ := goldenParts(f)
	f.Add(table, int64(len(pack)-headSize-trailerSize-tagSize-len(table)))
	f.Add([]byte{1, 34, 1, 0, 1, 31: 0, 37: 0}, int64(17)) // one chunk of one byte
	f.Fuzz(func(t *testing.T, data []byte, room int64) {
		table, err := decodeTable(data, room)
		if err != nil {
			isRefusal(t, err)
			return
		}
		var into [SegmentChunks + 1]int
		for i := range table.segments {
			bounds := table.bounds(i, &into)
			for j := range bounds[1:] {
				if n := bounds[j+1] - bounds[j]; n < 1 || n > ChunkSize {
					t.Errorf("a chunk of %d bytes", n)
				}
			}
		}
		if again, err := decodeTable(table.encode(nil), room); err != nil {
			t.Error(err)
		} else if diff := cmp.Diff(table, again, cmp.AllowUnexported(tableTypes...), cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

var tableTypes = []any{table{}, extent{}, shortChunk{}}

// FuzzSegment decompresses what was encrypted.
func FuzzSegment(f *testing.F) {
	raw := random(1, 3*ChunkSize)
	f.Add(raw, uint8(3), uint16(0), false)
	text := bytes.Repeat([]byte("text "), 2000)
	f.Add(newCompressor(1, segmentSize).EncodeAll(text, nil), uint8(3), uint16(len(text)-2*ChunkSize), true)
	f.Fuzz(func(t *testing.T, plain []byte, chunks uint8, last uint16, compressed bool) {
		n := 1 + int(chunks)%SegmentChunks
		tab := &table{chunks: n, segments: []extent{{off: headSize, length: int32(len(plain) + tagSize), zstd: compressed}}}
		if length := last % ChunkSize; length > 0 {
			tab.short = []shortChunk{{int32(n - 1), int32(length)}}
		}
		if tab.validate() != nil {
			return
		}
		b := newSegmentBuffers()
		defer b.close()
		s, err := decodeSegment(plain, tab, 0, b)
		if err != nil {
			isRefusal(t, err)
			return
		}
		if got := len(s.chunks(0, n)); got != s.bounds[n] || got != len(s.data) {
			t.Errorf("%d bytes of %d", got, len(s.data))
		}
	})
}

// FuzzPack encrypts what may be in a pack, and reads it as one.
func FuzzPack(f *testing.F) {
	segments, table, _ := goldenParts(f)
	f.Add(segments, table)
	f.Add([]byte("x"), append([]byte{1, 34, 1, 0, 1}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, segments, tableForm []byte) {
		pack, tab := sealPack(segments, tableForm)
		m := newMemory()
		ref := PackRef{Object{Digest: string(bytes.Repeat([]byte("ab"), 32)), Size: int64(len(pack))}, 1}
		m.objects[ref.Digest] = pack
		names, err := ReadTable(bytes.NewReader(pack), ref.Size, testKey)
		if (err == nil) != (tab != nil) {
			t.Fatalf("the table is %v, and in a pack: %v", tab, err)
		}
		if err != nil {
			isRefusal(t, err)
			return
		}
		ref.Chunks = len(names)
		var into [SegmentChunks + 1]int
		lastBounds := tab.bounds((len(names)-1)/SegmentChunks, &into)
		size := int64(len(names)-1)*ChunkSize + int64(lastBounds[len(lastBounds)-1]-lastBounds[len(lastBounds)-2])
		x := Index{Packs: []PackRef{ref}, Files: []File{{Path: "f", Size: size, Runs: []Run{{Count: len(names)}}}}}
		if err := Check(t.Context(), x, testKey, m); err != nil {
			isRefusal(t, err)
		}
		m.idle(t)
	})
}

// sealPack makes a pack as its table says, or, if that is none, of one segment. It returns the table, if it is one.
func sealPack(segments, tableForm []byte) ([]byte, *table) {
	h := newHead(packMagic, testKey, [32]byte{7})
	b := newBox(h, testKey, packLabel)
	pack := bytes.Clone(h[:])
	var lengths []int
	d := decoder{data: tableForm}
	for range (d.number("chunks", 1, maxPackChunks) + SegmentChunks - 1) / SegmentChunks {
		lengths = append(lengths, max(d.number("length", 0, 2*(segmentSize+tagSize)+1)>>1-tagSize, 0))
		if len(lengths) == 8 {
			break // enough
		}
	}
	for i, n := range lengths {
		part := make([]byte, n)
		segments = segments[copy(part, segments):]
		pack = append(pack, b.seal(part, kindSegment, uint64(i), nil)...)
	}
	trailer := encodeTrailer(len(tableForm)+tagSize, len(lengths))
	room := int64(len(pack) - headSize)
	pack = append(pack, b.seal(bytes.Clone(tableForm), kindTable, uint64(len(lengths)), trailer)...)
	tab, err := decodeTable(tableForm, room)
	if err != nil {
		tab = nil
	}
	return append(pack, trailer...), tab
}
