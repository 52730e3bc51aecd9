package pack

import (
	"encoding/binary"
	"fmt"
	"math"
	"sort"
)

const (
	trailerMagic = "kpss"
	trailerSize  = 12
	// maxTable bounds a table, in bytes: names, and 6 bytes for each segment and each short chunk.
	maxTable = maxPackChunks*(len(Name{})+6) + maxPackChunks/SegmentChunks*6 + 64
)

// extent is where a segment lies in a pack.
type extent struct {
	off    int64
	length int32 // tag included
	zstd   bool
}

// shortChunk is a chunk of less than ChunkSize bytes.
type shortChunk struct {
	chunk  int32
	length int32
}

// A table says what is where in a pack.
type table struct {
	chunks   int
	segments []extent
	short    []shortChunk // by chunk
	names    []byte       // one after the other
}

// name is the name of a chunk.
func (t *table) name(chunk int) []byte { return t.names[chunk*len(Name{}) : (chunk+1)*len(Name{})] }

// bounds says where the chunks of a segment begin and end when it is decompressed: chunk i from bounds[i] to bounds[i+1].
func (t *table) bounds(segment int, into *[SegmentChunks + 1]int) []int {
	first := segment * SegmentChunks
	n := min(SegmentChunks, t.chunks-first)
	next := sort.Search(len(t.short), func(i int) bool { return int(t.short[i].chunk) >= first })
	into[0] = 0
	for i := range n {
		length := ChunkSize
		if next < len(t.short) && int(t.short[next].chunk) == first+i {
			length = int(t.short[next].length)
			next++
		}
		into[i+1] = into[i] + length
	}
	return into[:n+1]
}

// encode appends the table.
func (t *table) encode(to []byte) []byte {
	to = binary.AppendUvarint(to, uint64(t.chunks))
	for _, s := range t.segments {
		length := uint64(s.length) << 1
		if s.zstd {
			length |= 1
		}
		to = binary.AppendUvarint(to, length)
	}
	to = binary.AppendUvarint(to, uint64(len(t.short)))
	next := int32(0)
	for _, s := range t.short {
		to = binary.AppendUvarint(to, uint64(s.chunk-next))
		to = binary.AppendUvarint(to, uint64(s.length))
		next = s.chunk + 1
	}
	return append(to, t.names...)
}

// decodeTable reads a table. room is how many bytes of the pack its segments fill. The table keeps data.
func decodeTable(data []byte, room int64) (*table, error) {
	d := decoder{data: data}
	t := &table{chunks: d.number("chunks", 1, maxPackChunks)}
	if d.err == nil && len(d.data) < t.chunks*len(Name{}) {
		d.fail("it has %d chunks and %d bytes for their names", t.chunks, len(d.data))
	}
	if d.err != nil {
		return nil, d.err
	}
	t.segments = make([]extent, (t.chunks+SegmentChunks-1)/SegmentChunks)
	off := int64(headSize)
	for i := range t.segments {
		length := d.number("a segment's length", 0, math.MaxInt32)
		t.segments[i] = extent{off: off, length: int32(length >> 1), zstd: length&1 == 1}
		off += int64(length >> 1)
	}
	if d.err == nil && off != headSize+room {
		d.fail("its segments have %d bytes, and there are %d", off-headSize, room)
	}
	t.short = d.shortChunks(t.chunks)
	t.names = d.bytes("names", t.chunks*len(Name{}))
	d.end()
	if d.err != nil {
		return nil, d.err
	}
	return t, t.validate()
}

// shortChunks reads the list of them.
func (d *decoder) shortChunks(chunks int) []shortChunk {
	n := d.number("short chunks", 0, int64(min(chunks, len(d.data)/2)))
	short := make([]shortChunk, 0, n)
	for next := 0; len(short) < n && d.err == nil; {
		chunk := next + d.number("distance between short chunks", 0, int64(chunks-1-next))
		length := d.number("length of a short chunk", 1, ChunkSize-1)
		short = append(short, shortChunk{int32(chunk), int32(length)})
		next = chunk + 1
	}
	return short
}

// validate checks that each segment is as long as what is in it allows.
func (t *table) validate() error {
	var room [SegmentChunks + 1]int
	for i, s := range t.segments {
		bounds := t.bounds(i, &room)
		sealed := bounds[len(bounds)-1] + tagSize
		if !s.zstd && int(s.length) != sealed || s.zstd && (int(s.length) <= tagSize || int(s.length) >= sealed) {
			return fmt.Errorf("the table has segment %d with %d bytes, and %d are in it: %w", i, s.length, sealed-tagSize, ErrDamaged)
		}
	}
	return nil
}

// encodeTrailer makes what a pack ends with.
func encodeTrailer(tableLength, segments int) []byte {
	var b [trailerSize]byte
	binary.BigEndian.PutUint32(b[:], uint32(tableLength))
	binary.BigEndian.PutUint32(b[4:], uint32(segments))
	copy(b[8:], trailerMagic)
	return b[:]
}
