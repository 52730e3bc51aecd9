package marker

import (
	"fmt"
	"slices"
)

// receive sorts a message: for another host, for the current attempt, or for any other one.
func (p *Participant) receive(m Message, out *Ready) {
	if m.To != p.host || m.Key.Job != p.job {
		return
	}
	if p.mistakes.noFence && m.Type != MsgPrepare && p.a.phase != Idle {
		m.Key = p.a.key
	}
	switch {
	case m.Type == MsgPrepare:
		if m.From == CoordinatorHost {
			p.prepare(m, out)
		}
	case p.a.phase == Idle || m.Key != p.a.key:
		if m.From == CoordinatorHost {
			p.foreign(m, out)
		}
	case m.From == CoordinatorHost:
		p.fromCoordinator(m, out)
	case m.From != p.host && p.a.participants.has(m.From):
		p.fromPeer(m, out)
	}
}

// prepare takes the host for a new attempt, or says why not.
func (p *Participant) prepare(m Message, out *Ready) {
	if p.a.phase != Idle && m.Key == p.a.key {
		p.renew(m, out)
		return
	}
	if cause, reason := p.refusal(m); cause != CauseNone {
		p.send(out, Message{Type: MsgFailed, Key: m.Key, Cause: cause, Reason: reason})
		return
	}
	g := p.groupOf(m)
	if g == nil {
		p.send(out, Message{Type: MsgLacks, Key: m.Key, Group: m.Group})
		return
	}
	if reason := p.misfit(m, g); reason != "" {
		p.send(out, Message{Type: MsgFailed, Key: m.Key, Cause: CauseRefused, Reason: reason})
		return
	}
	if p.a.phase == Complete {
		p.doubt = append(slices.Clone(p.doubt), p.a.key)
	}
	p.group = g
	p.highest = m.Key.Epoch
	p.a = attempt{
		key:          m.Key,
		phase:        Preparing,
		participants: g,
		initiator:    m.Initiator,
		stop:         m.Stop,
		lease:        p.now + m.Lease,
		settle:       m.Settle,
	}
	p.journal(out)
	p.act(out, Action{Type: ActPrepare})
}

// refusal says why a Prepare of another attempt than the current one is refused. An attempt that
// holds the host is never robbed of it, of whatever epoch the newcomer is: its coordinator may be alive
// and about to commit, and a dead one's lease ends by itself. Only what was Complete and released
// makes room.
func (p *Participant) refusal(m Message) (Cause, string) {
	switch {
	case p.a.phase != Idle && !p.a.released && !p.mistakes.steal:
		return CauseConflict, fmt.Sprintf("snapshot %s of job %s is under way here (%s)", p.a.key.Snapshot, p.job, p.a.phase)
	case p.a.phase == Finishing || p.a.phase == RollingBack:
		return CauseConflict, fmt.Sprintf("snapshot %s of job %s is ending here (%s)", p.a.key.Snapshot, p.job, p.a.phase)
	case m.Key.Epoch <= p.highest:
		return CauseStale, fmt.Sprintf("epoch %d is not newer than %d, which this host has seen", m.Key.Epoch, p.highest)
	case m.Lease <= 0 || m.Settle < 0:
		return CauseRefused, "lease or settle time is not positive"
	}
	return CauseNone, ""
}

// groupOf is the participants that a Prepare speaks of: those that it lists, or the ones that were heard of last, or nil.
func (p *Participant) groupOf(m Message) *group {
	switch {
	case len(m.Participants) > 0:
		return newGroup(m.Participants)
	case p.group != nil && p.group.digest == m.Group:
		return p.group
	}
	return nil
}

// misfit says why a Prepare makes no sense for its participants.
func (p *Participant) misfit(m Message, g *group) string {
	switch {
	case g.digest != m.Group:
		return "the participants are not those that the attempt names"
	case !g.has(p.host) || !g.has(m.Initiator):
		return "this host or the initiator is not among the participants"
	}
	return ""
}

// foreign answers the coordinator of an attempt that does not hold the host.
func (p *Participant) foreign(m Message, out *Ready) {
	doubted := slices.Index(p.doubt, m.Key)
	switch m.Type {
	case MsgAbort:
		if doubted >= 0 {
			p.forget(doubted, out)
			out.Actions = append(out.Actions, Action{Type: ActDiscard, Key: m.Key, Reason: m.Reason})
		} else if m.Key.Epoch > p.highest {
			// A Prepare that comes late must not take the host after the coordinator was told that it runs.
			p.highest = m.Key.Epoch
			p.rewrite(out)
		}
		p.send(out, Message{Type: MsgAborted, Key: m.Key})
	case MsgCommit:
		if doubted >= 0 {
			p.forget(doubted, out)
		}
		// A commit means that this host was Complete. It no longer is, so it was told before.
		if m.Key.Epoch <= p.highest {
			p.send(out, Message{Type: MsgDone, Key: m.Key})
		}
	case MsgStart, MsgRenew:
		if p.a.phase == Idle && p.aborted && m.Key == p.last {
			p.send(out, Message{Type: MsgAborted, Key: m.Key})
		}
	}
}

// forget takes the i-th attempt off the list of those in doubt.
func (p *Participant) forget(i int, out *Ready) {
	p.doubt = slices.Delete(slices.Clone(p.doubt), i, i+1)
	p.rewrite(out)
}

func (p *Participant) fromCoordinator(m Message, out *Ready) {
	switch m.Type {
	case MsgHold:
		p.hold(out)
	case MsgStart:
		p.trigger(out)
	case MsgRenew:
		p.renew(m, out)
	case MsgAllRecorded:
		p.a.allRecorded = true
		p.openGates(out)
	case MsgCommit:
		p.commit(out)
	case MsgAbort:
		p.abort(m, out)
	}
}

func (p *Participant) fromPeer(m Message, out *Ready) {
	switch m.Type {
	case MsgMarker:
		p.marker(m, out)
	case MsgCaptured, MsgDumped:
		p.a.caught = p.a.caught.with(m.From)
		if m.Type == MsgDumped {
			p.a.dumped = p.a.dumped.with(m.From)
		}
		p.a.marked = p.a.marked.with(m.From) // whose dump runs has recorded, and its gates are sealed: no use in waiting
		p.openGates(out)
		p.maybeDump(out)
		p.maybeStore(out)
	}
}

// trigger begins the record if the host is ready for it and has not recorded yet (M2). A host that has not been told to hold handshakes, because
// that message was lost, does so first.
func (p *Participant) trigger(out *Ready) {
	switch {
	case p.a.phase == Prepared && p.a.calm:
		p.record(out)
	case p.a.phase == Preparing, p.a.phase == Prepared:
		p.a.triggered = true
		p.hold(out)
	}
}

// marker: the peer has recorded.
func (p *Participant) marker(m Message, out *Ready) {
	first := !p.a.marked.has(m.From) || len(m.Channels) > 0 && !p.a.mutual.has(m.From)
	p.a.marked = p.a.marked.with(m.From)
	if len(m.Channels) > 0 {
		p.a.mutual = p.a.mutual.with(m.From)
	}
	p.trigger(out)
	if !first {
		return
	}
	switch p.a.phase {
	case Settling, Dumping:
		if p.settles(m.From) && (p.a.phase == Settling || p.mistakes.settleAfterSeal) {
			p.act(out, Action{Type: ActSettle, Peer: m.From})
		}
		p.markLate(m.From, out)
		p.maybeDump(out)
	case Storing, Complete:
		p.markLate(m.From, out)
	default:
		return
	}
	if p.a.captured && p.owes(m.From) {
		p.sayCapturedTo(m.From, out)
	}
}

// owes says whether q lists channels with this host that this host does not list, so that q would wait for it:
// a connection that is half open here.
func (p *Participant) owes(q HostID) bool {
	_, listed := p.a.peers[q]
	return !listed && p.a.mutual.has(q)
}

// mark sends the Markers (M3).
func (p *Participant) mark(out *Ready) {
	to := p.listed()
	if p.host == p.a.initiator {
		to = p.a.participants.all()
	}
	for _, q := range p.a.mutual {
		if p.owes(q) {
			to = to.with(q)
		}
	}
	for _, q := range to {
		if q != p.host {
			p.send(out, Message{Type: MsgMarker, Key: p.a.key, To: q, Channels: slices.Clone(p.a.peers[q])})
		}
	}
}

// markLate sends q the Marker that it waits for and that mark had no reason to send.
func (p *Participant) markLate(q HostID, out *Ready) {
	if p.owes(q) && p.host != p.a.initiator {
		p.send(out, Message{Type: MsgMarker, Key: p.a.key, To: q})
	}
}

// sayCaptured tells everyone who waits for it that this host's dump holds every connection, or is finished (M6).
func (p *Participant) sayCaptured(out *Ready) {
	for _, q := range p.peersInOrder() {
		p.sayCapturedTo(q, out)
	}
	for _, q := range p.a.mutual {
		if p.owes(q) {
			p.sayCapturedTo(q, out)
		}
	}
}

func (p *Participant) sayCapturedTo(q HostID, out *Ready) {
	m := Message{Type: MsgDumped, Key: p.a.key, To: q}
	if p.a.phase == Dumping {
		m.Type = MsgCaptured
	}
	p.send(out, m)
}

// renew: the lease lives on, from now (M11). The answer repeats what was said before, in case it was
// lost, to the coordinator and to the peers.
func (p *Participant) renew(m Message, out *Ready) {
	if p.leased() && m.Lease > 0 {
		p.a.lease = p.now + m.Lease
	}
	p.say(out)
	switch p.a.phase {
	case Settling, Dumping, Storing, Complete:
		p.mark(out)
		if p.a.captured {
			p.sayCaptured(out)
		}
	}
}

// say tells the coordinator how far the host is.
func (p *Participant) say(out *Ready) {
	m := Message{Key: p.a.key}
	switch p.a.phase {
	case Prepared:
		m.Type = MsgPrepared
		if p.a.calm {
			m.Type = MsgCalm
		}
	case Recording:
		m.Type = MsgCalm
		if p.mistakes.announceEarly {
			m.Type = MsgRecorded
		}
	case Settling, Dumping, Storing:
		m.Type = MsgRecorded
	case Complete:
		m.Type, m.Ends = MsgComplete, slices.Clone(p.a.ends)
	case RollingBack:
		if p.a.cause == CauseNone {
			return // it was told to, and will say when it has
		}
		m.Type, m.Cause, m.Reason = MsgFailed, p.a.cause, p.a.reason
	default:
		return
	}
	p.send(out, m)
}

// commit: the cut exists (M9). Members that were to stop are killed, unless they had to be let go.
func (p *Participant) commit(out *Ready) {
	if p.a.phase != Complete {
		return // Finishing: Done follows. Else no coordinator that keeps to M9 has sent it.
	}
	kill := p.a.stop && !p.a.released
	p.a.phase = Finishing
	if kill {
		p.journal(out) // a restart has to kill, too
	}
	p.act(out, Action{Type: ActFinish, Kill: kill})
}

// abort: back to running (M10). After a commit nobody aborts.
func (p *Participant) abort(m Message, out *Ready) {
	if p.a.phase == Finishing || p.a.phase == RollingBack {
		return
	}
	if p.mistakes.abortWithoutOpening {
		p.rolledBack("", out)
		return
	}
	p.rollback(out, m.Reason)
}

// send addresses a message and appends it.
func (p *Participant) send(out *Ready, m Message) {
	m.From = p.host
	out.Messages = append(out.Messages, m)
}
