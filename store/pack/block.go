package pack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// block is up to SegmentChunks chunks of one file: the unit of reading and hashing.
type block struct {
	data  []byte
	file  *os.File
	path  string
	off   int64
	last  bool // of its file
	ready chan struct{}

	names [SegmentChunks]Name
	zero  uint64 // a bit a chunk
}

// chunk is the block's ith chunk.
func (b *block) chunk(i int) []byte { return b.data[i*ChunkSize : min((i+1)*ChunkSize, len(b.data))] }

// run reads and names the block's chunks.
func (b *block) run(w *worker) error {
	if n, err := b.file.ReadAt(b.data, b.off); n < len(b.data) {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s became shorter while it was read: it ends at byte %d", b.path, b.off+int64(n))
		}
		return err
	}
	b.zero = 0
	for i := range int(chunksOf(int64(len(b.data)))) {
		if chunk := b.chunk(i); isZero(chunk) {
			b.zero |= 1 << i
		} else {
			b.names[i] = w.namer.Name(chunk)
		}
	}
	b.ready <- struct{}{}
	return nil
}

// reader opens files and cuts them into blocks, which workers read.
type reader struct {
	pipeline *pipeline
	root     *os.Root
}

// errEnded ends a goroutine after another one's error, which is told instead.
var errEnded = errors.New("the ingest has ended")

func (r *reader) run(files []found) error {
	for _, f := range files {
		if err := r.read(f); err != nil {
			return err
		}
	}
	close(r.pipeline.blocks)
	return nil
}

func (r *reader) read(f found) error {
	p := r.pipeline
	file, err := p.files.open(r.root, f.path)
	if err != nil {
		return err
	}
	for off := int64(0); ; off += segmentSize {
		b, ok := receive(p, p.freeBlocks)
		if !ok {
			return errEnded
		}
		if b.data == nil {
			b.data = make([]byte, segmentSize)
		}
		n := min(f.size-off, segmentSize)
		b.data, b.file, b.path, b.off, b.last = b.data[:n], file, f.path, off, off+n == f.size
		if !send[task](p, p.tasks, b) || !send(p, p.blocks, b) {
			return errEnded
		}
		if b.last { // an empty file has one block too
			return nil
		}
	}
}

// openFiles are the files that an ingest has open: those of the blocks on their way.
type openFiles struct {
	mu    sync.Mutex
	files map[*os.File]bool
}

func (o *openFiles) open(root *os.Root, path string) (*os.File, error) {
	f, err := root.Open(path)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.files == nil {
		o.files = map[*os.File]bool{}
	}
	o.files[f] = true
	return f, nil
}

func (o *openFiles) close(f *os.File) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.files, f)
	_ = f.Close() // it was only read
}

func (o *openFiles) closeAll() {
	for f := range o.files {
		o.close(f)
	}
}
