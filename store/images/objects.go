package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"ss/internal/disk"
	"ss/store/blob"
)

// piece is how much is read, hashed and moved at a time, in bytes.
const piece = 64 << 10

// inParallel calls f for 0…n-1 from a few goroutines and returns when all have returned. The first error cancels the context of the
// others; it is the one that is returned.
func inParallel(ctx context.Context, workers, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, workers) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// eachObject calls f for every object from as many goroutines as there are workers. Faults do not end it; they are joined, in the
// objects' order.
func eachObject(ctx context.Context, workers int, refs []ObjectRef, f func(ctx context.Context, i int, ref ObjectRef) error) error {
	faults := make([]error, len(refs))
	err := inParallel(ctx, workers, len(refs), func(ctx context.Context, i int) error {
		err := f(ctx, i, refs[i])
		if isIntegrity(err) {
			faults[i], err = err, nil // the others may have faults too
		}
		return err
	})
	if err != nil {
		return err
	}
	return errors.Join(faults...)
}

func processors() int { return min(runtime.GOMAXPROCS(0), 8) }

func isIntegrity(err error) bool { return errors.As(err, new(*IntegrityError)) }

// exact reads an object and compares it with what it must be. It gives away the last bytes only if all of them are right: whoever
// stores what it reads has stored the object, or got an error.
type exact struct {
	r    io.Reader
	name string
	ref  ObjectRef // no checksum is compared where it has none
	h    hash.Hash
	crc  uint32
	n    int64
	// fault is what was found to be wrong with it. Whoever reads may not pass on an error as it is.
	fault error
}

func newExact(r io.Reader, name string, ref ObjectRef) *exact {
	return &exact{r: r, name: name, ref: ref, h: sha256.New()}
}

func (x *exact) Read(p []byte) (int, error) {
	n, err := x.r.Read(p[:min(len(p), piece)])
	x.h.Write(p[:n])
	x.crc = crc32.Update(x.crc, castagnoli, p[:n])
	x.n += int64(n)
	switch {
	case x.n > x.ref.Size:
		x.fault = &IntegrityError{Object: x.name, Detail: fmt.Sprintf("longer than %d bytes", x.ref.Size)}
	case x.n == x.ref.Size && n > 0:
		x.fault = x.compare()
	case x.n < x.ref.Size && errors.Is(err, io.EOF):
		x.fault = &IntegrityError{Object: x.name, Detail: fmt.Sprintf("ends after %d of %d bytes", x.n, x.ref.Size)}
	}
	if x.fault != nil {
		return 0, x.fault
	}
	return n, err
}

func (x *exact) compare() error {
	if got := hex.EncodeToString(x.h.Sum(nil)); got != x.ref.Digest {
		return &IntegrityError{Object: x.name, Detail: "its SHA-256 is " + got}
	}
	if got := crcText(x.crc); x.ref.CRC32C != "" && got != x.ref.CRC32C {
		return &IntegrityError{Object: x.name, Detail: "its CRC-32C is " + got + ", and should be " + x.ref.CRC32C}
	}
	return nil
}

// pacer calls after each piece that was read.
type pacer struct {
	r     io.Reader
	after func(n int) error
}

func (p *pacer) Read(b []byte) (int, error) {
	n, err := p.r.Read(b[:min(len(b), piece)])
	if after := p.after(n); after != nil {
		return 0, after
	}
	return n, err
}

// sumIn reads an object of any blob.Reader to its end and compares it with what it must be.
func sumIn(ctx context.Context, r blob.Reader, job string, ref ObjectRef, after func(n int) error) error {
	name := ObjectName(job, ref.Digest)
	body, err := r.Get(ctx, name, 0, -1)
	if err != nil {
		return asFault(name, err)
	}
	defer body.Close()
	var src io.Reader = body
	if after != nil {
		src = &pacer{body, after}
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, newExact(src, name, ref), make([]byte, piece)); err != nil {
		return asFault(name, err)
	}
	return nil
}

// asFault makes an *IntegrityError of what a backend says of an object that should be there and be right. A disk that cannot read it is no
// better than one that reads something else.
func asFault(name string, err error) error {
	switch {
	case isIntegrity(err):
		return err
	case errors.Is(err, blob.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return &IntegrityError{Object: name, Detail: "missing"}
	case errors.Is(err, blob.ErrDamaged), errors.Is(err, syscall.EIO), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errUnreadable):
		return &IntegrityError{Object: name, Detail: err.Error()}
	}
	return err
}

// readSmall reads an object of at most limit bytes.
func readSmall(ctx context.Context, r blob.Reader, name string, limit int64) ([]byte, error) {
	body, err := r.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, &IntegrityError{Object: name, Detail: fmt.Sprintf("longer than %d bytes", limit)}
	}
	return data, nil
}

// readObject reads a whole object into memory and compares it with what it must be. Its length is bounded before anything is
// allocated, as the manifest may come from elsewhere.
func readObject(ctx context.Context, r blob.Reader, job string, ref ObjectRef) ([]byte, error) {
	name := ObjectName(job, ref.Digest)
	info, err := r.Stat(ctx, name)
	if err != nil {
		return nil, asFault(name, err)
	}
	if info.Size != ref.Size {
		return nil, wrongSize(name, info.Size, ref.Size)
	}
	body, err := r.Get(ctx, name, 0, ref.Size)
	if err != nil {
		return nil, asFault(name, err)
	}
	defer body.Close()
	data, err := io.ReadAll(newExact(body, name, ref))
	if err != nil {
		return nil, asFault(name, err)
	}
	return data, nil
}

func wrongSize(name string, got, want int64) error {
	return &IntegrityError{Object: name, Detail: fmt.Sprintf("%d bytes long, and should be %d", got, want)}
}

// look compares an object that is here with what it must be: its CRC-32C, or, where after is not nil, its SHA-256 too, and after is
// called after each piece. It returns what it looked at, nil where nothing is there, for putAside.
func (s *Store) look(job string, ref ObjectRef, after func(n int) error) (os.FileInfo, error) {
	name := ObjectName(job, ref.Digest)
	path := s.objects.Path(name)
	f, info, err := disk.OpenRegular(path)
	if err != nil {
		info, lstatErr := os.Lstat(path)
		if lstatErr != nil {
			return nil, asFault(name, errors.Join(err, lstatErr))
		}
		if !info.Mode().IsRegular() { // a link, or whatever somebody has put there
			return info, &IntegrityError{Object: name, Detail: err.Error()}
		}
		return info, asFault(name, err)
	}
	defer f.Close()
	if info.Size() != ref.Size {
		return info, wrongSize(name, info.Size(), ref.Size)
	}
	if after == nil {
		crc, err := sumMapped(f, ref.Size)
		if err != nil {
			return info, asFault(name, err)
		}
		if got := crcText(crc); got != ref.CRC32C {
			return info, &IntegrityError{Object: name, Detail: "its CRC-32C is " + got + ", and should be " + ref.CRC32C}
		}
		return info, nil
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, newExact(&pacer{f, after}, name, ref), make([]byte, piece)); err != nil {
		return info, asFault(name, err)
	}
	return info, nil
}

// window is how much of a file is mapped at a time, in bytes.
const window = 64 << 20

// sumMapped is the CRC-32C of a file of that size. The file is mapped, not read: what is in the page cache is summed where it lies.
func sumMapped(f *os.File, size int64) (crc uint32, err error) {
	for at := int64(0); at < size && err == nil; at += window {
		crc, err = sumWindow(f, crc, at, min(window, size-at))
	}
	return crc, err
}

// errUnreadable says that a disk does not give what is on it. That it cannot be mapped is another matter: nothing is wrong with it then.
var errUnreadable = errors.New("cannot be read")

// sumWindow adds n bytes of a file, from at on, to a CRC-32C. A disk that cannot give them raises a fault, which becomes errUnreadable.
func sumWindow(f *os.File, crc uint32, at, n int64) (sum uint32, err error) {
	part, err := syscall.Mmap(int(f.Fd()), at, int(n), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	defer func() { err = errors.Join(err, syscall.Munmap(part)) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s %w: %v", f.Name(), errUnreadable, r)
		}
	}()
	return crc32.Update(crc, castagnoli, part), nil
}
