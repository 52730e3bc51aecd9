package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"ss/store/internal/disk"
)

// Rebuilt is what Rebuild puts into a new catalogue.
type Rebuilt struct {
	Cluster Cluster
	Hosts   []Host
	Jobs    []Job // Epoch: the last that may have been drawn
	Cuts    []Cut
	Removed []Removed // tombstones; their cuts are not among Cuts
	// Seen is the newest generation that any agent has seen. The new catalogue is ahead of it.
	Seen uint64
}

// CreateRebuilt makes the catalogue of dir from what was found, whole or not at all: who is killed on the way leaves none, and may
// begin again. Where one exists the error wraps ErrConflict. where is Catalogue.Where's.
func CreateRebuilt(dir, where string, r Rebuilt) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("rebuild catalogue: %w", err)
		}
	}()
	if err := disk.PrivateDir(dir); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temp) }() // a leftover is a catalogue that nobody names
	c, err := Create(temp, r.Cluster)
	if err != nil {
		return err
	}
	c.Where = where
	if err := errors.Join(c.Rebuild(r), c.Close()); err != nil {
		return err
	}
	path := filepath.Join(dir, FileName)
	if err := os.Link(c.path(), path); errors.Is(err, fs.ErrExist) { // unlike rename, never replaces
		return fmt.Errorf("%s is there already: %w", path, ErrConflict)
	} else if err != nil {
		return err
	}
	return disk.SyncDir(dir)
}

// Rebuild fills an empty catalogue, in one transaction. One that has hosts, jobs, cuts or attempts, or is of another cluster, makes the
// error wrap ErrConflict. What is in r is validated (ErrInvalid).
func (c *Catalogue) Rebuild(r Rebuilt) error {
	if err := r.validate(); err != nil {
		return fmt.Errorf("rebuild catalogue: %w", err)
	}
	err := c.update(func(tx *bbolt.Tx) error {
		if err := empty(tx); err != nil {
			return err
		}
		old, err := need[Cluster](tx, bucketMeta, keyCluster)
		if err != nil {
			return err
		}
		if old.ID != r.Cluster.ID {
			return fmt.Errorf("this is the catalogue of cluster %s, not of %s: %w", old.ID, r.Cluster.ID, ErrConflict)
		}
		base, err := c.nextMark(min(r.Seen, 1<<62) + RebuiltAhead)
		if err != nil {
			return err
		}
		if err := putMark(tx, base); err != nil {
			return err
		}
		return r.write(tx)
	})
	if err != nil {
		return fmt.Errorf("rebuild catalogue: %w", err)
	}
	return nil
}

// empty refuses a catalogue that anything was put into.
func empty(tx *bbolt.Tx) error {
	for _, bucket := range []string{bucketHosts, bucketJobs, bucketEpochs, bucketAttempts, bucketCuts, bucketRemoved} {
		if key, _ := tx.Bucket([]byte(bucket)).Cursor().First(); key != nil {
			return fmt.Errorf("it is not empty: it has the %s %q: rebuild it in another folder: %w", nounOf[bucket], key, ErrConflict)
		}
	}
	return nil
}

func (r Rebuilt) write(tx *bbolt.Tx) error {
	r.Cluster.Created = r.Cluster.Created.Round(0).UTC()
	if err := put(tx, bucketMeta, keyCluster, r.Cluster); err != nil {
		return err
	}
	for _, h := range r.Hosts {
		h.Added = h.Added.Round(0).UTC()
		if err := put(tx, bucketHosts, h.Name, h); err != nil {
			return err
		}
	}
	for _, j := range r.Jobs {
		j.Created = j.Created.Round(0).UTC()
		if err := put(tx, bucketJobs, j.Name, j); err != nil {
			return err
		}
		if err := put(tx, bucketEpochs, j.Name, j.Epoch); err != nil {
			return err
		}
	}
	for _, cut := range r.Cuts {
		cut.Time = cut.Time.Round(0).UTC()
		if err := put(tx, bucketCuts, cut.ID, cut); err != nil {
			return err
		}
	}
	for _, gone := range r.Removed {
		if err := putRemoved(tx, gone); err != nil {
			return err
		}
	}
	return nil
}

func (r Rebuilt) validate() error {
	if err := r.Cluster.validate(); err != nil {
		return err
	}
	hosts := map[string]bool{}
	for _, h := range r.Hosts {
		if err := h.validate(); err != nil {
			return err
		}
		if hosts[h.Name] {
			return fmt.Errorf("host %q is there twice: %w", h.Name, ErrInvalid)
		}
		hosts[h.Name] = true
	}
	epochs := map[string]uint64{}
	for _, j := range r.Jobs {
		if err := j.validate(); err != nil {
			return err
		}
		if _, ok := epochs[j.Name]; ok {
			return fmt.Errorf("job %q is there twice: %w", j.Name, ErrInvalid)
		}
		epochs[j.Name] = j.Epoch
	}
	cuts := map[string]bool{}
	for _, cut := range r.Cuts {
		if err := cut.validate(); err != nil {
			return err
		}
		if last, ok := epochs[cut.Job]; !ok || cut.Epoch > last {
			return fmt.Errorf("cut %s is of epoch %d of job %q, whose last is %d: %w", cut.ID, cut.Epoch, cut.Job, last, ErrInvalid)
		}
		if cuts[cut.ID] {
			return fmt.Errorf("cut %s is there twice: %w", cut.ID, ErrInvalid)
		}
		cuts[cut.ID] = true
	}
	return nil
}
