package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"ss/internal/disk"
)

// incomingName is the folder, below the root and so on the same file system, of what has no name yet. It begins with a dot, so it is no
// object's.
const incomingName = ".incoming"

// Dir keeps objects as files below a folder: 0600, in folders that are 0700. Other things in it whose names begin with a dot
// are left alone and never shown. Several processes, on several hosts, may use one folder.
type Dir struct {
	// Step, where set, is asked before each operation on the file system ("mkdir", "create", "write", "sync", "rename", "syncdir", "remove"),
	// with the path, and, for "write", how many bytes. An error it returns is what the operation fails with. It is for tests.
	Step func(op, path string, n int) error

	root string
	mu   sync.Mutex // over a rename on a file system without hard links
}

// OpenDir uses root, which is made 0700 if it is missing. It refuses one that holds something and is open to others.
func OpenDir(root string) (*Dir, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	made, err := missingFolders(abs)
	if err == nil {
		err = disk.PrivateDir(abs)
	}
	for _, dir := range made {
		if err == nil {
			err = disk.SyncDir(filepath.Dir(dir))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", abs, err)
	}
	return &Dir{root: abs}, nil
}

// missingFolders are those of path and the folders above it that are not there.
func missingFolders(path string) ([]string, error) {
	var dirs []string
	for {
		_, err := os.Stat(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return dirs, err
		}
		dirs = append(dirs, path)
		path = filepath.Dir(path)
	}
}

func (d *Dir) incoming() string { return filepath.Join(d.root, incomingName) }

// Path is where an object lies, for reading only.
func (d *Dir) Path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

// Put is Writer's.
func (d *Dir) Put(ctx context.Context, name string, r io.Reader, size int64) error {
	if err := checkPut(ctx, name, size); err != nil {
		return d.fault("put", name, err)
	}
	kept, err := d.keep(name, size)
	if err != nil {
		return d.fault("put", name, err)
	}
	if kept {
		return nil
	}
	in, err := d.Create(ctx)
	if err != nil {
		return err
	}
	if err := in.fill(r, size); err != nil {
		return d.fault("put", name, errors.Join(err, in.Discard()))
	}
	return in.Commit(name)
}

func checkPut(ctx context.Context, name string, size int64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if size < 0 {
		return fmt.Errorf("a size of %d bytes", size)
	}
	return ctx.Err()
}

// errFolder is the ErrNotFound of a name that is the folder of others.
var errFolder = fmt.Errorf("only others below that name: %w", ErrNotFound)

// lookup finds an object without opening it.
func (d *Dir) lookup(name string) (fs.FileInfo, error) {
	if err := d.reach(name); err != nil {
		return nil, err
	}
	info, err := os.Lstat(d.Path(name))
	switch {
	case err != nil:
		return nil, missing(err)
	case info.IsDir():
		return nil, errFolder
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("it is not a regular file but %s: %w; find out who put it there, and remove it", info.Mode().Type(), ErrDamaged)
	}
	return info, nil
}

// reach checks that only plain folders lead to an object. O_NOFOLLOW looks at a path's end alone.
func (d *Dir) reach(name string) error {
	for _, dir := range d.parents(name) {
		if err := d.plainFolder(dir); err != nil {
			return missing(err)
		}
	}
	return nil
}

// missing makes ErrNotFound of what the system says of a path that leads nowhere.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return ErrNotFound
	}
	return err
}

// Get is Reader's.
func (d *Dir) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	r, err := d.get(ctx, name, off, n)
	if err != nil {
		return nil, d.fault("get", name, err)
	}
	return r, nil
}

func (d *Dir) get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := checkGet(ctx, name, off); err != nil {
		return nil, err
	}
	if _, err := d.lookup(name); err != nil {
		return nil, err
	}
	f, info, err := disk.OpenRegular(d.Path(name))
	if err != nil {
		return nil, missing(err)
	}
	if n < 0 {
		n = max(info.Size()-off, 1) // so that an offset behind the end is found out
		if off == info.Size() {
			n = 0
		}
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	short := n == 0 && off > info.Size()
	return &ranged{ctx: ctx, r: f, left: n, short: short}, nil
}

func checkGet(ctx context.Context, name string, off int64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("an offset of %d bytes", off)
	}
	return ctx.Err()
}

// ranged reads exactly as many bytes as it is to.
type ranged struct {
	ctx   context.Context
	r     io.ReadCloser
	left  int64
	short bool // the object ends before the first byte
}

// Read is io.Reader's.
func (r *ranged) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.short {
		return 0, io.ErrUnexpectedEOF
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if errors.Is(err, io.EOF) && r.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close is io.Closer's.
func (r *ranged) Close() error { return r.r.Close() }

// Stat is Reader's.
func (d *Dir) Stat(ctx context.Context, name string) (Info, error) {
	err := checkGet(ctx, name, 0)
	var info fs.FileInfo
	if err == nil {
		info, err = d.lookup(name)
	}
	if err != nil {
		return Info{}, d.fault("look for", name, err)
	}
	return Info{Name: name, Size: info.Size(), Time: info.ModTime()}, nil
}

// Remove is Remover's. Folders that become empty go too.
func (d *Dir) Remove(ctx context.Context, name string) error {
	err := checkGet(ctx, name, 0)
	if err == nil {
		err = d.reach(name)
	}
	if err == nil {
		err = missing(d.unlink(d.Path(name)))
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, syscall.EISDIR) {
		err = nil
	}
	if err == nil {
		err = d.syncNearest(name) // also where it was gone: perhaps not yet durably
	}
	if err != nil {
		return d.fault("remove", name, err)
	}
	d.prune(name)
	return nil
}

// RemovePartials removes what was begun more than olderThan ago (by its last write, and this host's clock) and never got its name, and
// folders that hold nothing. With 0 it is for a folder that no other process uses, before anything is put; in one that
// others share, what is to be removed must be older than any Put takes.
func (d *Dir) RemovePartials(olderThan time.Duration) error {
	entries, err := os.ReadDir(d.incoming())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	limit := time.Now().Add(-olderThan)
	for _, e := range entries {
		info, infoErr := e.Info()
		if infoErr != nil || info.IsDir() || olderThan > 0 && info.ModTime().After(limit) {
			continue // another host's, that is already at its end, or still alive
		}
		if rmErr := d.unlink(filepath.Join(d.incoming(), e.Name())); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	if err == nil {
		err = d.pruneEmpty(d.root, 1)
	}
	if err != nil {
		return d.fault("remove", "partial objects", err)
	}
	return nil
}

// pruneEmpty removes the folders below dir in which there is nothing: of a Put that was stopped after it had made them.
func (d *Dir) pruneEmpty(dir string, depth int) error {
	entries, err := readDir(dir)
	if err != nil || depth >= maxElements {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		sub := filepath.Join(dir, e.Name())
		if err := d.pruneEmpty(sub, depth+1); err != nil {
			return err
		}
		_ = d.rmdir(sub) // fails on one that is not empty, which is meant
	}
	return nil
}
