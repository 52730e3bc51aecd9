package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyTo makes dst hold the first Size bytes of the file.
func (f *held) copyTo(dst string) (err error) {
	if f.early != nil {
		return f.mendTo(dst)
	}
	out, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.file.Fd()), &st); err != nil {
		return err
	}
	if st.Size < f.Size {
		return fmt.Errorf("it has shrunk from %d to %d bytes since the cut: it was open for appending, and was truncated; try again", f.Size, st.Size)
	}
	if f.clone {
		if done, err := clone(out, f.file, f.Size); done || err != nil {
			return err
		}
		if f.Blocks >= aheadMin {
			return errors.New("it could be cloned before the members stood still, and cannot be now: try again")
		}
	}
	if err := copyData(out, f.file, 0, f.Size, !f.shared); err != nil || !f.After {
		return err
	}
	begins, ends, err := edges(out, f.Size)
	if err == nil && (!bytes.Equal(begins, f.begins) || !bytes.Equal(ends, f.ends)) {
		err = errors.New("it was written again since the cut: it was open for appending, and was truncated; try again")
	}
	return err
}

// mendTo makes dst of the copy that was made before the members stood still.
func (f *held) mendTo(dst string) error {
	if err := os.Rename(f.early.path, dst); err != nil {
		return err
	}
	if f.early.unchanged(f) {
		return nil
	}
	out, err := os.OpenFile(dst, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(mend(out, f.file, f.Size, !f.shared), out.Close())
}

var errEnds = errors.New("it ends")

// blockSize is what holes are looked for in, where the kernel does not tell of them.
const blockSize = 4 << 10

// copyData makes dst's bytes from from to size those of src, and dst size bytes long. It leaves holes where src has some, or zeros.
// With seek, src's own position may move: it is nobody else's.
func copyData(dst, src *os.File, from, size int64, seek bool) error {
	if err := dst.Truncate(from); err != nil {
		return err
	}
	for at := from; at < size; {
		end := size
		if seek {
			data, hole, err := nextData(src, at, size)
			if err != nil {
				return err
			}
			at, end = data, hole
		}
		if err := copyRange(dst, src, at, end); err != nil {
			return err
		}
		at = end
	}
	return dst.Truncate(size)
}

// nextData finds the next stretch of data (lseek(2), SEEK_DATA). A file system that cannot tell has one stretch.
func nextData(src *os.File, at, size int64) (data, hole int64, err error) {
	data, err = unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case err != nil:
		return at, size, nil //nolint:nilerr // it cannot tell
	}
	hole, err = unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	if data < at || hole <= data {
		return 0, 0, fmt.Errorf("its data at byte %d is said to be from %d to %d", at, data, hole)
	}
	return min(data, size), min(hole, size), nil
}

// copyRange copies bytes at their own places, all but whole blocks of zeros.
func copyRange(dst io.WriterAt, src io.ReaderAt, from, to int64) error {
	buf := make([]byte, min(1<<20, max(to-from, 0)))
	for at := from; at < to; {
		n, err := src.ReadAt(buf[:min(int64(len(buf)), to-at)], at)
		if n == 0 {
			if errors.Is(err, io.EOF) || err == nil {
				return fmt.Errorf("%w at byte %d, and %d were there at the cut: it was truncated; try again", errEnds, at, to)
			}
			return err
		}
		if err := writeData(dst, buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

var zeros [blockSize]byte

// writeData writes what is not whole blocks of zeros.
func writeData(dst io.WriterAt, data []byte, at int64) error {
	for len(data) > 0 {
		n := min(len(data), blockSize-int(at%blockSize))
		if !zero(data[:n]) {
			for n < len(data) && !zero(data[n:min(len(data), n+blockSize)]) {
				n = min(len(data), n+blockSize)
			}
			if _, err := dst.WriteAt(data[:n], at); err != nil {
				return err
			}
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

// zero says whether a block, or a part of one, is all zeros.
func zero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }
