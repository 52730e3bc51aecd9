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
	clones map[id]bool     // files that can be cloned into the folder of the copies
	whole  map[uint64]bool // file systems (st_dev) of which no file can
	copies map[id]*early
	room   int64 // bytes that the copies may take: the files may grow while they are made
}

// early is a copy of one file.
type early struct {
	path  string // of the copy
	st    unix.Stat_t
	dirty bool // the time of change does not tell whether the file was written since
}

// clonable says whether the file can be cloned into dir (ioctl_ficlone(2)): nothing is copied then, both share what is on the disk. It tries, as only
// that tells, with each file: its owner may have kept one of many from being cloned (chattr +C on Btrfs).
func (a *Ahead) clonable(dir string, f *held) bool {
	if dir == "" || f.leased || a.whole[f.st.Dev] {
		return false
	}
	if a.clones == nil {
		a.clones, a.whole = map[id]bool{}, map[uint64]bool{}
	}
	src, err := f.handles[0].open(idOf(&f.st))
	if err != nil {
		return false
	}
	defer src.Close()
	dst, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return false
	}
	defer unix.Close(dst)
	// An empty length means all of the file, whatever that is.
	err = unix.IoctlFileCloneRange(dst, &unix.FileCloneRange{Src_fd: int64(src.Fd()), Src_length: blockSize})
	switch {
	case err == nil:
		a.clones[idOf(&f.st)] = true
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTTY):
		a.whole[f.st.Dev] = true
	}
	return err == nil
}

// cloned says whether the file will be cloned, from what clonable has found out.
func (a *Ahead) cloned(f *held) bool { return a != nil && a.clones[idOf(&f.st)] && !f.leased }

// grown says if the files take more room than was looked for.
func (a *Ahead) grown(bytes int64) error {
	if a == nil || a.room == 0 || bytes <= a.room {
		return nil
	}
	return fmt.Errorf("the files have grown to more than %d MiB while they were copied: try again", a.room>>20)
}

// Copy copies to dir what would take long while the members stand still. The members run. What is not copied here, for whatever reason, is copied then.
func (a *Ahead) Copy(ctx context.Context, trees []Tree, dir string, pause func(context.Context) error) error {
	now := time.Now()
	s, err := look(ctx, trees, false)
	if err != nil {
		return err
	}
	defer s.close() //nolint:errcheck // holds on files that nothing was written to
	a.copies = map[id]*early{}
	var sum int64
	for _, key := range s.order {
		f := s.files[key]
		if !f.kept() || f.appended() || f.leased || inMemory(f) || f.st.Blocks*512 < aheadMin && !f.closed() {
			continue
		}
		if err := pause(ctx); err != nil {
			return err
		}
		if a.cloned(f) {
			f.flush()
			continue
		}
		e := &early{path: filepath.Join(dir, fmt.Sprintf("ahead-%d-%d", key.dev, key.ino)), st: f.st, dirty: f.mapped() || !keepsTime(f) || time.Unix(f.st.Ctim.Unix()).After(now.Add(-tick))}
		a.copies[key] = e // what was begun is removed, too
		n, err := f.copyAhead(ctx, e.path, a.room-sum)
		if errors.Is(err, errExchanged) {
			delete(a.copies, key)
			continue // it was closed meanwhile, or is not to be read so: it is copied later, or not at all
		}
		if sum += n; err == nil {
			err = a.grown(sum)
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", f.any(), errors.Join(err, a.Drop()))
		}
	}
	return nil
}

// flush has the file system write what the file has in memory only, as it does before it clones a file. What is written until the members stand still
// is written then.
func (h *held) flush() {
	src, err := h.handles[0].open(idOf(&h.st))
	if err != nil {
		return // it was closed meanwhile
	}
	defer src.Close()
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	_ = unix.SyncFileRange(int(src.Fd()), 0, 0, all) // the clone says what is wrong with the disk
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

// copyAhead copies what is there now, and says how many bytes that were. It ends soon after it has copied more than room. The file may change meanwhile.
func (h *held) copyAhead(ctx context.Context, dst string, room int64) (n int64, err error) {
	src, err := h.handles[0].open(idOf(&h.st))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errExchanged, err)
	}
	defer src.Close()
	out, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for at := int64(0); at < h.st.Size && n <= room; {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		data, hole, err := nextData(src, at, h.st.Size)
		if err != nil {
			return n, err
		}
		hole = min(hole, data+copyMost)
		err = copyRange(out, src, data, hole)
		if errors.Is(err, errEnds) {
			break // truncated meanwhile
		}
		if err != nil {
			return n, err
		}
		at, n = hole, n+hole-data
	}
	return n, out.Truncate(h.st.Size)
}

// copyMost is how much is copied ahead before it is looked whether that goes on.
const copyMost = 16 << 20

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
