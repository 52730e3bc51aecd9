package pack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"ss/store/keys"
)

// newSegment is a segment in the making: the unit of compression and encryption.
type newSegment struct {
	data   []byte
	names  []Name
	short  []shortChunk // by their place in the segment
	cut    int64        // of the files' bytes, all before this are in this segment, in one before it, or in none
	room   []byte       // for compressing
	before <-chan struct{}
	placed chan struct{}
	ready  chan struct{}

	// What the worker made of it.
	sealed []byte
	zstd   bool
	pack   *newPack
}

// reset empties a segment to be filled again.
func (s *newSegment) reset() *newSegment {
	if s.data == nil {
		s.data = make([]byte, 0, segmentSize+tagSize)
		s.room = make([]byte, 0, segmentSize+tagSize)
		s.names = make([]Name, 0, SegmentChunks)
	}
	s.data, s.names, s.short = s.data[:0], s.names[:0], s.short[:0]
	return s
}

func (s *newSegment) add(chunk []byte, name *Name) {
	if len(chunk) < ChunkSize {
		s.short = append(s.short, shortChunk{int32(len(s.names)), int32(len(chunk))})
	}
	s.data = append(s.data, chunk...)
	s.names = append(s.names, *name)
}

// run compresses the segment, waits until the one before it has its place in a pack, takes the next, and encrypts it for there.
func (s *newSegment) run(w *worker) error {
	p := w.pipeline
	plain := s.data
	s.room = w.enc.EncodeAll(s.data, s.room[:0])
	if s.zstd = len(s.room) <= len(s.data)-len(s.data)/32-1; s.zstd {
		plain = s.room
	}
	if _, open := receive(p, s.before); open || p.ctx.Err() != nil {
		return errEnded
	}
	number, err := p.packing.place(s, len(plain)+tagSize)
	if err != nil {
		return err
	}
	close(s.placed)
	s.sealed = s.pack.box.seal(plain, kindSegment, number, nil)
	if s.zstd {
		s.room = s.sealed // which may have grown
	} else {
		s.data = s.sealed
	}
	s.ready <- struct{}{}
	return nil
}

// packing decides which segment comes into which pack. It belongs to the worker whose turn it is.
type packing struct {
	key    keys.Job
	target int64
	salts  io.Reader
	pack   *newPack
}

// newPack is a pack in the making.
type newPack struct {
	box *box
	// What packing keeps: what has been placed.
	size     int64 // with the names
	segments uint64
	chunks   int
}

// place gives a segment its place.
func (g *packing) place(s *newSegment, length int) (number uint64, err error) {
	if g.pack == nil || g.pack.size >= g.target || g.pack.chunks+len(s.names) > maxPackChunks {
		var salt [32]byte
		if _, err := io.ReadFull(g.salts, salt[:]); err != nil {
			return 0, fmt.Errorf("draw a pack's salt: %w", err)
		}
		h := newHead(packMagic, g.key, salt)
		g.pack = &newPack{box: newBox(h, g.key, packLabel), size: headSize}
	}
	s.pack, number = g.pack, g.pack.segments
	g.pack.segments++
	g.pack.chunks += len(s.names)
	g.pack.size += int64(length + len(s.names)*len(Name{}))
	return number, nil
}

// packWriter takes segments in their order and writes packs of them.
type packWriter struct {
	pipeline *pipeline
	sink     Sink

	// The pack at hand.
	pack  *newPack
	to    Incoming
	sum   hash.Hash
	crc   uint32
	size  int64
	cut   int64 // newSegment.cut of its last segment
	table table
}

func (w *packWriter) run() error {
	p := w.pipeline
	defer w.discard()
	for {
		s, ok := receive(p, p.segments)
		if !ok {
			break
		}
		if _, ok := receive(p, s.ready); !ok {
			return errEnded
		}
		if err := w.take(s); err != nil {
			return err
		}
		if !send(p, p.freeSegments, s) {
			return errEnded
		}
	}
	if p.ctx.Err() != nil {
		return errEnded
	}
	if err := w.finish(); err != nil {
		return err
	}
	close(p.written)
	return nil
}

// take writes a segment.
func (w *packWriter) take(s *newSegment) error {
	if s.pack != w.pack {
		if err := w.finish(); err != nil {
			return err
		}
		if err := w.begin(w.pipeline.ctx, s.pack); err != nil {
			return err
		}
	}
	t := &w.table
	t.segments = append(t.segments, extent{off: w.size, length: int32(len(s.sealed)), zstd: s.zstd})
	for _, c := range s.short {
		t.short = append(t.short, shortChunk{int32(t.chunks) + c.chunk, c.length})
	}
	for i := range s.names {
		t.names = append(t.names, s.names[i][:]...)
	}
	t.chunks += len(s.names)
	w.cut = s.cut
	return w.write(s.sealed)
}

func (w *packWriter) begin(ctx context.Context, pack *newPack) error {
	to, err := w.sink.Create(ctx)
	if err != nil {
		return fmt.Errorf("create a pack: %w", err)
	}
	w.pack, w.to, w.sum, w.crc, w.size = pack, to, sha256.New(), 0, 0
	w.table = table{segments: w.table.segments[:0], short: w.table.short[:0], names: w.table.names[:0]}
	return w.write(pack.box.head[:])
}

// finish ends the pack at hand, if there is one, and leaves it to the committer.
func (w *packWriter) finish() error {
	if w.to == nil {
		return nil
	}
	plain := w.table.encode(nil)
	segments := len(w.table.segments)
	trailer := encodeTrailer(len(plain)+tagSize, segments)
	if err := w.write(w.pack.box.seal(plain, kindTable, uint64(segments), trailer)); err != nil {
		return err
	}
	if err := w.write(trailer); err != nil {
		return err
	}
	ref := PackRef{Object{hex.EncodeToString(w.sum.Sum(nil)), w.size, w.crc}, w.table.chunks}
	if !send(w.pipeline, w.pipeline.written, writtenPack{ref, w.cut, w.to}) {
		return errEnded
	}
	w.to = nil
	return nil
}

func (w *packWriter) write(b []byte) error {
	if _, err := w.to.Write(b); err != nil {
		return fmt.Errorf("write a pack: %w", err)
	}
	_, _ = w.sum.Write(b) // hash.Hash: never an error
	w.crc = crc32.Update(w.crc, castagnoli, b)
	w.size += int64(len(b))
	return nil
}

// discard removes the pack at hand, after an error.
func (w *packWriter) discard() {
	if w.to != nil {
		_ = w.to.Discard() // the error before it counts
		w.to = nil
	}
}

// writtenPack is a pack that lacks nothing but its name.
type writtenPack struct {
	ref PackRef
	cut int64 // newSegment.cut of its last segment
	to  Incoming
}

// committer makes packs durable, one after the other, while the next one is written: a disk takes as long to flush as processors take to fill
// a pack.
type committer struct {
	pipeline *pipeline
	files    []found
	packs    []PackRef // that are durable

	// What has been released, and what will be with the next pack: so nothing is as long as there is one pack only, and a small set can be sealed again
	// after an error.
	released, next int64
	file           int   // the one at hand
	before         int64 // bytes of the files before it
}

func (c *committer) run() error {
	p := c.pipeline
	for {
		w, ok := receive(p, p.written)
		if !ok {
			break
		}
		if err := w.to.Commit(w.ref.Digest); err != nil {
			_ = w.to.Discard() // the error before it counts
			return fmt.Errorf("commit pack %s: %w", w.ref.Digest, err)
		}
		c.packs = append(c.packs, w.ref)
		if p.opt.Stored != nil {
			p.opt.Stored(w.ref)
		}
		if p.opt.Release != nil {
			c.release(c.next)
			c.next = w.cut
		}
	}
	if p.ctx.Err() != nil {
		return errEnded
	}
	return nil
}

// release tells of the pieces of files up to a byte of all of them.
func (c *committer) release(to int64) {
	for c.released < to {
		f := c.files[c.file]
		if end := c.before + f.size; c.released == end {
			c.before = end
			c.file++
			continue
		}
		upTo := min(to-c.before, f.size)
		c.pipeline.opt.Release(f.path, c.released-c.before, upTo)
		c.released = c.before + upTo
	}
}
