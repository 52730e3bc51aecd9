package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/dustin/go-humanize/english"

	"ss/fault"
	"ss/store"
)

// Remove deletes a cut and what only it needs. One that is pinned stays, unless force is set. With force, and a whole id, images of a
// snapshot that the catalogue has no cut of are removed as well: of a cut that another catalogue took, or of nothing.
func (c *Cluster) Remove(ctx context.Context, ref string, force bool) (store.Cut, error) {
	cut, err := c.Catalogue.Cut(ctx, "", ref)
	if errors.Is(err, store.ErrNotFound) && ref != store.Latest {
		return c.removeUnknown(ctx, ref, force, err)
	}
	if err != nil {
		return store.Cut{}, err
	}
	if cut.Pinned && !force {
		return store.Cut{}, &fault.Error{Kind: fault.Refused, Op: "rm", Job: cut.Job, Snapshot: cut.ID, Err: errors.New("the cut is pinned"),
			Next: "ssctl unpin " + cut.ID + " first, or give --force"}
	}
	if err := c.Catalogue.Advance(ctx); err != nil {
		return store.Cut{}, err
	}
	statuses, err := c.Hosts(ctx)
	if err != nil {
		return store.Cut{}, err
	}
	if err := Current(statuses); err != nil {
		return store.Cut{}, &fault.Error{Op: "rm", Job: cut.Job, Snapshot: cut.ID, Err: err}
	}
	if err := c.remove(ctx, cut, statuses); err != nil {
		return store.Cut{}, &fault.Error{Op: "rm", Job: cut.Job, Snapshot: cut.ID, Err: err}
	}
	c.collectAfter(ctx, cut.Job, []store.Cut{cut}, statuses)
	return cut, nil
}

// restoring says whether a restore of the job is running: what it reads must stay.
func (c *Cluster) restoring(ctx context.Context, job string) (bool, error) {
	attempts, err := c.Catalogue.Attempts(ctx)
	for _, at := range attempts {
		if at.Job == job && at.Kind == store.KindRestore && at.Live {
			return true, err
		}
	}
	return false, err
}

// remove deletes a cut: first from the catalogue, with a signed tombstone in its place, so that nobody restores what is going, then its images.
func (c *Cluster) remove(ctx context.Context, cut store.Cut, statuses []HostStatus) error {
	if on, err := c.restoring(ctx, cut.Job); err != nil || on {
		return errors.Join(err, busy(on, cut.Job))
	}
	hosts, vaults := Holders(cut)
	r, err := c.sign(ctx, tombstoneOf(cut), statuses, hosts, vaults)
	if err != nil {
		return err
	}
	if err := c.Catalogue.DeleteCut(ctx, cut.ID, r); err != nil {
		return err
	}
	// A restore looks, once it is in the catalogue, whether its cut still is. So if there is one now that found the cut, it is seen here.
	if on, err := c.restoring(ctx, cut.Job); err != nil || on {
		c.Noticef("a restore of job %s is running: the images of %s stay until ssctl gc removes them", cut.Job, cut.ID)
		return err
	}
	failed := c.bury(ctx, r, statuses, true)
	for _, place := range slices.Sorted(maps.Keys(failed)) {
		if !IsVault(place) && !slices.Contains(hosts, place) && fault.Is(failed[place], fault.Unreachable) {
			continue // it held nothing, as far as is known
		}
		c.Noticef("images of %s are left on %s until ssctl gc: %v", cut.ID, place, failed[place])
	}
	return nil
}

func busy(on bool, job string) error {
	if !on {
		return nil
	}
	return fault.New(fault.Conflict, fmt.Sprintf("a restore of job %s is under way and may read the cut", job), "wait for its end")
}

// collectAfter frees the room of cuts of a job that were removed. What goes wrong is said, and is gc's to mend.
func (c *Cluster) collectAfter(ctx context.Context, job string, gone []store.Cut, statuses []HostStatus) {
	vaults := map[string]bool{}
	for _, cut := range gone {
		_, vs := Holders(cut)
		for _, v := range vs {
			vaults[v] = true
		}
	}
	var wg sync.WaitGroup
	for _, h := range statuses {
		if h.Err != nil {
			continue
		}
		c.Doing(h.Name, "collecting")
		wg.Go(func() {
			a, err := c.AgentOf(h.Host)
			if err == nil {
				_, err = a.Collect(ctx, "", job, false)
			}
			if err != nil {
				c.Noticef("space not freed yet on %s: %v; ssctl gc frees it", h.Name, err)
			}
		})
	}
	wg.Wait()
	for v := range vaults {
		if _, err := c.collectVault(ctx, v, job, false, statuses); err != nil {
			c.Noticef("space not freed yet in %s: %v; ssctl gc frees it", v, err)
		}
	}
}

// collectVault removes the objects of a job that no set in a vault refers to. No attempt of the job may be on meanwhile, so it is one itself.
func (c *Cluster) collectVault(ctx context.Context, vault, job string, dry bool, statuses []HostStatus) (Garbage, error) {
	var g Garbage
	collect := func() error {
		c.Doing(vault, "collecting")
		return c.OnVault(ctx, statuses, nil, func(a Agent) (err error) {
			g, err = a.Collect(ctx, vault, job, dry)
			return err
		})
	}
	if dry {
		err := collect()
		return g, err
	}
	err := c.Alone(ctx, job, collect)
	return g, err
}

// Retain removes the cuts of a job that its policy does not keep. It never fails the command that it comes after.
func (c *Cluster) Retain(ctx context.Context, job string, statuses []HostStatus) (gone []store.Cut) {
	if err := Current(statuses); err != nil {
		c.Noticef("retention of job %s: nothing is removed: %v", job, err)
		return nil
	}
	expired, err := c.Expired(ctx, job)
	if err != nil {
		c.Noticef("retention of job %s: %v", job, err)
	}
	for _, cut := range expired {
		if err := c.remove(ctx, cut, statuses); err != nil {
			c.Noticef("retention of job %s: %s stays: %v", job, cut.ID, err)
			continue
		}
		gone = append(gone, cut)
	}
	if len(gone) > 0 {
		c.collectAfter(ctx, job, gone, statuses)
		c.Noticef("retention of job %s removed %s", job, english.Plural(len(gone), "cut", ""))
	}
	return gone
}

// Expired lists the cuts of a job that its policy does not keep.
func (c *Cluster) Expired(ctx context.Context, job string) ([]store.Cut, error) {
	j, err := c.Catalogue.Job(ctx, job)
	if err != nil {
		return nil, err
	}
	cuts, err := c.Catalogue.Cuts(ctx, job)
	if err != nil {
		return nil, err
	}
	return store.Expired(cuts, j.Policy.Keep), nil
}

// Pin keeps a cut from retention, or no longer. Its manifest says so as well, where its holders can be reached.
func (c *Cluster) Pin(ctx context.Context, ref string, pinned bool) (store.Cut, error) {
	cut, err := c.Catalogue.Cut(ctx, "", ref)
	if err != nil || cut.Pinned == pinned {
		return cut, err
	}
	if cut, err = c.Catalogue.Pin(ctx, cut.ID, pinned); err != nil {
		return store.Cut{}, err
	}
	statuses, err := c.Hosts(ctx)
	if err != nil {
		return store.Cut{}, err
	}
	c.Publish(ctx, cut, statuses)
	return cut, nil
}
