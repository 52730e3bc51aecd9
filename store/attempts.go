package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"
)

// An attempt's ssctl holds a lock on a file of its own, DIR/attempts/ID.lock, for as long as it lives.
// The kernel gives the lock up when the process ends, however it ends: so whether an attempt is stale
// is known, not guessed from times and process numbers.

// BeginAttempt notes that a snapshot, a restore or a collection is about to begin, draws its epoch and its id, and
// returns when that is durable. The caller gives Kind, Job, Hosts and Phase, and an ID only if the
// cut is to have one that it had elsewhere; if that is taken, the error wraps ErrConflict. While another attempt of the
// job is on, the error wraps ErrConflict, of a collection ErrCollecting, too; one whose ssctl has died does not count, and stays in
// Attempts until EndAttempt, or until another begins with its id.
func (c *Catalogue) BeginAttempt(a Attempt) (Attempt, error) {
	if !slices.Contains([]string{KindSnapshot, KindRestore, KindCollect}, a.Kind) {
		return Attempt{}, fmt.Errorf("begin attempt: kind %q: %w", a.Kind, ErrInvalid)
	}
	var lock *os.File
	err := c.update(func(tx *bbolt.Tx) (err error) {
		if _, err := need[Job](tx, bucketJobs, a.Job); err != nil {
			return err
		}
		others, err := attemptsOf(tx, a.Job)
		if err != nil {
			return err
		}
		for _, o := range others {
			if live, err := c.live(o.ID); err != nil {
				return err
			} else if live {
				conflict := ErrConflict
				if o.Kind == KindCollect {
					conflict = ErrCollecting
				}
				return fmt.Errorf("a %s of job %q is on (%s, since %s, process %d): wait for its end: %w",
					o.noun(), o.Job, o.ID, o.Started.Format("15:04:05"), o.Pid, conflict)
			}
		}
		if a.Epoch, err = drawEpoch(tx, a.Job); err != nil {
			return err
		}
		a.Started, a.Pid, a.Live = now(), os.Getpid(), true
		a.Hosts = sorted(slices.Clone(a.Hosts))
		if err := c.forgetStale(tx, a.ID); err != nil {
			return err
		}
		if a.ID, err = attemptID(tx, a); err != nil {
			return err
		}
		if err := c.sweepLocks(tx); err != nil {
			return err
		}
		if lock, err = c.takeLock(a.ID); err != nil {
			return err
		}
		return put(tx, bucketAttempts, a.ID, a)
	})
	if err != nil {
		if lock != nil {
			err = errors.Join(err, os.Remove(lock.Name()), lock.Close())
		}
		return Attempt{}, fmt.Errorf("begin %s of job %q: %w", a.noun(), a.Job, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[a.ID] = lock
	return a, nil
}

// SetPhase notes how far an attempt has come.
func (c *Catalogue) SetPhase(id, phase string) error {
	return c.update(func(tx *bbolt.Tx) error {
		a, err := need[Attempt](tx, bucketAttempts, id)
		if err != nil {
			return err
		}
		a.Phase = phase
		return put(tx, bucketAttempts, id, a)
	})
}

// EndAttempt forgets an attempt that did not commit, once its hosts run again. One that has ended
// already is no error. One that another living ssctl is at makes the error wrap ErrConflict.
func (c *Catalogue) EndAttempt(id string) error {
	err := c.update(func(tx *bbolt.Tx) error {
		if !c.holds(id) {
			if live, err := c.live(id); err != nil {
				return err
			} else if live {
				return fmt.Errorf("attempt %s belongs to another ssctl that is at work: %w", id, ErrConflict)
			}
		}
		if a, ok, err := get[Attempt](tx, bucketAttempts, id); err != nil {
			return err
		} else if ok {
			if err := noteEnded(tx, a); err != nil {
				return err
			}
		}
		return remove(tx, bucketAttempts, id)
	})
	if err != nil {
		return fmt.Errorf("end attempt: %w", err)
	}
	return c.dropLock(id)
}

// Attempts lists what has begun and not ended, oldest first.
func (c *Catalogue) Attempts() (attempts []Attempt, err error) {
	err = c.view(func(tx *bbolt.Tx) error {
		if attempts, err = all[Attempt](tx, bucketAttempts, ""); err != nil {
			return err
		}
		for i := range attempts {
			if attempts[i].Live, err = c.live(attempts[i].ID); err != nil {
				return err
			}
		}
		return nil
	})
	return attempts, err
}

// forgetStale removes the attempt of an id if its ssctl has died: what it began, an import, is begun again.
func (c *Catalogue) forgetStale(tx *bbolt.Tx, id string) error {
	if id == "" || tx.Bucket([]byte(bucketAttempts)).Get([]byte(id)) == nil {
		return nil
	}
	if live, err := c.live(id); err != nil || live {
		return err
	}
	return remove(tx, bucketAttempts, id)
}

// attemptID is the id that an attempt comes with, that of a cut which was taken elsewhere, or else a fresh one.
func attemptID(tx *bbolt.Tx, a Attempt) (string, error) {
	if a.ID == "" {
		return freeID(tx, a.Started)
	}
	if err := validName("snapshot", a.ID); err != nil {
		return "", err
	}
	for _, bucket := range []string{bucketCuts, bucketAttempts} {
		if tx.Bucket([]byte(bucket)).Get([]byte(a.ID)) != nil {
			return "", fmt.Errorf("there is a %s of the id %s already: %w", nounOf[bucket], a.ID, ErrConflict)
		}
	}
	return a.ID, nil
}

// noun is what people call it.
func (a Attempt) noun() string {
	if a.Kind == KindCollect {
		return "collection"
	}
	return a.Kind
}

func attemptsOf(tx *bbolt.Tx, job string) ([]Attempt, error) {
	attempts, err := all[Attempt](tx, bucketAttempts, "")
	return slices.DeleteFunc(attempts, func(a Attempt) bool { return a.Job != job }), err
}

func (c *Catalogue) lockDir() string           { return filepath.Join(c.dir, "attempts") }
func (c *Catalogue) lockPath(id string) string { return filepath.Join(c.lockDir(), id+".lock") }

func (c *Catalogue) holds(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[id] != nil
}

// takeLock makes a new attempt's lock. It runs in an update, so no one else looks at it meanwhile.
func (c *Catalogue) takeLock(id string) (*os.File, error) {
	if err := os.Mkdir(c.lockDir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(c.lockPath(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}

// dropLock gives an ended attempt's lock up. The file of one that is not ours may already be that of a new attempt of the same id: it is
// sweepLocks's.
func (c *Catalogue) dropLock(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.held[id]
	if f == nil {
		return nil
	}
	delete(c.held, id)
	err := os.Remove(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// live says whether the ssctl that began an attempt lives.
func (c *Catalogue) live(id string) (bool, error) {
	f, err := os.Open(c.lockPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// sweepLocks removes the lock files of attempts that are no more: an ssctl died between the two steps.
func (c *Catalogue) sweepLocks(tx *bbolt.Tx) error {
	entries, err := os.ReadDir(c.lockDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".lock")
		if !ok || tx.Bucket([]byte(bucketAttempts)).Get([]byte(id)) != nil || c.holds(id) {
			continue
		}
		if err := os.Remove(c.lockPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
