package orchestrator

import (
	"context"
	"errors"
	"slices"
	"time"

	"ss/store"
)

// collectWait bounds how long an attempt waits for a collection that another ssctl is at. It is for a collection that ends soon; one that
// does not is a conflict as any other.
const collectWait = time.Minute

// begin notes that something is about to begin of which there can be one of a job at a time.
func (c *Cluster) begin(ctx context.Context, a store.Attempt) (store.Attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, collectWait)
	defer cancel()
	for told := false; ; told = true {
		at, err := c.Catalogue.BeginAttempt(a)
		if !errors.Is(err, store.ErrCollecting) || ctx.Err() != nil {
			return at, err
		}
		if !told {
			c.notice("%v; waiting", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(askAgain):
		}
	}
}

// alone does something while no snapshot or restore of the job can be on.
func (c *Cluster) alone(ctx context.Context, job string, do func() error) error {
	at, err := c.begin(ctx, store.Attempt{Kind: store.KindCollect, Job: job, Hosts: []string{}})
	if err != nil {
		return err
	}
	return errors.Join(do(), c.Catalogue.EndAttempt(at.ID))
}

// endStale forgets the attempts whose ssctl has died: nobody asks for them any more. What became of a restore is found out first.
func (c *Cluster) endStale(ctx context.Context, attempts []store.Attempt) error {
	var errs []error
	for _, at := range attempts {
		if at.Live {
			continue
		}
		known, err := c.settlePlacement(ctx, at)
		if err != nil || !known {
			errs = append(errs, err)
			continue
		}
		if err := c.Catalogue.EndAttempt(at.ID); !errors.Is(err, store.ErrConflict) { // else somebody has begun it again
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// settlePlacement writes down where the members of a job live after a restore whose ssctl has died. Its hosts know, and settle it without
// ssctl: all members of the cut live there, or none does. So one member that has moved and lives tells of all. known is false where no host
// could say, or one is still at it.
func (c *Cluster) settlePlacement(ctx context.Context, at store.Attempt) (known bool, err error) {
	if at.Kind != store.KindRestore {
		return true, nil
	}
	j, err := c.Catalogue.Job(at.Job)
	if err != nil {
		return errors.Is(err, store.ErrNotFound), ignore(err, store.ErrNotFound)
	}
	moved := movedBy(at, j)
	known = len(moved) == 0
	for host, names := range moved {
		h, err := c.Catalogue.Host(host)
		if err != nil {
			return false, ignore(err, store.ErrNotFound)
		}
		members, err := c.membersOf(ctx, h, at.Job)
		if err != nil {
			continue // another of them may know
		}
		known = true
		for _, m := range members {
			if !slices.Contains(names, m.Name) || m.State != StateRunning {
				continue
			}
			if m.Pid == 0 { // its cell waits for what a restore puts into it
				return false, nil
			}
			return true, c.Catalogue.SetPlacement(at.Job, at.Placement)
		}
	}
	return known, nil
}

// movedBy lists the members that a restore puts on other hosts than the catalogue has them on, by host.
func movedBy(at store.Attempt, j store.Job) map[string][]string {
	moved := map[string][]string{}
	for host, placed := range at.Placement {
		for _, p := range placed {
			if now, _, _ := j.Where(p.Name); now != host && p.State == store.PlacedRunning {
				moved[host] = append(moved[host], p.Name)
			}
		}
	}
	return moved
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
