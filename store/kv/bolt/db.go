package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"ss/internal/disk"
	"ss/store/kv"
)

const (
	// FileName is the database's file in its folder.
	FileName = "catalogue.db"
	// DefaultLockTimeout is how long a transaction waits for other processes' to end.
	DefaultLockTimeout = 10 * time.Second
	// lockPoll is how often it looks: flock(2) has no timeout of its own.
	lockPoll = 5 * time.Millisecond
	// MaxFile bounds what is read as a database, in bytes.
	MaxFile = 1 << 34
)

// DB is one handle (kv.DB).
type DB struct {
	// LockTimeout is how long a transaction waits for the file's lock. Change it before the first call only.
	LockTimeout time.Duration

	dir string

	mu   sync.Mutex
	held map[string]*held // by lease
}

// Create makes an empty database in dir, in one piece with what fill puts into it, or not at all. The folder is made 0700 if it is missing. Where
// a database exists the error wraps fs.ErrExist.
func Create(dir string, fill func(kv.Tx) error) (*DB, error) {
	if err := disk.PrivateDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, FileName)
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s is there already: %w", path, fs.ErrExist)
	}
	temp, err := os.MkdirTemp(dir, ".new-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(temp) }() // a leftover is a database that nobody names
	if err := write(filepath.Join(temp, FileName), fill); err != nil {
		return nil, err
	}
	if err := Publish(temp, dir); err != nil {
		return nil, err
	}
	return open(dir), nil
}

// write makes a new file. No bounds hold for fill: nobody else sees the transaction.
func write(path string, fill func(kv.Tx) error) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
	if err != nil {
		return err
	}
	err = db.Update(func(btx *bbolt.Tx) error {
		t := &tx{btx: btx, unbounded: true}
		if err := fill(t); err != nil {
			return err
		}
		_, err := t.log()
		return err
	})
	return errors.Join(err, db.Close())
}

// Publish gives the database of a temporary folder, which nobody uses, its name in another one. Where one exists the error wraps fs.ErrExist.
func Publish(temp, dir string) error {
	path := filepath.Join(dir, FileName)
	if err := os.Link(filepath.Join(temp, FileName), path); err != nil { // unlike rename, never replaces
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s is there already: %w", path, fs.ErrExist)
		}
		return err
	}
	if err := seal(path); err != nil {
		return err
	}
	return disk.SyncDir(dir)
}

// Open finds the database in dir and compares it with its sum. Where there is none the error wraps kv.ErrNotFound.
func Open(dir string) (*DB, error) {
	d := open(dir)
	switch info, err := os.Lstat(d.path()); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no %s: %w", d.path(), kv.ErrNotFound)
	case err == nil && !info.Mode().IsRegular(): // to open a FIFO would wait for another program
		return nil, fmt.Errorf("%s is not a regular file (%v): %w", d.path(), info.Mode(), kv.ErrCorrupt)
	}
	for _, path := range []string{dir, d.path()} {
		if err := disk.CheckPrivate(path); err != nil {
			return nil, err
		}
	}
	return d, d.verify(context.Background())
}

func open(dir string) *DB {
	return &DB{LockTimeout: DefaultLockTimeout, dir: dir, held: map[string]*held{}}
}

// Dir is the database's folder.
func (d *DB) Dir() string { return d.dir }

func (d *DB) path() string { return filepath.Join(d.dir, FileName) }

// verify compares the file with its sum, or has another process look at it where the sum says nothing, while nobody writes to it.
func (d *DB) verify(ctx context.Context) error {
	f, err := d.openLocked(ctx, d.path(), os.O_RDONLY, false)
	if err != nil {
		return d.openError(err)
	}
	defer f.Close()
	if known, err := checkSum(f); known || err != nil {
		return err
	}
	return examine(ctx, d.path())
}

// Check compares the file with its sum, and has bbolt look at every page.
func (d *DB) Check(ctx context.Context) error {
	if err := d.verify(ctx); err != nil {
		return err
	}
	return d.transact(ctx, false, func(btx *bbolt.Tx) error {
		var errs []error
		for err := range btx.Check() {
			errs = append(errs, fmt.Errorf("%w: %w", err, kv.ErrCorrupt))
		}
		return errors.Join(errs...)
	})
}

// View runs fn in a transaction that reads. Others may read at the same time.
func (d *DB) View(ctx context.Context, fn func(kv.Tx) error) (revision kv.Revision, err error) {
	err = d.transact(ctx, false, func(btx *bbolt.Tx) error {
		t := &tx{btx: btx, db: d}
		revision = t.revision()
		return fn(t)
	})
	return revision, err
}

// Update runs fn once, alone.
func (d *DB) Update(ctx context.Context, fn func(kv.Tx) error) (kv.Revision, error) {
	var t *tx
	var revision kv.Revision
	err := d.transact(ctx, true, func(btx *bbolt.Tx) error {
		t = &tx{btx: btx, db: d, leases: map[string]*held{}}
		if err := fn(t); err != nil {
			return err
		}
		if revision = t.revision(); len(t.changed) == 0 {
			return errNothing
		}
		var err error
		revision, err = t.log()
		return err
	})
	if t != nil {
		err = errors.Join(err, t.settleLeases(err == nil))
	}
	return revision, err
}

// transact opens the file, runs one transaction and closes it.
//
// bbolt trusts its file: it panics on damaged pages, or follows them out of its mapping. The file was compared with its sum when the handle was
// made. What is damaged since, or was never summed, still becomes kv.ErrCorrupt where bbolt panics or faults. After a panic
// bbolt's own locks may be held for good; its handle is abandoned, and the lock that
// matters, the file's, is given back under it (closing the file would not do: its mapping keeps it).
func (d *DB) transact(ctx context.Context, write bool, fn func(*bbolt.Tx) error) (err error) {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	var file *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if file != nil {
				_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
				_ = file.Close()
			}
			err = fmt.Errorf("%s: %v: %w", d.path(), r, kv.ErrCorrupt)
		}
	}()
	db, err := bbolt.Open(d.path(), 0o600, &bbolt.Options{
		ReadOnly: !write, NoFreelistSync: true, // what is free is found again; a list of it on disk could be wrong
		OpenFile: func(path string, flag int, _ os.FileMode) (*os.File, error) {
			var err error
			file, err = d.openLocked(ctx, path, flag, write)
			return file, err
		},
	})
	if err != nil {
		return d.openError(err)
	}
	if write {
		err = d.write(db, fn)
	} else {
		err = db.View(fn)
	}
	return errors.Join(err, db.Close())
}

// errNothing ends a transaction that has written nothing.
var errNothing = errors.New("nothing to write")

// write runs a transaction that writes, and keeps the file's sum in step.
func (d *DB) write(db *bbolt.DB, fn func(*bbolt.Tx) error) error {
	unsealed := false
	err := db.Update(func(btx *bbolt.Tx) error {
		if err := fn(btx); err != nil {
			return err
		}
		unsealed = true
		return unseal(d.path())
	})
	if unsealed {
		err = errors.Join(err, seal(d.path())) // before anybody else gets the lock
	}
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// Replace puts a new database in the place of the one that is there, under its lock, and keeps that one as aside in the same folder. fn is given
// what is there, and fills the new one; no bounds hold for it. Whoever is killed on the way leaves the old one in its place.
func (d *DB) Replace(ctx context.Context, aside string, fn func(old, fresh kv.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %v: %w", d.path(), r, kv.ErrCorrupt)
		}
	}()
	db, err := bbolt.Open(d.path(), 0o600, &bbolt.Options{
		OpenFile: func(path string, flag int, _ os.FileMode) (*os.File, error) {
			return d.openLocked(ctx, path, flag, true)
		},
	})
	if err != nil {
		return d.openError(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }() // gives the lock back
	temp, err := os.MkdirTemp(d.dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temp) }() // a leftover is a database that nobody names
	fresh := filepath.Join(temp, FileName)
	err = db.View(func(btx *bbolt.Tx) error {
		return write(fresh, func(t kv.Tx) error { return fn(&tx{btx: btx, db: d}, t) })
	})
	if err != nil {
		return err
	}
	if err := os.Link(d.path(), filepath.Join(d.dir, aside)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := unseal(d.path()); err != nil {
		return err
	}
	if err := os.Rename(fresh, d.path()); err != nil {
		return err
	}
	return errors.Join(seal(d.path()), disk.SyncDir(d.dir))
}

// openLocked opens the database's file, which must exist, and waits for its lock. bbolt takes the same lock on the same descriptor afterwards and
// so gets it at once.
func (d *DB) openLocked(ctx context.Context, path string, flag int, write bool) (*os.File, error) {
	how := syscall.LOCK_SH
	if write {
		how = syscall.LOCK_EX
	}
	for {
		f, err := os.OpenFile(path, flag&^os.O_CREATE|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return nil, err
		}
		if err := lockFile(ctx, f, how, d.LockTimeout); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if named(f, path) {
			return f, nil
		}
		_ = f.Close() // another file has taken its place meanwhile
	}
}

// named says whether an open file still has that name.
func named(f *os.File, path string) bool {
	is, err := f.Stat()
	if err != nil {
		return false
	}
	at, err := os.Lstat(path)
	return err == nil && os.SameFile(is, at)
}

// lockFile waits no longer than timeout for a lock of the whole file.
func lockFile(ctx context.Context, f *os.File, how int, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("wait for the lock of %s: %w", f.Name(), context.Cause(ctx))
			}
			return fmt.Errorf("another process has kept %s locked for %v; look for a hanging ssctl: %w", f.Name(), timeout, kv.ErrLocked)
		}
	}
}

// openError gives bbolt's errors our meaning.
func (d *DB) openError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open catalogue: %w: %w", err, kv.ErrNotFound)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("open catalogue %s: %w: %w", d.path(), err, kv.ErrCorrupt)
	case errors.Is(err, kv.ErrCorrupt):
		return err
	}
	return fmt.Errorf("open catalogue: %w", err)
}
