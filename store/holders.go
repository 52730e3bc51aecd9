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
	}, putHead)
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
	}, func(tx kv.Tx, cut Cut) error {
		i := slices.IndexFunc(cut.Hosts, func(h CutHost) bool { return h.Host == host })
		return putPart(tx, cut, cut.Hosts[i])
	})
	return err
}

// changeCut applies f to a cut in one transaction.
func (c *Catalogue) changeCut(ctx context.Context, id string, f func(*Cut) error, write func(kv.Tx, Cut) error) (cut Cut, err error) {
	err = c.update(ctx, func(tx kv.Tx) error {
		if cut, err = needCut(tx, id); err != nil {
			return err
		}
		if err := f(&cut); err != nil {
			return err
		}
		return write(tx, cut)
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
	if cuts, err = c.loseCopies(ctx, name); err != nil {
		return nil, err
	}
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

// loseCopies takes a host off the copies of all cuts, in as many transactions as it takes, and lists these cuts. What is broken off is done by doing it
// again: the host is still there.
func (c *Catalogue) loseCopies(ctx context.Context, host string) (ids []string, err error) {
	for left := true; left; {
		var some []string
		err := c.update(ctx, func(tx kv.Tx) (err error) {
			some, left, err = loseSomeCopies(tx, host)
			return err
		})
		if err != nil {
			return nil, err
		}
		ids = append(ids, some...)
	}
	return slices.Compact(ids), nil
}

func loseSomeCopies(tx kv.Tx, host string) (ids []string, left bool, err error) {
	if _, err := need[Host](tx, bucketHosts, host); err != nil {
		return nil, false, err
	}
	if err := idle(tx, host); err != nil {
		return nil, false, err
	}
	cuts, err := cutsOf(tx, "")
	if err != nil {
		return nil, false, err
	}
	n := 0
	for _, cut := range cuts {
		for _, part := range cut.Hosts {
			if !slices.Contains(part.Copies, host) {
				continue
			}
			if n++; n > kv.MaxWrites/2 {
				return slices.Compact(ids), true, nil
			}
			part.Copies = slices.DeleteFunc(slices.Clone(part.Copies), func(h string) bool { return h == host })
			ids = append(ids, cut.ID)
			if err := putPart(tx, cut, part); err != nil {
				return nil, false, err
			}
		}
	}
	return slices.Compact(ids), false, nil
}

// older orders the cuts of one job: by epoch, whatever was done to the clock.
func older(a, b Cut) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
}
