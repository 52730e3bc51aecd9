package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"math"
	"sort"
)

// cutter takes blocks in their order, finds out which chunks are new, and fills segments with these.
type cutter struct {
	pipeline *pipeline
	known    *Known
	fresh    nameSet // the chunks of this ingest, in the order in which they are stored
	filling  *newSegment
	turn     chan struct{} // closed when the segment before has its place

	runs [][]stretch // of each file
	root []Name      // likewise
	hash hash.Hash   // of the file at hand
	zero Name        // of a whole chunk
	done Ingested

	namer *Namer
}

// stretch is a run as long as packs have no place yet.
type stretch struct {
	at    uint32 // first chunk: in its pack, or in fresh
	count uint32
	where int32 // place of a known pack, or one of these
}

const (
	inZeros = -1
	inFresh = -2
)

func newCutter(p *pipeline, known *Known) *cutter {
	first := make(chan struct{})
	close(first)
	c := &cutter{pipeline: p, known: known, turn: first, namer: NewNamer(p.key)}
	c.zero = c.namer.Name(zeros[:])
	return c
}

func (c *cutter) run() error {
	p := c.pipeline
	for {
		b, ok := receive(p, p.blocks)
		if !ok {
			break
		}
		if _, ok := receive(p, b.ready); !ok {
			return errEnded
		}
		if err := c.cut(b); err != nil {
			return err
		}
		if !send(p, p.freeBlocks, b) {
			return errEnded
		}
	}
	if p.ctx.Err() != nil {
		return errEnded
	}
	if c.filling != nil && !c.sendSegment() {
		return errEnded
	}
	close(p.segments)
	close(p.tasks) // the reader sends no more either
	return nil
}

// cut takes one block.
func (c *cutter) cut(b *block) error {
	if b.off == 0 {
		c.runs = append(c.runs, nil)
		c.hash = sha256.New()
	}
	if b.hole > 0 && !c.skip(b.hole) {
		return errEnded
	}
	for i := range int(chunksOf(int64(len(b.data)))) {
		if !c.take(b, i) {
			return errEnded
		}
	}
	c.done.Bytes += b.size()
	if c.pipeline.opt.Progress != nil && b.size() > 0 {
		c.pipeline.opt.Progress(c.done.Bytes)
	}
	if !b.last {
		return nil
	}
	var root Name
	c.hash.Sum(root[:0])
	c.root = append(c.root, root)
	info, err := b.file.Stat()
	if err != nil {
		return err
	}
	if size := b.off + b.size(); info.Size() != size {
		return fmt.Errorf("%s had %d bytes and has %d now: it is being written", b.path, size, info.Size())
	}
	c.pipeline.files.close(b.file)
	return nil
}

// take decides on a block's ith chunk. It is false when the ingest ends.
func (c *cutter) take(b *block, i int) bool {
	chunk := b.chunk(i)
	length := int64(len(chunk))
	if b.zero>>i&1 == 1 {
		name := c.zero
		if length < ChunkSize {
			name = c.namer.Name(chunk)
		}
		_, _ = c.hash.Write(name[:]) // hash.Hash: never an error
		c.done.Zero += length
		c.extend(inZeros, 0, 1)
		return true
	}
	name := &b.names[i]
	_, _ = c.hash.Write(name[:])
	if pack, at, ok := c.known.find(name); ok {
		c.done.Known += length
		c.extend(int32(pack), uint32(at), 1)
		return true
	}
	if at, ok := c.fresh.find(name); ok {
		c.done.Known += length
		c.extend(inFresh, at, 1)
		return true
	}
	c.done.New += length
	c.extend(inFresh, c.fresh.len(), 1)
	c.fresh.add(name)
	return c.store(chunk, name)
}

// skip takes a hole: chunks of zeros that nobody has read. It is false when the ingest ends.
func (c *cutter) skip(hole int64) bool {
	if !hashZeros(c.pipeline.ctx, c.hash, c.namer, c.zero, hole) {
		return false
	}
	c.done.Zero += hole
	for left := chunksOf(hole); left > 0; {
		n := min(left, math.MaxUint32)
		c.extend(inZeros, 0, uint32(n))
		left -= n
	}
	return true
}

// hashZeros writes the names of n bytes of zeros to a file's root. The last chunk may be short. whole is the name of a whole one. It is false
// when ctx ends: an index may claim any size.
func hashZeros(ctx context.Context, h hash.Hash, namer *Namer, whole Name, n int64) bool {
	const batch = 512
	names := bytes.Repeat(whole[:], int(min(batch, n/ChunkSize)))
	for left := n / ChunkSize; left > 0; {
		if ctx.Err() != nil {
			return false
		}
		m := min(left, batch)
		_, _ = h.Write(names[:m*int64(len(whole))]) // hash.Hash: never an error
		left -= m
	}
	if short := n % ChunkSize; short > 0 {
		name := namer.Name(zeros[:short])
		_, _ = h.Write(name[:])
	}
	return true
}

// extend adds count chunks to the runs of the file at hand.
func (c *cutter) extend(where int32, at, count uint32) {
	runs := &c.runs[len(c.runs)-1]
	if n := len(*runs); n > 0 {
		last := &(*runs)[n-1]
		if last.where == where && last.count <= math.MaxUint32-count && (where == inZeros || last.at+last.count == at) {
			last.count += count
			return
		}
	}
	*runs = append(*runs, stretch{at: at, count: count, where: where})
}

// store puts a new chunk into the segment that is being filled.
func (c *cutter) store(chunk []byte, name *Name) bool {
	if c.filling == nil {
		s, ok := receive(c.pipeline, c.pipeline.freeSegments)
		if !ok {
			return false
		}
		c.filling = s.reset()
	}
	c.filling.add(chunk, name)
	if len(c.filling.names) < SegmentChunks {
		return true
	}
	return c.sendSegment()
}

func (c *cutter) sendSegment() bool {
	p, s := c.pipeline, c.filling
	c.filling = nil
	s.cut = c.done.Bytes // the block at hand is not counted yet: some of it may come into the next segment
	s.before, s.placed = c.turn, make(chan struct{})
	c.turn = s.placed
	return send[task](p, p.tasks, s) && send(p, p.segments, s)
}

// index makes the index, now that the packs of this ingest are known.
func (c *cutter) index(files []found, packs []PackRef) Index {
	place := c.places() // of known packs in the index
	var x Index
	for i, to := range place {
		if to >= 0 {
			x.Packs = append(x.Packs, c.known.packs[i])
		}
	}
	base := len(x.Packs)
	x.Packs = append(x.Packs, packs...)
	ends := make([]int, len(packs)) // of each new pack, in fresh
	for i, p := range packs {
		ends[i] = p.Chunks
		if i > 0 {
			ends[i] += ends[i-1]
		}
	}
	x.Files = make([]File, len(files))
	for i, f := range files {
		x.Files[i] = File{Path: f.path, Size: f.size, Mode: f.mode, Root: c.root[i], Runs: make([]Run, 0, len(c.runs[i]))}
		for _, s := range c.runs[i] {
			x.Files[i].Runs = s.appendTo(x.Files[i].Runs, place, base, ends)
		}
		c.runs[i] = nil // which the runs in the index replace
	}
	return x
}

// places says at which place of the index each known pack comes, -1 where it is not used.
func (c *cutter) places() []int {
	if c.known == nil {
		return nil
	}
	place := make([]int, len(c.known.packs))
	for _, runs := range c.runs {
		for _, s := range runs {
			if s.where >= 0 {
				place[s.where] = 1
			}
		}
	}
	next := 0
	for i := range place {
		if place[i] == 0 {
			place[i] = -1
			continue
		}
		place[i] = next
		next++
	}
	return place
}

// appendTo appends the runs that a stretch is: more than one where it goes on into another pack.
func (s stretch) appendTo(runs []Run, place []int, base int, ends []int) []Run {
	at, left := int(s.at), int(s.count)
	switch s.where {
	case inZeros:
		return append(runs, Run{Count: left, Zero: true})
	case inFresh:
	default:
		return append(runs, Run{Count: left, Pack: place[s.where], Segment: at / SegmentChunks, First: at % SegmentChunks})
	}
	for pack := sort.SearchInts(ends, at+1); left > 0; pack++ {
		start := 0
		if pack > 0 {
			start = ends[pack-1]
		}
		n := min(left, ends[pack]-at)
		runs = append(runs, Run{Count: n, Pack: base + pack, Segment: (at - start) / SegmentChunks, First: (at - start) % SegmentChunks})
		at, left = at+n, left-n
	}
	return runs
}
