package pack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"ss/store/keys"
)

// ReadTable reads the names of a pack's chunks, in their order: SegmentChunks in every segment but the last. The error wraps
// ErrDamaged, ErrUnknownVersion or ErrKey, or is the reader's own.
func ReadTable(r io.ReaderAt, size int64, k keys.Job) ([]Name, error) {
	p, err := openPack(r, size, k)
	if err != nil {
		return nil, err
	}
	names := make([]Name, p.table.chunks)
	for i := range names {
		names[i] = Name(p.table.name(i))
	}
	return names, nil
}

// openedPack is a pack whose table has been read. Many goroutines may use it.
type openedPack struct {
	r     io.ReaderAt
	box   *box
	table *table
}

// openPack reads a pack's table. size is the pack's, in bytes.
func openPack(r io.ReaderAt, size int64, k keys.Job) (*openedPack, error) {
	if size < headSize+tagSize+trailerSize || size > maxPackSize {
		return nil, fmt.Errorf("no pack has %d bytes: %w", size, ErrDamaged)
	}
	var first head
	if err := readAt(r, first[:], 0); err != nil {
		return nil, fmt.Errorf("head: %w", err)
	}
	h, err := parseHead(first[:], packMagic, "pack", k)
	if err != nil {
		return nil, err
	}
	var trailer [trailerSize]byte
	if err := readAt(r, trailer[:], size-trailerSize); err != nil {
		return nil, fmt.Errorf("trailer: %w", err)
	}
	length, segments := int64(binary.BigEndian.Uint32(trailer[:])), binary.BigEndian.Uint32(trailer[4:])
	room := size - headSize - trailerSize - length // for segments
	if string(trailer[8:]) != trailerMagic || length < tagSize || length > int64(maxTable) || room < 0 {
		return nil, fmt.Errorf("the trailer is none: %w", ErrDamaged)
	}
	sealed := make([]byte, length)
	if err := readAt(r, sealed, headSize+room); err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	b := newBox(h, k, packLabel)
	plain, err := b.open(sealed, kindTable, uint64(segments), trailer[:])
	if err != nil {
		return nil, fmt.Errorf("the table %w", err)
	}
	t, err := decodeTable(plain, room)
	if err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	if len(t.segments) != int(segments) {
		return nil, fmt.Errorf("the table has %d segments, the trailer %d: %w", len(t.segments), segments, ErrDamaged)
	}
	return &openedPack{r: r, box: b, table: t}, nil
}

// readAt fills b. What ends too early is damaged.
func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it ends at byte %d: %w", off+int64(n), ErrDamaged)
	}
	return err
}

// segmentBuffers are what one goroutine reads segments with.
type segmentBuffers struct {
	sealed, plain []byte
	bounds        [SegmentChunks + 1]int
	dec           *zstd.Decoder
}

func newSegmentBuffers() *segmentBuffers {
	return &segmentBuffers{
		sealed: make([]byte, segmentSize+tagSize),
		plain:  make([]byte, segmentSize),
		dec:    newDecompressor(),
	}
}

func (b *segmentBuffers) close() { b.dec.Close() }

// segment is a segment's chunks. It is valid until its buffers are used again.
type segment struct {
	first  int // chunk in the pack
	data   []byte
	bounds []int
}

// chunks are the bytes of n chunks from a chunk of the pack.
func (s segment) chunks(first, n int) []byte {
	return s.data[s.bounds[first-s.first]:s.bounds[first-s.first+n]]
}

// read reads, authenticates and decompresses a segment.
func (p *openedPack) read(i int, b *segmentBuffers) (segment, error) {
	e := p.table.segments[i]
	sealed := b.sealed[:e.length] // which table.validate bounds
	if err := readAt(p.r, sealed, e.off); err != nil {
		return segment{}, fmt.Errorf("segment %d: %w", i, err)
	}
	plain, err := p.box.open(sealed, kindSegment, uint64(i), nil)
	if err != nil {
		return segment{}, fmt.Errorf("segment %d %w", i, err)
	}
	s, err := decodeSegment(plain, p.table, i, b)
	if err != nil {
		return segment{}, fmt.Errorf("segment %d %w", i, err)
	}
	return s, nil
}

// decodeSegment decompresses a segment, if it is compressed.
func decodeSegment(plain []byte, t *table, i int, b *segmentBuffers) (segment, error) {
	s := segment{first: i * SegmentChunks, data: plain, bounds: t.bounds(i, &b.bounds)}
	if t.segments[i].zstd {
		s.data = b.plain[:s.bounds[len(s.bounds)-1]]
		return s, inflate(b.dec, plain, s.data)
	}
	return s, nil
}
