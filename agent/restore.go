package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"ss/agent/files"
	"ss/fault"
	"ss/marker"
	"ss/names"
	"ss/standing"
	"ss/store/images"
	"ss/store/keys"
)

// RestorePlan is one host's part of a restore (R1 of docs/restore.md).
type RestorePlan struct {
	ID           string
	Key          marker.Key
	Parts        []RestorePart
	Moved        map[netip.Addr]netip.Addr
	Participants []Participant // every host that gets a part, this one included
	JobKey       keys.Job      `json:"-"` // of the images; in memory only, and in no note
	Statement    []byte        // signed: where the members stand afterwards (F1); empty for a plan that is only checked
}

// RestorePart is one source host's image set, to be restored here.
type RestorePart struct {
	Host    string
	Digest  string
	Members []Member
	Sources []Participant // hosts that hold the set
	Vaults  []string      // URLs of vaults that do
}

// Restoration is one host's side of a restore. Its steps are called in order, by one goroutine; the
// fate of the others may be asked for by other agents meanwhile.
type Restoration struct {
	a    *Agent
	plan RestorePlan
	dir  string // work folder: unpacked and rewritten images, CRIU's logs
	free func()

	members []restoring
	undo    *files.Undo        // of the files that were put back, until the members run
	stated  standing.Statement // of the plan

	mu        sync.Mutex
	state     restoreState
	stopped   bool  // the job's members here were ended
	resumeErr error // of resuming
}

// restoring is one member on its way back.
type restoring struct {
	part   RestorePart
	member Member
	images string // rewritten
	criu   Restore
}

type restoreState int

const (
	restorePlanned  restoreState = iota
	restoreArmed                 // R2: everything is here; what it ends is noted for a restart from here on
	restoreFenced                // R3: gates closed, live members gone
	restoreStanding              // R4: every member stands at its post-restore notification
	restoreDecided               // R5: the job will run again everywhere
	restoreResumed               // it does here, or resumeErr says why not
	restoreOver                  // backed out: it will do nothing any more
)

// errBackedOut says that another host's word, or a lost one, has ended the restore here.
var errBackedOut = fault.New(fault.RolledBack, "this host has backed out of the restore", "restore again")

// StartRestore takes the job and the plan. The caller must Close the Restoration.
func (a *Agent) StartRestore(plan RestorePlan) (*Restoration, error) {
	err := a.checkOpen(string(plan.Key.Job), plan.ID, plan.Participants)
	for _, part := range plan.Parts {
		if !names.Valid(part.Host) {
			err = fault.New(fault.Usage, fmt.Sprintf("%q is no host's name", part.Host), "")
		}
		for _, m := range part.Members {
			if !names.Valid(m.Name) {
				err = fault.New(fault.Usage, fmt.Sprintf("%q is no member's name", m.Name), "")
			}
		}
	}
	if err != nil {
		return nil, a.fail("restore", string(plan.Key.Job), err)
	}
	stated, err := a.standings.planned(plan)
	if err != nil {
		return nil, a.fail("restore", string(plan.Key.Job), err)
	}
	free, err := a.hold(string(plan.Key.Job), "restore "+plan.ID)
	if err != nil {
		return nil, a.fail("restore", string(plan.Key.Job), err)
	}
	r := &Restoration{
		a: a, plan: plan, free: free, stated: stated, dir: filepath.Join(a.cfg.StateDir, "restore", plan.ID),
	}
	a.mu.Lock()
	a.restores[plan.ID] = r
	a.mu.Unlock()
	return r, nil
}

func (r *Restoration) job() string { return string(r.plan.Key.Job) }

func (r *Restoration) wrap(phase string, err error) error {
	if err == nil {
		return nil
	}
	return &fault.Error{Op: "restore", Host: r.a.cfg.Host, Job: r.job(), Snapshot: string(r.plan.Key.Snapshot), Phase: phase, Err: err}
}

func (r *Restoration) key(host string) images.Key {
	return images.Key{Job: r.job(), Snapshot: string(r.plan.Key.Snapshot), Host: host}
}

// Fence is R3: gates close for the connections and ports to come, and then the job's live members end.
func (r *Restoration) Fence(ctx context.Context) error {
	gates, err := r.gates()
	if err != nil {
		return r.wrap("fencing", err)
	}
	if err := r.advance(restoreArmed, restoreFenced); err != nil {
		return r.wrap("fencing", err)
	}
	if err := r.a.standings.begin(ctx, r.stated, gates); err != nil {
		return r.wrap("keeping out the hosts that do not take part", err)
	}
	if err := r.a.cfg.Gates.Close(ctx, gates); err != nil {
		return r.wrap("closing the gates", err)
	}
	if _, err := r.a.killMembers(ctx, r.job()); err != nil {
		return r.wrap("ending the live members", err)
	}
	if err := r.clear(ctx); err != nil {
		return r.wrap("destroying what closed connections have left", err)
	}
	return nil
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
			conns[peer] = append(conns[peer], c)
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

// Restore is R4: every member stands restored, its sockets in repair mode, no task running.
func (r *Restoration) Restore(ctx context.Context) error {
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
	if err := errors.Join(errs...); err != nil {
		return r.wrap("restoring", err)
	}
	return r.wrap("restoring", r.advance(restoreFenced, restoreStanding))
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
	rm.criu, err = r.a.cfg.CRIU.StartRestore(ctx, RestoreSpec{Member: m, Dir: rm.images, LogDir: filepath.Dir(rm.images), LockFile: lock, Hand: hand})
	if err != nil {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	// Before the tree runs: what it forks must not draw a process number that CRIU will need.
	if rm.member, err = r.a.cfg.Cells.Adopt(ctx, m, rm.criu.InnerPid()); err != nil {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	return nil
}

// Resume is R5. The first of the participants decides that the job runs again, and no other resumes before that is
// known: so whatever becomes of ssctl, all resume or none.
func (r *Restoration) Resume(ctx context.Context) error {
	if first := r.plan.Participants[0]; first.Host != r.a.cfg.Host {
		fate, err := r.a.ask(ctx, first, r.plan, true)
		if err != nil {
			return r.wrap("resuming", fmt.Errorf("%s decides whether the job runs again: %w", first.Host, err))
		}
		if fate != FateResumed {
			return r.wrap("resuming", errBackedOut)
		}
	}
	if err := r.advance(restoreStanding, restoreDecided); err != nil {
		return r.wrap("resuming", err)
	}
	return r.wrap("resuming", r.resumeHere(ctx))
}

// resumeHere lets the restored members run and opens this host's gates: those of the others hold whatever comes for a
// host that has not resumed yet.
func (r *Restoration) resumeHere(ctx context.Context) error {
	errs := []error{r.a.standings.decide(ctx, r.stated, r.plan.Statement)}
	for i := range r.members {
		if errs[0] != nil {
			break // nobody could tell these members from older copies
		}
		rm := &r.members[i]
		if err := rm.criu.Resume(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rm.member.Name, err))
			continue
		}
		if _, err := r.a.cfg.Cells.Adopt(ctx, rm.member, rm.criu.InnerPid()); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rm.member.Name, err))
		}
	}
	errs = append(errs, r.a.cfg.Gates.OpenAll(ctx, r.job()))
	if errors.Join(errs...) == nil {
		if err := r.settleFiles(true); err != nil {
			r.a.log.Warn("what the files of the cut have replaced", "job", r.job(), "error", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.resumeErr = restoreResumed, errors.Join(errs...)
	if r.resumeErr == nil {
		r.resumeErr = r.note()
	}
	return r.resumeErr
}

// advance goes from one state to the next, and notes it where a restart of the agent must know. It fails if the
// restore is elsewhere: backed out.
func (r *Restoration) advance(from, to restoreState) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == restoreDecided && to == restoreDecided {
		return nil // another participant was told before this one
	}
	if r.state != from {
		return errBackedOut
	}
	r.state = to
	if to == restoreArmed || to == restoreFenced {
		return r.note()
	}
	return nil
}

// Abort ends the restore and with it what is left of the job on this host: it is over everywhere.
func (r *Restoration) Abort(ctx context.Context) error {
	return r.wrap("backing out", r.stop(ctx))
}

// Close ends the restore on this host. Without a word to resume, heard here or elsewhere, it is backed out of: restored trees
// are killed, gates opened, and if another host has ended its live members, this one ends them, too. An agent that stops leaves its note: the
// others may have ended the job by the time it is back, since it was gone, and its next start asks them, as after a crash.
func (r *Restoration) Close(ctx context.Context) error {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	defer r.free()
	err := r.settleFate(ctx)
	r.a.mu.Lock()
	r.a.fates.put(r.plan.ID, r.fate())
	delete(r.a.restores, r.plan.ID)
	stopping := r.a.closed
	r.a.mu.Unlock()
	err = errors.Join(err, os.RemoveAll(r.dir))
	if stopping {
		return err
	}
	return errors.Join(err, ignoreGone(os.Remove(r.noteFile())))
}

func (r *Restoration) settleFate(ctx context.Context) error {
	r.mu.Lock()
	state, failed := r.state, r.resumeErr != nil
	r.mu.Unlock()
	switch state {
	case restoreArmed:
		if r.stoppedElsewhere(ctx) {
			return r.stop(ctx)
		}
	case restoreFenced:
		return r.stop(ctx)
	case restoreStanding:
		return r.settleStanding(ctx)
	case restoreDecided:
		return r.resumeHere(ctx)
	case restoreResumed:
		if failed {
			return r.stop(ctx)
		}
	}
	return nil
}

// settleStanding ends the restore of a host that stood ready when it lost ssctl.
func (r *Restoration) settleStanding(ctx context.Context) error {
	if first := r.plan.Participants[0]; first.Host != r.a.cfg.Host {
		fate, err := r.a.ask(ctx, first, r.plan, false)
		if err == nil && fate == FateResumed && r.advance(restoreStanding, restoreDecided) == nil {
			return r.resumeHere(ctx)
		}
		return errors.Join(err, r.stop(ctx))
	}
	r.mu.Lock()
	decided := r.state == restoreDecided // by one who asked meanwhile
	if !decided {
		r.state = restoreFenced
	}
	r.mu.Unlock()
	if decided {
		return r.resumeHere(ctx)
	}
	return r.stop(ctx)
}

// stop ends the job on this host, restored or live, and opens its gates.
func (r *Restoration) stop(ctx context.Context) error {
	r.mu.Lock()
	touched := r.state != restorePlanned
	r.state = restoreOver
	r.stopped = touched
	r.mu.Unlock()
	if !touched {
		return nil
	}
	var errs []error
	for i := range r.members {
		if c := r.members[i].criu; c != nil {
			errs = append(errs, c.Cancel(ctx))
		}
	}
	_, err := r.a.killMembers(ctx, r.job())
	if err := r.settleFiles(false); err != nil {
		r.a.log.Warn("files are not as they were before the restore", "job", r.job(), "error", err)
	}
	return errors.Join(append(errs, err, r.a.standings.undo(ctx, r.job()), r.a.cfg.Gates.OpenAll(ctx, r.job()))...)
}
