package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/dustin/go-humanize/english"

	"ss/fault"
	"ss/store"
)

// SetPolicy changes a job's settings. More copies than there are hosts and vaults for are refused. The settings are kept beside the job's
// newest cut as well, from where a lost catalogue gets them.
func (c *Cluster) SetPolicy(ctx context.Context, job string, change func(*store.Policy)) error {
	cluster, err := c.Catalogue.Cluster(ctx)
	if err != nil {
		return err
	}
	hosts, err := c.Catalogue.Hosts(ctx)
	if err != nil {
		return err
	}
	_, err = c.Catalogue.SetPolicy(ctx, job, func(p *store.Policy) error {
		before := wantedHosts(*p, cluster)
		change(p)
		if after := wantedHosts(*p, cluster); after > len(hosts) && after != before {
			vaults := len(store.Job{Policy: *p}.EffectiveVaults(cluster))
			return fault.New(fault.Refused, fmt.Sprintf("%d copies need as many hosts and vaults, and there are %s and %s",
				p.EffectiveCopies(), english.Plural(len(hosts), "host", ""), english.Plural(vaults, "vault", "")), "no snapshot could be taken: add hosts first, with ssctl host add, or vaults with --vault")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.keepSettings(ctx, job)
}

// wantedHosts is how many hosts a policy wants to hold each set of images.
func wantedHosts(p store.Policy, cluster store.Cluster) int {
	return HostCopies(p.EffectiveCopies(), len(store.Job{Policy: p}.EffectiveVaults(cluster)))
}

// keepSettings signs the manifest of a job's newest cut again, with the job's settings as they are now.
func (c *Cluster) keepSettings(ctx context.Context, job string) error {
	cuts, err := c.Catalogue.Cuts(ctx, job)
	if err != nil {
		return err
	}
	if len(cuts) == 0 {
		c.Noticef("settings are stored with cuts, and job %s has none: until it has one, a catalogue that is rebuilt does not know them", job)
		return nil
	}
	statuses, err := c.Hosts(ctx)
	if err != nil {
		return err
	}
	c.Publish(ctx, cuts[len(cuts)-1], statuses)
	return nil
}

// RemoveJob forgets a job in which nothing lives, and that has no cuts: on the hosts, which remove its logs, and in the catalogue.
func (c *Cluster) RemoveJob(ctx context.Context, name string) error {
	if _, err := c.Catalogue.Job(ctx, name); err != nil {
		return err
	}
	cuts, err := c.Catalogue.Cuts(ctx, name)
	if err != nil {
		return err
	}
	if len(cuts) > 0 {
		return fault.New(fault.Conflict, fmt.Sprintf("the job has %s, the newest %s", english.Plural(len(cuts), "cut", ""), cuts[len(cuts)-1].ID), "remove them first with ssctl rm")
	}
	s, err := c.survey(ctx, name)
	if err != nil {
		return err
	}
	j, err := c.Catalogue.Job(ctx, name)
	if err != nil { // the survey may have settled a host
		return err
	}
	if err := nobodyLives(j, s); err != nil {
		return err
	}
	if err := c.Resolve(ctx, s.statuses); err != nil {
		return err
	}
	if err := c.forgetOn(ctx, name, s.statuses); err != nil {
		return err
	}
	return c.Catalogue.RemoveJob(ctx, name)
}

// nobodyLives returns nil if no member of a job lives, on the hosts' word, and where one is silent on the catalogue's.
func nobodyLives(j store.Job, s survey) error {
	var living, unknown []string
	for _, m := range s.members {
		if m.State == StateRunning {
			living = append(living, m.Name+" on "+m.Host)
		}
	}
	for _, h := range s.statuses {
		for _, p := range j.Placement[h.Name] {
			if h.Err != nil && p.State != store.PlacedEnded {
				unknown = append(unknown, p.Name+" on "+h.Name)
			}
		}
		// A job of that name that is made later would meet these copies, and nobody would know that they are old.
		for _, u := range j.Unsettled {
			if u.Host == h.Name {
				unknown = append(unknown, strings.Join(u.Members, ", ")+" on "+h.Name)
			}
		}
	}
	switch {
	case len(living) > 0:
		return fault.New(fault.Conflict, "members still run: "+strings.Join(living, ", "), "end them first with ssctl kill "+j.Name)
	case len(unknown) > 0:
		return fault.New(fault.Unreachable, "members that may still run, on hosts that do not answer or have only just started to: "+strings.Join(unknown, ", "),
			"try again when they do; of a host that is gone for good, say so with ssctl host rm HOST --lost")
	}
	return nil
}

// forgetOn has the hosts that answer remove what they keep of a job. The others are named.
func (c *Cluster) forgetOn(ctx context.Context, job string, statuses []HostStatus) error {
	errs := make([]error, len(statuses))
	var wg sync.WaitGroup
	for i, h := range statuses {
		if h.Err != nil {
			c.Noticef("%s does not answer: logs of the job, if it has any, stay there", h.Name)
			continue
		}
		wg.Go(func() {
			a, err := c.AgentOf(h.Host)
			if err == nil {
				err = a.ForgetJob(ctx, job)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == nil })...)
}
