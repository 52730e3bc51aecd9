package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Incoming is an object in the making. It belongs to one goroutine.
type Incoming struct {
	ctx  context.Context // of Create: an object in the making is one long call
	d    *Dir
	f    *os.File // nil once it has a name or was given up
	size int64
	err  error // of the first Write that failed
}

// Create begins an object whose name is not known yet. Once ctx is done, Write and Commit fail.
func (d *Dir) Create(ctx context.Context) (*Incoming, error) {
	err := ctx.Err()
	var f *os.File
	if err == nil {
		f, err = d.createTemp()
	}
	if err != nil {
		return nil, d.fault("begin", "an object", err)
	}
	return &Incoming{ctx: ctx, d: d, f: f}, nil
}

// Size is how many bytes were written.
func (in *Incoming) Size() int64 { return in.size }

// Write appends.
func (in *Incoming) Write(p []byte) (int, error) {
	n, err := in.write(p)
	if err != nil {
		return n, in.d.fault("write", "an object", err)
	}
	return n, nil
}

func (in *Incoming) write(p []byte) (int, error) {
	if in.f == nil {
		return 0, fs.ErrClosed
	}
	if in.err == nil {
		in.err = in.ctx.Err()
	}
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.d.write(in.f, p)
	in.size += int64(n)
	in.err = err
	return n, err
}

// fill writes the size bytes of r.
func (in *Incoming) fill(r io.Reader, size int64) error {
	buf := make([]byte, min(size, copyBuffer)+1) // one more, to see whether there is one more
	for {
		n, readErr := r.Read(buf)
		if in.size+int64(n) > size {
			return fmt.Errorf("there are more than the %d bytes that were announced", size)
		}
		if n > 0 {
			if _, err := in.write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return readErr
		}
		if err := in.ctx.Err(); err != nil {
			return err
		}
	}
	if in.size < size {
		return fmt.Errorf("there are only %d of the %d bytes that were announced: %w", in.size, size, io.ErrUnexpectedEOF)
	}
	return nil
}

const copyBuffer = 256 << 10

// Commit makes what was written durable and gives it its name. One of that name and size that is there already is kept. Whatever it returns,
// it ends the object: nothing is left to discard. See Put for what there is after an error.
func (in *Incoming) Commit(name string) error {
	err := in.commit(name)
	if err != nil {
		return in.d.fault("put", name, errors.Join(err, in.Discard()))
	}
	// It has its name, durably. What is left of the other one is RemovePartials' if this fails.
	_ = in.Discard()
	return nil
}

func (in *Incoming) commit(name string) error {
	if in.f == nil {
		return fs.ErrClosed
	}
	if err := CheckName(name); err != nil {
		return err
	}
	if err := errors.Join(in.err, in.ctx.Err()); err != nil {
		return err
	}
	if err := in.d.syncFile(in.f); err != nil {
		return err
	}
	if err := in.f.Close(); err != nil { // where NFS says that there is no room
		return err
	}
	return in.d.place(in.f.Name(), name, in.size)
}

// Discard gives up. After Commit it does nothing.
func (in *Incoming) Discard() error {
	if in.f == nil {
		return nil
	}
	f := in.f
	in.f = nil
	_ = f.Close() // its bytes are of no more use
	if err := in.d.unlink(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return in.d.fault("discard", "an object", err)
	}
	return nil
}
