package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/agent/custody"
	"ss/fault"
	"ss/standing"
)

// Standing is what one host says to another of the last restore of a job that it knows of (F2 of docs/restore.md).
type Standing struct {
	Job       string
	Epoch     uint64 // of the restore; 0 if it knows of none
	Statement []byte // signed; empty where the other knows it
	InForce   bool   // the host took part in that restore, and it has been decided
	Settled   bool   // the host has no member that is older
}

// standings keeps what this host knows of the jobs' restores, and does what follows from it (F1 to F5). It is safe for concurrent use.
type standings struct {
	a    *Agent
	dir  string
	kick chan struct{} // has one token when there is something to do before the next tick

	mu   sync.Mutex
	jobs map[string]*jobStanding

	blocking sync.Mutex // one change of the host's blocks at a time
	blocks   map[string]Block
	inKernel []Block
	asserted time.Time
}

// jobStanding is one job's part of it.
type jobStanding struct {
	working sync.Mutex // held while work is found and done

	// Guarded by standings.mu.
	rec     standing.Record
	begun   *Block          // of a restore here between its R3 and its decision
	ask     []standing.Host // hosts to ask since the agent's start that have not answered
	active  bool            // there is something to do at each tick
	contact map[string]bool // hosts that are being asked now
}

func newStandings(a *Agent) *standings {
	return &standings{a: a, dir: filepath.Join(a.cfg.StateDir, "standing"), kick: make(chan struct{}, 1),
		jobs: map[string]*jobStanding{}, blocks: map[string]Block{}}
}

// job finds or makes a job's part.
func (s *standings) job(name string) *jobStanding {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.jobs[name]
	if !ok {
		j = &jobStanding{rec: standing.Record{Job: name}, contact: map[string]bool{}}
		s.jobs[name] = j
	}
	return j
}

func (s *standings) record(job string) standing.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j, ok := s.jobs[job]; ok {
		return j.rec
	}
	return standing.Record{Job: job}
}

// change applies a step of the record, durably.
func (s *standings) change(job string, step func(standing.Record) (standing.Record, bool)) error {
	j := s.job(job)
	s.mu.Lock()
	defer s.mu.Unlock()
	next, changed := step(j.rec)
	if !changed {
		return nil
	}
	if err := s.save(next); err != nil {
		return fmt.Errorf("note where the members of job %s stand: %w", job, err)
	}
	j.rec, j.active = next, true
	return nil
}

// wake has the loop look at once.
func (s *standings) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// recover freezes what the records say is old, and puts the blocks up, before the agent serves anyone. Peers are asked by the
// loop, which starts then.
func (s *standings) recover(ctx context.Context) error {
	all, err := s.a.cfg.Cells.Members(ctx)
	if err != nil {
		return fmt.Errorf("list members: %w", err)
	}
	for _, m := range all {
		j := s.job(m.Job)
		j.ask, j.active = j.rec.Ask(s.a.cfg.Host), true
	}
	for _, job := range s.names() {
		if _, err := s.carryOut(ctx, job); err != nil {
			s.a.log.Error("where members stand", "job", job, "error", err)
			s.job(job).active = true // the loop tries again
		}
	}
	return s.assert(ctx, true)
}

func (s *standings) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for job := range s.jobs {
		out = append(out, job)
	}
	slices.Sort(out)
	return out
}

// membersOf lists the members of a job here, ended ones too.
func (s *standings) membersOf(ctx context.Context, job string) ([]Member, error) {
	all, err := s.a.cfg.Cells.Members(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m Member) bool { return m.Job != job }), nil
}

func seen(members []Member) []standing.Member {
	var out []standing.Member
	for _, m := range members {
		out = append(out, standing.Member{Name: m.Name, Epoch: m.Epoch, Frozen: m.Frozen || m.State != Running, Unknown: m.State == Aside})
	}
	return out
}

// carryOut does what the job's record asks for here (F3, F4), and returns what is left to do. An old copy is first cut off, then frozen, and
// ended when it is known that the restore took place.
func (s *standings) carryOut(ctx context.Context, job string) (standing.Duties, error) {
	j := s.job(job)
	j.working.Lock()
	defer j.working.Unlock()
	members, err := s.membersOf(ctx, job)
	if err != nil {
		return standing.Duties{}, err
	}
	if err := s.change(job, func(r standing.Record) (standing.Record, bool) { return r.Stood(seen(members)) }); err != nil {
		return standing.Duties{}, err
	}
	w := s.record(job).Duties(s.a.cfg.Host, seen(members))
	s.mu.Lock()
	begun := j.begun
	s.mu.Unlock()
	if begun != nil { // the restore ends what is old, and knows what it needs
		return standing.Duties{}, s.block(ctx, *begun)
	}
	if w.Block.Everyone {
		if w, err = s.stopOldCopies(ctx, job, members, w); err != nil {
			return w, err
		}
	}
	if !w.Block.Everyone {
		err = s.block(ctx, s.blockOf(ctx, job, members, w.Block))
	}
	s.mu.Lock()
	j.active = !w.Settled || len(w.Contact) > 0 || len(j.ask) > 0
	s.mu.Unlock()
	return w, err
}

// stopOldCopies is F3: the old copies here are cut off from everyone and frozen, and ended when that is confirmed.
func (s *standings) stopOldCopies(ctx context.Context, job string, members []Member, w standing.Duties) (standing.Duties, error) {
	rec := s.record(job)
	blocked := s.block(ctx, s.blockOf(ctx, job, members, w.Block))
	errs := []error{blocked}
	for _, m := range members {
		if slices.Contains(w.Freeze, m.Name) {
			if err := s.a.cfg.Cells.Freeze(ctx, m); err != nil {
				errs = append(errs, err)
				continue
			}
			s.a.log.Warn("member frozen: the job was restored elsewhere", "job", job, "member", m.Name, "epoch", m.Epoch, "newer", rec.Epoch)
		}
	}
	if len(w.End) == 0 {
		return w, errors.Join(errs...)
	}
	free, err := s.a.lockJob(job, "the end of old copies")
	if err != nil { // an attempt that was cut short holds it until its lease ends
		return w, errors.Join(append(errs, err)...)
	}
	defer free()
	for _, m := range members {
		if slices.Contains(w.End, m.Name) {
			if err := s.a.endMember(ctx, m); err != nil {
				errs = append(errs, fmt.Errorf("end %s: %w", m.Name, err))
				continue
			}
			s.a.log.Warn("member ended: the job was restored elsewhere", "job", job, "member", m.Name, "epoch", m.Epoch, "newer", rec.Epoch)
		}
	}
	left, err := s.membersOf(ctx, job)
	if err := errors.Join(append(errs, err)...); err != nil {
		return w, err
	}
	w = rec.Duties(s.a.cfg.Host, seen(left))
	return w, s.block(ctx, s.blockOf(ctx, job, left, w.Block))
}

// blockOf describes to the gates what a record wants to be blocked.
func (s *standings) blockOf(ctx context.Context, job string, members []Member, b standing.Block) Block {
	out := Block{Job: job, Everyone: b.Everyone, From: b.From}
	if b.Empty() {
		return out
	}
	if !b.Everyone {
		out.Listen = slices.Clone(s.record(job).Listen)
	}
	for _, m := range members {
		if m.State != Running {
			continue
		}
		if m.JobGroup != 0 && !slices.Contains(out.Cgroups, m.JobGroup) {
			out.Cgroups = append(out.Cgroups, m.JobGroup)
		}
		if !b.Everyone && !m.Attached {
			continue
		}
		// Sockets that were made before their process came into its cgroup do not count as the cgroup's.
		socks, err := s.a.cfg.Cells.Sockets(ctx, m)
		if err != nil {
			s.a.log.Warn("sockets of a member", "job", job, "member", m.Name, "error", err)
		}
		out = out.with(socks)
	}
	return out
}

func (b Block) with(socks []Socket) Block {
	for _, k := range socks {
		switch {
		case k.Listening && !slices.Contains(b.Listen, k.Local):
			b.Listen = append(b.Listen, k.Local)
		case !k.Listening && k.Remote.IsValid() && b.Everyone:
			b.Conns = append(b.Conns, Conn{k.Local, k.Remote})
		}
	}
	return b
}

func (b Block) empty() bool { return !b.Everyone && len(b.From) == 0 }

// block puts a job's block into force, in place of its earlier one.
func (s *standings) block(ctx context.Context, b Block) error {
	s.blocking.Lock()
	s.blocks[b.Job] = b
	if b.empty() {
		delete(s.blocks, b.Job)
	}
	s.blocking.Unlock()
	return s.assert(ctx, false)
}

// assertEvery is how often blocks are put up again that nobody should have removed: they protect against what this host cannot see.
const assertEvery = 5 * time.Second

// assert makes the host's blocks those that are wanted. With always it does so though they have not changed.
func (s *standings) assert(ctx context.Context, always bool) error {
	s.blocking.Lock()
	defer s.blocking.Unlock()
	want := make([]Block, 0, len(s.blocks))
	for _, b := range s.blocks {
		want = append(want, b)
	}
	slices.SortFunc(want, func(x, y Block) int { return strings.Compare(x.Job, y.Job) })
	same := reflect.DeepEqual(want, s.inKernel) || len(want)+len(s.inKernel) == 0
	if same && !always && (len(want) == 0 || time.Since(s.asserted) < assertEvery) {
		return nil
	}
	if err := s.a.cfg.Gates.Block(ctx, want); err != nil {
		return err
	}
	s.inKernel, s.asserted = want, time.Now()
	return nil
}

// begin is a restore's R3 on this host: what superseded hosts send does not reach the job's ports from here on.
func (s *standings) begin(ctx context.Context, st standing.Statement, gates []Gate) error {
	if st.Epoch == 0 {
		return fault.New(fault.Usage, "the plan has no statement of where the members stand", "use an ssctl of the agent's version")
	}
	var listen []netip.AddrPort
	for _, g := range gates {
		for _, l := range g.Listen {
			if !slices.Contains(listen, l) {
				listen = append(listen, l)
			}
		}
	}
	b := Block{Job: st.Job, From: standing.Foreign(st, st.Superseded), Listen: listen}
	j := s.job(st.Job)
	s.mu.Lock()
	j.begun = &b
	s.mu.Unlock()
	return s.block(ctx, b)
}

// noteDecision is F1: the restore takes place. That is noted, and the block has the members' cgroups, before they run. The restore's first target decides, not
// this.
func (s *standings) noteDecision(ctx context.Context, st standing.Statement, encoded []byte) error {
	j := s.job(st.Job)
	s.mu.Lock()
	var listen []netip.AddrPort
	if j.begun != nil {
		listen = j.begun.Listen
	}
	next, err := j.rec.Decided(st, encoded, listen)
	if err == nil {
		err = s.save(next)
	}
	if err == nil {
		j.rec, j.begun, j.active = next, nil, true
	}
	s.mu.Unlock()
	if err == nil {
		_, err = s.carryOut(ctx, st.Job)
	}
	if err != nil {
		return fmt.Errorf("note that job %s is restored: %w", st.Job, err)
	}
	s.wake()
	return nil
}

// undo ends begin where the restore was not decided.
func (s *standings) undo(ctx context.Context, job string) error {
	j := s.job(job)
	s.mu.Lock()
	was := j.begun
	j.begun = nil
	s.mu.Unlock()
	if was == nil {
		return nil
	}
	_, err := s.carryOut(ctx, job)
	return err
}

// old says whether a member is an old copy, which must not run.
func (s *standings) old(m Member) bool {
	return s.record(m.Job).Old(standing.Member{Name: m.Name, Epoch: m.Epoch, Unknown: m.State == Aside})
}

// thaw lets a member run, unless it is an old copy: an attempt that ends must not wake that.
func (a *Agent) thaw(ctx context.Context, m Member) error {
	if a.standings.old(m) {
		return nil
	}
	return a.cfg.Cells.Thaw(ctx, m)
}

// list is what an admin may know: of the jobs that have members here, and of those of whose restore this host knows.
func (s *standings) list(ctx context.Context) ([]Standing, error) {
	all, err := s.a.cfg.Cells.Members(ctx)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	var out []Standing
	names := s.names()
	for _, m := range all {
		names = append(names, m.Job)
	}
	slices.Sort(names)
	for _, job := range slices.Compact(names) {
		r := s.record(job)
		if r.Epoch > 0 || slices.ContainsFunc(all, func(m Member) bool { return m.Job == job }) {
			out = append(out, Standing{Job: job, Epoch: r.Epoch, Statement: r.Statement, InForce: r.InForce})
		}
	}
	return out, nil
}

// met notes with whom this host has to do in a job, for the agent's next start.
func (s *standings) met(job string, peers []custody.Peer) error {
	var hosts []standing.Host
	for _, p := range peers {
		if p.Host != s.a.cfg.Host {
			hosts = append(hosts, standing.Host{Name: p.Host, Endpoint: p.Endpoint})
		}
	}
	return s.change(job, func(r standing.Record) (standing.Record, bool) { return r.Met(hosts) })
}
