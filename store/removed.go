package store

import (
	"context"
	"fmt"
	"slices"

	"ss/store/kv"
)

// Removed is the tombstone of a cut, and who has not seen it yet.
type Removed struct {
	Cut string `json:"cut"`
	Job string `json:"job"`
	ID  string `json:"id"` // of the tombstone: a cut that was imported again under its id has another one
	// Statement is the tombstone as it was signed (package tombstone).
	Statement []byte `json:"statement"`
	// Holders are all hosts and vaults (by URL) that had to see it, Pending those that have not.
	Holders []string `json:"holders"`
	Pending []string `json:"pending"`
	// Forgetting says that everyone has seen it. Pending are those that have not forgotten it since.
	Forgetting bool `json:"forgetting,omitempty"`
}

func (r Removed) key() string { return r.Cut + "/" + r.ID }

func (r Removed) validate() error {
	if err := validName("cut", r.Cut); err != nil {
		return err
	}
	if err := validName("job", r.Job); err != nil {
		return err
	}
	if err := validName("tombstone", r.ID); err != nil {
		return err
	}
	if len(r.Statement) == 0 {
		return fmt.Errorf("the tombstone of cut %s is empty: %w", r.Cut, ErrInvalid)
	}
	return nil
}

func putRemoved(tx kv.Tx, r Removed) error {
	if err := r.validate(); err != nil {
		return err
	}
	r.Holders, r.Pending = sorted(slices.Clone(r.Holders)), sorted(slices.Clone(r.Pending))
	return put(tx, bucketRemoved, r.key(), r)
}

// AddTombstone keeps the tombstone of a cut that the catalogue does not know, or no more. One that is there already stays as it is.
func (c *Catalogue) AddTombstone(ctx context.Context, r Removed) error {
	return c.update(ctx, func(tx kv.Tx) error {
		if _, ok, err := get[Removed](tx, bucketRemoved, r.key()); err != nil || ok {
			return err
		}
		return putRemoved(tx, r)
	})
}

// Tombstones lists the tombstones, by cut.
func (c *Catalogue) Tombstones(ctx context.Context) (out []Removed, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		out, err = all[Removed](tx, bucketRemoved, "")
		return err
	})
	return out, err
}

// Told notes that some hosts and vaults have seen a tombstone, or have forgotten it, if that is what it was at. One that everybody has seen begins
// to be forgotten; one that everybody has forgotten is no more. One that is not there is no error.
func (c *Catalogue) Told(ctx context.Context, r Removed, who []string) error {
	if len(who) == 0 {
		return nil
	}
	return c.update(ctx, func(tx kv.Tx) error {
		now, ok, err := get[Removed](tx, bucketRemoved, r.key())
		if err != nil || !ok || now.Forgetting != r.Forgetting {
			return err
		}
		return settleRemoved(tx, now, who)
	})
}

func settleRemoved(tx kv.Tx, r Removed, who []string) error {
	r.Pending = slices.DeleteFunc(r.Pending, func(w string) bool { return slices.Contains(who, w) })
	switch {
	case len(r.Pending) > 0:
	case r.Forgetting:
		return remove(tx, bucketRemoved, r.key())
	default:
		r.Forgetting, r.Pending = true, r.Holders
	}
	return putRemoved(tx, r)
}

// forgetHolder takes a host that is removed off all tombstones: its certificate counts no more, so nothing that it holds comes back.
func forgetHolder(tx kv.Tx, host string) error {
	rs, err := all[Removed](tx, bucketRemoved, "")
	if err != nil {
		return err
	}
	for _, r := range rs {
		if !slices.Contains(r.Holders, host) {
			continue
		}
		r.Holders = slices.DeleteFunc(r.Holders, func(w string) bool { return w == host })
		if err := settleRemoved(tx, r, []string{host}); err != nil {
			return err
		}
	}
	return nil
}

// endedKept bounds how many ended snapshots are remembered.
const endedKept = 10_000

// noteEnded remembers that a snapshot ended without a cut, so that its images, where they turn up, are known to belong to nothing.
func noteEnded(tx kv.Tx, a Attempt) error {
	if a.Kind != KindSnapshot {
		return nil
	}
	if err := put(tx, bucketEnded, a.ID, a.Epoch); err != nil {
		return err
	}
	return trim(tx, bucketEnded, endedKept) // ids sort as their times do
}

// EndedWithoutCut says whether this catalogue itself began a snapshot, of that id and epoch, that ended without a cut. What it
// knows nothing of may be a cut of another catalogue.
func (c *Catalogue) EndedWithoutCut(ctx context.Context, id string, epoch uint64) (ended bool, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		if ok, err := exists(tx, bucketCuts, id); err != nil || ok {
			return err
		}
		a, ok, err := get[Attempt](tx, bucketAttempts, id)
		if err != nil {
			return err
		}
		if ok {
			live, err := live(tx, a)
			ended = !live && a.Kind == KindSnapshot && a.Epoch == epoch
			return err
		}
		was, ok, err := get[uint64](tx, bucketEnded, id)
		ended = ok && was == epoch
		return err
	})
	return ended, err
}
