package store

import (
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

	"ss/store/internal/disk"
)

const (
	// FileName is the catalogue's file in the cluster's folder.
	FileName = "catalogue.db"
	// DefaultLockTimeout is how long a transaction waits for other processes' to end.
	DefaultLockTimeout = 10 * time.Second
	// lockPoll is how often it looks: flock(2) has no timeout of its own.
	lockPoll = 5 * time.Millisecond
)

// Catalogue is a cluster's catalogue. It may be used from several goroutines, and beside other
// processes. It holds no lock between calls but those of the attempts begun through it.
type Catalogue struct {
	// LockTimeout is how long a transaction waits for the lock. Change it before the first call only.
	LockTimeout time.Duration
	// Where says which machine and folder this program runs in, for people who use two copies of a catalogue. Change it before the first call only.
	Where string

	dir string

	mu   sync.Mutex
	held map[string]*os.File // locks of the attempts begun here, by id
	mark Mark                // the generation that this handle's first change made; zero before
}

// Create makes the catalogue of a new cluster in dir, whole or not at all. The folder is made 0700 if
// it is missing. Where one exists the error wraps ErrConflict.
func Create(dir string, cluster Cluster) (*Catalogue, error) {
	if err := disk.PrivateDir(dir); err != nil {
		return nil, fmt.Errorf("create catalogue: %w", err)
	}
	path := filepath.Join(dir, FileName)
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("create catalogue: %s is there already: %w", path, ErrConflict)
	}
	temp, err := os.MkdirTemp(dir, ".new-*")
	if err != nil {
		return nil, fmt.Errorf("create catalogue: %w", err)
	}
	defer func() { _ = os.RemoveAll(temp) }() // a leftover is empty or a catalogue that nobody names
	fresh := filepath.Join(temp, FileName)
	db, err := bbolt.Open(fresh, 0o600, nil)
	if err != nil {
		return nil, fmt.Errorf("create catalogue: %w", err)
	}
	err = errors.Join(db.Update(func(tx *bbolt.Tx) error { return layOut(tx, cluster) }), db.Close())
	if err != nil {
		return nil, fmt.Errorf("create catalogue: %w", err)
	}
	if err := os.Link(fresh, path); errors.Is(err, fs.ErrExist) { // unlike rename, never replaces
		return nil, fmt.Errorf("create catalogue: %s is there already: %w", path, ErrConflict)
	} else if err != nil {
		return nil, fmt.Errorf("create catalogue: %w", err)
	}
	if err := disk.SyncDir(dir); err != nil {
		return nil, fmt.Errorf("create catalogue: %w", err)
	}
	return open(dir), nil
}

// Open finds the catalogue in dir and looks at its version. Where there is none the error wraps ErrNotFound.
func Open(dir string) (*Catalogue, error) {
	c := open(dir)
	if _, err := os.Lstat(c.path()); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster in %s: make one with \"ssctl init\", or say where it is: %w", dir, ErrNotFound)
	}
	for _, path := range []string{dir, c.path()} {
		if err := disk.CheckPrivate(path); err != nil {
			return nil, fmt.Errorf("open catalogue: %w", err)
		}
	}
	return c, c.view(func(*bbolt.Tx) error { return nil })
}

func open(dir string) *Catalogue {
	return &Catalogue{LockTimeout: DefaultLockTimeout, dir: dir, held: map[string]*os.File{}}
}

// Close gives up the attempts begun through c: they stay in the catalogue and are stale.
func (c *Catalogue) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for id, f := range c.held {
		errs = append(errs, f.Close())
		delete(c.held, id)
	}
	return errors.Join(errs...)
}

// Cluster is what the catalogue belongs to.
func (c *Catalogue) Cluster() (cluster Cluster, err error) {
	err = c.view(func(tx *bbolt.Tx) error {
		cluster, err = need[Cluster](tx, bucketMeta, keyCluster)
		return err
	})
	return cluster, err
}

// Check reads every page and every record and says what is wrong with them. It changes nothing.
func (c *Catalogue) Check() error {
	return c.view(func(tx *bbolt.Tx) error {
		errs := []error{c.checkRoots()}
		for err := range tx.Check() {
			errs = append(errs, fmt.Errorf("%w: %w", err, ErrCorrupt))
		}
		return errors.Join(append(errs, checkRecords(tx)...)...)
	})
}

// checkRoots says whether both of the file's root pages are whole. One is enough to go on with, but if
// it is the older one, the last transaction is lost.
func (c *Catalogue) checkRoots() error {
	data, err := disk.ReadSmall(c.path(), maxFile)
	if err != nil {
		return err
	}
	newer, err := newerMeta(data)
	if err == nil && countRoots(data, newer.pageSize) < 2 {
		err = fmt.Errorf("one of the two root pages is damaged, the last change may be lost: %w", ErrCorrupt)
	}
	return err
}

func (c *Catalogue) path() string { return filepath.Join(c.dir, FileName) }

// view runs fn in a transaction that reads. Others may read at the same time.
func (c *Catalogue) view(fn func(*bbolt.Tx) error) error { return c.transact(false, fn) }

// update runs fn in a transaction that is durable when update returns nil, and has not happened when
// fn fails. When it is the commit itself that fails (a full or dying disk) either may be the case.
func (c *Catalogue) update(fn func(*bbolt.Tx) error) error { return c.transact(true, fn) }

// transact opens the database, runs one transaction and closes it.
//
// bbolt trusts its file: it panics on damaged pages, or follows them out of its mapping. So the pages
// are checked before it sees them, a panic becomes ErrCorrupt, and so does a fault. After a panic
// bbolt's own locks may be held for good; its handle is abandoned, and the lock that
// matters, the file's, is given back under it (closing the file would not do: its mapping keeps it).
func (c *Catalogue) transact(write bool, fn func(*bbolt.Tx) error) (err error) {
	var file *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if file != nil {
				_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
				_ = file.Close()
			}
			err = fmt.Errorf("%s: %v: %w", c.path(), r, ErrCorrupt)
		}
	}()
	db, err := bbolt.Open(c.path(), 0o600, &bbolt.Options{
		ReadOnly: !write,
		OpenFile: func(path string, flag int, _ os.FileMode) (*os.File, error) {
			var err error
			file, err = c.openLocked(path, flag, write)
			return file, err
		},
	})
	if err != nil {
		return c.openError(err)
	}
	guarded := func(tx *bbolt.Tx) error {
		if err := checkLayout(tx); err != nil {
			return fmt.Errorf("%s: %w", c.path(), err)
		}
		if !write {
			return fn(tx)
		}
		if err := upgrade(tx); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		return c.advance(tx)
	}
	if write {
		err = db.Update(guarded)
	} else {
		err = db.View(guarded)
	}
	return errors.Join(err, db.Close())
}

// openLocked opens the database's file, which must exist, waits for its lock and checks its pages.
// bbolt takes the same lock on the same descriptor afterwards and so gets it at once.
func (c *Catalogue) openLocked(path string, flag int, write bool) (*os.File, error) {
	f, err := os.OpenFile(path, flag&^os.O_CREATE|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_SH
	if write {
		how = syscall.LOCK_EX
	}
	if err := lockFile(f, how, c.LockTimeout); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := checkPages(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lockFile waits no longer than timeout for a lock of the whole file.
func lockFile(f *os.File, how int, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		case time.Now().After(deadline):
			return fmt.Errorf("another process has kept %s locked for %v; look for a hanging ssctl: %w", f.Name(), timeout, ErrLocked)
		default:
			time.Sleep(lockPoll)
		}
	}
}

// openError gives bbolt's errors our meaning.
func (c *Catalogue) openError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open catalogue: %w: %w", err, ErrNotFound)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("open catalogue %s: %w: %w", c.path(), err, ErrCorrupt)
	}
	return fmt.Errorf("open catalogue: %w", err)
}
