package upkeep

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ss/fault"
	"ss/orchestrator"
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
	orchestrator.Garbage
	Skipped string // why nothing was removed
}

// GC removes what no cut needs: cuts that no policy keeps, image sets that belong to no cut, and objects that no image set refers to. It
// runs beside snapshots. What it cannot be sure of it leaves.
func GC(ctx context.Context, c *orchestrator.Cluster, dry bool) (GCResult, error) {
	g := &collection{c: c, dry: dry}
	if err := g.run(ctx); err != nil {
		return g.res, &fault.Error{Op: "gc", Err: err}
	}
	return g.res, nil
}

type collection struct {
	c   *orchestrator.Cluster
	dry bool
	res GCResult

	census orchestrator.Census
	jobs   []store.Job
	cuts   []store.Cut
	graves []orchestrator.Grave
	// Attempts, as they were after the inventories and before the cuts were read: a set that is found belongs to one of the two, or to nothing.
	live map[string]bool // jobs
	// oldest is the least id of a live attempt, "" if there is none.
	oldest string
}

func (g *collection) run(ctx context.Context) error {
	if !g.dry {
		if err := g.c.Catalogue.Advance(ctx); err != nil {
			return err
		}
	}
	cluster, err := g.c.Catalogue.Cluster(ctx)
	if err != nil {
		return err
	}
	if g.jobs, err = g.c.Catalogue.Jobs(ctx); err != nil {
		return err
	}
	known, err := g.c.Catalogue.Cuts(ctx, "")
	if err != nil {
		return err
	}
	if g.census, err = g.c.TakeCensus(ctx, "", orchestrator.VaultsOf(cluster, g.jobs, known)); err != nil {
		return err
	}
	if err := g.notOld(ctx); err != nil {
		return err
	}
	if err := g.expire(ctx); err != nil {
		return err
	}
	if err := g.lookAgain(ctx); err != nil {
		return err
	}
	for _, where := range slices.Sorted(maps.Keys(g.census.Silent)) {
		g.res.Places = append(g.res.Places, Collected{Where: where, Vault: orchestrator.IsVault(where), Skipped: g.census.Silent[where].Error()})
	}
	var errs []error
	for _, h := range g.census.Statuses {
		if inv, ok := g.census.Hosts[h.Name]; ok {
			errs = append(errs, g.host(ctx, h, inv))
		}
	}
	for _, v := range slices.Sorted(maps.Keys(g.census.Vaults)) {
		errs = append(errs, g.vault(ctx, v))
	}
	if !g.dry {
		errs = append(errs, g.handOut(ctx), g.c.Spread(ctx, g.census.Statuses, true))
	}
	return errors.Join(errs...)
}

// notOld stops a collection by a catalogue that is not the newest: by what agents have seen of it, and, where those are of an older version or were
// installed again, by a cut that is newer than all that the catalogue knows.
func (g *collection) notOld(ctx context.Context) error {
	if err := orchestrator.Current(g.census.Statuses); err != nil {
		return err
	}
	var err error
	if g.graves, err = g.c.OpenGraves(ctx, g.census); err != nil {
		return err
	}
	epochs := map[string]uint64{}
	for _, j := range g.jobs {
		epochs[j.Name] = j.Epoch
	}
	for _, inventories := range []map[string]orchestrator.Inventory{g.census.Hosts, g.census.Vaults} {
		for _, where := range slices.Sorted(maps.Keys(inventories)) {
			for _, held := range inventories[where].Cuts {
				f, err := g.decode(held)
				if err != nil || f.Cut.Epoch <= epochs[held.Job] || g.buried(f.Cut) {
					continue
				}
				return &fault.Error{Kind: fault.Conflict, Next: orchestrator.AheadNext,
					Err: fmt.Errorf("this catalogue is not the newest: %s holds cut %s of job %s, of epoch %d, and the catalogue has drawn %d only", where, f.Cut.ID, f.Cut.Job, f.Cut.Epoch, epochs[held.Job])}
			}
		}
	}
	return nil
}

func (g *collection) decode(held orchestrator.HeldCut) (store.CutFile, error) {
	if g.c.Verifier == nil {
		return store.CutFile{}, errors.New("nothing to check it with")
	}
	return store.DecodeCutFile(held.Manifest, g.c.Verifier)
}

// buried says whether a cut was removed on somebody's word.
func (g *collection) buried(cut store.Cut) bool { return orchestrator.BuriedBy(g.graves, cut) }

// handOut gives the manifests of cuts to holders that lack them: an ssctl died between a commit and that.
func (g *collection) handOut(ctx context.Context) error {
	for _, cut := range g.cuts {
		if !g.census.LacksCut(cut, g.c.Verifier) {
			continue
		}
		now, err := g.c.Catalogue.Cut(ctx, "", cut.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && now.ID != cut.ID {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		g.c.Publish(ctx, now, g.census.Statuses)
	}
	return nil
}

// removeOrphan removes what was an orphan when the places were asked, if it still is one: an import may have begun since, of that very cut. What a
// tombstone covers goes whatever else there is of that id.
func (g *collection) removeOrphan(ctx context.Context, a orchestrator.Agent, vault string, o orphan) error {
	if o.statement != nil {
		return a.RemoveImages(ctx, orchestrator.Removal{Vault: vault, Job: o.job, Snapshot: o.snapshot, Tombstone: o.statement})
	}
	if live, err := g.c.LiveAttempt(ctx, o.snapshot); err != nil || live {
		return err
	}
	cut, err := g.c.Catalogue.Cut(ctx, "", o.snapshot)
	if err == nil && cut.ID == o.snapshot {
		return nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return a.RemoveImages(ctx, orchestrator.Removal{Vault: vault, Job: o.job, Snapshot: o.snapshot})
}

// expire applies the policies.
func (g *collection) expire(ctx context.Context) error {
	statuses := g.census.Statuses
	if !g.dry {
		if err := g.c.Resolve(ctx, statuses); err != nil {
			return err
		}
	}
	jobs, err := g.c.Catalogue.Jobs(ctx)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if !g.dry {
			g.res.Expired = append(g.res.Expired, g.c.Retain(ctx, j.Name, statuses)...)
			continue
		}
		expired, err := g.c.Expired(ctx, j.Name)
		if err != nil {
			return err
		}
		g.res.Expired = append(g.res.Expired, expired...)
	}
	return nil
}

// lookAgain reads attempts, and after them cuts. The order matters: an attempt that commits in between is seen twice, and never not at all.
func (g *collection) lookAgain(ctx context.Context) error {
	attempts, err := g.c.Catalogue.Attempts(ctx)
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
	if g.cuts, err = g.c.Catalogue.Cuts(ctx, ""); err != nil {
		return err
	}
	g.jobs, err = g.c.Catalogue.Jobs(ctx)
	return err
}

// orphan is what may be removed of a snapshot in one place.
type orphan struct {
	job, snapshot string
	statement     []byte // the tombstone that covers it; nil: it belongs to no cut
}

// snapshotOf names a snapshot.
type snapshotOf struct{ job, id string }

// orphans finds what may be removed of an inventory: what a tombstone covers, and what this catalogue itself began and did not commit. All else
// that the catalogue does not know stays: it may be a cut of another copy of the catalogue, or of one that was lost.
func orphans(ctx context.Context, inv orchestrator.Inventory, g *collection) (found []orphan, sets []string, doubts []string, err error) {
	known := map[string]bool{}
	for _, cut := range g.cuts {
		known[cut.ID] = true
	}
	expired := map[string]bool{}
	for _, cut := range g.res.Expired {
		expired[cut.ID] = true
	}
	byID := map[snapshotOf][]orchestrator.HeldSet{}
	for _, s := range inv.Sets {
		if expired[s.Key.Snapshot] {
			continue // it was there when the place was asked, and is gone
		}
		if gr := g.graveOf(s); gr != nil {
			found, sets = append(found, orphan{s.Key.Job, s.Key.Snapshot, gr.Statement}), append(sets, s.Key.String())
			continue
		}
		byID[snapshotOf{s.Key.Job, s.Key.Snapshot}] = append(byID[snapshotOf{s.Key.Job, s.Key.Snapshot}], s)
	}
	for _, o := range slices.SortedFunc(maps.Keys(byID), func(a, b snapshotOf) int { return strings.Compare(a.id+a.job, b.id+b.job) }) {
		if known[o.id] || g.live[o.job] || g.oldest != "" && o.id >= g.oldest {
			continue
		}
		doubt, err := g.doubtOf(ctx, o, byID[o])
		if err != nil {
			return nil, nil, nil, err
		}
		if doubt != "" {
			doubts = append(doubts, doubt)
			continue
		}
		found = append(found, orphan{job: o.job, snapshot: o.id})
		for _, s := range byID[o] {
			sets = append(sets, s.Key.String())
		}
	}
	return found, sets, doubts, nil
}

// graveOf finds the tombstone that covers a set.
func (g *collection) graveOf(s orchestrator.HeldSet) *orchestrator.Grave {
	return orchestrator.GraveOf(g.graves, s)
}

// doubtOf says why sets of a snapshot that the catalogue has no cut of stay; "" where nothing speaks for them.
func (g *collection) doubtOf(ctx context.Context, o snapshotOf, sets []orchestrator.HeldSet) (string, error) {
	if where := g.existsBy(o); where != "" {
		return fmt.Sprintf("%s/%s is of a cut that exists, as %s knows, and the catalogue does not know it", o.job, o.id, where), nil
	}
	for _, s := range sets {
		ended, err := g.c.Catalogue.EndedWithoutCut(ctx, o.id, s.Epoch)
		if err != nil {
			return "", err
		}
		if !ended {
			return fmt.Sprintf("%s/%s is of a snapshot that the catalogue did not begin", o.job, o.id), nil
		}
	}
	return "", nil
}

// existsBy names a host or vault by which the cut of a snapshot exists: it holds the cut's manifest, or was told of the commit.
func (g *collection) existsBy(o snapshotOf) string {
	for _, inventories := range []map[string]orchestrator.Inventory{g.census.Hosts, g.census.Vaults} {
		for _, where := range slices.Sorted(maps.Keys(inventories)) {
			inv := inventories[where]
			if slices.ContainsFunc(inv.Sets, func(s orchestrator.HeldSet) bool {
				return s.Committed && s.Key.Job == o.job && s.Key.Snapshot == o.id && g.graveOf(s) == nil
			}) {
				return where
			}
			for _, held := range inv.Cuts {
				if held.Job != o.job || held.Snapshot != o.id {
					continue
				}
				if f, err := g.decode(held); err != nil || !g.buried(f.Cut) {
					return where
				}
			}
		}
	}
	return ""
}

func (g *collection) host(ctx context.Context, h orchestrator.HostStatus, inv orchestrator.Inventory) error {
	out := Collected{Where: h.Name}
	a, err := g.c.AgentOf(h.Host)
	if err != nil {
		return err
	}
	found, sets, doubts, err := orphans(ctx, inv, g)
	if err != nil {
		return err
	}
	g.doubt(h.Name, doubts)
	out.Sets = sets
	g.c.Doing(h.Name, "collecting")
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
		g.c.Noticef("left on %s: %s; ssctl catalog rebuild --replace takes in what is a cut, ssctl rm ID --force removes it", where, d)
	}
}

// vault collects in a vault, job by job.
func (g *collection) vault(ctx context.Context, vault string) error {
	found, sets, doubts, err := orphans(ctx, g.census.Vaults[vault], g)
	if err != nil {
		return err
	}
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

func (g *collection) vaultJob(ctx context.Context, vault, job string, found []orphan) (out orchestrator.Garbage, err error) {
	collect := func() error {
		g.c.Doing(vault, "collecting")
		return g.c.OnVault(ctx, g.census.Statuses, nil, func(a orchestrator.Agent) (err error) {
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
		err = g.c.Alone(ctx, job, collect)
	}
	return out, err
}
