package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ss/fault"
	"ss/store"
)

// GCResult is what a collection removed, or of a dry run would.
type GCResult struct {
	Expired []store.Cut // by the policies of their jobs
	Places  []Collected
}

// Collected is what was removed in one place.
type Collected struct {
	Where string   // host, or vault
	Vault bool     //
	Job   string   // of a vault; on a host objects of all jobs are collected together
	Sets  []string // JOB/SNAPSHOT/HOST of image sets that belong to no cut
	Garbage
	Skipped string // why nothing was removed
}

// GC removes what no cut needs: cuts that no policy keeps, image sets that belong to no cut, and objects that no image set refers to. It
// runs beside snapshots. What it cannot be sure of it leaves.
func (c *Cluster) GC(ctx context.Context, dry bool) (GCResult, error) {
	g := &collection{c: c, dry: dry}
	if err := g.run(ctx); err != nil {
		return g.res, &fault.Error{Op: "gc", Err: err}
	}
	return g.res, nil
}

type collection struct {
	c   *Cluster
	dry bool
	res GCResult

	census census
	jobs   []store.Job
	cuts   []store.Cut
	// Attempts, as they were after the inventories and before the cuts were read: a set that is found belongs to one of the two, or to nothing.
	live map[string]bool // jobs
	// oldest is the least id of a live attempt, "" if there is none.
	oldest string
}

func (g *collection) run(ctx context.Context) error {
	if err := g.expire(ctx); err != nil {
		return err
	}
	cluster, err := g.c.Catalogue.Cluster()
	if err != nil {
		return err
	}
	if g.jobs, err = g.c.Catalogue.Jobs(); err != nil {
		return err
	}
	known, err := g.c.Catalogue.Cuts("")
	if err != nil {
		return err
	}
	if g.census, err = g.c.takeCensus(ctx, "", vaultsOf(cluster, g.jobs, known)); err != nil {
		return err
	}
	if err := g.lookAgain(); err != nil {
		return err
	}
	for _, where := range slices.Sorted(maps.Keys(g.census.silent)) {
		g.res.Places = append(g.res.Places, Collected{Where: where, Vault: strings.Contains(where, "://"), Skipped: g.census.silent[where].Error()})
	}
	var errs []error
	for _, h := range g.census.statuses {
		if inv, ok := g.census.hosts[h.Name]; ok {
			errs = append(errs, g.host(ctx, h, inv))
		}
	}
	for _, v := range slices.Sorted(maps.Keys(g.census.vaults)) {
		errs = append(errs, g.vault(ctx, v))
	}
	if !g.dry {
		errs = append(errs, g.handOut(ctx))
	}
	return errors.Join(errs...)
}

// handOut gives the manifests of cuts to holders that lack them: an ssctl died between a commit and that.
func (g *collection) handOut(ctx context.Context) error {
	for _, cut := range g.cuts {
		if !g.census.lacksCut(cut) {
			continue
		}
		now, err := g.c.Catalogue.Cut("", cut.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && now.ID != cut.ID {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		g.c.publish(ctx, now, g.census.statuses)
	}
	return nil
}

// removeOrphan removes what was an orphan when the places were asked, if it still is one: an import may have begun since, of that very cut.
func (g *collection) removeOrphan(ctx context.Context, a Agent, vault string, o orphan) error {
	attempts, err := g.c.Catalogue.Attempts()
	if err != nil || slices.ContainsFunc(attempts, func(at store.Attempt) bool { return at.Live && at.ID == o.snapshot }) {
		return err
	}
	cut, err := g.c.Catalogue.Cut("", o.snapshot)
	if err == nil && cut.ID == o.snapshot {
		return nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return a.RemoveImages(ctx, vault, o.job, o.snapshot)
}

// expire applies the policies.
func (g *collection) expire(ctx context.Context) error {
	statuses, err := g.c.Hosts(ctx)
	if err != nil {
		return err
	}
	if !g.dry {
		if err := g.c.resolve(ctx, statuses); err != nil {
			return err
		}
	}
	jobs, err := g.c.Catalogue.Jobs()
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if !g.dry {
			g.res.Expired = append(g.res.Expired, g.c.retain(ctx, j.Name, statuses)...)
			continue
		}
		expired, err := g.c.expired(j.Name)
		if err != nil {
			return err
		}
		g.res.Expired = append(g.res.Expired, expired...)
	}
	return nil
}

// lookAgain reads attempts, and after them cuts. The order matters: an attempt that commits in between is seen twice, and never not at all.
func (g *collection) lookAgain() error {
	attempts, err := g.c.Catalogue.Attempts()
	if err != nil {
		return err
	}
	g.live = map[string]bool{}
	for _, at := range attempts {
		if !at.Live {
			continue
		}
		g.live[at.Job] = true
		if g.oldest == "" || at.ID < g.oldest {
			g.oldest = at.ID
		}
	}
	if g.cuts, err = g.c.Catalogue.Cuts(""); err != nil {
		return err
	}
	g.jobs, err = g.c.Catalogue.Jobs()
	return err
}

// orphan is a snapshot of which images are held and the catalogue has no cut.
type orphan struct{ job, snapshot string }

// orphans finds what may be removed of an inventory. A catalogue that knows less than the hosts do (an old copy of it, put
// back) must not have them remove anything: so what it does not know of, it leaves.
func orphans(inv Inventory, g *collection) (found []orphan, sets []string, doubts []string) {
	known, newest := map[string]bool{}, map[string]string{}
	for _, cut := range g.cuts {
		known[cut.ID] = true
		newest[cut.Job] = max(newest[cut.Job], cut.ID)
	}
	jobs := map[string]store.Job{}
	for _, j := range g.jobs {
		jobs[j.Name] = j
	}
	seen, committed := map[orphan][]string{}, map[orphan]bool{}
	for _, s := range inv.Sets {
		o := orphan{s.Key.Job, s.Key.Snapshot}
		seen[o] = append(seen[o], s.Key.String())
		committed[o] = committed[o] || s.Committed
	}
	epochs := map[orphan]uint64{}
	for _, held := range inv.Cuts {
		o := orphan{held.Job, held.Snapshot}
		seen[o] = append(seen[o], []string{}...)
		epochs[o] = g.epochOf(held)
	}
	for _, o := range slices.SortedFunc(maps.Keys(seen), func(a, b orphan) int { return strings.Compare(a.snapshot, b.snapshot) }) {
		job, ok := jobs[o.job]
		switch {
		case known[o.snapshot], g.live[o.job], g.oldest != "" && o.snapshot >= g.oldest:
		case !ok:
			doubts = append(doubts, fmt.Sprintf("%s/%s is of a job that the catalogue does not know", o.job, o.snapshot))
		case epochs[o] > job.Epoch:
			doubts = append(doubts, fmt.Sprintf("%s/%s has epoch %d, and the catalogue has drawn %d only", o.job, o.snapshot, epochs[o], job.Epoch))
		case epochs[o] == 0 && committed[o] && o.snapshot > newest[o.job]:
			doubts = append(doubts, fmt.Sprintf("%s/%s is of a cut that exists, newer than all that the catalogue knows", o.job, o.snapshot))
		default:
			found, sets = append(found, o), append(sets, seen[o]...)
		}
	}
	return found, sets, doubts
}

// epochOf reads a cut's epoch from its manifest; one that cannot be read has the highest, so nothing is made of it.
func (g *collection) epochOf(held HeldCut) uint64 {
	const unknown = 1<<64 - 1
	if g.c.Verifier == nil {
		return unknown
	}
	f, err := store.DecodeCutFile(held.Manifest, g.c.Verifier)
	if err != nil {
		return unknown
	}
	return f.Cut.Epoch
}

func (g *collection) host(ctx context.Context, h HostStatus, inv Inventory) error {
	out := Collected{Where: h.Name}
	a, err := g.c.agent(h.Host)
	if err != nil {
		return err
	}
	found, sets, doubts := orphans(inv, g)
	g.doubt(h.Name, doubts)
	out.Sets = sets
	g.c.progress(h.Name, "collecting")
	for _, o := range found {
		if g.dry {
			break
		}
		if err = g.removeOrphan(ctx, a, "", o); err != nil {
			break
		}
	}
	if err == nil {
		out.Garbage, err = a.Collect(ctx, "", "", g.dry)
	}
	if err != nil {
		out.Skipped, err = err.Error(), &fault.Error{Host: h.Name, Err: err}
	}
	g.res.Places = append(g.res.Places, out)
	return err
}

func (g *collection) doubt(where string, doubts []string) {
	for _, d := range doubts {
		g.c.notice("left on %s: %s; if the catalogue is an old copy, ssctl catalog rebuild makes it anew", where, d)
	}
}

// vault collects in a vault, job by job.
func (g *collection) vault(ctx context.Context, vault string) error {
	found, sets, doubts := orphans(g.census.vaults[vault], g)
	g.doubt(vault, doubts)
	var errs []error
	for _, job := range g.jobs {
		out := Collected{Where: vault, Vault: true, Job: job.Name}
		if g.live[job.Name] {
			out.Skipped = "a snapshot or restore of the job is on"
			g.res.Places = append(g.res.Places, out)
			continue
		}
		var mine []orphan
		for _, o := range found {
			if o.job == job.Name {
				mine = append(mine, o)
			}
		}
		for _, s := range sets {
			if strings.HasPrefix(s, job.Name+"/") {
				out.Sets = append(out.Sets, s)
			}
		}
		var err error
		out.Garbage, err = g.vaultJob(ctx, vault, job.Name, mine)
		if errors.Is(err, store.ErrConflict) {
			out.Sets, out.Skipped, err = nil, err.Error(), nil // one began meanwhile; the next gc comes
		}
		if err != nil {
			out.Skipped = err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", vault, err))
		}
		g.res.Places = append(g.res.Places, out)
	}
	return errors.Join(errs...)
}

func (g *collection) vaultJob(ctx context.Context, vault, job string, found []orphan) (out Garbage, err error) {
	collect := func() error {
		g.c.progress(vault, "collecting")
		return g.c.onVault(ctx, g.census.statuses, nil, func(a Agent) (err error) {
			for _, o := range found {
				if g.dry {
					break
				}
				if err := g.removeOrphan(ctx, a, vault, o); err != nil {
					return err
				}
			}
			out, err = a.Collect(ctx, vault, job, g.dry)
			return err
		})
	}
	if g.dry {
		err = collect()
	} else {
		err = g.c.alone(ctx, job, collect)
	}
	return out, err
}
