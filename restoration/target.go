package restoration

import (
	"fmt"
	"slices"
)

// Config is what a target must know of the restore that it takes part in.
type Config struct {
	ID      ID
	Host    HostID
	Targets []HostID // hosts that get a part, in the same order everywhere. The first decides
	Old     []HostID // hosts that get none, and whose members of the job end
	Retry   Millis   // between two questions that get no answer; grows up to 32 times that
}

// Target is one host's role in one restore. It is a value: Step returns the next state and leaves the old one as it
// was, so both can go on.
type Target struct {
	id    ID
	host  HostID
	hosts *roster // the targets, then the old hosts
	parts int     // how many of them are targets
	self  int     // in hosts
	retry Millis

	now    Millis
	phase  Phase
	logged Phase // of the latest journal entry
	gone   bool  // the coordinator is, or it wants this host to ask

	next  Millis // instant of the next question, or of the next try to stop; 0: none
	round int    // questions asked since the last answer that led on
	turn  int    // the host that is asked next beside the deciding one

	runs     vec[bool] // deciding host, by target: it has said that its members run
	runCount int
	told     bool // Stopped: the deciding host knows
	unsaid   bool // Resuming: the members run, and the entry that says so is not written yet
	problems int
	reason   string
	mistakes mistakes
}

// NewTarget returns a target that has the plan and has done nothing.
func NewTarget(cfg Config) (Target, error) {
	r := newRoster(slices.Concat(cfg.Targets, cfg.Old))
	switch {
	case len(cfg.Targets) == 0:
		return Target{}, &ConfigError{"the restore has no targets"}
	case r.index(CoordinatorHost) >= 0:
		return Target{}, &ConfigError{"a host of the restore has no name"}
	case r.index(cfg.Host) < 0:
		return Target{}, &ConfigError{fmt.Sprintf("%s takes no part in the restore", cfg.Host)}
	case cfg.Retry <= 0:
		return Target{}, &ConfigError{"the time between two questions is not positive"}
	}
	return Target{
		id: cfg.ID, host: cfg.Host, hosts: r, parts: len(cfg.Targets), self: r.index(cfg.Host), retry: cfg.Retry,
		phase: Planned, runs: newVec[bool](len(cfg.Targets)),
	}, nil
}

// Recover returns the target that an agent goes on with when it finds entry after it has stopped, and what it has to do first.
// The coordinator's line is gone with the old agent, and so is everything that had been restored and did not run yet.
func Recover(cfg Config, entry Entry) (Target, Ready, error) {
	t, err := NewTarget(cfg)
	if err != nil {
		return Target{}, Ready{}, err
	}
	var out Ready
	t.phase, t.logged, t.told = entry.Phase, entry.Phase, entry.Told
	t.gone = true
	switch entry.Phase {
	case Armed:
		t.lineEnded(&out)
	case Fencing, Stopping:
		t.reason = "the agent was restarted in the middle of it"
		t.stop(&out)
	case Resumed:
		t.learnRuns(t.self, &out)
		t.ask(&out)
	case Stopped:
		t.act(&out, ActRelease)
		t.ask(&out)
	case Whole, Left:
		t.act(&out, ActRelease)
	default:
		return Target{}, Ready{}, &ConfigError{fmt.Sprintf("the journal of restore %s holds the phase %q", entry.ID, entry.Phase)}
	}
	return t, out, nil
}

// Phase is where the host stands.
func (t Target) Phase() Phase { return t.phase }

// ID is the restore's.
func (t Target) ID() ID { return t.id }

// old says that this host gets no part: it only ends what it has of the job.
func (t *Target) old() bool { return t.self >= t.parts }

// Decides says whether this host decides.
func (t Target) Decides() bool { return t.self == 0 }

// InDoubt says that the host has lost the coordinator and waits for another host's word.
func (t Target) InDoubt() bool { return t.gone && !t.phase.Over() && t.phase != Stopping }

// Settled says that the restore is over here and that nobody has to be told.
func (t Target) Settled() bool { return t.phase.Over() && !t.asks() }

// Reason is why the restore has failed here, empty if it has not or this host does not know.
func (t Target) Reason() string { return t.reason }

// Report says where the host stands, to whoever has asked or ordered something over a connection of its own.
func (t Target) Report(to HostID) Message {
	return Message{Type: MsgReport, ID: t.id, From: t.host, To: to, Phase: t.phase, Problems: t.problems, Reason: t.reason}
}

// Deadline is the next instant at which a Tick changes something, 0 if there is none.
func (t Target) Deadline() Millis { return t.next }

// Step applies one event and returns the next state and the work it makes. A *TransitionError leaves the state as it is.
func (t Target) Step(ev Event) (Target, Ready, error) {
	next, out := t, Ready{}
	if !next.apply(ev, &out) {
		return t, Ready{}, &TransitionError{Role: "target " + string(t.host), Event: ev, State: t.phase.String()}
	}
	return next, out, nil
}

// apply reports false if the event is impossible; t may not have changed then.
func (t *Target) apply(ev Event, out *Ready) bool {
	switch ev := ev.(type) {
	case Tick:
		t.tick(ev.Now, out)
	case Received:
		t.receive(ev.Message, out)
	case Gone:
		if !t.gone {
			t.gone = true
			t.lineEnded(out)
		}
	case Overrule:
		t.overrule(ev.Reason, out)
	case CheckDone:
		return t.completes(Checking, func() { t.problems = ev.Problems; t.enter(Checked, out) })
	case FetchDone:
		return t.completes(Fetching, func() { t.enter(Armed, out) })
	case FenceDone:
		return t.completes(Fencing, func() { t.enter(Fenced, out) })
	case RestoreDone:
		return t.completes(Restoring, func() { t.enter(Standing, out) })
	case ResumeDone:
		return t.completes(Resuming, func() { t.resumed(out) })
	case StopDone:
		return t.completes(Stopping, func() { t.stopped(out) })
	case ActionFailed:
		return t.actionFailed(ev, out)
	case Unwritten:
		return t.unwritten(ev.Reason, out)
	default:
		return false
	}
	return true
}

// completes runs do if the host is in the phase that the action belongs to. The end of an action that has been
// cancelled may still come in; it is ignored.
func (t *Target) completes(phase Phase, do func()) bool {
	if t.phase == phase {
		do()
		return true
	}
	return t.phase.stops() || t.phase == Left
}

// enter goes on to a phase, notes it where a restart must know, and says so.
func (t *Target) enter(phase Phase, out *Ready) {
	t.phase = phase
	switch phase {
	case Armed, Fencing, Resumed, Whole:
		t.journal(out)
	case Left:
		if t.logged != PhaseUnknown {
			t.journal(out)
		}
	case Stopping:
		// The journal says Fencing where the part was never to run without a further word, and that leads here, too.
		if t.logged != PhaseUnknown && t.logged != Fencing {
			t.journal(out)
		}
	case Stopped:
		if t.logged != PhaseUnknown {
			t.journal(out)
		}
	}
	t.say(out)
}

func (t *Target) tick(now Millis, out *Ready) {
	if now < t.now {
		return
	}
	t.now = now
	if t.next == 0 || now < t.next {
		return
	}
	t.next = 0
	switch {
	case t.phase == Stopping:
		t.act(out, ActStop)
	case t.phase == Resuming && t.unsaid:
		t.resumed(out)
	default:
		t.ask(out)
	}
}

// leave ends the restore on a host that has ended nothing: it promises that it will not any more.
func (t *Target) leave(out *Ready) {
	t.next = 0
	t.enter(Left, out)
	t.act(out, ActRelease)
}

// stop ends what there is of the job on this host.
func (t *Target) stop(out *Ready) {
	t.next, t.round = 0, 0
	t.enter(Stopping, out)
	t.act(out, ActStop)
}

func (t *Target) stopped(out *Ready) {
	t.next, t.round = 0, 0
	// The deciding host is asked, and so has been told; a host without a part has nothing that others wait for.
	t.told = t.told || t.self == 0 || t.old() || t.mistakes.lostSilently
	t.enter(Stopped, out)
	t.act(out, ActRelease)
	t.ask(out)
}

func (t *Target) resume(out *Ready) {
	t.next, t.round, t.unsaid = 0, 0, false
	t.enter(Resuming, out)
	t.act(out, ActResume)
}

func (t *Target) resumed(out *Ready) {
	t.enter(Resumed, out)
	t.learnRuns(t.self, out)
	t.ask(out)
}

func (t *Target) whole(out *Ready) {
	t.next = 0
	t.enter(Whole, out)
	t.act(out, ActRelease)
}

// lineEnded: the coordinator is gone. What this host has not been told yet it will not be told any more.
func (t *Target) lineEnded(out *Ready) {
	switch {
	case t.phase < Armed, t.phase == Armed && (t.self == 0 || t.mistakes.leaveArmed):
		// Not all hosts were ready, or the host that decides the fence was not told to: nothing was ended, anywhere.
		t.leave(out)
	case t.self == 0 && t.phase <= Standing:
		t.giveUp("the line to the coordinator ended before the resume was decided", out)
	case t.phase == Fenced && t.old():
		t.stopped(out)
	case t.phase == Fencing, t.phase == Fenced, t.phase == Restoring:
		// The coordinator has not heard that this host stands, so the resume was not decided.
		t.giveUp("the line to the coordinator ended before this host stood ready", out)
	default:
		t.ask(out)
	}
}

// giveUp stops for a reason of this host's own.
func (t *Target) giveUp(reason string, out *Ready) {
	if t.reason == "" {
		t.reason = reason
	}
	t.stop(out)
}

// overrule: what a person has ended on this host is not brought back.
func (t *Target) overrule(reason string, out *Ready) {
	switch {
	case t.phase == Stopped && !t.told:
		t.told, t.next = true, 0
		t.journal(out)
	case t.phase.Over(), t.phase == Stopping:
	case t.phase < Armed:
		t.leave(out)
	default:
		t.giveUp(reason, out)
	}
}

// actionFailed: before R3 the host leaves, after it the host stops; what it cannot end it tries to end again.
func (t *Target) actionFailed(ev ActionFailed, out *Ready) bool {
	switch ev.Action {
	case ActCheck, ActFetch:
		phase := map[ActionType]Phase{ActCheck: Checking, ActFetch: Fetching}[ev.Action]
		return t.completes(phase, func() { t.reason = ev.Reason; t.leave(out) })
	case ActFence, ActRestore, ActResume:
		phase := map[ActionType]Phase{ActFence: Fencing, ActRestore: Restoring, ActResume: Resuming}[ev.Action]
		return t.completes(phase, func() { t.giveUp(ev.Reason, out) })
	case ActStop:
		return t.completes(Stopping, func() {
			t.reason = ev.Reason
			t.say(out)
			t.wait()
		})
	case ActRelease:
		return true // nothing hangs on it
	}
	return false
}

// unwritten: where the entry would have allowed something, that was not begun, nor said. Where it would have told a restart that members run, they run
// all the same, and until it is written nobody hears of it.
func (t *Target) unwritten(reason string, out *Ready) bool {
	switch t.phase {
	case Armed:
		t.reason, t.logged = reason, PhaseUnknown
		t.leave(out)
	case Fencing:
		t.logged = Armed
		if t.self != 0 {
			t.giveUp(reason, out)
			return true
		}
		t.reason = reason // it would have decided the fence, and has not
		t.leave(out)
	case Resumed, Whole:
		if t.self == 0 {
			t.runs = t.runs.set(t.self, false)
			t.runCount--
		}
		t.phase, t.logged, t.unsaid = Resuming, Fencing, true
		t.wait()
	default:
		return false
	}
	return true
}

func (t *Target) act(out *Ready, a ActionType) { out.Actions = append(out.Actions, a) }

func (t *Target) journal(out *Ready) {
	// What ends a part needs no entry to be right: a restart comes to the same end.
	runs := t.logged == Fencing && (t.phase == Resumed || t.phase == Whole)
	out.Binding = (out.Binding || t.phase == Armed || t.phase == Fencing || runs) && !t.mistakes.unbound
	t.logged = t.phase
	out.Journal = &Entry{ID: t.id, Phase: t.phase, Told: t.told}
}

func (t *Target) send(out *Ready, m Message) {
	m.ID, m.From = t.id, t.host
	out.Messages = append(out.Messages, m)
}

// say tells the coordinator where this host stands.
func (t *Target) say(out *Ready) { t.report(CoordinatorHost, out) }

func (t *Target) report(to HostID, out *Ready) {
	out.Messages = append(out.Messages, t.Report(to))
}
