package orchestrator

import (
	"context"
	"fmt"
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
}

// RestorePlan says what a restore would do (R1), and all that stands in its way.
type RestorePlan struct {
	Cut    store.Cut
	Parts  []PlannedPart
	Moved  map[netip.Addr]netip.Addr
	Faults []Fault
}

// PlannedPart is one source host's members on their way to a target.
type PlannedPart struct {
	From, To string
	Members  []store.CutMember
	Sources  []string // hosts that hold the images and answer
	Vaults   []string // vaults that hold them
}

// Fault is one thing that would make a restore fail.
type Fault struct {
	Host string
	Text string
}

// planRestore is R1 as far as the catalogue and the hosts' own words go.
func (c *Cluster) planRestore(ctx context.Context, opt RestoreOptions) (*restore, error) {
	cut, err := c.Catalogue.Cut(opt.Job, opt.Cut)
	if err != nil {
		return nil, err
	}
	if opt.Job != "" && cut.Job != opt.Job {
		return nil, fault.New(fault.NotFound, fmt.Sprintf("cut %s is one of job %s", cut.ID, cut.Job), "")
	}
	statuses, members, missing, err := c.survey(ctx, cut.Job)
	if err != nil {
		return nil, err
	}
	r := &restore{c: c, hosts: map[string]HostStatus{}, lines: map[string]RestoreLine{}}
	r.key = marker.Key{Job: marker.JobID(cut.Job), Snapshot: marker.SnapshotID(cut.ID), Epoch: marker.Epoch(cut.Epoch)}
	for _, h := range statuses {
		r.hosts[h.Name] = h
	}
	r.plan = RestorePlan{Cut: cut, Moved: map[netip.Addr]netip.Addr{}}
	if err := r.checkRemap(opt.Remap); err != nil {
		return nil, err
	}
	if r.jobKey, err = c.cutKey(cut); err != nil {
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
	return r, r.findOld(members, missing)
}

// findOld finds the members of the job that the restored ones replace, and that no target would end.
func (r *restore) findOld(members []Member, missing map[string]error) error {
	for host, err := range missing {
		if r.hosts[host].Err == nil { // it is alive: what it has of the job must be known
			return &fault.Error{Kind: fault.Unreachable, Host: host, Err: err}
		}
	}
	targets := r.targets()
	for _, m := range members {
		if !slices.Contains(targets, m.Host) && !slices.Contains(r.old, m.Host) {
			r.old = append(r.old, m.Host)
		}
	}
	return nil
}

func (r *restore) checkRemap(remap map[string]string) error {
	for from, to := range remap {
		if !slices.ContainsFunc(r.plan.Cut.Hosts, func(h store.CutHost) bool { return h.Host == from }) {
			return fault.New(fault.NotFound, fmt.Sprintf("the cut has no part of host %q", from), "see ssctl show "+r.plan.Cut.ID)
		}
		if _, ok := r.hosts[to]; !ok {
			return fault.New(fault.NotFound, fmt.Sprintf("there is no host %q to go to", to), "see ssctl host list")
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
		return &fault.Error{Kind: fault.Unreachable, Host: to, Err: target.Err, Next: fmt.Sprintf("if it is gone, give --remap %s=HOST", ch.Host)}
	}
	part := PlannedPart{From: ch.Host, To: to, Members: ch.Members, Vaults: ch.Vaults}
	for _, name := range ch.Copies {
		if h, ok := r.hosts[name]; ok && h.Err == nil {
			part.Sources = append(part.Sources, name)
		}
	}
	if len(part.Sources)+len(part.Vaults) == 0 {
		return fault.New(fault.Unreachable, fmt.Sprintf("no host that answers holds the images of %s (they are on %s)", ch.Host, strings.Join(ch.Copies, ", ")), "bring one of them back")
	}
	if err := r.move(ch, target); err != nil {
		return err
	}
	r.plan.Parts = append(r.plan.Parts, part)
	return nil
}

// move plans the addresses of one part. An address that the target has stays as it is.
func (r *restore) move(ch store.CutHost, target HostStatus) error {
	for _, s := range ch.Addrs {
		from, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("address %q in the catalogue: %w", s, err)
		}
		if slices.Contains(target.Info.Addrs, from) {
			continue
		}
		to, ok := nearest(from, target.Info.Addrs)
		if !ok {
			if r.uses(from) {
				r.plan.Faults = append(r.plan.Faults, Fault{target.Name, fmt.Sprintf("it has no address of the family of %s, which %s's connections use", from, ch.Host)})
			}
			continue
		}
		r.plan.Moved[from] = to
	}
	return nil
}

// nearest is the address of the same family that has the longest prefix in common: the one on the same network.
func nearest(from netip.Addr, to []netip.Addr) (best netip.Addr, ok bool) {
	bits := -1
	for _, a := range to {
		if a.Is4() != from.Is4() {
			continue
		}
		if n := commonBits(a, from); n > bits {
			best, bits = a, n
		}
	}
	return best, bits >= 0
}

func commonBits(a, b netip.Addr) int {
	for n := a.BitLen(); n > 0; n-- {
		p, err := a.Prefix(n)
		if err == nil && p.Contains(b) {
			return n
		}
	}
	return 0
}

// uses tells whether a channel of the cut has the address.
func (r *restore) uses(a netip.Addr) bool {
	return slices.ContainsFunc(r.plan.Cut.Channels, func(ch store.CutChannel) bool {
		ap, err := netip.ParseAddrPort(ch.FromAddr)
		return err == nil && ap.Addr() == a
	})
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
