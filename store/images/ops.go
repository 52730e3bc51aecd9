package images

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"ss/store/internal/disk"
)

// The operations whose order decides what a crash leaves behind. Each asks s.step first, which tests
// set: to fail there, to end the process there, or to write down the order.

func (s *Store) at(op, path string) error {
	if s.step == nil {
		return nil
	}
	return s.step(op, path)
}

func (s *Store) mkdir(path string) error {
	if err := s.at("mkdir", path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

func (s *Store) syncFile(f *os.File) error {
	if err := s.at("sync", f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

func (s *Store) syncDir(path string) error {
	if err := s.at("syncdir", path); err != nil {
		return err
	}
	return disk.SyncDir(path)
}

func (s *Store) createFile(path string, data []byte) error {
	if err := s.at("create", path); err != nil {
		return err
	}
	return disk.CreateFile(path, data, 0o600)
}

func (s *Store) rename(from, to string) error {
	if err := s.at("rename", from); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (s *Store) removeAll(path string) error {
	if err := s.at("remove", path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// makeParents makes the folders that a set of key lies in, durably.
func (s *Store) makeParents(key Key) error {
	dir := s.dir
	for _, name := range []string{key.Job, key.Snapshot} {
		parent := dir
		dir = filepath.Join(dir, name)
		err := s.mkdir(dir)
		if errors.Is(err, fs.ErrExist) {
			err = nil // but perhaps not durable: whoever made it may have been stopped right after
		}
		if err == nil {
			err = s.syncDir(parent)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// prune removes the folders of a snapshot and a job when nothing is left in them.
func (s *Store) prune(key Key) error {
	snapshot := filepath.Dir(s.setDir(key))
	for _, dir := range []string{snapshot, filepath.Dir(snapshot)} {
		if err := syscall.Rmdir(dir); err != nil { // fails on a folder that is not empty, which is meant
			break
		}
	}
	return s.syncDir(s.dir)
}
