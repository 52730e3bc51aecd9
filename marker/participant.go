package marker

import (
	"fmt"
	"slices"
)

// Participant is one host's role in the snapshots of one job. It is a value: Step returns the next
// state and leaves the old one as it was, so both can go on.
type Participant struct {
	host HostID
	job  JobID
	now  Millis // of the latest Tick

	highest Epoch  // M12: a Prepare must be above it
	last    Key    // of the attempt that ended last
	aborted bool   // last ended in a rollback
	doubt   []Key  // see Entry.Doubt; never changed in place
	group   *group // the participants that were heard of last, for the next Prepare that names them

	a        attempt
	mistakes mistakes
}

// attempt is what a participant knows about the attempt that holds its host. It is the zero value while Idle.
type attempt struct {
	key    Key
	phase  Phase
	logged Phase // of the latest journal entry

	participants *group
	initiator    HostID
	stop         bool
	lease        Millis // M11: the instant at which it runs out
	settle       Millis // M5a: the longest wait
	settleEnd    Millis // M5a: the instant at which the wait ends

	holding     bool                // M1a: ActHold has begun
	calm        bool                // M1a: ActHold has ended, or the host was calm when it was prepared
	triggered   bool                // M2: a Start or a Marker came before the host was ready to record
	peers       map[HostID][]string // the channels, by the participant at their other end; never changed in place
	marked      hostSet             // whose Marker, Captured or Dumped has come
	mutual      hostSet             // of those, the ones that name channels with this host
	caught      hostSet             // whose Captured, or Dumped, has come
	dumped      hostSet             // whose Dumped has come
	allRecorded bool

	captured bool // M6: the images hold the state of every connection
	storing  bool
	stored   bool
	ends     []End
	opened   hostSet // itself and channel peers toward whom this host's gate is open, or with stop may be
	restOpen bool    // likewise, toward all other participants
	released bool    // M11: the lease ran out while the attempt was Complete

	cause  Cause
	reason string // why it fails, or what MsgDone has to add
}

// NewParticipant returns an idle participant that has seen no epoch above highest.
func NewParticipant(host HostID, job JobID, highest Epoch) Participant {
	return Participant{host: host, job: job, highest: highest}
}

// Recover returns the participant that an agent goes on with when it finds entry after a crash, and
// what it has to do first. The agent's death has opened the gates and thawed the members, so what
// was not Complete is rolled back. What was Complete reached no peer's record any more when it was
// journaled (M9): it is let go of as if its lease had run out, and its images wait for the outcome.
func Recover(host HostID, job JobID, entry Entry) (Participant, Ready) {
	p := NewParticipant(host, job, max(entry.Key.Epoch, entry.Fence))
	p.doubt = slices.Clone(entry.Doubt)
	var out Ready
	if entry.Phase == Idle {
		p.last = entry.Key
		return p, out
	}
	p.a = attempt{key: entry.Key, phase: entry.Phase, logged: entry.Phase, stop: entry.Stop}
	switch entry.Phase {
	case Complete:
		p.a.ends = slices.Clone(entry.Ends)
		p.release(&out)
		p.say(&out)
	case Finishing:
		p.act(&out, Action{Type: ActFinish, Kill: p.a.stop})
	default:
		p.fail(&out, CauseRestart, "the agent was restarted in the middle of it")
	}
	return p, out
}

// Phase is where the host stands in the current attempt.
func (p Participant) Phase() Phase { return p.a.phase }

// Key is the current attempt's key, or while Idle that of the one that ended last.
func (p Participant) Key() Key {
	if p.a.phase == Idle {
		return p.last
	}
	return p.a.key
}

// Epoch is the highest epoch that the participant has seen: a Prepare must be above it.
func (p Participant) Epoch() Epoch { return p.highest }

// Released says that the attempt is Complete, but the host has let go of it because its lease ran
// out or its agent was restarted: members run, gates are open, and the images wait for the outcome.
func (p Participant) Released() bool { return p.a.released }

// InDoubt lists the attempts whose images must be kept until their outcome is known.
func (p Participant) InDoubt() []Key {
	keys := slices.Clone(p.doubt)
	if p.a.phase == Complete {
		keys = append(keys, p.a.key)
	}
	return keys
}

// Deadline is the next instant at which a Tick changes something, 0 if there is none.
func (p Participant) Deadline() Millis {
	switch {
	case p.a.phase == Settling:
		return min(p.a.settleEnd, p.a.lease)
	case p.leased():
		return p.a.lease
	}
	return 0
}

// leased says whether the lease matters.
func (p *Participant) leased() bool {
	return p.a.phase != Idle && p.a.phase < Finishing && !p.a.released
}

// Step applies one event and returns the next state and the work it makes. It performs no I/O and
// reads no clock: spans count from the latest Tick, so the caller gives it a Tick before every other
// event. A *TransitionError leaves the state as it is.
func (p Participant) Step(ev Event) (Participant, Ready, error) {
	next, out := p, Ready{}
	if !next.apply(ev, &out) {
		return p, Ready{}, &TransitionError{
			Role:  "participant " + string(p.host),
			Event: ev,
			State: fmt.Sprintf("%s (%s, epoch %d)", p.a.phase, p.Key().Snapshot, p.Key().Epoch),
		}
	}
	return next, out, nil
}

// apply reports false if the event is impossible; p may not have changed then.
func (p *Participant) apply(ev Event, out *Ready) bool {
	switch ev := ev.(type) {
	case Tick:
		p.tick(ev.Now, out)
		return true
	case Received:
		p.receive(ev.Message, out)
		return true
	case Unreachable:
		p.unreachable(ev, out)
		return true
	case Orphaned:
		p.orphaned(ev, out)
		return true
	case Resolved:
		p.resolved(ev, out)
		return true
	case PrepareDone:
		return p.completes(ev.Key, Preparing, func() { p.prepared(ev.Calm, out) })
	case HoldDone:
		if p.a.phase == Prepared && ev.Key == p.a.key && (p.a.calm || !p.a.holding) {
			return false
		}
		return p.completes(ev.Key, Prepared, func() { p.becomeCalm(out) })
	case RecordDone:
		return p.completes(ev.Key, Recording, func() { p.recorded(ev.Peers, out) })
	case Captured:
		return p.completes(ev.Key, Dumping, func() { p.captured(out) })
	case DumpDone:
		return p.completes(ev.Key, Dumping, func() { p.dumped(ev.Ends, out) })
	case StoreDone:
		if p.a.phase == Storing && ev.Key == p.a.key && (p.a.stored || !p.a.storing) {
			return false
		}
		return p.completes(ev.Key, Storing, func() { p.stored(out) })
	case RollbackDone:
		return p.completes(ev.Key, RollingBack, func() { p.rolledBack(ev.Err, out) })
	case FinishDone:
		return p.completes(ev.Key, Finishing, func() { p.finished(out) })
	case ActionFailed:
		return p.actionFailed(ev, out)
	case Unwritten:
		return p.unwritten(ev, out)
	}
	return false
}

// completes runs do if the current attempt waits in phase for what key says has ended. What an
// older attempt or a rollback has made pointless is ignored. It reports false for what cannot be.
func (p *Participant) completes(key Key, phase Phase, do func()) bool {
	switch {
	case key.Job != p.job:
		return false
	case p.a.phase != Idle && key == p.a.key:
		if p.a.phase == phase {
			do()
			return true
		}
		return p.a.phase == RollingBack
	}
	return key.Epoch < p.Key().Epoch
}

func (p *Participant) tick(now Millis, out *Ready) {
	if now < p.now {
		return
	}
	p.now = now
	if p.leased() && now >= p.a.lease && !p.mistakes.noLease {
		if p.a.phase == Complete {
			p.release(out)
		} else {
			p.fail(out, CauseLease, "its lease ran out: it heard nothing of the coordinator")
		}
		return
	}
	p.maybeDump(out)
}

// unreachable fails the attempt if a peer that it needs cannot be reached.
func (p *Participant) unreachable(ev Unreachable, out *Ready) {
	if p.a.phase != Idle && p.a.phase < Complete && p.a.participants.has(ev.Host) {
		p.fail(out, CausePeer, fmt.Sprintf("cannot reach %s: %s", ev.Host, ev.Reason))
	}
}

// orphaned rolls back what nobody can commit any more (M11). Nobody is left to be told why.
func (p *Participant) orphaned(ev Orphaned, out *Ready) {
	if p.a.phase != Idle && p.a.phase < Complete && ev.Key == p.a.key {
		p.rollback(out, "the coordinator is gone")
	}
}

// resolved carries out the outcome of an attempt that is in doubt here.
func (p *Participant) resolved(ev Resolved, out *Ready) {
	if p.a.phase == Complete && p.a.key.Snapshot == ev.Snapshot {
		if ev.Committed {
			p.commit(out)
		} else {
			p.rollback(out, neverCommitted)
		}
		return
	}
	i := slices.IndexFunc(p.doubt, func(k Key) bool { return k.Snapshot == ev.Snapshot })
	if i < 0 {
		return
	}
	key := p.doubt[i]
	p.forget(i, out)
	if !ev.Committed {
		out.Actions = append(out.Actions, Action{Type: ActDiscard, Key: key, Reason: neverCommitted})
	}
}

// neverCommitted is why the images of a resolved attempt go.
const neverCommitted = "its coordinator ended without a commit"

func (p *Participant) prepared(calm bool, out *Ready) {
	p.a.phase, p.a.calm = Prepared, calm
	p.say(out)
	if p.a.triggered {
		p.trigger(out)
	}
}

// hold begins to hold the handshakes of new connections (M1a), once. A host that was calm when it was prepared does it too: it may have let them
// go since.
func (p *Participant) hold(out *Ready) {
	if p.a.phase != Prepared || p.a.holding {
		return
	}
	p.a.holding, p.a.calm = true, false
	p.act(out, Action{Type: ActHold})
}

// becomeCalm: no connection is half open here, or the time for that is over.
func (p *Participant) becomeCalm(out *Ready) {
	p.a.calm = true
	p.say(out)
	if p.a.triggered {
		p.record(out)
	}
}

// record begins the record: M2's one and only.
func (p *Participant) record(out *Ready) {
	p.a.phase = Recording
	p.journal(out)
	p.act(out, Action{Type: ActRecord})
	if p.mistakes.announceEarly {
		p.say(out)
		p.mark(out)
	}
}

// recorded: every gate is closed, so this is the recorded instant. Now, and not before, others may know (M3).
func (p *Participant) recorded(peers map[HostID][]string, out *Ready) {
	p.a.peers = make(map[HostID][]string, len(peers))
	for q, channels := range peers {
		if p.a.participants.has(q) && len(channels) > 0 {
			p.a.peers[q] = slices.Clone(channels)
		}
	}
	p.a.phase = Settling
	p.a.settleEnd = p.now + p.a.settle
	p.say(out)
	p.mark(out)
	for _, q := range p.listed() {
		if p.settles(q) {
			p.act(out, Action{Type: ActSettle, Peer: q})
		}
	}
	p.maybeDump(out)
}

// settles says whether packets of existing connections may flow between this host and q: both have
// recorded, and both know it (M5a). Of connections that only one of them lists nothing flows. Both ends
// of a connection between members of this host are recorded at once.
func (p *Participant) settles(q HostID) bool {
	_, listed := p.a.peers[q]
	return listed && (q == p.host || p.a.mutual.has(q))
}

// maybeDump ends the settle phase when nobody is left to wait for, or no time.
func (p *Participant) maybeDump(out *Ready) {
	if p.a.phase != Settling {
		return
	}
	if p.now < p.a.settleEnd {
		for q := range p.a.peers {
			if q != p.host && !p.a.marked.has(q) {
				return
			}
		}
	}
	p.a.phase = Dumping
	p.act(out, Action{Type: ActDump})
	if p.mistakes.captureEarly {
		p.captured(out)
	}
}

// captured: what arrives from now on is in no record, so the gates open toward all who have come as far (M6),
// though the members' memory is still being dumped. Without that, a peer that is done sooner would
// send into a closed gate until its retransmission timer runs out.
func (p *Participant) captured(out *Ready) {
	if p.a.captured {
		return
	}
	p.a.captured = true
	p.sayCaptured(out)
	p.openGates(out)
}

// dumped: the members may run (M5), and the gates open if they have not before.
func (p *Participant) dumped(ends []End, out *Ready) {
	p.a.phase = Storing
	p.a.ends = slices.Clone(ends)
	if !p.a.stop {
		p.act(out, Action{Type: ActThaw})
	}
	p.a.captured = true
	p.sayCaptured(out)
	p.openGates(out)
	p.maybeStore(out)
}

// maybeStore begins to store when no member that this host shares a channel with stands still any more: they come
// before our load on disks and network, which hosts may share.
func (p *Participant) maybeStore(out *Ready) {
	if p.a.phase != Storing || p.a.storing {
		return
	}
	for _, q := range p.peersInOrder() {
		if !p.a.dumped.has(q) {
			return
		}
	}
	p.a.storing = true
	p.act(out, Action{Type: ActStore})
}

// mayOpen says whether the gate toward this host itself or toward a channel peer may open once this host's own connections are captured (M6).
func (p *Participant) mayOpen(q HostID) bool {
	return q == p.host || p.a.caught.has(q) || p.mistakes.openEarly
}

// mayOpenRest says the same of the gates toward participants without a channel.
func (p *Participant) mayOpenRest() bool {
	return p.a.allRecorded || p.mistakes.openEarly || p.mistakes.openUnconnected
}

// openGates opens the gates that may open. Members that will be killed keep theirs closed, but it
// counts all the same whether they might be open: see maybeComplete.
func (p *Participant) openGates(out *Ready) {
	switch p.a.phase {
	case Dumping:
		if !p.a.captured {
			return
		}
	case Storing:
	case Complete:
		if !p.mistakes.completeEarly {
			return
		}
	default:
		return
	}
	gates := p.ownGates()
	for _, q := range gates {
		if p.a.opened.has(q) || !p.mayOpen(q) {
			continue
		}
		p.a.opened = p.a.opened.with(q)
		if !p.a.stop {
			p.act(out, Action{Type: ActOpen, Peer: q})
		}
	}
	rest := len(p.a.participants.all()) > len(gates)
	if rest && !p.a.restOpen && p.mayOpenRest() {
		p.a.restOpen = true
		if !p.a.stop {
			p.act(out, Action{Type: ActOpenRest})
		}
	}
	p.maybeComplete(out)
}

// ownGates lists the hosts whose gates open one by one: this host itself, and those with which it shares a channel.
func (p *Participant) ownGates() hostSet { return p.listed().with(p.host) }

// allOpen says whether no gate is closed any more, or would be without stop.
func (p *Participant) allOpen() bool {
	gates := p.ownGates()
	return len(p.a.opened) == len(gates) && (p.a.restOpen || len(p.a.participants.all()) == len(gates))
}

func (p *Participant) stored(out *Ready) {
	p.a.stored = true
	p.maybeComplete(out)
}

// maybeComplete: the host is complete when its images are durable and no gate has to be closed any
// more for anybody's record. So whatever becomes of a complete host, be it a crash of its agent, which opens
// its gates, it cannot spoil a cut that the coordinator may commit (M9).
func (p *Participant) maybeComplete(out *Ready) {
	if p.a.phase != Storing || !p.a.stored {
		return
	}
	if !p.allOpen() && !p.mistakes.completeEarly {
		return
	}
	p.a.phase = Complete
	p.journal(out)
	p.say(out)
}

// release lets go of a complete attempt whose outcome is not known (M11).
func (p *Participant) release(out *Ready) {
	p.a.released = true
	if p.a.stop {
		p.a.reason = "members run on: the host had to let go of them before it heard of the commit"
	}
	p.act(out, Action{Type: ActRelease})
}

// fail gives the attempt up and tells the coordinator why (M10).
func (p *Participant) fail(out *Ready, cause Cause, reason string) {
	p.a.cause, p.a.reason = cause, reason
	p.rollback(out, reason)
	p.say(out)
}

func (p *Participant) rollback(out *Ready, reason string) {
	wasComplete := p.a.phase == Complete
	p.a.phase = RollingBack
	if wasComplete {
		p.journal(out) // or a restart would take what is half removed for complete
	}
	p.act(out, Action{Type: ActRollback, Reason: reason})
}
