package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"ss/internal/disk"
)

// maxFile bounds what is read from a certificate or key file.
const maxFile = 1 << 20

// privateDir makes dir, and refuses one in which others could replace a key.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return checkDir(dir)
}

func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at folder: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("folder %s can be written by others (mode %04o), who could replace the keys in it: chmod 700 %s", dir, info.Mode().Perm(), dir)
	}
	return nil
}

// ReadKey reads a small file that is a secret: a regular one, no link, closed to others, in a folder that others cannot write to.
func ReadKey(path string) ([]byte, error) { return readFile(path, true) }

// WriteKey makes path hold a secret, for its owner only: whole or not at all, also through a loss of power. Where there is a file already it
// is left alone, and the error is fs.ErrExist.
func WriteKey(path string, key []byte) error { return writeFile(path, key, 0o600, false) }

// readFile reads a small regular file and does not follow a link to it. A secret one must be closed to others.
func readFile(path string, secret bool) ([]byte, error) {
	if secret {
		if err := checkDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if secret && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key %s is open to others (mode %04o): chmod 600 %s; if others had access to this machine, issue a new one", path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, nil
}

// writeFile makes path hold data, whole or not at all, also through a loss of power. With replace
// false an existing file is left alone and the error is fs.ErrExist.
func writeFile(path string, data []byte, mode os.FileMode, replace bool) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600 from the start
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path) // unlike rename, never replaces
	}
	if err != nil {
		return err
	}
	return disk.SyncDir(dir)
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
