package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"ss/store/kv"
)

// Pin keeps a cut from retention, or no longer. The id must be whole.
func (c *Catalogue) Pin(ctx context.Context, id string, pinned bool) (Cut, error) {
	return c.changeCut(ctx, id, func(cut *Cut) error {
		cut.Pinned = pinned
		return nil
	})
}

// SetHolders writes down who holds the images of one host's part of a cut now: hosts by name, vaults by URL. The id must be whole.
func (c *Catalogue) SetHolders(ctx context.Context, id, host string, copies, vaults []string) error {
	_, err := c.changeCut(ctx, id, func(cut *Cut) error {
		for i := range cut.Hosts {
			h := &cut.Hosts[i]
			if h.Host != host {
				continue
			}
			for _, name := range copies {
				if err := validName("host", name); err != nil {
					return err
				}
			}
			h.Copies, h.Vaults = sorted(slices.Clone(copies)), sorted(slices.Clone(vaults))
			return validTexts("vault", h.Vaults)
		}
		return fmt.Errorf("cut %s has no part of host %q: %w", id, host, ErrNotFound)
	})
	return err
}

// changeCut applies f to a cut in one transaction.
func (c *Catalogue) changeCut(ctx context.Context, id string, f func(*Cut) error) (cut Cut, err error) {
	err = c.update(ctx, func(tx kv.Tx) error {
		if cut, err = need[Cut](tx, bucketCuts, id); err != nil {
			return err
		}
		if err := f(&cut); err != nil {
			return err
		}
		return put(tx, bucketCuts, id, cut)
	})
	if err != nil {
		return Cut{}, err
	}
	return cut, nil
}

// LoseHost forgets a host that is gone for good, although it has members: they are gone as well. It is taken off the copies of every cut.
// Its jobs list it on, without members. It returns the cuts that it held images of, by time. While an attempt that it takes part in is on, the
// error wraps ErrConflict: its end may yet write the host down.
func (c *Catalogue) LoseHost(ctx context.Context, name string) (cuts []string, err error) {
	err = c.update(ctx, func(tx kv.Tx) error {
		if _, err := need[Host](tx, bucketHosts, name); err != nil {
			return err
		}
		if err := idle(tx, name); err != nil {
			return err
		}
		if err := loseMembers(tx, name); err != nil {
			return err
		}
		if cuts, err = loseCopies(tx, name); err != nil {
			return err
		}
		if err := errors.Join(forgetHolder(tx, name), noteRemovedHost(tx, name)); err != nil {
			return err
		}
		return remove(tx, bucketHosts, name)
	})
	if err != nil {
		return nil, err
	}
	return cuts, nil
}

// idle refuses a host that takes part in an attempt whose ssctl lives.
func idle(tx kv.Tx, host string) error {
	attempts, err := all[Attempt](tx, bucketAttempts, "")
	if err != nil {
		return err
	}
	for _, a := range attempts {
		if !slices.Contains(a.Hosts, host) {
			continue
		}
		if live, err := live(tx, a); err != nil {
			return err
		} else if live {
			return fmt.Errorf("host %q takes part in a %s of job %q (%s, process %d): wait for its end: %w", host, a.noun(), a.Job, a.ID, a.Pid, ErrConflict)
		}
	}
	return nil
}

func loseMembers(tx kv.Tx, host string) error {
	jobs, err := all[Job](tx, bucketJobs, "")
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if len(j.Placement[host]) == 0 {
			continue
		}
		j.Placement[host] = []Placed{}
		if err := put(tx, bucketJobs, j.Name, j); err != nil {
			return err
		}
	}
	return nil
}

func loseCopies(tx kv.Tx, host string) (ids []string, err error) {
	cuts, err := cutsOf(tx, "")
	if err != nil {
		return nil, err
	}
	for _, cut := range cuts {
		held := false
		for i := range cut.Hosts {
			if n := slices.Index(cut.Hosts[i].Copies, host); n >= 0 {
				cut.Hosts[i].Copies, held = slices.Delete(cut.Hosts[i].Copies, n, n+1), true
			}
		}
		if !held {
			continue
		}
		ids = append(ids, cut.ID)
		if err := put(tx, bucketCuts, cut.ID, cut); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// older orders the cuts of one job: by epoch, whatever was done to the clock.
func older(a, b Cut) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
}
