package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"ss/store/kv"
)

const (
	leaseFolder = "leases"
	// leaseCheck is how often a handle looks whether its leases are still its own.
	leaseCheck = time.Second
)

// held is a lease that a handle has taken: a locked file.
type held struct {
	file *os.File
	path string
	lost chan struct{}
	done chan struct{} // the lease was given up
}

func (d *DB) leasePath(lease string) string {
	return filepath.Join(d.dir, leaseFolder, lease+".lock")
}

// take locks a lease's file. It runs in a transaction that is alone, so no other handle looks at it meanwhile.
func (d *DB) take(lease string) (*held, error) {
	path := d.leasePath(lease)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = kv.ErrHeld
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return &held{file: f, path: path, lost: make(chan struct{}), done: make(chan struct{})}, nil
}

// Holder says who holds a lease.
func (t *tx) Holder(lease string) (kv.Hold, error) {
	if h, changed := t.leases[lease]; changed {
		if h == nil {
			return kv.Free, nil
		}
		return kv.Ours, nil
	}
	t.db.mu.Lock()
	h := t.db.held[lease]
	t.db.mu.Unlock()
	if h != nil && named(h.file, h.path) {
		return kv.Ours, nil
	}
	f, err := os.Open(t.db.leasePath(lease))
	if errors.Is(err, fs.ErrNotExist) {
		return kv.Free, nil
	}
	if err != nil {
		return kv.Free, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return kv.Others, nil
	}
	return kv.Free, err
}

// Take takes a free lease.
func (t *tx) Take(lease string) error {
	hold, err := t.Holder(lease)
	if err != nil {
		return err
	}
	if hold != kv.Free {
		return fmt.Errorf("lease %s: %w", lease, kv.ErrHeld)
	}
	h, err := t.db.take(lease)
	if err == nil {
		t.leases[lease] = h
	}
	return err
}

// Drop gives a lease back.
func (t *tx) Drop(lease string) error {
	hold, err := t.Holder(lease)
	if err != nil || hold != kv.Ours {
		return err
	}
	if h := t.leases[lease]; h != nil {
		delete(t.leases, lease)
		return h.file.Close()
	}
	t.leases[lease] = nil
	return nil
}

// settleLeases makes what was taken and dropped so, or not, as the transaction went.
func (t *tx) settleLeases(committed bool) error {
	t.db.mu.Lock()
	defer t.db.mu.Unlock()
	var errs []error
	for lease, h := range t.leases {
		switch {
		case h != nil && committed:
			if old := t.db.held[lease]; old != nil { // it was lost before
				errs = append(errs, old.release())
			}
			t.db.held[lease] = h
			go h.watch()
		case h != nil:
			errs = append(errs, h.file.Close())
		case committed:
			if old := t.db.held[lease]; old != nil {
				delete(t.db.held, lease)
				errs = append(errs, old.release())
			}
		}
	}
	return errors.Join(errs...)
}

func (h *held) release() error {
	close(h.done)
	return h.file.Close()
}

// watch closes lost when the lease's file is not the one that its holder has locked any more: its folder was removed, or put back from a copy.
func (h *held) watch() {
	t := time.NewTicker(leaseCheck)
	defer t.Stop()
	for {
		select {
		case <-h.done:
			return
		case <-t.C:
			if !named(h.file, h.path) {
				close(h.lost)
				return
			}
		}
	}
}

// Lost is closed when a lease that this handle took is not its own any more. Of one that it does not hold it is closed already.
func (d *DB) Lost(lease string) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.held[lease]; h != nil {
		return h.lost
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

// Close gives up the leases.
func (d *DB) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for lease, h := range d.held {
		errs = append(errs, h.release())
		delete(d.held, lease)
	}
	return errors.Join(errs...)
}

// Busy says whether another process holds any lock below a folder. It is for the locks of older versions.
func Busy(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
		_ = f.Close() // it was only looked at
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return path, nil
		}
	}
	return "", nil
}
