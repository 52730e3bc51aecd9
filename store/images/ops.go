package images

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"ss/internal/disk"
)

// Operations on the file system that are done beside blob.Dir: in the staging folder, in the quarantine, and on what is replaced under its
// name. Each asks s.step first, which tests set: to fail there, or to end the process there. blob.Dir has a Step of its own.

func (s *Store) at(op, path string, n int) error {
	if s.step == nil {
		return nil
	}
	return s.step(op, path, n)
}

func (s *Store) mkdir(path string) error {
	if err := s.at("mkdir", path, 0); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

func (s *Store) syncDir(path string) error {
	if err := s.at("syncdir", path, 0); err != nil {
		return err
	}
	return disk.SyncDir(path)
}

func (s *Store) createFile(path string, data []byte) error {
	if err := s.at("create", path, len(data)); err != nil {
		return err
	}
	return disk.CreateFile(path, data, 0o600)
}

func (s *Store) rename(from, to string) error {
	if err := s.at("rename", from, 0); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (s *Store) link(from, to string) error {
	if err := s.at("link", from, 0); err != nil {
		return err
	}
	return os.Link(from, to)
}

func (s *Store) removeAll(path string) error {
	if err := s.at("remove", path, 0); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// makeDirs makes root/names[0]/names[1]…, durably, and returns the innermost.
func (s *Store) makeDirs(root string, names ...string) (string, error) {
	dir := root
	for _, name := range names {
		parent := dir
		dir = filepath.Join(dir, name)
		err := s.mkdir(dir)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		// One that was there already is perhaps not durable: whoever made it may have been stopped right after.
		if err := s.syncDir(parent); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// replacing is the name, in a job's quarantine, of what is about to take the place of something.
const replacing = "replacing"

// replace makes data what is called name, durably, and at no time is it missing or half there: blob.Dir never replaces anything. rest is name
// without the job.
func (s *Store) replace(ctx context.Context, job, rest string, data []byte) error {
	old, err := readSmall(ctx, s.objects, job+"/"+rest, int64(len(data)))
	if err == nil && bytes.Equal(old, data) {
		return s.objects.Put(ctx, job+"/"+rest, bytes.NewReader(data), int64(len(data))) // it is kept; perhaps it is not durable yet
	}
	path := s.objects.Path(job + "/" + rest)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return s.objects.Put(ctx, job+"/"+rest, bytes.NewReader(data), int64(len(data)))
	}
	s.asideMu.Lock()
	defer s.asideMu.Unlock()
	dir, err := s.makeDirs(s.dir, job, quarantineFolder)
	if err != nil {
		return err
	}
	temp := filepath.Join(dir, replacing)
	if err := s.removeAll(temp); err != nil { // left by one that was interrupted
		return err
	}
	if err := s.createFile(temp, data); err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	if err := s.rename(temp, path); err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	return s.syncDir(filepath.Dir(path))
}

// pruneDirs removes dir and the folders above it, up to root, as far as nothing is left in them.
func pruneDirs(root, dir string) {
	for dir != root && len(dir) > len(root) {
		if syscall.Rmdir(dir) != nil { // fails on a folder that is not empty, which is meant
			return
		}
		dir = filepath.Dir(dir)
	}
}
