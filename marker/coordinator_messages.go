package marker

import (
	"fmt"
	"slices"
)

// receive takes a participant's message. One of another attempt, or one that the attempt has left
// behind, changes nothing: a reply cannot revive what was aborted (M12).
func (c *Coordinator) receive(m Message, out *Ready) {
	i := c.index(m.From)
	if m.To != CoordinatorHost || i < 0 || m.Key != c.cfg.Key && !c.mistakes.noFence {
		return
	}
	switch c.stage {
	case StagePreparing, StageRunning:
		c.underWay(i, m, out)
	case StageFinishing:
		if m.Type == MsgDone {
			c.acknowledge(i, HostDone, m.Reason, out)
		}
	case StageAborting:
		if m.Type == MsgAborted {
			c.acknowledge(i, HostAborted, m.Reason, out)
		}
	}
}

// underWay takes a message before the commit.
func (c *Coordinator) underWay(i int, m Message, out *Ready) {
	id := m.From
	switch m.Type {
	case MsgLacks:
		c.lacks(i, out)
	case MsgPrepared:
		c.advance(i, HostPrepared, out)
	case MsgCalm:
		if c.calm == 0 && c.stage == StagePreparing {
			c.calm = c.now + staysCalm
		}
		c.advance(i, HostCalm, out)
	case MsgRecorded:
		c.advance(i, HostRecorded, out)
	case MsgComplete:
		if c.hosts.get(i).progress < HostComplete {
			c.put(i, func(h *host) { h.said = &said{ownedBy(id, m.Ends), h.report().note} })
			c.advance(i, HostComplete, out)
		}
	case MsgFailed:
		c.abort(out, m.Cause, id, fmt.Sprintf("%s: %s", id, m.Reason))
	case MsgAborted:
		// It has given up by itself, and the message that said why was lost.
		c.put(i, func(h *host) { h.progress = HostAborted; h.note(m.Reason) })
		c.abort(out, CauseAction, id, fmt.Sprintf("%s: gave the snapshot up", id))
	}
}

// ownedBy returns the ends with their host filled in: nobody speaks for another host.
func ownedBy(id HostID, ends []End) []End {
	ends = slices.Clone(ends)
	for i := range ends {
		ends[i].Host = id
	}
	return ends
}

// advance notes how far a host is and takes the step that it was the last one to hold up, if any.
// Messages may overtake each other, so one message can make more than one step possible.
func (c *Coordinator) advance(i int, p Progress, out *Ready) {
	if c.hosts.get(i).progress >= p {
		return
	}
	allPrepared, allRecorded := c.reached(HostPrepared), c.reached(HostRecorded)
	c.put(i, func(h *host) { h.progress = p })
	if !allPrepared && c.reached(HostPrepared) {
		c.hold(out)
	}
	if c.stage == StagePreparing && c.reached(HostCalm) {
		c.stage = StageRunning
		c.send(out, Message{Type: MsgStart, To: c.cfg.Initiator})
	}
	if !allRecorded && c.reached(HostRecorded) {
		out.Messages = slices.Grow(out.Messages, len(c.group.hosts))
		for _, id := range c.group.hosts {
			c.send(out, Message{Type: MsgAllRecorded, To: id})
		}
	}
	if c.allComplete() {
		c.commit(out)
	}
}

// staysCalm is half of what a host promises that was calm when it was prepared: a second.
const staysCalm Millis = 500

// hold tells all hosts to hold new connections (M1a), when the last one is prepared; nobody, if all have done so while they prepared, and not long ago.
func (c *Coordinator) hold(out *Ready) {
	if c.reached(HostCalm) && c.now < c.calm {
		return
	}
	out.Messages = slices.Grow(out.Messages, len(c.group.hosts))
	for i, id := range c.group.hosts {
		if c.hosts.get(i).progress == HostCalm {
			c.put(i, func(h *host) { h.progress = HostPrepared })
		}
		c.send(out, Message{Type: MsgHold, To: id})
	}
}

func (c *Coordinator) allComplete() bool {
	if c.mistakes.commitEarly {
		return c.atLeast(HostComplete) >= len(c.group.hosts)-1 && c.reached(HostRecorded)
	}
	return c.reached(HostComplete)
}

// commit checks the cut (M8) and asks for it to be made durable (M9).
func (c *Coordinator) commit(out *Ready) {
	var ends []End
	for _, h := range c.hosts.all {
		if h.said != nil {
			ends = append(ends, h.said.ends...)
		}
	}
	channels, err := Check(ends, c.cfg.Outside)
	if err != nil && !c.mistakes.commitEarly {
		c.abort(out, cause(err), blamed(err), err.Error())
		return
	}
	c.stage = StageCommitting
	out.Commit = &Commit{Key: c.cfg.Key, Channels: channels, Outside: Outside(ends), Unheard: Unheard(ends)}
}

// acknowledge notes that a host has carried out the outcome.
func (c *Coordinator) acknowledge(i int, p Progress, note string, out *Ready) {
	c.put(i, func(h *host) {
		h.progress = p
		if note != "" {
			h.note(note)
		}
	})
	c.maybeOver(out)
}

// tellAll tells every host what it has to know in this stage and has not acknowledged, again and again: what was
// lost is made good, and what was not does no harm.
func (c *Coordinator) tellAll(out *Ready) {
	out.Messages = slices.Grow(out.Messages, len(c.group.hosts))
	for i, h := range c.hosts.all {
		c.tell(c.group.hosts[i], h, out)
	}
}

func (c *Coordinator) tell(id HostID, h host, out *Ready) {
	switch c.stage {
	case StageFinishing:
		if h.progress != HostDone {
			c.send(out, Message{Type: MsgCommit, To: id})
		}
	case StageAborting:
		if h.progress != HostAborted {
			c.send(out, Message{Type: MsgAbort, To: id, Reason: c.outcome.Reason})
		}
	case StagePreparing, StageRunning, StageCommitting:
		if h.progress == HostContacted {
			c.send(out, c.prepare(id, h))
			return
		}
		c.send(out, Message{Type: MsgRenew, To: id, Lease: c.cfg.Lease})
		if c.reached(HostPrepared) && h.progress == HostPrepared {
			c.send(out, Message{Type: MsgHold, To: id})
		}
		if c.stage == StageRunning && id == c.cfg.Initiator && h.progress == HostCalm {
			c.send(out, Message{Type: MsgStart, To: id})
		}
		if c.reached(HostRecorded) {
			c.send(out, Message{Type: MsgAllRecorded, To: id})
		}
	}
}

// lacks sends a host the participants that it does not know.
func (c *Coordinator) lacks(i int, out *Ready) {
	c.put(i, func(h *host) { h.lacks = true })
	if h := c.hosts.get(i); c.stage == StagePreparing && h.progress == HostContacted {
		c.send(out, c.prepare(c.group.hosts[i], h))
	}
}

func (c *Coordinator) prepare(id HostID, h host) Message {
	m := Message{
		Type:      MsgPrepare,
		To:        id,
		Group:     c.group.digest,
		Initiator: c.cfg.Initiator,
		Stop:      c.cfg.Stop,
		Lease:     c.cfg.Lease,
		Settle:    c.cfg.Settle,
	}
	if h.lacks {
		m.Participants = c.Hosts()
	}
	return m
}

// send addresses a message and appends it.
func (c *Coordinator) send(out *Ready, m Message) {
	m.Key = c.cfg.Key
	m.From = CoordinatorHost
	out.Messages = append(out.Messages, m)
}
