package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"ss/fault"
	"ss/marker"
	"ss/store/images"
)

// RestorePlan is one host's part of a restore (R1 of docs/restore.md).
type RestorePlan struct {
	ID           string
	Key          marker.Key
	Parts        []RestorePart
	Moved        map[netip.Addr]netip.Addr
	Participants []Participant // every host that gets a part, this one included
}

// RestorePart is one source host's image set, to be restored here.
type RestorePart struct {
	Host    string
	Digest  string
	Members []Member
	Sources []Participant // hosts that hold the set
}

// Restoration is one host's side of a restore. Its steps are called in order, by one goroutine; the
// fate of the others may be asked for by other agents meanwhile.
type Restoration struct {
	a    *Agent
	plan RestorePlan
	dir  string // work folder: rewritten images, CRIU's logs
	free func()

	manifests map[string]images.Manifest // by source host
	members   []restoring

	mu      sync.Mutex
	state   restoreState
	resumed chan struct{}
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
	restoreFenced                // gates closed, live members gone
	restoreStanding              // R4: every member stands at its post-restore notification
	restoreResumed               // R5
	restoreOver                  // backed out, or open again: it will not resume any more
)

// StartRestore takes the job and the plan. The caller must Close the Restoration.
func (a *Agent) StartRestore(plan RestorePlan) (*Restoration, error) {
	free, err := a.hold(string(plan.Key.Job), "restore "+plan.ID)
	if err != nil {
		return nil, a.fail("restore", string(plan.Key.Job), err)
	}
	r := &Restoration{
		a: a, plan: plan, free: free, dir: filepath.Join(a.cfg.StateDir, "restore", plan.ID),
		manifests: map[string]images.Manifest{}, resumed: make(chan struct{}),
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

// Fetch is R2: every part is here, every byte of it is checked, and the images are rewritten for this host.
func (r *Restoration) Fetch(ctx context.Context) error {
	for _, part := range r.plan.Parts {
		if err := r.fetchPart(ctx, part); err != nil {
			return r.wrap("fetching", err)
		}
	}
	return r.wrap("rewriting", r.rewrite())
}

func (r *Restoration) fetchPart(ctx context.Context, part RestorePart) error {
	key := r.key(part.Host)
	_, err := r.a.cfg.Images.Verify(ctx, key, part.Digest)
	if err == nil {
		return nil
	}
	if !errors.Is(err, images.ErrNotFound) {
		return &fault.Error{Kind: imageKind(err), Err: fmt.Errorf("images of %s: %w", part.Host, err),
			Next: "ssctl verify says which copies are whole; ssctl show says which hosts have one"}
	}
	errs := []error{}
	for _, src := range part.Sources {
		if src.Host == r.a.cfg.Host {
			continue
		}
		if err = r.a.cfg.Peers.GetImages(ctx, src, key, part.Digest); err == nil {
			return r.a.cfg.Images.Commit(key)
		}
		errs = append(errs, fmt.Errorf("from %s: %w", src.Host, err))
	}
	err = errors.Join(errs...)
	return &fault.Error{Kind: imageKind(err), Err: fmt.Errorf("no host could give the images of %s: %w", part.Host, err)}
}

func (r *Restoration) rewrite() error {
	for _, part := range r.plan.Parts {
		for _, m := range part.Members {
			src, err := r.a.cfg.Images.Dir(r.key(part.Host), m.Name)
			if err != nil {
				return err
			}
			dst := filepath.Join(r.dir, m.Name, imagesFolder)
			if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
				return err
			}
			if err := r.a.cfg.CRIU.Rewrite(filepath.Join(src, imagesFolder), dst, r.plan.Moved); err != nil {
				return fmt.Errorf("addresses in the images of %s: %w", m.Name, err)
			}
			r.members = append(r.members, restoring{part: part, member: m, images: dst})
		}
	}
	return nil
}

// Fence is R3: gates close for the connections and ports to come, and then the job's live members end.
func (r *Restoration) Fence(ctx context.Context) error {
	gates, err := r.gates()
	if err != nil {
		return r.wrap("fencing", err)
	}
	// From here on there is something to undo, also for an agent that is started again.
	if err := r.note(); err != nil {
		return r.wrap("fencing", err)
	}
	r.become(restoreFenced)
	if err := r.a.cfg.Gates.Close(ctx, gates); err != nil {
		return r.wrap("closing the gates", err)
	}
	if _, err := r.a.killMembers(ctx, r.job()); err != nil {
		return r.wrap("ending the live members", err)
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
	r.become(restoreStanding)
	return nil
}

func (r *Restoration) restoreOne(ctx context.Context, rm *restoring, lock string) error {
	if err := r.putFilesBack(rm); err != nil {
		return fmt.Errorf("%s: files of the cut: %w", rm.member.Name, err)
	}
	m, err := r.a.cfg.Cells.NewCell(ctx, rm.member)
	if err != nil {
		return fmt.Errorf("%s: make a cell: %w", rm.member.Name, err)
	}
	rm.member = m
	rm.criu, err = r.a.cfg.CRIU.StartRestore(ctx, RestoreSpec{Member: m, Dir: rm.images, LogDir: filepath.Dir(rm.images), LockFile: lock})
	if err != nil {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	// Before the tree runs: what it forks must not draw a process number that CRIU will need.
	if rm.member, err = r.a.cfg.Cells.Adopt(ctx, m, rm.criu.InnerPid()); err != nil {
		return fmt.Errorf("%s: %w", rm.member.Name, err)
	}
	return nil
}

func (r *Restoration) putFilesBack(rm *restoring) error {
	src, err := r.a.cfg.Images.Dir(r.key(rm.part.Host), rm.member.Name)
	if err != nil {
		return err
	}
	files, err := storedFiles(filepath.Join(src, imagesFolder))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
			return err
		}
		if err := putBack(filepath.Join(src, filesFolder, f.Name), f); err != nil {
			return err
		}
	}
	return nil
}

// Resume is R5. The others are told first: whatever happens to ssctl or to this agent afterwards, a
// job that has resumed somewhere resumes everywhere.
func (r *Restoration) Resume(ctx context.Context) error {
	for _, p := range r.plan.Participants {
		if p.Host == r.a.cfg.Host {
			continue
		}
		if _, err := r.a.cfg.Peers.RestoreFate(ctx, p, r.job(), r.plan.ID, true); err != nil {
			r.a.log.Warn("peer not told of the resume", "job", r.job(), "host", p.Host, "error", err)
		}
	}
	return r.wrap("resuming", r.resumeHere(ctx))
}

// resumeHere lets the restored members run and opens this host's gates: those of the others hold
// whatever comes for a host that has not resumed yet.
func (r *Restoration) resumeHere(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.state {
	case restoreResumed:
		return nil
	case restoreStanding:
	default:
		return fault.New(fault.RolledBack, "this host has backed out of the restore", "restore again")
	}
	r.state = restoreResumed
	close(r.resumed)
	var errs []error
	for i := range r.members {
		rm := &r.members[i]
		if err := rm.criu.Resume(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rm.member.Name, err))
		}
	}
	errs = append(errs, r.a.cfg.Gates.OpenAll(ctx, r.job()))
	return errors.Join(errs...)
}

func (r *Restoration) become(s restoreState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = s
}

// Close ends the restore on this host. If the job has not resumed, here or elsewhere, it is backed out of:
// restored trees are killed and gates opened.
func (r *Restoration) Close(ctx context.Context) error {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	defer r.free()
	err := r.settleFate(ctx)
	r.a.mu.Lock()
	delete(r.a.restores, r.plan.ID)
	r.a.mu.Unlock()
	return errors.Join(err, os.RemoveAll(r.dir), ignoreGone(os.Remove(r.noteFile())))
}

func (r *Restoration) settleFate(ctx context.Context) error {
	r.mu.Lock()
	state := r.state
	r.mu.Unlock()
	if state == restoreStanding && r.resumedElsewhere(ctx) {
		return r.resumeHere(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.state {
	case restoreResumed, restorePlanned, restoreOver:
		return nil
	}
	r.state = restoreOver
	var errs []error
	for i := range r.members {
		if c := r.members[i].criu; c != nil {
			errs = append(errs, c.Cancel(ctx))
		}
	}
	_, err := r.a.killMembers(ctx, r.job())
	return errors.Join(append(errs, err, r.a.cfg.Gates.OpenAll(ctx, r.job()))...)
}

func (r *Restoration) resumedElsewhere(ctx context.Context) bool {
	for _, p := range r.plan.Participants {
		if p.Host == r.a.cfg.Host {
			continue
		}
		if resumed, err := r.a.cfg.Peers.RestoreFate(ctx, p, r.job(), r.plan.ID, false); err == nil && resumed {
			return true
		}
	}
	return false
}

// Fate answers another agent: it tells this one that the job has resumed, or asks whether it has here.
func (a *Agent) Fate(ctx context.Context, from, job, id string, resumed bool) (bool, error) {
	a.mu.Lock()
	r := a.restores[id]
	a.mu.Unlock()
	if r != nil && !slices.ContainsFunc(r.plan.Participants, func(p Participant) bool { return p.Host == from }) {
		return false, fault.New(fault.Denied, fmt.Sprintf("%s takes no part in this restore", from), "")
	}
	if r == nil {
		// Over: resumed if its members live here, backed out if not.
		members, err := a.running(ctx, job)
		return err == nil && len(members) > 0, err
	}
	if resumed {
		return true, r.resumeHere(context.WithoutCancel(ctx))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == restoreResumed {
		return true, nil
	}
	if r.state == restoreStanding {
		r.state = restoreFenced // promised: it will not resume any more
	}
	return false, nil
}

// note writes down what a restart of the agent would have to undo.
func (r *Restoration) note() error {
	b, err := json.Marshal(r.job())
	if err != nil {
		return err
	}
	return writeFile(r.noteFile(), b)
}

func (r *Restoration) noteFile() string { return r.dir + ".json" }

// recoverRestores backs out of restores that a crash of this agent cut short. Trees whose CRIU lost its
// agent before the resume are gone; those that had resumed are adopted already, or have a live root.
func (a *Agent) recoverRestores(ctx context.Context) error {
	dir := filepath.Join(a.cfg.StateDir, "restore")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), ".json") {
			var job string
			b, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(b, &job)
			}
			if err != nil {
				return fmt.Errorf("unfinished restore %s: %w", e.Name(), err)
			}
			if err := a.removeHalfRestored(ctx, job); err != nil {
				return fmt.Errorf("unfinished restore of job %s: %w", job, err)
			}
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// removeHalfRestored removes the cells that have no running root.
func (a *Agent) removeHalfRestored(ctx context.Context, job string) error {
	members, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range members {
		if m.Job == job && m.State != Running {
			errs = append(errs, a.endMember(ctx, m))
		}
	}
	return errors.Join(errs...)
}
