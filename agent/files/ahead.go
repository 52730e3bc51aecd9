package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// aheadMin is from how many bytes on a file is copied ahead: smaller ones are copied while the members stand still, which takes 0.3 ms a MiB.
	aheadMin = 1 << 20
	// tick is the longest time for which a file system may note one and the same time of change: one jiffy at 100 Hz, twice.
	tick = 20 * time.Millisecond
	// pieceSize is how much of a file is compared at once.
	pieceSize = 1 << 20
)

// Ahead are copies of large files, made while the members run. Take uses those of files that have not changed since, and mends the others. It belongs to
// one attempt. The zero value has none.
type Ahead struct {
	clones map[uint64]bool // file systems (st_dev) whose files can be cloned into the folder of the copies
	copies map[id]*early
}

// early is a copy of one file.
type early struct {
	path  string // of the copy
	st    unix.Stat_t
	dirty bool // the time of change does not tell whether the file was written since
}

// clonable says whether files of that file system can be cloned into dir (ioctl_ficlone(2)): nothing is copied then, both share what is on the
// disk. It tries, as only that tells.
func (a *Ahead) clonable(dir string, f *held) bool {
	if can, known := a.clones[f.st.Dev]; known {
		return can
	}
	if a.clones == nil {
		a.clones = map[uint64]bool{}
	}
	can := func() bool {
		if dir == "" || f.leased {
			return false
		}
		src, err := unix.Open(f.handles[0].path(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		defer unix.Close(src)
		dst, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return false
		}
		defer unix.Close(dst)
		return unix.IoctlFileCloneRange(dst, &unix.FileCloneRange{Src_fd: int64(src), Src_length: blockSize}) == nil
	}()
	if !f.leased {
		a.clones[f.st.Dev] = can
	}
	return can
}

// cloned says whether the file will be cloned, from what clonable has found out.
func (a *Ahead) cloned(f *held) bool { return a != nil && a.clones[f.st.Dev] && !f.leased }

// Copy copies to dir what would take long while the members stand still. The members run. What is not copied here, for whatever reason, is copied then.
func (a *Ahead) Copy(ctx context.Context, trees []Tree, dir string, pause func(context.Context) error) error {
	now := time.Now()
	s, err := look(ctx, trees, false)
	if err != nil {
		return err
	}
	defer s.close() //nolint:errcheck // holds on files that nothing was written to
	a.copies = map[id]*early{}
	for _, key := range s.order {
		f := s.files[key]
		if !f.kept() || f.appended() || f.leased || inMemory(f) || f.st.Blocks*512 < aheadMin && !f.closed() || a.cloned(f) {
			continue
		}
		if err := pause(ctx); err != nil {
			return err
		}
		e := &early{path: filepath.Join(dir, fmt.Sprintf("ahead-%d-%d", key.dev, key.ino)), st: f.st, dirty: f.mapped() || !keepsTime(f) || time.Unix(f.st.Ctim.Unix()).After(now.Add(-tick))}
		if err := f.copyAhead(e.path); err != nil {
			return fmt.Errorf("copy %s: %w", f.any(), err)
		}
		a.copies[key] = e
	}
	return nil
}

// Drop removes the copies that Take did not use.
func (a *Ahead) Drop() error {
	if a == nil {
		return nil
	}
	var errs []error
	for _, e := range a.copies {
		if err := os.Remove(e.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	a.copies = nil
	return errors.Join(errs...)
}

// mapped says whether the file can be written through a mapping: only the first such write to a page changes the file's times.
func (h *held) mapped() bool {
	for _, x := range h.handles {
		if x.fd < 0 && x.own == nil && x.write {
			return true
		}
	}
	return false
}

// keepsTime says whether the file is on a file system whose times of change come from this host's clock, with each write.
func keepsTime(f *held) bool {
	var fs unix.Statfs_t
	if unix.Statfs(f.handles[0].path(), &fs) != nil {
		return false
	}
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return true
	}
	return false
}

// copyAhead copies what is there now, as far as it can be read. It may change meanwhile.
func (h *held) copyAhead(dst string) (err error) {
	fd, err := unix.Open(h.handles[0].path(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil //nolint:nilerr // it was closed meanwhile, or is not to be read so: it is copied later, or not at all
	}
	src := os.NewFile(uintptr(fd), h.any())
	defer src.Close()
	out, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for at := int64(0); at < h.st.Size; {
		data, hole, err := nextData(src, at, h.st.Size)
		if err != nil {
			return err
		}
		err = copyRange(out, src, data, hole)
		if errors.Is(err, errEnds) {
			break // truncated meanwhile
		}
		if err != nil {
			return err
		}
		at = hole
	}
	return out.Truncate(h.st.Size)
}

// unchanged says whether the copy still is what the file holds. st is of the file, whose members stand still.
func (e *early) unchanged(f *held) bool {
	return !e.dirty && !f.mapped() && e.st.Size == f.st.Size && e.st.Ctim == f.st.Ctim && e.st.Mtim == f.st.Mtim
}

// clone makes out share the first size bytes of the file. It says false where that cannot be.
func clone(out, file *os.File, size int64) (bool, error) {
	if unix.IoctlFileClone(int(out.Fd()), int(file.Fd())) == nil {
		return true, out.Truncate(size)
	}
	return false, nil
}

// mend makes a copy equal to the file, which does not change. With seek, the file's own position may move.
func mend(out, file *os.File, size int64, seek bool) error {
	if err := out.Truncate(size); err != nil {
		return err
	}
	have, want := make([]byte, pieceSize), make([]byte, pieceSize)
	for at := int64(0); at < size; {
		if seek {
			a, _, err := nextData(file, at, size)
			if err != nil {
				return err
			}
			b, _, err := nextData(out, at, size)
			if err != nil {
				return err
			}
			if at = min(a, b) &^ (blockSize - 1); at >= size {
				break
			}
		}
		n := int(min(pieceSize, size-at))
		if _, err := io.ReadFull(io.NewSectionReader(file, at, int64(n)), want[:n]); err != nil {
			return fmt.Errorf("read at byte %d: %w", at, err)
		}
		if _, err := io.ReadFull(io.NewSectionReader(out, at, int64(n)), have[:n]); err != nil {
			return fmt.Errorf("read the copy at byte %d: %w", at, err)
		}
		if err := mendPiece(out, want[:n], have[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// mendPiece writes the blocks that differ.
func mendPiece(out io.WriterAt, want, have []byte, at int64) error {
	if bytes.Equal(want, have) {
		return nil
	}
	for from := 0; from < len(want); from += blockSize {
		to := min(from+blockSize, len(want))
		if bytes.Equal(want[from:to], have[from:to]) {
			continue
		}
		if _, err := out.WriteAt(want[from:to], at+int64(from)); err != nil {
			return err
		}
	}
	return nil
}
