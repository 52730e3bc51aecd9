package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"

	"ss/restoration"
	"ss/standing"
)

// tick passes time, after all that has come by then: no host is asked again while its answer waits to be read.
func (r *Restoration) tick(now restoration.Millis) {
	for {
		select {
		case ev := <-r.events:
			r.handle(ev)
		default:
			r.step(restoration.Tick{Now: now})
			return
		}
	}
}

// fence is R3: gates close for the connections and ports to come, and then the job's live members end.
func (r *Restoration) fence(ctx context.Context) error {
	gates, err := r.gates()
	if err != nil {
		return r.wrap("fencing", err)
	}
	if err := r.a.supersede(ctx, r); err != nil {
		return r.wrap("ending an earlier restore", err)
	}
	if err := r.a.standings.begin(ctx, r.stated, gates); err != nil {
		return r.wrap("keeping out the hosts that do not take part", err)
	}
	if err := r.a.cfg.Gates.Close(ctx, gates); err != nil {
		return r.wrap("closing the gates", err)
	}
	live, err := r.a.running(ctx, r.job())
	if err != nil {
		return r.wrap("ending the live members", err)
	}
	if _, err := r.a.killMembers(ctx, r.job()); err != nil {
		return r.wrap("ending the live members", err)
	}
	r.tellEnded(live)
	if err := r.clear(ctx); err != nil {
		return r.wrap("destroying what closed connections have left", err)
	}
	return nil
}

// tellEnded names the members that have ended for the restore and do not come back, here or elsewhere: they were started after the cut.
func (r *Restoration) tellEnded(ended []Member) {
	for _, m := range ended {
		if !slices.ContainsFunc(r.stated.Hosts, func(h standing.Host) bool { return slices.Contains(h.Members, m.Name) }) {
			r.notice(fmt.Sprintf("%s is not in the cut, and was ended", m.Name))
		}
	}
}

// gates are what the restored members will need, one toward each participant.
func (r *Restoration) gates() ([]Gate, error) {
	conns := map[string][]Conn{}
	var listen []netip.AddrPort
	for _, rm := range r.members {
		needs, err := r.a.cfg.CRIU.Needs(rm.images)
		if err != nil {
			return nil, err
		}
		listen = append(listen, needs.Listen...)
		for _, c := range needs.Conns {
			peer := r.a.cfg.Host
			if !c.Remote.Addr().IsLoopback() {
				peer = r.peerOf(c.Remote.Addr())
			}
			conns[peer] = append(conns[peer], Conn(c))
		}
	}
	var gates []Gate
	for _, p := range r.plan.Participants {
		g := Gate{Job: r.job(), Peer: p.Host, Addrs: p.Addrs, Conns: conns[p.Host]}
		if p.Host != r.a.cfg.Host {
			g.Listen = listen
		}
		if len(g.Conns)+len(g.Listen) > 0 {
			gates = append(gates, g)
		}
	}
	return gates, nil
}

func (r *Restoration) peerOf(addr netip.Addr) string {
	for _, p := range r.plan.Participants {
		if slices.Contains(p.Addrs, addr) {
			return p.Host
		}
	}
	return ""
}

// restore is R4: every member stands restored, its sockets in repair mode, no task running.
func (r *Restoration) restore(ctx context.Context) error {
	lock := filepath.Join(r.a.cfg.StateDir, "locks", r.job()+".criu")
	// What the ended members' kernels had left to say (FIN, RST) is held by now, on every host: it must
	// not reach the sockets to come, which have the same addresses.
	if err := r.a.cfg.Gates.Discard(ctx, r.job()); err != nil {
		return r.wrap("discarding old packets", err)
	}
	if err := r.putFilesBack(); err != nil {
		return r.wrap("restoring", err)
	}
	errs := make([]error, len(r.members))
	var wg sync.WaitGroup
	for i := range r.members {
		rm := &r.members[i]
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = r.restoreOne(ctx, rm, lock)
		}()
	}
	wg.Wait()
	return r.wrap("restoring", errors.Join(errs...))
}

func (r *Restoration) restoreOne(ctx context.Context, rm *restoring, lock string) error {
	m, err := r.a.cfg.Cells.NewCell(ctx, rm.member)
	if err != nil {
		return fmt.Errorf("%s: make a cell: %w", rm.member.Name, err)
	}
	rm.member = m
	hand, err := r.hand(rm)
	if err != nil {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	rm.criu, err = r.a.cfg.CRIU.StartRestore(ctx, RestoreSpec{Unit: m.Units()[0], Dir: rm.images, LogDir: filepath.Dir(rm.images), LockFile: lock, Hand: hand})
	if err != nil {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	// Before the tree runs: what it forks must not draw a process number that CRIU will need.
	if rm.member, err = r.a.cfg.Cells.Adopt(ctx, m, rm.criu.InnerPid()); err != nil {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	if err := r.applyInventory(ctx, rm); err != nil {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	r.redirect(ctx, rm.member)
	return nil
}

// redirect is R6 for a member. Where the kernel cannot do it the job is restored nevertheless: its connections are whole, and it may never open
// another one.
func (r *Restoration) redirect(ctx context.Context, m Member) {
	err := r.a.cfg.Cells.Redirect(ctx, m)
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range m.Aliases {
		r.notices = append(r.notices, fmt.Sprintf("%s: connections that it opens to the old address %s do not reach %s: %v", m.Name, a.From, a.To, err))
	}
}

// resume is R5: it lets the restored members run and opens this host's gates. Those of the others hold whatever comes for a
// host that has not resumed yet.
func (r *Restoration) resume(ctx context.Context) error {
	if err := r.a.standings.noteDecision(ctx, r.stated, r.plan.Statement); err != nil {
		return r.wrap("resuming", err) // nobody could tell these members from older copies
	}
	errs := make([]error, len(r.members))
	var wg sync.WaitGroup
	for i := range r.members {
		wg.Go(func() { errs[i] = r.resumeOne(ctx, &r.members[i]) })
	}
	wg.Wait()
	errs = append(errs, r.a.cfg.Gates.OpenAll(ctx, r.job()))
	if err := errors.Join(errs...); err != nil {
		return r.wrap("resuming", err)
	}
	if err := r.endFiles(true); err != nil {
		r.a.log.Warn("what the files of the cut have replaced", "job", r.job(), "error", err)
	}
	return nil
}

func (r *Restoration) resumeOne(ctx context.Context, rm *restoring) error {
	if err := rm.criu.Resume(ctx); err != nil {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	if _, err := r.a.cfg.Cells.Adopt(ctx, rm.member, rm.criu.InnerPid()); err != nil && !r.ended(ctx, rm.member) {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	return nil
}

// ended says whether the root of a member that CRIU has let run has ended. One that did so had no more to do: that is not a failed
// resume. The cell's PID 1, which was told of the root before, writes down how it ended, perhaps a moment later.
func (r *Restoration) ended(ctx context.Context, m Member) bool {
	members, err := r.a.cfg.Cells.Members(ctx)
	if err != nil {
		return false
	}
	i := slices.IndexFunc(members, func(o Member) bool { return o.Job == m.Job && o.Name == m.Name })
	if i < 0 || members[i].State == Running && members[i].Pid != 0 && members[i].InnerPid == m.InnerPid {
		return false
	}
	r.a.log.Info("member ended after it was resumed", "job", m.Job, "member", m.Name, "exit", members[i].Exit)
	return true
}

// stop ends the job on this host, restored or live, and opens its gates.
func (r *Restoration) stop(ctx context.Context) error {
	errs := []error{r.cancelTrees(ctx)}
	_, err := r.a.killMembers(ctx, r.job())
	errs = append(errs, err)
	if err == nil {
		if err := r.endFiles(false); err != nil {
			r.a.log.Warn("files are not as they were before the restore", "job", r.job(), "error", err)
		}
	}
	return r.wrap("backing out", errors.Join(append(errs, r.a.standings.undo(ctx, r.job()), r.a.cfg.Gates.OpenAll(ctx, r.job()))...))
}

// cancelTrees ends what CRIU has restored and what does not run yet.
func (r *Restoration) cancelTrees(ctx context.Context) error {
	var errs []error
	for i := range r.members {
		if c := r.members[i].criu; c != nil {
			errs = append(errs, c.Cancel(ctx))
		}
	}
	return errors.Join(errs...)
}
