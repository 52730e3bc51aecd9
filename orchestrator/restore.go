package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/fault"
	"ss/marker"
	"ss/store"
	"ss/store/keys"
)

// RestoreResult is what a restore did.
type RestoreResult struct {
	Plan    RestorePlan
	Total   time.Duration
	StepsMs map[string]float64 // by step
}

// Restore puts a cut back (R1–R5 of docs/restore.md): all of it, or nothing.
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
	jobKey   keys.Job
	id       string
	claimed  []Member               // that hosts name of which the catalogue knows none
	resuming bool                   // hosts were told to resume: the statement may be in force somewhere
	stated   []byte                 // the signed statement of where the members will stand
	lines    map[string]RestoreLine // by target
}

// open opens the lines, which takes the job on every host that takes part: the targets, and those whose members end. The
// first target decides that the job runs again.
func (r *restore) open(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // an interrupted restore still has an abort to send
	names := slices.Concat(r.targets(), r.old)
	var all []Participant
	for _, name := range names {
		all = append(all, r.hosts[name].participant())
	}
	for _, name := range names {
		plan := HostPlan{ID: r.id, Key: r.key, Moved: r.plan.Moved, Participants: all, Statement: r.stated}
		for _, p := range r.plan.Parts {
			if p.To == name {
				plan.Parts, plan.JobKey = append(plan.Parts, r.part(p)), &r.jobKey
			}
		}
		a, err := r.c.agent(r.hosts[name].Host)
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

func (r *restore) part(p PlannedPart) Part {
	part := Part{Host: p.From, Members: p.Members, Vaults: p.Vaults}
	for _, ch := range r.plan.Cut.Hosts {
		if ch.Host == p.From {
			part.Digest = ch.Manifest
		}
	}
	for _, s := range p.Sources {
		part.Sources = append(part.Sources, r.hosts[s].participant())
	}
	return part
}

// each has every target carry out a step, all at once.
func (r *restore) each(ctx context.Context, s Step) error {
	began := time.Now()
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for name, line := range r.lines {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r.c.progress(name, s.String())
			faults, err := line.Do(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
			if s != StepCheck { // what a host healed on the way, say
				for _, f := range faults {
					r.c.notice("%s: %s", name, f)
				}
				return
			}
			for _, f := range faults {
				r.plan.Faults = append(r.plan.Faults, Fault{name, f})
			}
		}()
	}
	wg.Wait()
	r.res.StepsMs[s.String()] = float64(time.Since(began).Microseconds()) / 1000
	slices.SortFunc(r.plan.Faults, func(a, b Fault) int { return strings.Compare(a.Host+a.Text, b.Host+b.Text) })
	return errors.Join(errs...)
}

// check has every target look for what would make the restore fail there. Nothing is touched.
func (r *restore) check(ctx context.Context) error {
	r.id = "check-" + string(r.key.Snapshot)
	defer r.close()
	if err := r.open(ctx); err != nil {
		return err
	}
	return r.checked(r.each(ctx, StepCheck))
}

func (r *restore) checked(err error) error {
	if err != nil {
		return err
	}
	if len(r.plan.Faults) == 0 {
		return nil
	}
	var lines []string
	for _, f := range r.plan.Faults {
		lines = append(lines, f.Host+": "+f.Text)
	}
	return fault.New(fault.Refused, fault.Problems(lines), "nothing was touched")
}

// run is R1 to R5.
func (r *restore) run(ctx context.Context) error {
	at, err := r.c.begin(ctx, store.Attempt{Kind: store.KindRestore, Job: r.plan.Cut.Job, Hosts: r.targets(), Placement: r.placement()})
	if err != nil {
		return err
	}
	r.id = at.ID
	if r.stated, err = r.statement(at.Epoch); err != nil {
		return errors.Join(err, r.c.Catalogue.EndAttempt(at.ID))
	}
	// Who removes a cut looks for restores after it has left the catalogue: one of the two sees the other.
	if _, err := r.c.Catalogue.Cut("", r.plan.Cut.ID); err != nil {
		return errors.Join(fmt.Errorf("the cut was removed meanwhile: %w", err), r.c.Catalogue.EndAttempt(at.ID))
	}
	err = r.steps(ctx)
	r.close()
	if err == nil {
		err = errors.Join(r.c.adopt(r.plan.Cut.Job, r.stated), r.remember())
	}
	return errors.Join(err, r.c.Catalogue.EndAttempt(at.ID))
}

func (r *restore) steps(ctx context.Context) error {
	if err := r.open(ctx); err != nil {
		return err
	}
	if err := r.checked(r.each(ctx, StepCheck)); err != nil {
		return untouched(ctx, err)
	}
	if err := r.each(ctx, StepFetch); err != nil {
		return untouched(ctx, err)
	}
	if err := ctx.Err(); err != nil {
		return &fault.Error{Kind: fault.Interrupted, Err: context.Cause(ctx), Next: "nothing was touched"}
	}
	r.warn()
	// R3: from here on the job is whole again in the end, or stands nowhere.
	for _, step := range []Step{StepFence, StepRestore} {
		err := r.each(ctx, step)
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return r.backOut(ctx, err)
		}
	}
	// R5: from the first word of this step on there is no way back, and an interrupt comes too late.
	r.resuming = true
	if err := r.each(context.WithoutCancel(ctx), StepResume); err != nil {
		return r.backOut(ctx, err)
	}
	return nil
}

// untouched says of a restore that lost a host, or its user, before it had ended anything that it is broken off, and nothing
// more. What a host found keeps its kind.
func untouched(ctx context.Context, err error) error {
	const next = "nothing was touched"
	switch {
	case ctx.Err() != nil:
		return &fault.Error{Kind: fault.Interrupted, Err: context.Cause(ctx), Next: next}
	case fault.Is(err, fault.Unreachable):
		return &fault.Error{Kind: fault.RolledBack, Err: err, Next: next}
	}
	return err
}

// warn names the hosts whose members nobody can end.
func (r *restore) warn() {
	for name, h := range r.hosts {
		if h.Err != nil && slices.ContainsFunc(r.plan.Cut.Hosts, func(ch store.CutHost) bool { return ch.Host == name }) {
			r.c.notice("%s does not answer: make sure that it is dead, its old members may still run there", name)
		}
	}
}

// backOut ends a restore that failed after it had begun to end the live members: never half a job, so none.
func (r *restore) backOut(ctx context.Context, err error) error {
	f := &fault.Error{Kind: fault.RolledBack, Err: err, Next: "every host has backed out: the job is stopped, its cut is untouched, restore it again"}
	if ctx.Err() != nil {
		f.Kind, f.Err = fault.Interrupted, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	silent := r.abort(ctx)
	if err := errors.Join(r.gone(silent), r.superseding()); err != nil {
		r.c.notice("the catalogue has members that have ended: %v", err)
	}
	if len(silent) > 0 {
		f.Next = fmt.Sprintf("the job is stopped, but for what may be left on %s until an agent there can end it; its cut is untouched, restore it again then", strings.Join(silent, ", "))
	}
	return f
}

// gone takes the members of the hosts that have backed out off the catalogue.
func (r *restore) gone(silent []string) error {
	var stopped []string
	for _, name := range slices.Concat(r.targets(), r.old) {
		if !slices.Contains(silent, name) {
			stopped = append(stopped, name)
		}
	}
	return r.c.Catalogue.ClearHosts(r.plan.Cut.Job, stopped...)
}

// abort has every host end what it has of the job, and returns those that have not said that they did.
func (r *restore) abort(ctx context.Context) (silent []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, line := range r.lines {
		wg.Go(func() {
			r.c.progress(name, StepAbort.String())
			_, err := line.Do(ctx, StepAbort)
			if err != nil {
				err = r.end(ctx, name) // its line is gone, but perhaps not its agent, or there is a new one
			}
			if err == nil {
				return
			}
			// It settles that by itself, with its agent's next start at the latest.
			mu.Lock()
			defer mu.Unlock()
			silent = append(silent, name)
		})
	}
	wg.Wait()
	slices.Sort(silent)
	return silent
}

// end ends the job's members on a host, once it has given up what it may still be at.
func (r *restore) end(ctx context.Context, name string) error {
	for {
		err := r.c.killOn(ctx, r.plan.Cut.Job, []store.Host{r.hosts[name].Host})[0].err
		if !fault.Is(err, fault.Conflict) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(askAgain):
		}
	}
}

// askAgain is the time between two questions to a host that is busy.
const askAgain = 50 * time.Millisecond

// living lists the members that live on a target when the restore has succeeded.
func (r *restore) living(target string) []string { return store.Names(r.placement()[target]) }

// remember notes who had done its work before the cut: it has done it still, and the next cut accounts for it, too. It lives nowhere, so any
// host will do.
func (r *restore) remember() error {
	return r.c.Catalogue.AddEnded(r.plan.Cut.Job, r.targets()[0], r.plan.Cut.EndedWell)
}

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

func (r *restore) close() {
	for name, l := range r.lines {
		if err := l.Close(); err != nil {
			r.c.notice("%s: %v", name, err)
		}
	}
	clear(r.lines)
}
