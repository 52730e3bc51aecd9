package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ss/fault"
	"ss/marker"
	"ss/store/images"
)

// runner owns one job's marker.Participant on this host: one goroutine steps it, everyone else
// sends it events.
type runner struct {
	a      *Agent
	job    string
	inputs chan input
	quit   chan struct{}
	zero   time.Time // the zero of the participant's clock

	// Owned by the goroutine of loop.
	p        marker.Participant
	attempts map[marker.Key]*Attempt
	cur      *work // what the participant's current attempt holds; nil while Idle
	waiting  []chan<- struct{}
}

func (a *Agent) newRunner(job string) *runner {
	return &runner{
		a: a, job: job, inputs: make(chan input, 64), quit: make(chan struct{}), zero: time.Now(),
		p:        marker.NewParticipant(marker.HostID(a.cfg.Host), marker.JobID(job), 0),
		attempts: map[marker.Key]*Attempt{},
	}
}

// runnerOf finds or makes the job's runner.
func (a *Agent) runnerOf(job string) (*runner, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, fault.New(fault.Unreachable, "the agent is stopping", "try again when it is back")
	}
	r, ok := a.runners[job]
	if !ok {
		r = a.newRunner(job)
		a.runners[job] = r
		r.start()
	}
	return r, nil
}

func (r *runner) start() {
	r.a.work.Add(1)
	go func() {
		defer r.a.work.Done()
		r.loop()
	}()
}

// stop asks the loop to end; what it holds is rolled back first. It is called once, by Agent.Close.
func (r *runner) stop() { close(r.quit) }

// input is one thing for the loop: an event of the protocol, and before it, if set, a line that was opened or closed.
type input struct {
	at     marker.Millis // when it came: it may have waited here for a journal that was slow
	event  marker.Event
	opened *Attempt
	closed marker.Key

	settled chan<- struct{} // closed when the participant, after the event, is not at the end of an attempt any more
}

// post hands an event to the loop, unless the loop has ended.
func (r *runner) post(ev marker.Event) { r.put(input{event: ev}) }

func (r *runner) put(in input) {
	in.at = r.now()
	select {
	case r.inputs <- in:
	case <-r.quit:
	}
}

func (r *runner) now() marker.Millis { return marker.Millis(time.Since(r.zero).Milliseconds()) }

func (r *runner) loop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if d := r.p.Deadline(); d > 0 {
			timer.Reset(time.Duration(d-r.now()) * time.Millisecond)
		} else {
			timer.Stop()
		}
		select {
		case in := <-r.inputs:
			r.handle(in)
		case <-timer.C:
			r.tick(r.now())
		case <-r.quit:
			r.abandon()
			return
		}
	}
}

// tick passes time, after all that has come by then: a lease does not end while its renewal waits to be read.
func (r *runner) tick(now marker.Millis) {
	for {
		select {
		case in := <-r.inputs:
			r.handle(in)
		default:
			r.step(marker.Tick{Now: now})
			return
		}
	}
}

func (r *runner) handle(in input) {
	if in.opened != nil {
		r.attempts[in.opened.open.Key] = in.opened
	}
	delete(r.attempts, in.closed)
	if in.event == nil {
		return
	}
	r.step(marker.Tick{Now: in.at}) // so that spans count from the event, not from the last one
	r.step(in.event)
	if in.settled != nil {
		r.waiting = append(r.waiting, in.settled)
	}
	if p := r.p.Phase(); p == marker.Finishing || p == marker.RollingBack {
		return
	}
	for _, settled := range r.waiting {
		close(settled)
	}
	r.waiting = nil
}

func (r *runner) step(ev marker.Event) {
	p, ready, err := r.p.Step(ev)
	if err != nil {
		// The core refused the event and is unchanged. That is a defect of this agent, never of a peer.
		r.a.log.Error("impossible event", "job", r.job, "event", fmt.Sprintf("%T", ev), "error", err)
		return
	}
	r.p = p
	r.execute(ready)
}

// execute does the work of one Ready, in field order.
func (r *runner) execute(ready marker.Ready) {
	if ready.Journal != nil {
		if err := r.a.journal.put(*ready.Journal); err != nil {
			r.a.log.Error("journal", "job", r.job, "error", err)
			if ready.Binding {
				if at := r.attempts[ready.Journal.Key]; at != nil {
					at.putFailure(err)
				}
				r.step(marker.Unwritten{Key: ready.Journal.Key, Reason: err.Error()})
				return
			}
		}
	}
	for _, act := range ready.Actions {
		r.act(act)
	}
	r.send(ready.Messages)
}

func (r *runner) failed(act marker.Action, err error) {
	if a := r.attempts[act.Key]; a != nil {
		a.putFailure(err)
	}
	// Not post: the loop itself is often the caller, and the channel may be full.
	r.a.work.Add(1)
	go func() {
		defer r.a.work.Done()
		r.post(marker.ActionFailed{Key: act.Key, Action: act.Type, Reason: err.Error()})
	}()
}

// act starts a long action or does a short one.
func (r *runner) act(act marker.Action) {
	if r.cur == nil || r.cur.key != act.Key && act.Type != marker.ActDiscard {
		r.cur = r.newWork(act.Key)
	}
	w := r.cur
	w.phase(act)
	switch act.Type {
	case marker.ActPrepare:
		r.long(act, w.prepare)
	case marker.ActHold:
		r.long(act, w.hold)
	case marker.ActRecord:
		r.long(act, w.record)
	case marker.ActDump:
		r.long(act, func(ctx context.Context) (marker.Event, error) {
			return w.dump(ctx, func() { r.post(marker.Captured{Key: act.Key}) })
		})
	case marker.ActStore:
		r.long(act, w.store)
	case marker.ActRollback:
		r.undo(act, func(ctx context.Context) marker.Event { return w.rollback(ctx, act.Reason) })
	case marker.ActFinish:
		r.undo(act, func(ctx context.Context) marker.Event { return w.finish(ctx, act.Kill) })
	case marker.ActSettle:
		r.short(act, func(ctx context.Context) error { return w.settle(ctx, string(act.Peer)) })
	case marker.ActThaw:
		r.short(act, w.thaw)
	case marker.ActOpen:
		r.short(act, func(ctx context.Context) error { return w.openGate(ctx, string(act.Peer)) })
	case marker.ActOpenRest:
		r.short(act, w.openRest)
	case marker.ActRelease:
		r.short(act, w.release)
	case marker.ActDiscard:
		r.short(act, func(context.Context) error { return r.a.cfg.Images.Discard(r.imagesOf(act.Key)) })
	}
}

func (r *runner) imagesOf(key marker.Key) images.Key {
	return images.Key{Job: r.job, Snapshot: string(key.Snapshot), Host: r.a.cfg.Host}
}

// long runs an action that a rollback cancels.
func (r *runner) long(act marker.Action, do func(context.Context) (marker.Event, error)) {
	w := r.cur
	w.running.Add(1)
	r.a.work.Add(1)
	go func() {
		defer r.a.work.Done()
		ev, err := do(w.ctx)
		cancelled := w.ctx.Err() != nil
		w.running.Done()
		switch {
		case cancelled: // the rollback that cancelled it answers for it
		case err != nil:
			r.a.log.Warn("snapshot", "job", r.job, "snapshot", act.Key.Snapshot, "phase", actionName(act.Type), "error", err)
			err = r.wrap(act, err)
			w.putFailure(err)
			r.post(marker.ActionFailed{Key: act.Key, Action: act.Type, Reason: err.Error()})
		default:
			r.post(ev)
		}
	}()
}

// undo runs the action that ends an attempt: it is never cancelled, and has a deadline of its own.
func (r *runner) undo(act marker.Action, do func(context.Context) marker.Event) {
	w := r.cur
	w.ending.Add(1)
	r.a.work.Add(1)
	go func() {
		defer r.a.work.Done()
		ctx, cancel := cleanup(w.ctx)
		defer cancel()
		ev := do(ctx)
		w.ending.Done()
		r.post(ev)
	}()
}

// short does an action in the loop's own goroutine: it must not wait for anyone.
func (r *runner) short(act marker.Action, do func(context.Context) error) {
	ctx, cancel := cleanup(r.cur.ctx)
	defer cancel()
	if err := do(ctx); err != nil {
		r.failed(act, r.wrap(act, err))
	}
}

func (r *runner) wrap(act marker.Action, err error) error {
	return &fault.Error{Op: "snapshot", Host: r.a.cfg.Host, Job: r.job, Snapshot: string(act.Key.Snapshot), Phase: actionName(act.Type), Err: err}
}

func actionName(t marker.ActionType) string {
	names := map[marker.ActionType]string{
		marker.ActPrepare: "preparing", marker.ActHold: "holding new connections", marker.ActRecord: "recording", marker.ActSettle: "settling", marker.ActDump: "dumping",
		marker.ActThaw: "thawing", marker.ActOpen: "opening a gate", marker.ActOpenRest: "opening the gates", marker.ActStore: "storing", marker.ActRollback: "rolling back",
		marker.ActFinish: "finishing", marker.ActRelease: "releasing",
	}
	return names[t]
}

// send delivers messages: the coordinator's through its stream, the others' to their agents.
func (r *runner) send(msgs []marker.Message) {
	for _, m := range msgs {
		if m.To == marker.CoordinatorHost {
			if a := r.attempts[m.Key]; a != nil {
				a.put(Out{Message: &m})
			}
			continue
		}
		to, ok := r.cur.participant(string(m.To))
		if !ok {
			r.a.log.Error("message to a host that takes no part", "job", r.job, "host", m.To)
			continue
		}
		r.a.work.Add(1)
		w := r.cur
		go func() {
			defer r.a.work.Done()
			r.deliver(w, to, m)
		}()
	}
}

// deliver hands a message to a peer. One that does not take it within deliverTimeout is as good as
// gone: the members must not stand behind closed gates for it.
func (r *runner) deliver(w *work, to Participant, m marker.Message) {
	ctx, cancel := context.WithTimeout(w.life, deliverTimeout)
	defer cancel()
	err := r.a.cfg.Peers.Deliver(ctx, to.Peer, m)
	if err == nil || w.life.Err() != nil {
		return
	}
	r.a.log.Warn("message not delivered", "job", r.job, "host", to.Host, "error", err)
	r.post(marker.Unreachable{Host: m.To, Reason: err.Error()})
}

const deliverTimeout = 4 * time.Second

// abandon rolls back what the job is in, as Close wants it. A host that is Complete keeps its images. What is rolled back already, or
// finished, comes to its end as it would: the images of one that finishes belong to a cut.
func (r *runner) abandon() {
	if r.cur == nil || r.p.Phase() == marker.Idle {
		return
	}
	if r.p.Phase() == marker.Finishing || r.p.Phase() == marker.RollingBack {
		r.cur.ending.Wait()
		return
	}
	ctx, cancel := cleanup(context.Background())
	defer cancel()
	var err error
	if r.p.Phase() == marker.Complete {
		err = r.cur.release(ctx)
	} else if done, ok := r.cur.rollback(ctx, "the agent stops").(marker.RollbackDone); ok && done.Err != "" {
		err = errors.New(done.Err)
	}
	if err != nil {
		r.a.log.Error("snapshot not undone", "job", r.job, "error", err)
	}
}

// replay carries out what marker.Recover asks for, before the agent serves anyone.
func (r *runner) replay(ctx context.Context, e marker.Entry, ready marker.Ready) error {
	for _, act := range ready.Actions {
		w := r.newWork(act.Key)
		w.held = true // an agent that starts serves nobody else yet
		var ev marker.Event
		switch act.Type {
		case marker.ActRollback:
			ev = w.rollback(ctx, act.Reason)
		case marker.ActFinish:
			ev = w.finish(ctx, act.Kill)
		case marker.ActRelease:
			if err := w.release(ctx); err != nil {
				return err
			}
			continue
		default:
			return fmt.Errorf("recovery asks for action %d", act.Type)
		}
		if done, ok := ev.(marker.RollbackDone); ok && done.Err != "" {
			return errors.New(done.Err)
		}
		p, next, err := r.p.Step(ev)
		if err != nil {
			return err
		}
		r.p = p
		if next.Journal != nil {
			if err := r.a.journal.put(*next.Journal); err != nil {
				return err
			}
		}
	}
	return nil
}
