package orchestrator

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"ss/fault"
	"ss/marker"
	"ss/store"
)

// RestoreOptions is what the one who restores may choose.
type RestoreOptions struct {
	Cut    string // id, unique prefix of one, or "latest"
	Job    string // with "latest": of this job
	Remap  map[string]string
	DryRun bool
	// RemapAddr says what becomes of an address of the cut where that does not follow from the networks of the target.
	RemapAddr map[netip.Addr]netip.Addr
}

// RestorePlan says what a restore would do (R1), and all that stands in its way.
type RestorePlan struct {
	Cut   store.Cut
	Parts []PlannedPart
	Moved map[netip.Addr]netip.Addr
	// Aliases are where connections go that the job opens to addresses of its past (R6).
	Aliases store.Aliases
	// Names are the reverse: under which address the job's programs know one that is in use.
	Names    store.Aliases
	Problems []Problem
}

// PlannedPart is one source host's members on their way to a target.
type PlannedPart struct {
	From, To string
	Members  []store.CutMember
	Sources  []string // hosts that hold the images and answer
	Vaults   []string // vaults that hold them
}

// Problem is one thing that would make a restore fail.
type Problem struct {
	Host string
	Text string
}

// planRestore is R1 as far as the catalogue and the hosts' own words go.
func (c *Cluster) planRestore(ctx context.Context, opt RestoreOptions) (*restore, error) {
	cut, err := c.Catalogue.Cut(ctx, opt.Job, opt.Cut)
	if err != nil {
		return nil, err
	}
	if opt.Job != "" && cut.Job != opt.Job {
		return nil, fault.New(fault.NotFound, fmt.Sprintf("cut %s is one of job %s", cut.ID, cut.Job), "")
	}
	if !opt.DryRun {
		if err := c.Catalogue.Advance(ctx); err != nil {
			return nil, err
		}
	}
	s, err := c.survey(ctx, cut.Job)
	if err != nil {
		return nil, err
	}
	if !opt.DryRun { // it ends the live job, and puts in its place what may be old
		if err := Current(s.statuses); err != nil {
			return nil, err
		}
	}
	r := &restore{c: c, hosts: map[string]HostStatus{}, lines: map[string]RestoreLine{}}
	r.key = marker.Key{Job: marker.JobID(cut.Job), Snapshot: marker.SnapshotID(cut.ID), Epoch: marker.Epoch(cut.Epoch)}
	for _, h := range s.statuses {
		r.hosts[h.Name] = h
	}
	r.plan = RestorePlan{Cut: cut, Moved: map[netip.Addr]netip.Addr{}}
	if err := r.checkRemap(opt.Remap); err != nil {
		return nil, err
	}
	if r.keys, err = c.partKeys(cut); err != nil {
		return nil, err
	}
	for _, ch := range cut.Hosts {
		to := ch.Host
		if t, ok := opt.Remap[ch.Host]; ok {
			to = t
		}
		if err := r.planPart(ch, to); err != nil {
			return nil, err
		}
	}
	if err := r.planAddrs(opt.RemapAddr); err != nil {
		return nil, err
	}
	r.plan.Aliases, r.plan.Names = aliases(cut, r.plan.Moved), nameAddrs(cut, r.plan.Moved)
	return r, r.findOld(ctx, s.members, s.missing)
}

// findOld finds the members of the job that the restored ones replace, and that no target would end.
func (r *restore) findOld(ctx context.Context, members []Member, missing map[string]error) error {
	for host, err := range missing {
		if r.hosts[host].Err == nil { // it is alive: what it has of the job must be known
			return &fault.Error{Kind: fault.Unreachable, Host: host, Err: err}
		}
	}
	job, err := r.c.Catalogue.Job(ctx, r.plan.Cut.Job)
	if err != nil {
		return err
	}
	targets := r.targets()
	for _, m := range members {
		takesPart := slices.Contains(targets, m.Host) || slices.Contains(r.old, m.Host)
		if m.State == StateRunning && (takesPart || r.known(job, m.Host)) && !r.comesBack(m.Name) {
			r.beyond = append(r.beyond, m)
		}
		switch {
		case takesPart:
		case r.known(job, m.Host):
			r.old = append(r.old, m.Host)
		default: // F5: its word does not make it take part
			r.claimed = append(r.claimed, m)
			r.c.Noticef("%s says that %s of job %s runs there, but the catalogue has no such member there: the restore ignores it, and tells that host that the job was restored", m.Host, m.Name, m.Job)
		}
	}
	return nil
}

// comesBack says whether a member is in the cut.
func (r *restore) comesBack(member string) bool {
	return slices.ContainsFunc(r.plan.Cut.Hosts, func(h store.CutHost) bool {
		return slices.ContainsFunc(h.Members, func(m store.CutMember) bool { return m.Name == member })
	})
}

// findNew takes in the hosts that members were started on since they were asked. From the lease on, no name of a member is drawn (DrawMember): so all are in the
// catalogue, a start that is still on its way too. That one fails at its host, which this restore holds then, or has ended before it.
func (r *restore) findNew(ctx context.Context) error {
	job, err := r.c.Catalogue.Job(ctx, r.plan.Cut.Job)
	if err != nil {
		return err
	}
	targets := r.targets()
	for _, host := range slices.Sorted(maps.Keys(job.Placement)) {
		h, registered := r.hosts[host]
		if !registered || h.Err != nil || slices.Contains(targets, host) || slices.Contains(r.old, host) {
			continue // of one that does not answer, the statement says that its members are old
		}
		if slices.ContainsFunc(job.Placement[host], func(p store.Placed) bool { return p.State != store.PlacedEnded }) {
			r.old = append(r.old, host)
		}
	}
	return nil
}

// known says whether the catalogue has, or had, members of the job on a host.
func (r *restore) known(job store.Job, host string) bool {
	return len(job.Placement[host]) > 0 ||
		slices.ContainsFunc(job.Unsettled, func(u store.Unsettled) bool { return u.Host == host }) ||
		slices.ContainsFunc(r.plan.Cut.Hosts, func(h store.CutHost) bool { return h.Host == host })
}

func (r *restore) checkRemap(remap map[string]string) error {
	for from, to := range remap {
		if !slices.ContainsFunc(r.plan.Cut.Hosts, func(h store.CutHost) bool { return h.Host == from }) {
			return fault.New(fault.NotFound, fmt.Sprintf("the cut has no part of host %q", from), "see ssctl show "+r.plan.Cut.ID)
		}
		if _, ok := r.hosts[to]; !ok {
			return fault.New(fault.NotFound, fmt.Sprintf("there is no host %q to move members to", to), "see ssctl host list")
		}
	}
	return nil
}

func (r *restore) planPart(ch store.CutHost, to string) error {
	target, ok := r.hosts[to]
	if !ok {
		return fault.New(fault.NotFound, fmt.Sprintf("host %s of the cut is not registered any more", to), fmt.Sprintf("give --remap %s=HOST", ch.Host))
	}
	if target.Err != nil {
		return unanswered(to, target.Err, fmt.Sprintf("if it is gone, give --remap %s=HOST", ch.Host))
	}
	part := PlannedPart{From: ch.Host, To: to, Members: ch.Members, Vaults: ch.Vaults}
	for _, name := range ch.Copies {
		if h, ok := r.hosts[name]; ok && h.Err == nil {
			part.Sources = append(part.Sources, name)
		}
	}
	if len(part.Sources)+len(part.Vaults) == 0 {
		return fault.New(fault.Unreachable, fmt.Sprintf("no host that answers holds the images of %s (they are on %s)", ch.Host, strings.Join(ch.Copies, ", ")), "start one of these hosts")
	}
	r.plan.Parts = append(r.plan.Parts, part)
	return nil
}

// targets are the hosts that get a part, each once.
func (r *restore) targets() []string {
	var names []string
	for _, p := range r.plan.Parts {
		names = append(names, p.To)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
