package images

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Frees says whether Seal gives the room of plain files back while it stores them: a set then needs hardly more room than its files. It does not where dumps are kept, or where
// the file system of the staging folder cannot.
func (s *Store) Frees() bool { return s.frees }

// canFree tries whether the file system that a folder is on can take room back from the midst of a file.
func canFree(dir string) (bool, error) {
	f, err := os.CreateTemp(dir, ".free-*")
	if err != nil {
		return false, err
	}
	defer f.Close() // nobody reads what was written
	if err := os.Remove(f.Name()); err != nil {
		return false, err
	}
	const size = 64 << 10
	if _, err := f.Write(make([]byte, size)); err != nil {
		return false, err
	}
	return punch(f, 0, size/2) == nil, nil
}

func punch(f *os.File, from, to int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
}

// release gives back the room of a piece of a plain file that is in durable packs. The cut is whole, or it is not there: in both cases nobody reads the file
// again. Where it fails, the room comes with the rest.
func (p *Partial) release(path string, from, to int64) {
	path = filepath.Join(p.dir, path)
	if err := p.s.at("release", path, int(to-from)); err != nil {
		return
	}
	p.eaten = true
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_ = punch(f, from, to)
	_ = f.Close() // nothing was written
}

// probeStaging finds out whether Seal can give room back.
func (s *Store) probeStaging() error {
	if s.opt.KeepDumps {
		return nil
	}
	can, err := canFree(s.staging)
	if err != nil && !full(err) {
		return fmt.Errorf("try the staging folder %s: %w", s.staging, err)
	}
	s.frees = can
	return nil
}
