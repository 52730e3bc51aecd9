package marker

import (
	"maps"
	"slices"
)

// actionFailed: whatever fails, the attempt fails, except where the attempt is over already.
func (p *Participant) actionFailed(ev ActionFailed, out *Ready) bool {
	giveUp := func() { p.fail(out, CauseAction, ev.Action.failure()+ev.Reason) }
	switch ev.Action {
	case ActPrepare:
		return p.completes(ev.Key, Preparing, func() { p.fail(out, CauseRefused, ev.Reason) })
	case ActHold:
		return p.completes(ev.Key, Prepared, func() { p.fail(out, CauseRefused, ev.Reason) })
	case ActRecord:
		return p.completes(ev.Key, Recording, giveUp)
	case ActDump:
		return p.completes(ev.Key, Dumping, giveUp)
	case ActStore:
		return p.completes(ev.Key, Storing, giveUp)
	case ActRollback:
		return p.completes(ev.Key, RollingBack, func() { p.rolledBack(ev.Reason, out) })
	case ActFinish:
		return p.completes(ev.Key, Finishing, func() { p.a.reason = ev.Reason; p.finished(out) })
	case ActSettle, ActThaw, ActOpen, ActOpenRest:
		return p.completes(ev.Key, p.a.phase, func() { p.shortFailed(giveUp, out) })
	case ActRelease, ActDiscard:
		return ev.Key.Job == p.job
	}
	return false
}

// shortFailed handles the failure of an action that ended when it was carried out.
func (p *Participant) shortFailed(giveUp func(), out *Ready) {
	switch {
	case p.a.phase == Complete && !p.a.released:
		p.release(out) // it can no longer give up, and this is the other way to open and thaw
	case p.a.phase < Complete:
		giveUp()
	}
}

// failure begins the sentence that says what failed.
func (t ActionType) failure() string {
	switch t {
	case ActRecord:
		return "could not freeze the members and close the gates: "
	case ActDump:
		return "could not dump: "
	case ActStore:
		return "could not store the images: "
	case ActSettle:
		return "could not let the connections settle: "
	case ActThaw:
		return "could not thaw the members: "
	}
	return "could not open a gate: "
}

func (p *Participant) act(out *Ready, a Action) {
	a.Key = p.a.key
	out.Actions = append(out.Actions, a)
}

// journal asks for the entry that Recover needs for the present state.
func (p *Participant) journal(out *Ready) {
	p.a.logged = p.a.phase
	p.rewrite(out)
	out.Binding = (p.a.phase == Preparing || p.a.phase == Recording || p.a.phase == Complete) && !p.mistakes.unbound
}

// unwritten: nothing that the entry would have allowed was begun or said, so the attempt can still be given up here.
func (p *Participant) unwritten(ev Unwritten, out *Ready) bool {
	if p.Key() != ev.Key {
		return false
	}
	switch p.a.phase {
	case Preparing:
		p.fail(out, CauseRefused, ev.Reason)
	case Recording:
		p.fail(out, CauseAction, ActRecord.failure()+ev.Reason)
	case Complete:
		p.fail(out, CauseAction, ActStore.failure()+ev.Reason)
	default:
		return false
	}
	return true
}

// rewrite asks for the entry that was last written, with the fence and the doubts of now.
func (p *Participant) rewrite(out *Ready) {
	e := Entry{Key: p.Key(), Phase: p.a.logged, Stop: p.a.stop, Doubt: slices.Clone(p.doubt)}
	if p.highest > e.Key.Epoch {
		e.Fence = p.highest
	}
	if e.Phase == Complete {
		e.Ends = slices.Clone(p.a.ends)
	}
	out.Journal = &e
}

// listed is the hosts with which this one shares a channel, itself included if members here share one.
func (p *Participant) listed() hostSet { return slices.Sorted(maps.Keys(p.a.peers)) }

// peersInOrder is listed without this host itself.
func (p *Participant) peersInOrder() hostSet {
	return slices.DeleteFunc(p.listed(), func(q HostID) bool { return q == p.host })
}

func (p *Participant) rolledBack(trouble string, out *Ready) {
	p.idle(out)
	p.aborted = true
	p.send(out, Message{Type: MsgAborted, Key: p.last, Reason: trouble})
}

func (p *Participant) finished(out *Ready) {
	reason := p.a.reason
	p.idle(out)
	p.aborted = false
	p.send(out, Message{Type: MsgDone, Key: p.last, Reason: reason})
}

func (p *Participant) idle(out *Ready) {
	p.last = p.a.key
	p.a = attempt{}
	p.journal(out)
}
