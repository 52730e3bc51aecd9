package restoration

// fanout bounds the questions that the deciding host asks at once.
const fanout = 16

func (t *Target) receive(m Message, out *Ready) {
	if m.ID != t.id || m.To != t.host {
		return
	}
	switch {
	case m.From == CoordinatorHost:
		t.order(m, out)
	case m.Type == MsgAsk:
		t.asked(m, out)
	case m.Type == MsgReport:
		t.learn(m.From, m.Phase, out)
	}
}

// order obeys the coordinator. An order that comes twice, or too late, is answered by where this host stands.
func (t *Target) order(m Message, out *Ready) {
	switch m.Type {
	case MsgAbort:
		t.abort(m, out)
		return
	case MsgAsk:
		t.coordinatorAsks(out)
		return
	case MsgFinish:
		t.finish(out)
		return
	}
	for _, o := range []struct {
		order    MessageType
		in, then Phase
		action   ActionType
	}{
		{MsgCheck, Planned, Checking, ActCheck},
		{MsgFetch, Checked, Fetching, ActFetch},
		{MsgFence, Armed, Fencing, ActFence},
		{MsgRestore, Fenced, Restoring, ActRestore},
		{MsgResume, Standing, Resuming, ActResume},
	} {
		if m.Type != o.order {
			continue
		}
		// A host that has lost its line has asked, and may have been told otherwise. That the resume was decided stays true.
		if t.phase == o.in && (!t.gone || m.Type == MsgResume) {
			t.enter(o.then, out)
			t.act(out, o.action)
		} else if t.phase != o.then {
			t.say(out)
		}
	}
}

// abort: nothing of the job is to be left here, or nothing is to be touched. After the resume was decided, only a part that
// is lost ends the job.
func (t *Target) abort(m Message, out *Ready) {
	switch {
	case t.phase.Over(), t.phase == Stopping:
		t.say(out)
	case t.phase < Fencing && (!m.Ended || t.self == 0):
		// Whether there was a fence is the deciding host's own word.
		t.leave(out)
	case t.phase < Armed: // the coordinator fences when all are armed, so this cannot be; and nothing was ended here
		t.leave(out)
	case t.phase.decided() && !m.Lost:
		t.say(out)
	case t.phase == Fenced && t.old():
		t.stopped(out)
	default:
		t.stop(out)
	}
}

func (t *Target) finish(out *Ready) {
	switch {
	case t.phase == Resumed:
		t.whole(out)
	case t.phase == Fenced && t.old():
		t.stopped(out)
	default:
		t.say(out)
	}
}

// coordinatorAsks: the coordinator has lost its line to this host, or to the deciding host, and wants it settled.
func (t *Target) coordinatorAsks(out *Ready) {
	if !t.gone {
		t.gone = true
		t.lineEnded(out)
	}
	t.say(out)
}

// asked answers a host that has lost the coordinator. The answer of the host that decides binds it: what it has not
// been told to decide by now it will not decide any more.
func (t *Target) asked(m Message, out *Ready) {
	if t.self == 0 && !t.mistakes.noBind {
		switch {
		case t.phase < Fencing:
			t.leave(out)
		case t.phase < Resuming:
			t.giveUp("the line of "+string(m.From)+" to the coordinator ended", out)
		}
	}
	t.learn(m.From, m.Phase, out)
	answer := Message{Type: MsgReport, To: m.From, Phase: t.phase, Reason: t.reason}
	if t.mistakes.noBind && t.self == 0 && t.phase < Resuming {
		answer.Phase = Stopped
		if t.phase < Fencing {
			answer.Phase = Left
		}
	}
	if t.mistakes.lostSilently && t.phase == Stopped {
		answer.Phase = PhaseUnknown
	}
	t.send(out, answer)
}

// learn draws the conclusions from where another host stands.
func (t *Target) learn(from HostID, phase Phase, out *Ready) {
	i := t.hosts.index(from)
	if i < 0 || i == t.self {
		return
	}
	if i == 0 && t.phase == Stopped && !t.told && (phase == PhaseUnknown || phase >= Whole) {
		t.told, t.next = true, 0 // a deciding host that stands elsewhere has not heard the question that said so
		t.journal(out)
		return
	}
	switch {
	case t.phase.Over(), t.phase == Stopping:
	case phase == PhaseUnknown:
		if i == 0 && t.gone {
			t.deciderForgot(out)
		}
	case t.phase == Armed:
		if t.gone {
			t.learnFence(phase, out)
		}
	case i >= t.parts: // nobody waits for a host without a part
	case phase.stops():
		// Without that host's part there is no whole job.
		if t.phase >= Fencing {
			t.giveUp(string(from)+" has lost its part of the job", out)
		}
	case phase.decided():
		t.learnDecided(i, phase, out)
	}
}

// learnFence settles a host that has ended nothing and has lost the coordinator.
func (t *Target) learnFence(phase Phase, out *Ready) {
	switch {
	case phase == Left:
		t.leave(out)
	case phase >= Fencing:
		// The fence was decided, and this host will not take part in what comes after it.
		t.giveUp("the job was ended for the restore on other hosts", out)
	}
}

func (t *Target) learnDecided(i int, phase Phase, out *Ready) {
	switch {
	case t.phase == Standing:
		t.resume(out)
	case t.phase == Resumed && phase == Whole:
		t.whole(out)
	case phase == Resumed:
		t.learnRuns(i, out)
	}
}

// learnRuns notes, on the deciding host, that a target's members run. When all do, the restore is over.
func (t *Target) learnRuns(i int, out *Ready) {
	if t.self != 0 || i < 0 || t.runs.get(i) {
		return
	}
	t.runs = t.runs.set(i, true)
	t.runCount++
	if t.phase == Resumed && t.runCount == t.parts {
		t.whole(out)
	}
}

// deciderForgot: the agent of the deciding host answers and knows nothing of this restore. It writes the fence down before anybody
// ends anything, and keeps what it has written until long after the end; so it will not have this host resume.
func (t *Target) deciderForgot(out *Ready) {
	switch t.phase {
	case Armed:
		t.leave(out)
	case Standing:
		t.giveUp("the deciding host knows nothing of this restore any more", out)
	case Resumed:
		t.whole(out)
	}
}

// asks says whether this host waits for another one's word.
func (t *Target) asks() bool {
	switch t.phase {
	case Armed, Standing, Resumed:
		return t.gone
	case Stopped:
		return !t.told // whoever is with the coordinator, the deciding host must know
	}
	return false
}

// ask asks the deciding host, and when that does not lead on the others in turn. The deciding host itself asks those that have not
// said that their members run.
func (t *Target) ask(out *Ready) {
	if !t.asks() {
		return
	}
	m := Message{Type: MsgAsk, Phase: t.phase}
	if t.self == 0 {
		for sent, tried := 0, 0; sent < fanout && tried < t.parts; tried++ {
			t.turn = (t.turn + 1) % t.parts
			if t.turn != 0 && !t.runs.get(t.turn) {
				m.To = t.hosts.ids[t.turn]
				t.send(out, m)
				sent++
			}
		}
	} else {
		m.To = t.hosts.ids[0]
		t.send(out, m)
		t.askAnother(m, out)
	}
	t.wait()
	if t.mistakes.unknownIsFailed && t.phase == Standing && t.round > 2 {
		t.giveUp("the deciding host does not answer", out)
	}
}

func (t *Target) askAnother(m Message, out *Ready) {
	n := len(t.hosts.ids)
	if t.round == 0 || n < 2 {
		return
	}
	for range 2 {
		t.turn = t.turn%(n-1) + 1 // 1 to n-1
		if t.turn != t.self {
			m.To = t.hosts.ids[t.turn]
			t.send(out, m)
			return
		}
	}
}

// wait sets the time of the next question or try.
func (t *Target) wait() {
	t.next = t.now + t.retry<<min(t.round, 5)
	t.round++
}
