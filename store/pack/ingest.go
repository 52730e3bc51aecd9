package pack

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"ss/internal/yield"
	"ss/store/keys"
)

// IngestOptions bound what an ingest takes from the machine.
type IngestOptions struct {
	Workers int // 0: one per processor
	// Pause is called before each segment's worth of work and may wait. It is called by many goroutines at once. An error of it ends
	// the ingest. nil: never.
	Pause func(ctx context.Context) error
	// Progress is told how many bytes of the files have been read, in all. nil: nobody.
	Progress func(bytes int64)
	// Stored is told of each new pack once it is durable, in their order. The ingest may still fail. nil: nobody.
	Stored func(ref PackRef)
	// Release is told of the pieces of files, in their order, that are in durable packs, or need none: they are not read again. The last of them may never be
	// told. nil: nobody.
	Release func(path string, from, to int64)
}

// Ingested says what an ingest did.
type Ingested struct {
	Bytes int64     // of files
	Zero  int64     // of these, in chunks that hold zeros
	Known int64     // of these, in chunks that were stored already, before or in this ingest
	New   int64     // of these, stored now
	Packs []PackRef // new ones
	Wrote int64     // their length
}

// Ingest reads every regular file below dir and stores what of it is not known yet into new packs. Anything but folders and regular files
// is an error, and so is a file that is longer or shorter at its end than when it was found. Empty folders are not kept. Memory use is
// bounded, and does not grow with the files but for their index, and about 50 bytes for each new chunk. known is read only (nil: nothing is
// known). The work is done by threads of lower priority than the job's. After an error the packs already committed are garbage.
func Ingest(ctx context.Context, dir string, k keys.Job, known *Known, sink Sink, opt IngestOptions) (Index, Ingested, error) {
	return ingest(ctx, dir, k, known, sink, opt, TargetSize, rand.Reader)
}

func ingest(ctx context.Context, dir string, k keys.Job, known *Known, sink Sink, opt IngestOptions, target int64, salts io.Reader) (Index, Ingested, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Index{}, Ingested{}, fmt.Errorf("ingest %s: %w", dir, err)
	}
	defer root.Close()
	files, err := walk(root)
	if err != nil {
		return Index{}, Ingested{}, fmt.Errorf("ingest %s: %w", dir, err)
	}
	p := newPipeline(ctx, k, opt)
	c := newCutter(p, known)
	w, last := &packWriter{pipeline: p, sink: sink}, &committer{pipeline: p, files: files}
	p.packing = packing{key: k, target: target, salts: salts}
	if err := p.run(root, files, c, w, last); err != nil {
		return Index{}, Ingested{}, fmt.Errorf("ingest %s: %w", dir, err)
	}
	x := c.index(files, last.packs)
	done := c.done
	done.Packs = last.packs
	for _, ref := range last.packs {
		done.Wrote += ref.Size
	}
	return x, done, nil
}

// A pipeline is the goroutines of one ingest and what goes between them:
//
//	reader ──block──▶ workers: read, hash ──▶ cutter: in order ──segment──▶ workers: compress, encrypt ──▶ writer: in order ──pack──▶ committer
//
// Blocks and segments are buffers of a fixed number, which go round. What is ahead of the workers waits in tasks; what must be taken in order
// is sent on twice, to tasks and to blocks or segments, and says by its channel ready that the worker is done with it. Workers wait for nobody but
// (in place) for the worker that took the segment before, so all the rest cannot come to a standstill.
type pipeline struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	key    keys.Job
	opt    IngestOptions

	tasks        chan task
	blocks       chan *block
	segments     chan *newSegment
	freeBlocks   chan *block
	freeSegments chan *newSegment
	written      chan writtenPack // without room: while one pack is made durable the next is written, and no more than that
	packing      packing
	files        openFiles
}

// task is work that any worker does.
type task interface {
	run(w *worker) error
}

func newPipeline(ctx context.Context, k keys.Job, opt IngestOptions) *pipeline {
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	p := &pipeline{key: k, opt: opt}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	ahead := opt.Workers + 2
	p.tasks, p.written = make(chan task, 2*ahead), make(chan writtenPack)
	p.blocks, p.freeBlocks = make(chan *block, ahead), make(chan *block, ahead)
	p.segments, p.freeSegments = make(chan *newSegment, ahead), make(chan *newSegment, ahead)
	for range ahead {
		p.freeBlocks <- &block{ready: make(chan struct{}, 1)}
		p.freeSegments <- &newSegment{ready: make(chan struct{}, 1)}
	}
	return p
}

// run starts everybody and waits for all of them.
func (p *pipeline) run(root *os.Root, files []found, c *cutter, w *packWriter, last *committer) error {
	r := &reader{pipeline: p, root: root}
	var wg sync.WaitGroup
	start := func(f func() error) {
		wg.Go(func() {
			yield.ToJob()
			if err := f(); err != nil {
				p.cancel(err)
			}
		})
	}
	start(func() error { return r.run(files) })
	start(c.run)
	start(w.run)
	start(last.run)
	for range p.opt.Workers {
		start(p.work)
	}
	wg.Wait()
	p.files.closeAll()
	err := context.Cause(p.ctx)
	p.cancel(nil)
	return err
}

// work does tasks until there are no more.
func (p *pipeline) work() error {
	w := &worker{pipeline: p, namer: NewNamer(p.key), enc: newCompressor(zstd.SpeedFastest, segmentSize)}
	defer w.enc.Close()
	for {
		t, ok := receive(p, p.tasks)
		if !ok {
			return nil
		}
		if p.opt.Pause != nil {
			if err := p.opt.Pause(p.ctx); err != nil {
				return fmt.Errorf("wait for the job: %w", err)
			}
		}
		if err := t.run(w); err != nil {
			return err
		}
	}
}

// worker is what one goroutine works with.
type worker struct {
	pipeline *pipeline
	namer    *Namer
	enc      *zstd.Encoder
}

// send and receive are false when the ingest ends, receive also when there is nothing more to come.
func send[T any](p *pipeline, c chan<- T, v T) bool {
	select {
	case c <- v:
		return true
	case <-p.ctx.Done():
		return false
	}
}

func receive[T any](p *pipeline, c <-chan T) (T, bool) {
	select {
	case v, ok := <-c:
		return v, ok
	case <-p.ctx.Done():
		var none T
		return none, false
	}
}
