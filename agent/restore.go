package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ss/agent/custody"
	"ss/agent/files"
	"ss/fault"
	"ss/marker"
	"ss/names"
	"ss/restoration"
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
	Transit      []Transit     // of the connections of the parts, under the addresses that they have in the cut
	Participants []Participant // every host that takes part, this one included: first those that get a part
	Roster       marker.Digest `json:"-"` // names the list of participants, as in Open
	Targets      int           // how many of them get one. The first decides
	CheckOnly    bool          // R1 and no more
	Statement    []byte        // signed: where the members stand afterwards (F1); empty for a plan that is only checked
}

// RestorePart is one source host's image set, to be restored here. The parts of a restore may be of several snapshots.
type RestorePart struct {
	Snapshot string // that the set was recorded in
	Host     string
	Digest   string
	JobKey   keys.Job `json:"-"` // of the images; in memory only, and in no note
	Members  []Member
	Sources  []custody.Peer // hosts that hold the set
	Vaults   []string       // URLs of vaults that do
	Ends     []EndChange    // those that are not put back as the images have them
}

// Restoration is one host's side of a restore: it carries out what its restoration.Target asks for. One goroutine steps
// the target, everyone else sends it events.
type Restoration struct {
	a    *Agent
	plan RestorePlan
	dir  string // work folder: unpacked and rewritten images, CRIU's logs
	free func()

	stated standing.Statement // of the plan

	// Of the actions, of which one runs at a time.
	members []restoring
	undo    *files.Undo // of the files that were put back, until the members run

	events chan restoreEvent
	quit   chan struct{} // closed when the agent stops
	done   chan struct{} // closed when the loop has ended
	rest   chan struct{} // closed when the job is let go
	zero   time.Time     // of the target's clock

	// Owned by the goroutine of loop.
	t       restoration.Target
	line    *RestoreLine // nil: the coordinator is gone
	cancel  context.CancelFunc
	acting  chan struct{} // closed when the action under way has ended; nil: none was
	release bool          // ActRelease is done

	mu       sync.Mutex
	phase    restoration.Phase
	doubt    bool
	problems []string // that the check found
	notices  []string // of damage that was healed on the way
	failure  error    // why the restore has failed here
}

// restoring is one member on its way back.
type restoring struct {
	part   RestorePart
	member Member
	images string // rewritten
	criu   Restore
}

// restoreEvent is something for the loop: an event of the protocol, or that ActRelease is done, of which the protocol need not know.
type restoreEvent struct {
	at       restoration.Millis // when it came
	ev       restoration.Event
	released bool

	line  *RestoreLine               // ev is about this line
	asker restoration.HostID         // whom reply answers
	reply chan<- restoration.Message // gets the host's report after ev; it has room for it
}

// retryMillis is the time between two questions to a host that does not answer.
const retryMillis = 500

// config is what the target must know.
func (r *Restoration) config() restoration.Config {
	cfg := restoration.Config{ID: restoration.ID(r.plan.ID), Host: restoration.HostID(r.a.cfg.Host), Retry: retryMillis}
	for i, p := range r.plan.Participants {
		if i < r.plan.Targets {
			cfg.Targets = append(cfg.Targets, restoration.HostID(p.Host))
		} else {
			cfg.Old = append(cfg.Old, restoration.HostID(p.Host))
		}
	}
	return cfg
}

// StartRestore takes the job and the plan, and opens the coordinator's line. The caller must Hangup.
func (a *Agent) StartRestore(plan RestorePlan) (*RestoreLine, error) {
	job := string(plan.Key.Job)
	if err := a.checkPlan(plan); err != nil {
		return nil, a.fail("restore", job, err)
	}
	stated, err := a.standings.planned(plan)
	if err != nil {
		return nil, a.fail("restore", job, err)
	}
	free, err := a.lockForRestore(plan)
	if err != nil {
		return nil, a.fail("restore", job, err)
	}
	a.keepRoster(job, roster{plan.Roster, plan.Participants})
	r := a.newRestoration(plan, free)
	r.stated = stated
	if r.t, err = restoration.NewTarget(r.config()); err != nil {
		free()
		return nil, a.fail("restore", job, fault.New(fault.Usage, err.Error(), "use an ssctl of the agent's version"))
	}
	r.line = &RestoreLine{line: newLine[RestoreOut](), r: r}
	r.start()
	return r.line, nil
}

func (a *Agent) checkPlan(plan RestorePlan) error {
	err := a.checkOpen(string(plan.Key.Job), plan.ID, plan.Participants)
	if plan.Targets < 1 || plan.Targets > len(plan.Participants) {
		err = fault.New(fault.Usage, fmt.Sprintf("a restore with %d targets among %d hosts", plan.Targets, len(plan.Participants)), "use an ssctl of the agent's version")
	}
	for _, part := range plan.Parts {
		if !names.Valid(part.Host) {
			err = fault.New(fault.Usage, fmt.Sprintf("invalid host name %q", part.Host), "")
		}
		for _, m := range part.Members {
			if !names.Valid(m.Name) {
				err = fault.New(fault.Usage, fmt.Sprintf("invalid member name %q", m.Name), "")
			}
		}
	}
	return err
}

func (a *Agent) newRestoration(plan RestorePlan, free func()) *Restoration {
	return &Restoration{
		a: a, plan: plan, free: free, dir: filepath.Join(a.cfg.StateDir, "restore", plan.ID),
		events: make(chan restoreEvent, 64), quit: make(chan struct{}), done: make(chan struct{}), rest: make(chan struct{}), zero: time.Now(),
	}
}

// start makes the restoration known to those that ask, and runs it.
func (r *Restoration) start() {
	r.publish()
	r.a.mu.Lock()
	r.a.restores[r.plan.ID] = r
	r.a.mu.Unlock()
	r.a.work.Add(1)
	go func() {
		defer r.a.work.Done()
		defer close(r.done)
		r.loop()
	}()
}

func (r *Restoration) job() string { return string(r.plan.Key.Job) }

func (r *Restoration) wrap(phase string, err error) error {
	if err == nil {
		return nil
	}
	return &fault.Error{Op: "restore", Host: r.a.cfg.Host, Job: r.job(), Snapshot: string(r.plan.Key.Snapshot), Phase: phase, Err: err}
}

func (r *Restoration) key(part RestorePart) images.Key {
	return images.Key{Job: r.job(), Snapshot: part.Snapshot, Host: part.Host}
}

func (r *Restoration) now() restoration.Millis {
	return restoration.Millis(time.Since(r.zero).Milliseconds())
}

// post hands an event to the loop, unless the loop has ended.
func (r *Restoration) post(ev restoreEvent) {
	ev.at = r.now()
	select {
	case r.events <- ev:
	case <-r.done:
	}
}

func (r *Restoration) loop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	quit := r.quit
	for !r.t.Settled() || !r.release {
		if d := r.t.Deadline(); d > 0 {
			timer.Reset(time.Duration(d-r.now()) * time.Millisecond)
		} else {
			timer.Stop()
		}
		select {
		case ev := <-r.events:
			r.handle(ev)
		case <-timer.C:
			r.tick(r.now())
		case <-quit:
			r.abandon()
			return
		}
	}
	r.forget()
}

func (r *Restoration) handle(ev restoreEvent) {
	if ev.released {
		r.release = true
		return
	}
	switch e := ev.ev.(type) {
	case restoration.Gone:
		if ev.line != r.line {
			return
		}
		r.line = nil
	case restoration.ActionFailed:
		r.a.log.Warn("restore", "job", r.job(), "restore", r.plan.ID, "action", e.Action.String(), "error", e.Reason)
	}
	r.step(restoration.Tick{Now: ev.at})
	r.step(ev.ev)
	if ev.reply != nil {
		ev.reply <- r.t.Report(ev.asker)
	}
}

func (r *Restoration) step(ev restoration.Event) {
	before := r.t.Phase()
	t, ready, err := r.t.Step(ev)
	if err != nil {
		// The core refused the event and is unchanged. That is a defect of this agent, never of a peer.
		r.a.log.Error("impossible event", "job", r.job(), "restore", r.plan.ID, "error", err)
		return
	}
	r.t = t
	if t.Phase() != before {
		r.a.log.Info("restore", "job", r.job(), "restore", r.plan.ID, "phase", t.Phase().String(), "reason", t.Reason())
	}
	r.execute(ready)
	r.publish()
}

// publish tells others where the target stands.
func (r *Restoration) publish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase, r.doubt = r.t.Phase(), r.t.InDoubt()
}

// execute does the work of one Ready, in field order.
func (r *Restoration) execute(ready restoration.Ready) {
	if ready.Journal != nil {
		if err := r.note(*ready.Journal); err != nil {
			r.a.log.Error("journal of a restore", "job", r.job(), "restore", r.plan.ID, "error", err)
			if ready.Binding {
				r.fail(err)
				r.step(restoration.Unwritten{Reason: err.Error()})
				return
			}
		}
	}
	for _, act := range ready.Actions {
		r.act(act)
	}
	for _, m := range ready.Messages {
		r.send(m)
	}
}

// send takes a message to where it goes. The answer to another host's question goes back with its call.
func (r *Restoration) send(m restoration.Message) {
	switch {
	case m.To == restoration.CoordinatorHost:
		if r.line != nil {
			r.line.put(r.out(m))
		}
	case m.Type == restoration.MsgAsk:
		r.ask(m)
	}
}

// out adds to a report what is not the protocol's business.
func (r *Restoration) out(m restoration.Message) RestoreOut {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := RestoreOut{Message: m, Problems: r.problems, Notices: r.notices}
	if m.Reason != "" {
		o.Failure = r.failure
	}
	return o
}

// fail notes why the restore has failed here, for whoever reads it: the first reason is the cause of the others.
func (r *Restoration) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure == nil {
		r.failure = err
	}
}

// act starts an action.
func (r *Restoration) act(act restoration.ActionType) {
	switch act {
	case restoration.ActCheck:
		r.run(act, restoration.CheckDone{}, func(ctx context.Context) error {
			problems, err := r.Check(ctx)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.problems = problems
			return err
		})
	case restoration.ActFetch:
		r.run(act, restoration.FetchDone{}, func(ctx context.Context) error {
			notices, err := r.Fetch(ctx)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.notices = append(r.notices, notices...)
			return err
		})
	case restoration.ActFence:
		r.run(act, restoration.FenceDone{}, r.fence)
	case restoration.ActRestore:
		r.run(act, restoration.RestoreDone{}, r.restore)
	case restoration.ActResume:
		r.run(act, restoration.ResumeDone{}, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, resumeMax)
			defer cancel()
			return r.resume(ctx)
		})
	case restoration.ActStop:
		r.instead(func() {
			ctx, cancel := cleanup(context.Background())
			defer cancel()
			r.ends(act, restoration.StopDone{}, r.stop(ctx))
		})
	case restoration.ActRelease:
		r.instead(func() {
			r.letGo()
			if err := os.RemoveAll(r.dir); err != nil {
				r.a.log.Error("work folder of a restore", "job", r.job(), "restore", r.plan.ID, "error", err)
			}
			r.free()
			close(r.rest)
			r.post(restoreEvent{released: true})
		})
	}
}

// letGo ends what the fence began where nothing was resumed or stopped, as on a host whose members have all moved away: as long as it lasts the host does
// not look for old copies of its own.
func (r *Restoration) letGo() {
	ctx, cancel := cleanup(context.Background())
	defer cancel()
	if err := r.a.standings.undo(ctx, r.job()); err != nil {
		r.a.log.Error("blocks of a restore that is over", "job", r.job(), "restore", r.plan.ID, "error", err)
	}
}

// resumeMax bounds a resume: CRIU has nothing left to do then but to let go.
const resumeMax = 30 * time.Second

// run runs an action that a later one may cancel.
func (r *Restoration) run(act restoration.ActionType, done restoration.Event, do func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	acting := make(chan struct{})
	r.cancel, r.acting = cancel, acting
	r.a.work.Add(1)
	go func() {
		defer r.a.work.Done()
		err := do(ctx)
		cancelled := ctx.Err() != nil
		cancel()
		close(acting)
		if !cancelled { // whatever cancelled it answers for it
			r.ends(act, done, err)
		}
	}()
}

// ends reports the end of an action.
func (r *Restoration) ends(act restoration.ActionType, done restoration.Event, err error) {
	if err != nil {
		r.fail(err)
		done = restoration.ActionFailed{Action: act, Reason: err.Error()}
	}
	if _, ok := done.(restoration.CheckDone); ok {
		r.mu.Lock()
		done = restoration.CheckDone{Problems: len(r.problems)}
		r.mu.Unlock()
	}
	r.post(restoreEvent{ev: done})
}

// instead cancels the action under way, if any, waits for its end, and does something else. It is not cancelled itself.
func (r *Restoration) instead(do func()) {
	cancel, before := r.cancel, r.acting
	acting := make(chan struct{})
	r.cancel, r.acting = nil, acting
	r.a.work.Add(1)
	go func() {
		defer r.a.work.Done()
		if cancel != nil {
			cancel()
		}
		if before != nil {
			<-before
		}
		do()
		close(acting)
	}()
}

// abandon is the end of the loop when the agent stops. What is being resumed or ended comes to its end. What stands
// restored ends with the agent; its next start finds the note, and asks the others.
func (r *Restoration) abandon() {
	r.line = nil
	r.step(restoration.Tick{Now: r.now()})
	r.step(restoration.Gone{})
	limit := time.NewTimer(abandonMax)
	defer limit.Stop()
	for r.t.Phase() == restoration.Resuming || r.t.Phase() == restoration.Stopping || r.t.Phase().Over() && !r.release {
		select {
		case ev := <-r.events:
			r.handle(ev)
		case <-limit.C:
			r.a.log.Warn("a restore is still under way; the next start settles it", "job", r.job(), "restore", r.plan.ID)
			return
		}
	}
	if r.t.Settled() {
		r.forget()
		return
	}
	ctx, cancel := cleanup(context.Background())
	defer cancel()
	if r.cancel != nil {
		r.cancel()
		<-r.acting
	}
	if r.t.Phase() == restoration.Standing {
		if err := errors.Join(r.cancelTrees(ctx), r.a.cfg.Gates.OpenAll(ctx, r.job())); err != nil {
			r.a.log.Error("a restore that the agent's end cut short", "job", r.job(), "restore", r.plan.ID, "error", err)
		}
	}
}

// abandonMax is how long an agent that stops waits for the end of a restore.
const abandonMax = 10 * time.Second

// forget ends what the agent knows of the restore in memory, except how it ended.
func (r *Restoration) forget() {
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	r.a.fates.put(r.plan.ID, r.t.Phase())
	if r.a.restores[r.plan.ID] == r {
		delete(r.a.restores, r.plan.ID)
	}
}
