package upkeep

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/dustin/go-humanize/english"

	"ss/fault"
	"ss/orchestrator"
	"ss/store"
	"ss/store/images"
)

// RepairOptions says what is to be repaired.
type RepairOptions struct {
	Of     string // a job, or a cut; "": everything
	DryRun bool
}

// RepairedPart is what became of one host's part of a cut, or would.
type RepairedPart struct {
	Key      images.Key
	State    RepairState
	Copies   []string // hosts that hold it now; of a dry run: that would
	Vaults   []string
	Silent   []string // those of them that do not answer: the catalogue names them
	Done     []string // what was done, or would be
	Problems []string // what went wrong
}

// Repair brings cuts back to their copies: what is damaged is healed from another copy, what lacks copies gets new ones. It looks at all of
// them, whatever goes wrong; the result says what became of each.
func Repair(ctx context.Context, c *orchestrator.Cluster, opt RepairOptions) ([]RepairedPart, error) {
	r := &repair{c: c, opt: opt, jobs: map[string]store.Job{}, out: map[images.Key]*RepairedPart{}, unsaid: map[string]bool{}}
	if err := r.look(ctx); err != nil {
		return nil, &fault.Error{Op: "repair", Err: err}
	}
	if !opt.DryRun {
		r.heal(ctx)
		r.healVaults(ctx)
	}
	silent := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(r.census.Silent)) {
		silent[name] = true
		c.Noticef("%s does not answer: what it holds is not known, %v", name, r.census.Silent[name])
	}
	plans := planRepair(r.parts, r.census.Candidates(), silent)
	for _, p := range plans {
		r.report(p)
	}
	if !opt.DryRun {
		r.carryOut(ctx, plans)
	}
	return r.result(ctx)
}

// repair is one repair under way.
type repair struct {
	c      *orchestrator.Cluster
	opt    RepairOptions
	jobs   map[string]store.Job
	cuts   []store.Cut
	parts  []repairPart
	census orchestrator.Census
	unsaid map[string]bool // cuts whose manifest is not everywhere any more where the census found it

	mu  sync.Mutex
	out map[images.Key]*RepairedPart
}

// look finds out what there should be and what there is.
func (r *repair) look(ctx context.Context) error {
	cluster, err := r.c.Catalogue.Cluster(ctx)
	if err != nil {
		return err
	}
	all, err := r.c.Catalogue.Jobs(ctx)
	if err != nil {
		return err
	}
	for _, j := range all {
		r.jobs[j.Name] = j
	}
	if r.cuts, err = cutsMeant(ctx, r.c, r.opt.Of); err != nil {
		return err
	}
	job := ""
	if r.opt.Of != "" && len(r.cuts) > 0 {
		job = r.cuts[0].Job
	}
	if r.census, err = r.c.TakeCensus(ctx, job, orchestrator.VaultsOf(cluster, all, r.cuts)); err != nil {
		return err
	}
	if err := orchestrator.Current(r.census.Statuses); err != nil {
		return err
	}
	if !r.opt.DryRun {
		if err := r.c.Resolve(ctx, r.census.Statuses); err != nil {
			return err
		}
	}
	r.parts = partsOf(r.cuts, r.jobs, cluster)
	for i := range r.parts {
		p := &r.parts[i]
		p.Held, p.HeldIn = holding(r.census.Hosts, p.Key), holding(r.census.Vaults, p.Key)
		r.out[p.Key] = &RepairedPart{Key: p.Key}
	}
	return nil
}

// cutsMeant are the cuts of a job, one cut, or all.
func cutsMeant(ctx context.Context, c *orchestrator.Cluster, ref string) ([]store.Cut, error) {
	if ref == "" {
		return c.Catalogue.Cuts(ctx, "")
	}
	if _, err := c.Catalogue.Job(ctx, ref); err == nil {
		return c.Catalogue.Cuts(ctx, ref)
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	cut, err := c.Catalogue.Cut(ctx, "", ref)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("no job and no cut %q: %w", ref, store.ErrNotFound)
	}
	return []store.Cut{cut}, err
}

func (r *repair) did(key images.Key, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out[key].Done = append(r.out[key].Done, fmt.Sprintf(format, args...))
}

func (r *repair) failed(key images.Key, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out[key].Problems = append(r.out[key].Problems, fmt.Sprintf(format, args...))
}

// heal has every host look through what it holds, and get from the others what is damaged. Who cannot make it whole does not hold it.
func (r *repair) heal(ctx context.Context) {
	var wg sync.WaitGroup
	whole := make([][]string, len(r.parts))
	for _, host := range slices.Sorted(maps.Keys(r.census.Hosts)) {
		wg.Go(func() {
			for i, p := range r.parts { // one after the other: a host has one disk
				if slices.Contains(p.Held, host) && r.healOn(ctx, host, p) {
					r.mu.Lock()
					whole[i] = append(whole[i], host)
					r.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for i := range r.parts {
		// Who stopped answering on the way is not known to hold anything, nor not to.
		r.parts[i].Held = slices.DeleteFunc(whole[i], func(h string) bool { return r.census.Silent[h] != nil })
		slices.Sort(r.parts[i].Held)
	}
}

func (r *repair) healOn(ctx context.Context, host string, p repairPart) bool {
	r.c.Doing(host, "checking "+p.Key.Snapshot+", images of "+p.Key.Host)
	moved, err := r.fetch(ctx, host, p)
	if err != nil && fault.Is(err, fault.Unreachable) && r.gone(ctx, host) {
		return false
	}
	if fault.Is(err, fault.Conflict) { // a restore or an export is reading it
		r.failed(p.Key, "the copy on %s was not looked at, and counts: %v", host, err)
		return true
	}
	if err != nil {
		r.failed(p.Key, "the copy on %s is not whole and could not be repaired: %v", host, err)
		return false
	}
	if moved.Objects > 0 {
		r.did(p.Key, "healed %s on %s", english.Plural(moved.Objects, "object", ""), host)
	}
	return true
}

// gone says whether a host that could not do something is itself who does not answer, and notes it.
func (r *repair) gone(ctx context.Context, host string) bool {
	i := slices.IndexFunc(r.census.Statuses, func(h orchestrator.HostStatus) bool { return h.Name == host })
	_, err := r.c.Ask(ctx, r.census.Statuses[i].Host, orchestrator.Word{})
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.census.Silent[host] = err
	}
	return err != nil
}

func (r *repair) fetch(ctx context.Context, host string, p repairPart) (orchestrator.Moved, error) {
	a, err := r.c.Answering(r.census.Statuses, host)
	if err != nil {
		return orchestrator.Moved{}, err
	}
	others := slices.DeleteFunc(slices.Clone(p.Held), func(h string) bool { return h == host })
	return a.FetchImages(ctx, p.Key, p.Digest, orchestrator.Sources{Hosts: r.census.Participants(others), Vaults: p.HeldIn})
}

// report writes down what a plan says.
func (r *repair) report(p repairPlan) {
	out := r.out[p.Key]
	out.State = p.State
	out.Copies, out.Vaults, out.Silent = slices.Clone(p.Held), slices.Clone(p.HeldIn), p.Await
	for _, name := range p.Await {
		if slices.Contains(p.Copies, name) {
			out.Copies = append(out.Copies, name)
		} else {
			out.Vaults = append(out.Vaults, name)
		}
	}
	if p.State == StateWhole && len(out.Done) > 0 {
		out.State = StateRepaired
	}
	if r.opt.DryRun {
		for _, h := range p.Fetch {
			out.Done = append(out.Done, "copy to "+h)
		}
		for _, v := range p.Push {
			out.Done = append(out.Done, "copy to "+v)
		}
		out.Copies, out.Vaults = append(out.Copies, p.Fetch...), append(out.Vaults, p.Push...)
	}
}

// result sorts what became of the parts, and says what a person must hear.
func (r *repair) result(ctx context.Context) ([]RepairedPart, error) {
	var out []RepairedPart
	bad := map[RepairState][]string{}
	for _, p := range r.parts {
		o := r.out[p.Key]
		slices.Sort(o.Copies)
		slices.Sort(o.Vaults)
		out = append(out, *o)
		bad[o.State] = append(bad[o.State], fmt.Sprintf("images of %s in %s", p.Key.Host, p.Key.Snapshot))
	}
	fail := func(kind fault.Kind, what string, of RepairState, next string) error {
		return &fault.Error{Kind: kind, Op: "repair", Err: fmt.Errorf("%s:\n  %s", what, strings.Join(bad[of], "\n  ")), Next: next}
	}
	switch {
	case ctx.Err() != nil:
		return out, &fault.Error{Kind: fault.Interrupted, Op: "repair", Err: context.Cause(ctx), Next: "what was copied stays: repair again"}
	case len(bad[StateLost]) > 0:
		return out, fail(fault.Integrity, "lost, nobody holds a whole copy", StateLost, "their cuts cannot be restored; ssctl rm removes them")
	case len(bad[StateSilent]) > 0:
		return out, fail(fault.Unreachable, "out of reach, those who hold them do not answer", StateSilent, "bring one back, or say that it is gone: ssctl host rm HOST --lost")
	case len(bad[StateUnconfirmed]) > 0 && len(bad[StateShort]) == 0:
		return out, fail(fault.Unreachable, "enough copies only if the hosts that do not answer still hold theirs", StateUnconfirmed,
			"repair again when they answer; if one is gone for good, ssctl host rm HOST --lost, and repair makes other copies")
	case len(bad[StateShort]) > 0:
		return out, fail(fault.Refused, "fewer copies than wanted", StateShort, "see the table for why; add a host, or change what is wanted with ssctl job set")
	}
	return out, nil
}

// holding lists the hosts, or vaults, in whose inventory a set is.
func holding(inventories map[string]orchestrator.Inventory, key images.Key) []string {
	var out []string
	for name, inv := range inventories {
		if slices.ContainsFunc(inv.Sets, func(s orchestrator.HeldSet) bool { return s.Key == key }) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
