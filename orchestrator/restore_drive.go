package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ss/fault"
	"ss/restoration"
)

const (
	restoreRetry = time.Second      // until an order that was not answered is said again
	wordTimeout  = 5 * time.Second  // for one order over a connection of its own
	decideMax    = 15 * time.Second // R5: for a host that does not say whether the job runs there
	endTimeout   = 15 * time.Second // for everyone to say that they have left, or stopped
	hangupMax    = 30 * time.Second // for the hosts to close their lines
)

// fromHost is something that has come from a host, or about one.
type fromHost struct {
	ev  restoration.Event
	out FromTarget // of a restoration.Received
}

// doings is what hosts are at, for people, by order.
var doings = map[restoration.MessageType]string{
	restoration.MsgCheck: "checking", restoration.MsgFetch: "fetching", restoration.MsgFence: "fencing", restoration.MsgRestore: "restoring",
	restoration.MsgResume: "resuming", restoration.MsgAbort: "backing out",
}

// steps is the order that a stage consists of, for the times that a restore reports.
var steps = map[restoration.Stage]string{
	restoration.StageChecking: "checking", restoration.StageFetching: "fetching", restoration.StageFencingFirst: "fencing",
	restoration.StageFencing: "fencing", restoration.StageRestoring: "restoring", restoration.StageDeciding: "resuming", restoration.StageResuming: "resuming",
}

func (r *restore) config(checkOnly bool) restoration.CoordinatorConfig {
	cfg := restoration.CoordinatorConfig{
		ID: restoration.ID(r.id), CheckOnly: checkOnly, Problems: len(r.plan.Problems),
		Retry: toMillis(restoreRetry), AskTimeout: toMillis(decideMax), AbortTimeout: toMillis(endTimeout),
	}
	for _, name := range r.targets() {
		cfg.Targets = append(cfg.Targets, restoration.HostID(name))
	}
	for _, name := range r.old {
		cfg.Old = append(cfg.Old, restoration.HostID(name))
	}
	return cfg
}

func toMillis(d time.Duration) restoration.Millis { return restoration.Millis(d.Milliseconds()) }

// drive steps the coordinator until the restore is over.
func (r *restore) drive(ctx context.Context, checkOnly bool) (restoration.Outcome, error) {
	var err error
	if r.core, err = restoration.NewCoordinator(r.config(checkOnly)); err != nil {
		return restoration.Outcome{}, err
	}
	r.zero, r.began = time.Now(), time.Now()
	r.said, r.lost, r.calling, r.noticed, r.problems = map[string]string{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	r.failures = map[restoration.HostID]error{}
	r.events, r.done = make(chan fromHost), make(chan struct{})
	defer close(r.done)
	for name, line := range r.lines {
		r.reads.Add(1)
		go func() {
			defer r.reads.Done()
			r.read(name, line)
		}()
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	interrupted := ctx.Done()
	var lost <-chan struct{}
	if !checkOnly {
		lost = r.c.Catalogue.Lost(r.at.Job)
	}
	next := fromHost{ev: restoration.Begin{}}
	for {
		for _, ev := range []restoration.Event{restoration.Tick{Now: toMillis(time.Since(r.zero))}, r.understand(next)} {
			if out, err := r.step(ctx, ev); out != nil || err != nil {
				return *out, err
			}
		}
		timer.Reset(time.Duration(r.core.Deadline())*time.Millisecond - time.Since(r.zero))
		select {
		case next = <-r.events:
		case <-timer.C:
			next = fromHost{ev: restoration.Tick{Now: toMillis(time.Since(r.zero))}}
		case <-lost:
			lost = nil
			next = fromHost{ev: restoration.JobLost{Reason: r.c.whyLost(ctx, r.at)}}
		case <-interrupted:
			interrupted = nil
			next = fromHost{ev: restoration.Interrupt{Reason: context.Cause(ctx).Error()}}
		}
	}
}

// read turns what comes over one line into events until the line has ended.
func (r *restore) read(name string, line RestoreLine) {
	for {
		out, err := line.Recv()
		if err != nil {
			r.post(fromHost{ev: restoration.Lost{Host: restoration.HostID(name), Reason: err.Error()}, out: FromTarget{Failure: err}})
			return
		}
		r.post(fromHost{ev: restoration.Received{Message: out.Message}, out: out})
	}
}

func (r *restore) post(ev fromHost) {
	select {
	case r.events <- ev:
	case <-r.done:
	}
}

// understand notes what came with an event that is not the protocol's business.
func (r *restore) understand(in fromHost) restoration.Event {
	switch ev := in.ev.(type) {
	case restoration.Lost:
		name := string(ev.Host)
		r.lost[name], r.calling[name] = true, false
		if r.failures[ev.Host] == nil {
			r.failures[ev.Host] = in.out.Failure
		}
	case restoration.Received:
		m := in.out.Message
		name := string(m.From)
		if r.lost[name] {
			r.calling[name] = false
		}
		if in.out.Failure != nil && (r.failures[m.From] == nil || fault.Is(r.failures[m.From], fault.Unreachable)) {
			r.failures[m.From] = in.out.Failure
		}
		if m.Phase >= restoration.Checked && !r.problems[name] {
			r.problems[name] = true
			for _, p := range in.out.Problems {
				r.plan.Problems = append(r.plan.Problems, Problem{name, p})
			}
			slices.SortFunc(r.plan.Problems, func(a, b Problem) int { return strings.Compare(a.Host+a.Text, b.Host+b.Text) })
		}
		for _, n := range in.out.Notices {
			if text := name + ": " + n; !r.noticed[text] {
				r.noticed[text] = true
				r.c.Noticef("%s", text)
			}
		}
	}
	return in.ev
}

// step applies one event and does the work of its Ready. A non-nil Outcome ends the restore.
func (r *restore) step(ctx context.Context, ev restoration.Event) (*restoration.Outcome, error) {
	before := steps[r.core.Stage()]
	core, ready, err := r.core.Step(ev)
	if err != nil {
		return &restoration.Outcome{}, err
	}
	if before != "" && before != steps[core.Stage()] {
		r.res.StepsMs[before] = float64(time.Since(r.began).Microseconds()) / 1000
		r.began = time.Now()
	}
	if core.Stage() == restoration.StageFencingFirst && r.core.Stage() != restoration.StageFencingFirst {
		r.warn()
	}
	r.resuming = r.resuming || core.Stage() == restoration.StageDeciding
	r.core = core
	for _, m := range ready.Messages {
		r.send(ctx, m)
	}
	return ready.Outcome, nil
}

// send takes an order to its host: over the line while there is one, then over calls of their own.
func (r *restore) send(ctx context.Context, m restoration.Message) {
	name := string(m.To)
	if doing := doings[m.Type]; doing != "" && r.said[name] != doing {
		r.said[name] = doing
		r.c.Doing(name, doing)
	}
	if !r.lost[name] {
		if err := r.lines[name].Send(m); err == nil {
			return
		}
		r.lost[name] = true // why it has ended comes from read
	}
	if r.calling[name] {
		return // an order that was not heard is said again
	}
	r.calling[name] = true
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wordTimeout)
		defer cancel()
		var out FromTarget
		a, err := r.c.AgentOf(r.hosts[name].Host)
		if err == nil {
			out, err = a.RestoreWord(ctx, r.plan.Cut.Job, m)
		}
		if err != nil {
			r.post(fromHost{ev: restoration.Lost{Host: m.To, Reason: err.Error()}, out: FromTarget{Failure: err}})
			return
		}
		r.post(fromHost{ev: restoration.Received{Message: out.Message}, out: out})
	}()
}

// verdict is the outcome for whoever restores. Nil: the job runs, or nothing would be missing.
func (r *restore) verdict(o restoration.Outcome) error {
	switch o.Result {
	case restoration.ResultResumed, restoration.ResultChecked:
		return nil
	case restoration.ResultUntouched:
		return r.untouched(o)
	case restoration.ResultStopped:
		return r.stopped(o)
	}
	return r.unknown(o)
}

// cause is why a restore did not succeed: what the host that is to blame has said itself, where it has said anything.
func (r *restore) cause(o restoration.Outcome) error {
	if err := r.failures[o.Blame]; err != nil && (o.Cause == restoration.CauseAction || o.Cause == restoration.CauseUnreachable) {
		return err
	}
	return errors.New(o.Reason)
}

// untouched says of a restore that was given up before it had ended anything that nothing was touched. What a host found keeps its kind.
func (r *restore) untouched(o restoration.Outcome) error {
	const next = "nothing was touched"
	switch o.Cause {
	case restoration.CauseProblems:
		var lines []string
		for _, f := range r.plan.Problems {
			lines = append(lines, f.Host+": "+f.Text)
		}
		return fault.New(fault.Refused, fault.Problems(lines), next)
	case restoration.CauseInterrupt:
		return &fault.Error{Kind: fault.Interrupted, Err: r.cause(o), Next: next}
	case restoration.CauseJobLost:
		return &fault.Error{Kind: fault.Conflict, Err: r.cause(o), Next: next + "; " + nextJobLost}
	case restoration.CauseAction:
		var all []error
		for _, err := range r.failures {
			all = append(all, err)
		}
		return errors.Join(all...)
	}
	return &fault.Error{Kind: fault.RolledBack, Err: r.cause(o), Next: next}
}

// stopped says that the job was ended and is not there again: never half a job, so none.
func (r *restore) stopped(o restoration.Outcome) error {
	f := &fault.Error{Kind: fault.RolledBack, Err: r.cause(o), Next: "all hosts rolled back: the job is stopped, its cut is untouched, restore it again"}
	switch o.Cause {
	case restoration.CauseInterrupt:
		f.Kind = fault.Interrupted
	case restoration.CauseJobLost:
		f.Kind, f.Next = fault.Conflict, "all hosts rolled back: the job is stopped, its cut is untouched; "+nextJobLost
	}
	if len(o.Unknown) > 0 {
		f.Next = fmt.Sprintf("the job is stopped, but members may still run on %s until the agent there ends them; the cut is untouched: restore it again then", namesOf(o.Unknown))
	}
	return f
}

// unknown says that it is not known how the restore ended, what may be, and what to do.
func (r *restore) unknown(o restoration.Outcome) error {
	first := r.targets()[0]
	f := &fault.Error{Kind: fault.InDoubt, Err: r.cause(o)}
	switch {
	case o.Decided:
		f.Next = fmt.Sprintf("the job was resumed, and %s has not said that it runs there: if it does not, the other hosts end the job as soon as that is known. "+
			"Nothing was ended. See that the agent of %s runs, then ssctl ps %s; or restore again", namesOf(o.Unknown), namesOf(o.Unknown), r.plan.Cut.Job)
	case r.core.HostPhase(restoration.HostID(first)) >= restoration.Standing:
		f.Next = fmt.Sprintf("%s decides whether the job runs again, and does not answer: the job may be running. Nothing was ended. "+
			"The hosts settle it by themselves when they reach %s: see that its agent runs, then ssctl ps %s; or restore again", first, first, r.plan.Cut.Job)
	default:
		f.Next = fmt.Sprintf("%s decides whether the job is ended for the restore, and does not answer: the job runs on, or is stopped. "+
			"The hosts settle it by themselves when they reach %s: see that its agent runs, then ssctl ps %s; or restore again", first, first, r.plan.Cut.Job)
	}
	return f
}

func namesOf(ids []restoration.HostID) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// close hangs up, and waits until every host has let go of the job or waits for another host's word.
func (r *restore) close() {
	for _, l := range r.lines {
		_ = l.Hangup()       // a line that has ended already needs none
		if r.events == nil { // nobody reads it: another one could not be opened
			r.reads.Add(1)
			go func() {
				defer r.reads.Done()
				for {
					if _, err := l.Recv(); err != nil {
						return
					}
				}
			}()
		}
	}
	ended := make(chan struct{})
	go func() { r.reads.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(hangupMax):
	}
	for _, l := range r.lines {
		l.Close()
	}
	r.reads.Wait()
	clear(r.lines)
}
