package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ss/names"
	"ss/store/kv"
)

// now is the present as it is stored: without a monotonic part, in UTC.
func now() time.Time { return time.Now().Round(0).UTC() }

// CheckAddr refuses what cannot be the address of an agent: IP:PORT, with an IP that one can connect to and a port that one can listen on.
func CheckAddr(addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || ap.Port() == 0 {
		return fmt.Errorf("address %q: give IP:PORT, as 192.0.2.1:7070 or [2001:db8::1]:7070, with a port of 1 to 65535: %w", addr, ErrInvalid)
	}
	if what := names.NoAgentAt(ap.Addr()); what != "" {
		return fmt.Errorf("address %q is %s: give an address of one of the host's network devices, as ip addr lists them there: %w", addr, what, ErrInvalid)
	}
	return nil
}

// sameAddr says whether two addresses are one.
func sameAddr(a, b string) bool {
	x, errX := netip.ParseAddrPort(a)
	y, errY := netip.ParseAddrPort(b)
	if errX != nil || errY != nil {
		return a == b
	}
	return x.Port() == y.Port() && x.Addr().Unmap() == y.Addr().Unmap()
}

// AddHost registers a host. A zero Added means now. One of that name, or of that address, makes the error wrap ErrConflict.
func (c *Catalogue) AddHost(ctx context.Context, h Host) error {
	if err := errors.Join(h.validate(), CheckAddr(h.Addr)); err != nil {
		return err
	}
	if h.Added.IsZero() {
		h.Added = now()
	}
	h.Added = h.Added.Round(0).UTC()
	return c.update(ctx, func(tx kv.Tx) error {
		if _, ok, err := get[Host](tx, bucketHosts, h.Name); err != nil {
			return err
		} else if ok {
			return fmt.Errorf("host %q is registered already: %w", h.Name, ErrConflict)
		}
		others, err := all[Host](tx, bucketHosts, "")
		if err != nil {
			return err
		}
		for _, o := range others {
			if sameAddr(o.Addr, h.Addr) {
				return fmt.Errorf("address %s is that of host %q: %w", h.Addr, o.Name, ErrConflict)
			}
		}
		return put(tx, bucketHosts, h.Name, h)
	})
}

// RemoveHost forgets a host, with the members that the catalogue has there, which the caller knows to have ended. While an attempt
// that it takes part in is on, the error wraps ErrConflict.
func (c *Catalogue) RemoveHost(ctx context.Context, name string) error {
	return c.update(ctx, func(tx kv.Tx) error {
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
}

// SetSilent notes of hosts by name that they have fallen silent now (true), or answer again. What is known to be so already stays as it
// is, and so does a host that is not registered any more.
func (c *Catalogue) SetSilent(ctx context.Context, silent map[string]bool) error {
	return c.update(ctx, func(tx kv.Tx) error {
		for name, is := range silent {
			h, ok, err := get[Host](tx, bucketHosts, name)
			if err != nil {
				return err
			}
			if !ok || is != h.Silent.IsZero() {
				continue
			}
			h.Silent = time.Time{}
			if is {
				h.Silent = now()
			}
			if err := put(tx, bucketHosts, name, h); err != nil {
				return err
			}
		}
		return nil
	})
}

// Hosts lists the registered hosts by name.
func (c *Catalogue) Hosts(ctx context.Context) (hosts []Host, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		hosts, err = all[Host](tx, bucketHosts, "")
		return err
	})
	return hosts, err
}

// Host finds one registered host.
func (c *Catalogue) Host(ctx context.Context, name string) (h Host, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		h, err = need[Host](tx, bucketHosts, name)
		return err
	})
	return h, err
}

// Jobs lists the jobs by name.
func (c *Catalogue) Jobs(ctx context.Context) (jobs []Job, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		if jobs, err = all[Job](tx, bucketJobs, ""); err != nil {
			return err
		}
		for i := range jobs {
			if jobs[i].Epoch, _, err = get[uint64](tx, bucketEpochs, jobs[i].Name); err != nil {
				return err
			}
		}
		return nil
	})
	return jobs, err
}

// Job finds one job.
func (c *Catalogue) Job(ctx context.Context, name string) (j Job, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		if j, err = need[Job](tx, bucketJobs, name); err != nil {
			return err
		}
		j.Epoch, _, err = get[uint64](tx, bucketEpochs, name)
		return err
	})
	return j, err
}

// RemoveJob forgets a job, but not its epoch. One with cuts or attempts is refused with ErrConflict.
func (c *Catalogue) RemoveJob(ctx context.Context, name string) error {
	return c.update(ctx, func(tx kv.Tx) error {
		if _, err := need[Job](tx, bucketJobs, name); err != nil {
			return err
		}
		cuts, err := cutsOf(tx, name)
		if err != nil {
			return err
		}
		attempts, err := attemptsOf(tx, name)
		if err != nil {
			return err
		}
		if len(cuts)+len(attempts) > 0 {
			return fmt.Errorf("job %q has %d cuts and %d attempts: remove its cuts first: %w", name, len(cuts), len(attempts), ErrConflict)
		}
		return remove(tx, bucketJobs, name)
	})
}

func drawEpoch(tx kv.Tx, job string) (uint64, error) {
	last, _, err := get[uint64](tx, bucketEpochs, job)
	if err != nil {
		return 0, err
	}
	return last + 1, put(tx, bucketEpochs, job, last+1)
}

// changeJob applies f to a job in one transaction.
func (c *Catalogue) changeJob(ctx context.Context, name string, create bool, f func(*Job) error) error {
	return c.updateJob(ctx, name, create, func(_ kv.Tx, j *Job) error { return f(j) })
}

// updateJob is changeJob for an f that looks at other records as well.
func (c *Catalogue) updateJob(ctx context.Context, name string, create bool, f func(kv.Tx, *Job) error) error {
	if err := validName("job", name); err != nil {
		return err
	}
	return c.update(ctx, func(tx kv.Tx) error {
		j, ok, err := get[Job](tx, bucketJobs, name)
		if err != nil {
			return err
		}
		if !ok {
			if !create {
				return fmt.Errorf("no job %q: %w", name, ErrNotFound)
			}
			// Hosts may remember a restore of a job that had this name, or have members of it still: those of the new one are newer.
			epoch, _, err := get[uint64](tx, bucketEpochs, name)
			if err == nil && epoch > 0 {
				epoch, err = drawEpoch(tx, name)
			}
			if err != nil {
				return err
			}
			j = Job{Name: name, Created: now(), Restored: epoch}
		}
		if j.Placement == nil {
			j.Placement = map[string][]Placed{}
		}
		if err := f(tx, &j); err != nil {
			return err
		}
		return put(tx, bucketJobs, name, j)
	})
}

// sorted sorts names and drops the doubles.
func sorted(names []string) []string {
	slices.Sort(names)
	return append([]string{}, slices.Compact(names)...)
}
