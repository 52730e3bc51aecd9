package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ss/fault"
	"ss/marker"
	"ss/restoration"
	"ss/store"
	"ss/store/keys"
)

// RestoreResult is what a restore did.
type RestoreResult struct {
	Plan    RestorePlan
	Total   time.Duration
	StepsMs map[string]float64 // by step
}

// Restore puts a cut back (R1–R6 of docs/restore.md): all of it, or nothing.
func (c *Cluster) Restore(ctx context.Context, opt RestoreOptions) (RestoreResult, error) {
	began := time.Now()
	r, err := c.planRestore(ctx, opt)
	if err != nil {
		return RestoreResult{}, &fault.Error{Op: "restore", Job: opt.Job, Snapshot: opt.Cut, Err: err}
	}
	res := RestoreResult{Plan: r.plan, StepsMs: map[string]float64{}}
	r.res = &res
	if opt.DryRun {
		err = r.check(ctx)
	} else {
		err = r.run(ctx)
	}
	res.Plan, res.Total = r.plan, time.Since(began)
	if err != nil {
		return res, &fault.Error{Op: "restore", Job: r.plan.Cut.Job, Snapshot: r.plan.Cut.ID, Err: err}
	}
	return res, nil
}

// restore is one restore under way.
type restore struct {
	c        *Cluster
	plan     RestorePlan
	res      *RestoreResult
	hosts    map[string]HostStatus // every registered host
	old      []string              // hosts that answer, get no part and have members of the job: theirs end
	key      marker.Key
	keys     map[store.PartID]keys.Job
	id       string
	claimed  []Member               // that hosts name of which the catalogue knows none
	beyond   []Member               // that live on hosts which take part, and are not in the cut
	resuming bool                   // hosts were told to resume: the statement may be in force somewhere
	stated   []byte                 // the signed statement of where the members will stand
	lines    map[string]RestoreLine // by target

	at store.Attempt // it holds the lease on the job; zero while the restore is only checked

	// Owned by the goroutine of drive.
	core     restoration.Coordinator
	zero     time.Time // of the coordinator's clock
	began    time.Time // of the present step
	said     map[string]string
	lost     map[string]bool // hosts whose line has ended
	calling  map[string]bool // hosts that a call to is under way
	noticed  map[string]bool
	problems map[string]bool // hosts whose check has said what it found
	failures map[restoration.HostID]error
	events   chan fromHost
	done     chan struct{}
	reads    sync.WaitGroup
}

// open opens the lines, which takes the job on every host that takes part: the targets, and those whose members end. The
// first target decides that the job runs again.
func (r *restore) open(ctx context.Context, checkOnly bool) error {
	ctx = context.WithoutCancel(ctx) // an interrupted restore still has an abort to send
	names := slices.Concat(r.targets(), r.old)
	var all []Participant
	for _, name := range names {
		all = append(all, r.hosts[name].participant())
	}
	for _, name := range names {
		plan := HostPlan{ID: r.id, Key: r.key, Moved: r.plan.Moved, Participants: all, Targets: len(r.targets()), CheckOnly: checkOnly, Statement: r.stated}
		for _, p := range r.plan.Parts {
			if p.To == name {
				plan.Parts = append(plan.Parts, r.part(p))
				plan.Transit = append(plan.Transit, r.transit(p.From)...)
			}
		}
		a, err := r.c.AgentOf(r.hosts[name].Host)
		if err != nil {
			return err
		}
		line, err := a.Restore(ctx, plan)
		if err != nil {
			return err
		}
		r.lines[name] = line
	}
	return nil
}

// transit lists the channels that lead away from a host's members in the cut and in which something was in transit.
func (r *restore) transit(host string) []store.CutChannel {
	var out []store.CutChannel
	for _, ch := range r.plan.Cut.Channels {
		if ch.FromHost == host && ch.InTransit > 0 {
			out = append(out, ch)
		}
	}
	return out
}

func (r *restore) part(p PlannedPart) Part {
	part := Part{Host: p.From, Vaults: p.Vaults}
	for _, m := range p.Members {
		m.Aliases, m.Names = r.plan.Aliases, r.plan.Names
		part.Members = append(part.Members, m)
	}
	for _, ch := range r.plan.Cut.Hosts {
		if ch.Host == p.From {
			id := r.plan.Cut.PartID(ch)
			part.Snapshot, part.Digest, part.JobKey = id.Snapshot, ch.Manifest, r.keys[id]
		}
	}
	for _, e := range r.plan.Cut.Ends {
		if e.Host == p.From {
			part.Ends = append(part.Ends, e)
		}
	}
	for _, s := range p.Sources {
		part.Sources = append(part.Sources, r.hosts[s].participant())
	}
	return part
}

// check has every host look for what would make the restore fail there. Nothing is touched.
func (r *restore) check(ctx context.Context) error {
	r.id = "check-" + string(r.key.Snapshot)
	for _, m := range r.beyond {
		r.c.Noticef("%s on %s is not in the cut: a restore of it ends %s", m.Name, m.Host, m.Name)
	}
	return r.carryOut(ctx, true)
}

// run carries out what planRestore has planned: the hosts' own part of R1, and R2 to R5.
func (r *restore) run(ctx context.Context) error {
	at, err := r.c.begin(ctx, store.Attempt{Kind: store.KindRestore, Job: r.plan.Cut.Job, Hosts: r.targets()})
	if err != nil {
		return err
	}
	r.id, r.at = at.ID, at
	if err := r.findNew(ctx); err != nil {
		return errors.Join(err, r.c.Catalogue.EndAttempt(noted(ctx), at.ID))
	}
	if r.stated, err = r.statement(ctx, at.Epoch); err != nil {
		return errors.Join(err, r.c.Catalogue.EndAttempt(noted(ctx), at.ID))
	}
	// Who removes a cut looks for restores after it has left the catalogue: one of the two sees the other.
	if _, err := r.c.Catalogue.Cut(ctx, "", r.plan.Cut.ID); err != nil {
		return errors.Join(fmt.Errorf("the cut was removed meanwhile: %w", err), r.c.Catalogue.EndAttempt(noted(ctx), at.ID))
	}
	err = r.carryOut(ctx, false)
	return errors.Join(err, r.c.Catalogue.EndAttempt(noted(ctx), at.ID))
}

// carryOut opens the lines, has the core drive the restore, and says how it ended.
func (r *restore) carryOut(ctx context.Context, checkOnly bool) error {
	defer r.close()
	if err := r.open(ctx, checkOnly); err != nil {
		return err
	}
	outcome, err := r.drive(ctx, checkOnly)
	if err != nil {
		return err
	}
	switch {
	case outcome.Result == restoration.ResultResumed || outcome.Decided:
		err = r.c.adopt(noted(ctx), r.plan.Cut.Job, r.stated)
	case outcome.Result == restoration.ResultStopped:
		if gerr := errors.Join(r.gone(ctx, outcome.Unknown), r.superseding(noted(ctx))); gerr != nil {
			r.c.Noticef("could not remove ended members from the catalogue: %v", gerr)
		}
	case outcome.Result == restoration.ResultUnknown:
		err = r.superseding(noted(ctx))
	}
	return errors.Join(r.verdict(outcome), err)
}

// warn names the hosts whose members nobody can end.
func (r *restore) warn() {
	for name, h := range r.hosts {
		if h.Err != nil && slices.ContainsFunc(r.plan.Cut.Hosts, func(ch store.CutHost) bool { return ch.Host == name }) {
			r.c.Noticef("%s does not answer: make sure that it is dead, its old members may still run there", name)
		}
	}
}

// gone takes the members of the hosts that have backed out off the catalogue.
func (r *restore) gone(ctx context.Context, silent []restoration.HostID) error {
	var stopped []string
	for _, name := range slices.Concat(r.targets(), r.old) {
		if !slices.Contains(silent, restoration.HostID(name)) {
			stopped = append(stopped, name)
		}
	}
	return r.c.Catalogue.ClearHosts(noted(ctx), r.plan.Cut.Job, r.at.Epoch, stopped...)
}

// living lists the members that live on a target when the restore has succeeded.
func (r *restore) living(target string) []string { return store.Names(r.placement()[target]) }

// placement is where the members live when the restore has succeeded.
func (r *restore) placement() map[string][]store.Placed {
	placement := map[string][]store.Placed{}
	for _, p := range r.plan.Parts {
		for _, m := range p.Members {
			placement[p.To] = append(placement[p.To], store.Placed{Name: m.Name})
		}
	}
	return placement
}
