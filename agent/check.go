package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"ss/agent/custody"
	"ss/agent/target"
	"ss/fault"
)

// Check is R1 on this host: everything that would make the restore fail here, at once. Nothing is touched. Images of which no copy is
// whole are an error, of kind fault.Integrity: that is for nobody to put right here.
func (r *Restoration) Check(ctx context.Context) ([]string, error) {
	var problems []string
	var damaged []error
	if _, err := r.a.cfg.CRIU.Check(ctx); err != nil {
		problems = append(problems, err.Error())
	}
	lost := r.checkPeers(ctx)
	var coming []target.Arrival
	var room custody.Room
	var declared []Member
	var home []inPlace
	kept := map[string]bool{} // by any member that comes here
	for _, part := range r.plan.Parts {
		man, index, err := r.a.cfg.Images.Index(ctx, r.images(part))
		if custody.Kind(err) == fault.Integrity {
			damaged = append(damaged, fmt.Errorf("images of %s: %w", part.Host, err))
			continue
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("images of %s: %v", part.Host, err))
			continue
		}
		if err := r.a.cfg.Images.Count(ctx, &room, man); err != nil {
			return nil, r.wrap("checking", err)
		}
		meta, err := metaOf(man.Key(), index)
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		if why := target.Lacking(meta.Processor, part.Host); why != "" {
			problems = append(problems, why)
		}
		for _, m := range part.Members {
			mm, ok := meta.Members[m.Name]
			if !ok {
				problems = append(problems, fmt.Sprintf("the images of %s hold no member %s", part.Host, m.Name))
				continue
			}
			m.Job = r.job()
			if err := r.a.cfg.Cells.Vacant(ctx, m); err != nil {
				problems = append(problems, fmt.Sprintf("%s: %v", m.Name, err))
			}
			coming = append(coming, arrival(part.Host, m, mm))
			for _, f := range r.checkFiles(part, mm, &room) {
				problems = append(problems, m.Name+": "+f)
			}
			for _, s := range mm.Files {
				for _, name := range s.Names() {
					kept[name] = true
				}
			}
			declared = append(declared, m)
			if part.Host == r.a.cfg.Host && meta.Recorded > 0 {
				home = append(home, inPlace{m, mm, time.Unix(0, meta.Recorded)})
			}
		}
	}
	if err := r.noticeChanged(ctx, home, kept, declared); err != nil {
		return nil, r.wrap("checking", err)
	}
	for _, m := range declared {
		for _, f := range r.checkCleared(ctx, m, kept) {
			problems = append(problems, m.Name+": "+f)
		}
	}
	found, err := r.a.planTarget(ctx, r.job(), r.plan.Moved, coming)
	if err != nil {
		return nil, r.wrap("checking", err)
	}
	problems = append(append(problems, found...), lost...)
	freed, err := r.a.cfg.Cells.Freed(ctx, r.job())
	if err != nil {
		return nil, r.wrap("checking", err)
	}
	room.Freed(freed)
	lacks, err := r.a.cfg.Images.Lacking(filepath.Dir(r.dir), room)
	if err != nil {
		return nil, r.wrap("checking", err)
	}
	if err := errors.Join(damaged...); err != nil {
		return nil, r.wrap("checking", &fault.Error{Kind: fault.Integrity, Err: err, Next: custody.NextVerify})
	}
	return append(problems, lacks...), nil
}

// planTarget lists what would keep the members that come from being restored on this host.
func (a *Agent) planTarget(ctx context.Context, job string, moved map[netip.Addr]netip.Addr, coming []target.Arrival) ([]string, error) {
	networks, err := interfacePrefixes()
	if err != nil {
		return nil, err
	}
	return target.Plan(ctx, target.Target{Host: a.cfg.Host, Job: job, Networks: networks, Moved: moved, Lives: a.cfg.Cells, Coming: coming})
}

// arrival is a member of which source's images tell, on its way to this host.
func arrival(source string, m Member, meta MemberMeta) target.Arrival {
	return target.Arrival{Source: source, Member: m.Name, Needs: meta.Needs, Files: meta.Files, Seen: meta.Seen, Made: meta.places()}
}

// checkPeers looks whether this host reaches all others that take part: a restore that has ended the live members must not find out then that one
// cannot be asked. The connections are made now, in the place of stale ones to agents that have been restarted.
func (r *Restoration) checkPeers(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	var peers []custody.Peer
	for _, p := range r.plan.Participants {
		peers = append(peers, p.Peer)
	}
	for _, part := range r.plan.Parts { // their images have to come from somewhere
		if !slices.ContainsFunc(part.Sources, func(p custody.Peer) bool { return p.Host == r.a.cfg.Host }) {
			peers = append(peers, part.Sources...)
		}
	}
	errs := make([]error, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		if p.Host != r.a.cfg.Host {
			wg.Go(func() { errs[i] = r.a.cfg.Peers.Reach(ctx, p) })
		}
	}
	wg.Wait()
	var problems []string
	for i, err := range errs {
		if err == nil {
			continue
		}
		p := peers[i]
		text := fmt.Sprintf("it does not reach the agent of %s at %s (%v): fix the network between the two, or restore to other hosts", p.Host, p.Endpoint, err)
		if !slices.Contains(problems, text) {
			problems = append(problems, text)
		}
	}
	return problems
}

// clear destroys what connections that are closed have left in the way of the members to come. The plan has found nothing there that was not
// delivered, or was another program's.
func (r *Restoration) clear(ctx context.Context) error {
	var coming []target.NeededSocket
	for _, rm := range r.members {
		needs, err := r.a.cfg.CRIU.Needs(rm.images)
		if err != nil {
			return err
		}
		coming = append(coming, needs.Sockets()...)
	}
	if len(coming) == 0 {
		return nil
	}
	return r.a.cfg.Cells.Clear(ctx, coming)
}
