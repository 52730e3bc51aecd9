package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"ss/store/kv"
	"ss/store/kv/bolt"
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

// CreateRebuilt makes the catalogue of dir from what was found, whole or not at all: a process that is killed on the way leaves none, and may
// be run again. Where one exists the error wraps ErrConflict, and what is in r is validated (ErrInvalid). where is Catalogue.Where's.
func CreateRebuilt(dir, where string, r Rebuilt) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("rebuild catalogue: %w", err)
		}
	}()
	write, err := r.writer(where)
	if err != nil {
		return err
	}
	db, err := bolt.Create(dir, write)
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%w: %w", err, ErrConflict)
	}
	if err != nil {
		return err
	}
	return db.Close()
}

// InitRebuilt is CreateRebuilt in an empty database.
func InitRebuilt(ctx context.Context, db kv.DB, where string, r Rebuilt) error {
	write, err := r.writer(where)
	if err == nil {
		_, err = db.Update(ctx, func(tx kv.Tx) error {
			if old, err := tx.Get(bucketMeta, keyLayout); err != nil || old != nil {
				return errors.Join(err, fmt.Errorf("there is a catalogue already: %w", ErrConflict))
			}
			return write(tx)
		})
	}
	if err != nil {
		return fmt.Errorf("rebuild catalogue: %w", err)
	}
	return nil
}

// writer validates what was found, and returns what writes it into an empty catalogue.
func (r Rebuilt) writer(where string) (func(kv.Tx) error, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	c := &Catalogue{Where: where}
	base, err := c.nextMark(min(r.Seen, 1<<62) + RebuiltAhead)
	if err != nil {
		return nil, err
	}
	return func(tx kv.Tx) error { return errors.Join(layOut(tx, r.Cluster), putMark(tx, base), r.write(tx)) }, nil
}

func (r Rebuilt) write(tx kv.Tx) error {
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
		if err := putCut(tx, cut); err != nil {
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
