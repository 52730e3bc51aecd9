package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ss/internal/disk"
)

// The operations of a Dir whose order decides what a crash leaves behind. Each asks d.Step first, which tests set: to
// fail there, to end the process there, or to write down the order.

func (d *Dir) at(op, path string, n int) error {
	if d.Step == nil {
		return nil
	}
	if err := d.Step(op, path, n); err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

func (d *Dir) mkdir(path string) error {
	if err := d.at("mkdir", path, 0); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

// createTemp makes a file of a name that nobody else uses, also no other host that shares the folder: the name is random,
// and O_EXCL decides.
func (d *Dir) createTemp() (*os.File, error) {
	if err := d.at("create", filepath.Join(d.incoming(), "*"), 0); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(d.incoming(), "*")
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := d.mkdir(d.incoming()); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.CreateTemp(d.incoming(), "*")
}

func (d *Dir) write(f *os.File, p []byte) (int, error) {
	if err := d.at("write", f.Name(), len(p)); err != nil {
		return 0, err
	}
	return f.Write(p)
}

func (d *Dir) syncFile(f *os.File) error {
	if err := d.at("sync", f.Name(), 0); err != nil {
		return err
	}
	return f.Sync()
}

func (d *Dir) syncDir(path string) error {
	if err := d.at("syncdir", path, 0); err != nil {
		return err
	}
	return disk.SyncDir(path)
}

// rename gives from the name to, if nothing has it: fs.ErrExist otherwise. A link decides that in one instant, on shared
// file systems too; what is left of from is removed later. Where there are no hard links, this process at least is alone
// with itself.
func (d *Dir) rename(from, to string) error {
	if err := d.at("rename", to, 0); err != nil {
		return err
	}
	err := os.Link(from, to)
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EMLINK):
	default:
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := os.Lstat(to); err == nil {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(from, to)
}

// unlink removes a file, and never a folder, which os.Remove would.
func (d *Dir) unlink(path string) error {
	if err := d.at("remove", path, 0); err != nil {
		return err
	}
	if err := syscall.Unlink(path); err != nil {
		return &fs.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

func (d *Dir) rmdir(path string) error {
	if err := d.at("remove", path, 0); err != nil {
		return err
	}
	if err := syscall.Rmdir(path); err != nil {
		return &fs.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}

// place makes the folders of an object and names it, or keeps the one that is there. Somebody, perhaps on another host, may
// remove a folder in between, or the object, so it is done again then. Each time round that somebody has got something done,
// so this does not go on.
func (d *Dir) place(temp, name string, size int64) error {
	const tries = 100
	var err error
	for range tries {
		err = d.makeParents(name)
		if err == nil {
			err = d.rename(temp, d.Path(name))
		}
		switch {
		case errors.Is(err, fs.ErrExist):
			if kept, err := d.keep(name, size); kept || err != nil {
				return err
			}
		case errors.Is(err, fs.ErrNotExist):
			if _, gone := os.Lstat(temp); gone != nil {
				return fmt.Errorf("the temporary file has been taken away: %w", gone)
			}
		case err != nil:
			return err
		default:
			return d.syncParents(name)
		}
	}
	return fmt.Errorf("still in somebody's way after %d tries: %w", tries, err)
}

func (d *Dir) makeParents(name string) error {
	for _, dir := range d.parents(name) {
		err := d.mkdir(dir)
		if errors.Is(err, fs.ErrExist) {
			err = d.plainFolder(dir)
		}
		if errors.Is(err, syscall.ENOTDIR) {
			err = fmt.Errorf("%s is an object and can be no folder: %w", dir, ErrExists)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keep says whether an object of that name and size is there, and makes it durable: whoever put it may have been stopped
// right before that.
func (d *Dir) keep(name string, size int64) (bool, error) {
	info, err := d.lookup(name)
	switch {
	case errors.Is(err, errFolder):
		return false, fmt.Errorf("there are objects below that name: %w", ErrExists)
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case info.Size() != size:
		return false, fmt.Errorf("one of %d bytes is there, this is one of %d: %w", info.Size(), size, ErrExists)
	}
	return true, d.syncParents(name)
}

// syncParents makes the name of an object durable, and the names of its folders: whoever made those may not have come to it.
// A folder that is gone was pruned, as somebody has removed the object since.
func (d *Dir) syncParents(name string) error {
	for _, dir := range append([]string{d.root}, d.parents(name)...) {
		err := d.syncDir(dir)
		if dir != d.root && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// syncNearest makes it durable that an object is gone: of its folders, the innermost that there is.
func (d *Dir) syncNearest(name string) error {
	parents := d.parents(name)
	for i := len(parents) - 1; i >= 0; i-- {
		err := d.syncDir(parents[i])
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return err
		}
	}
	return d.syncDir(d.root)
}

// prune removes the folders of an object that are empty. It is tidiness only, so it fails quietly, and need not be durable.
func (d *Dir) prune(name string) {
	parents := d.parents(name)
	for i := len(parents) - 1; i >= 0; i-- {
		if d.rmdir(parents[i]) != nil {
			return
		}
	}
}

// parents are the folders between the root and an object, outermost first.
func (d *Dir) parents(name string) []string {
	elements := strings.Split(name, "/")
	dirs := make([]string, 0, len(elements)-1)
	dir := d.root
	for _, e := range elements[:len(elements)-1] {
		dir = filepath.Join(dir, e)
		dirs = append(dirs, dir)
	}
	return dirs
}

// plainFolder refuses what is not a folder: a file, or a link, which may lead anywhere.
func (d *Dir) plainFolder(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case info.Mode().IsRegular():
		return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder but %s: %w; find out who put it there, and remove it", path, info.Mode().Type(), ErrDamaged)
	}
	return nil
}

// fault says which operation on what failed, which of this package's errors it is, and what to do.
func (d *Dir) fault(op, name string, err error) error {
	advice, kind := classify(err)
	if kind == nil {
		return fmt.Errorf("%s %s in %s: %w", op, name, d.root, err)
	}
	return fmt.Errorf("%s %s in %s: %w: %w; %s", op, name, d.root, kind, err, advice)
}

// classify says which of this package's errors one of the system's is, and what to do: nil if it says so itself, or is none.
func classify(err error) (advice string, kind error) {
	switch {
	case ours(err):
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free space on its file system, or raise the quota", ErrFull
	case errors.Is(err, syscall.EROFS):
		return "mount it for writing", ErrDenied
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "look at the folder's owner and mode", ErrDenied
	}
	return "", nil
}

// ours says whether an error says itself which of this package's it is.
func ours(err error) bool {
	for _, known := range []error{ErrNotFound, ErrExists, ErrDenied, ErrFull, ErrDamaged, ErrInvalid} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
