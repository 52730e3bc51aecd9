package pack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// block is up to SegmentChunks chunks of one file, the unit of reading and hashing, or a hole of any length, which nobody reads.
type block struct {
	data  []byte
	hole  int64 // bytes; data is empty then
	file  *os.File
	path  string
	off   int64
	last  bool // of its file
	ready chan struct{}

	names [SegmentChunks]Name
	zero  uint64 // a bit a chunk
}

// size is how many bytes of its file the block is.
func (b *block) size() int64 { return b.hole + int64(len(b.data)) }

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
	data := int64(0) // where the next data begin; before it is a hole
	for off := int64(0); ; {
		b, ok := receive(p, p.freeBlocks)
		if !ok {
			return errEnded
		}
		if b.data == nil {
			b.data = make([]byte, segmentSize)
		}
		if data <= off {
			data = nextData(file, off, f.size)
		}
		b.file, b.path, b.off = file, f.path, off
		if b.hole = holeOf(off, data, f.size); b.hole > 0 {
			b.data = b.data[:0]
			b.ready <- struct{}{}
		} else {
			b.data = b.data[:min(f.size-off, segmentSize)]
			if !send[task](p, p.tasks, b) {
				return errEnded
			}
		}
		off += b.size()
		last := off == f.size
		b.last = last
		if !send(p, p.blocks, b) {
			return errEnded
		}
		if last { // an empty file has one block too
			return nil
		}
	}
}

// nextData is where the first data at or after off begin (lseek(2), SEEK_DATA): the file's size where there are none. A file system that
// cannot tell has data everywhere.
func nextData(file *os.File, off, size int64) int64 {
	at, err := unix.Seek(int(file.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size
	case err != nil:
		return off
	}
	return min(at, size)
}

// holeOf is how many bytes from off on, which is where a block begins, need not be read: whole blocks, so that equal files are cut alike
// whatever their holes, or all the rest of the file.
func holeOf(off, data, size int64) int64 {
	if data == size {
		return size - off
	}
	return max(0, (data-off)/segmentSize*segmentSize)
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
