package pack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"ss/store/keys"
)

// piece is a stretch of chunks within one segment, and where in a file they belong.
type piece struct {
	pack  int32
	at    int32 // first chunk in the pack
	count int32
	file  int32
	chunk int64 // first chunk in the file
}

func (p piece) segment() int32 { return p.at / SegmentChunks }

// pieces lists what files are made of, in the order in which packs have it: so each segment is read once.
func pieces(x Index, want func(path string) bool) []piece {
	var all []piece
	for i, f := range x.Files {
		if want != nil && !want(f.Path) {
			continue
		}
		chunk := int64(0)
		for _, r := range f.Runs {
			if !r.Zero {
				all = appendPieces(all, piece{int32(r.Pack), int32(r.at()), int32(r.Count), int32(i), chunk})
			}
			chunk += int64(r.Count)
		}
	}
	slices.SortFunc(all, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.at, b.at), cmp.Compare(a.file, b.file), cmp.Compare(a.chunk, b.chunk))
	})
	return all
}

// appendPieces splits a piece where segments end.
func appendPieces(all []piece, p piece) []piece {
	for p.count > 0 {
		part := p
		part.count = min(p.count, SegmentChunks-p.at%SegmentChunks)
		all = append(all, part)
		p.at, p.chunk, p.count = p.at+part.count, p.chunk+int64(part.count), p.count-part.count
	}
	return all
}

// A visitor is given segments. Each worker has its own.
type visitor interface {
	// visit is given a segment, with the table of its pack and the pieces that lie in it. What it finds wrong with the pack wraps ErrDamaged.
	visit(s segment, t *table, pieces []piece) error
	close() error
}

// A scan decodes the segments that pieces lie in, on all processors.
type scan struct {
	packs   []PackRef
	key     keys.Job
	src     Source
	visitor func() visitor
	// opened is told of each pack, before its segments are visited. nil: nobody.
	opened func(pack int, t *table)
	// fault is told what is wrong with a pack. Its error ends the scan. Many goroutines call it.
	fault func(pack int, err error) error
	// started is called by each worker as it starts. nil: nothing.
	started func()
}

// visit is work for one worker: a segment.
type visit struct {
	pack   *sharedPack
	pieces []piece
}

// sharedPack is a pack that is closed when nobody needs it any more.
type sharedPack struct {
	*openedPack
	closer io.Closer
	users  atomic.Int32
}

func (p *sharedPack) release() {
	if p.users.Add(-1) == 0 {
		_ = p.closer.Close() // it was only read
	}
}

// run visits everything. pieces are in the order that pieces makes.
func (s *scan) run(parent context.Context, pieces []piece) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	workers := min(runtime.GOMAXPROCS(0), len(pieces)) // no segment is without a piece
	visits := make(chan visit, 2*workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			if err := s.work(ctx, visits); err != nil {
				cancel(err)
			}
		})
	}
	if err := s.feed(ctx, pieces, visits); err != nil {
		cancel(err)
	}
	close(visits)
	wg.Wait()
	for v := range visits { // left over after an error
		v.pack.release()
	}
	return context.Cause(ctx)
}

// feed opens the packs one after the other and hands out their segments.
func (s *scan) feed(ctx context.Context, pieces []piece, visits chan<- visit) error {
	for len(pieces) > 0 {
		pack := pieces[0].pack
		n := before(pieces, func(p piece) bool { return p.pack != pack })
		if err := s.feedPack(ctx, int(pack), pieces[:n], visits); err != nil {
			return err
		}
		pieces = pieces[n:]
	}
	return nil
}

// before is how many pieces come before the first that has moved on.
func before(pieces []piece, moved func(piece) bool) int {
	if n := slices.IndexFunc(pieces, moved); n >= 0 {
		return n
	}
	return len(pieces)
}

func (s *scan) feedPack(ctx context.Context, pack int, pieces []piece, visits chan<- visit) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p, err := s.open(pack)
	if err != nil {
		return s.fault(pack, err)
	}
	defer p.release()
	if s.opened != nil {
		s.opened(pack, p.table)
	}
	for len(pieces) > 0 {
		segment := pieces[0].segment()
		n := before(pieces, func(p piece) bool { return p.segment() != segment })
		p.users.Add(1)
		select {
		case visits <- visit{p, pieces[:n]}:
		case <-ctx.Done():
			p.release()
			return context.Cause(ctx)
		}
		pieces = pieces[n:]
	}
	return nil
}

// open opens a pack. The caller is its first user.
func (s *scan) open(pack int) (*sharedPack, error) {
	ref := s.packs[pack]
	r, err := s.src.Open(ref.Digest)
	if err != nil {
		return nil, err
	}
	p, err := openPack(r, ref.Size, s.key)
	if err == nil && p.table.chunks != ref.Chunks {
		err = fmt.Errorf("it has %d chunks, the index says %d: %w", p.table.chunks, ref.Chunks, ErrDamaged)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	shared := &sharedPack{openedPack: p, closer: r}
	shared.users.Store(1)
	return shared, nil
}

func (s *scan) work(ctx context.Context, visits <-chan visit) (err error) {
	if s.started != nil {
		s.started()
	}
	buffers, visitor := newSegmentBuffers(), s.visitor()
	defer buffers.close()
	defer func() { err = errors.Join(err, visitor.close()) }()
	for {
		select {
		case v, ok := <-visits:
			if !ok {
				return nil
			}
			if err := s.visit(v, buffers, visitor); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *scan) visit(v visit, buffers *segmentBuffers, to visitor) error {
	defer v.pack.release()
	pack := int(v.pieces[0].pack)
	seg, err := v.pack.read(int(v.pieces[0].segment()), buffers)
	if err != nil {
		return s.fault(pack, err)
	}
	err = to.visit(seg, v.pack.table, v.pieces)
	if errors.Is(err, ErrDamaged) {
		return s.fault(pack, err)
	}
	return err // of where it goes to, if any
}

// packError says of which pack an error is. Damage becomes a DamageError.
func packError(ref PackRef, err error) error {
	if errors.Is(err, ErrDamaged) {
		return &DamageError{Digest: ref.Digest, Detail: err.Error()}
	}
	return fmt.Errorf("pack %s: %w", ref.Digest, err)
}
