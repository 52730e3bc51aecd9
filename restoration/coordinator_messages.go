package restoration

import "fmt"

func (c *Coordinator) receive(m Message, out *Ready) {
	i := c.names.index(m.From)
	if m.ID != c.cfg.ID || m.To != CoordinatorHost || m.Type != MsgReport || i < 0 {
		return
	}
	if c.stage == StageNew || c.stage == StageOver {
		return
	}
	h := c.hosts.get(i)
	if m.Phase == PhaseUnknown {
		c.forgot(i, m, out)
		return
	}
	if c.givenUp(h) {
		c.alone--
	}
	h.lost = 0
	if m.Phase <= h.phase { // said before, or late
		c.hosts = c.hosts.set(i, h)
		return
	}
	was := c.reached(h.phase)
	h.phase, h.problems = m.Phase, m.Problems
	c.hosts = c.hosts.set(i, h)
	if c.awaited(i) && !was && c.reached(m.Phase) {
		c.there++
	}
	c.heard(i, m, out)
}

// forgot: an agent that was restarted before its host was armed has nothing written down, for nothing was touched.
func (c *Coordinator) forgot(i int, m Message, out *Ready) {
	h := c.hosts.get(i)
	if c.stage == StageAborting && h.phase < Armed {
		m.Phase = Left
		c.receive(m, out)
	}
}

// heard draws the conclusions from a host's report.
func (c *Coordinator) heard(i int, m Message, out *Ready) {
	id, target := m.From, i < len(c.cfg.Targets)
	over := m.Phase.stops() || m.Phase == Left
	reason := m.Reason
	if reason == "" {
		reason = fmt.Sprintf("%s has backed out", id)
	}
	cause := CauseAction
	if m.Reason == "" {
		cause = CauseSettled
	}
	switch c.stage {
	case StageFetching:
		if over {
			c.abort(endUntouched, cause, id, reason, out)
			return
		}
	case StageFencing, StageRestoring:
		if over {
			c.abort(endStopped, cause, id, reason, out)
			return
		}
	case StageFencingFirst:
		if end, ok := c.word(i, m.Phase); ok && end != endUnknown {
			c.abort(end, cause, id, reason, out)
			return
		}
	case StageDeciding:
		switch {
		case target && m.Phase.stops():
			c.abort(endLost, cause, id, reason, out)
			return
		case target && m.Phase.decided():
			c.enter(StageResuming, out)
			return
		}
	case StageResuming:
		switch {
		case target && m.Phase.stops():
			c.abort(endLost, cause, id, reason, out)
			return
		case m.Phase == Whole: // the hosts have found that out among themselves
			c.finish(out)
			return
		}
	case StageAborting:
		if end, ok := c.word(i, m.Phase); ok && c.ending == endUnknown && end != endUnknown {
			c.abort(end, cause, id, reason, out)
			return
		}
	}
	c.proceed(out)
}

// word is what a host's phase says about the fence, while it is not known whether it was decided.
func (c *Coordinator) word(i int, p Phase) (ending, bool) {
	switch {
	case p == Left:
		return endUntouched, true
	case p.stops():
		return endStopped, true
	case p >= Fencing && c.stage == StageAborting:
		return endStopped, true
	}
	return endUnknown, i == 0 && p >= Fencing
}

// proceed goes on to the next stage when everyone who is waited for is there.
func (c *Coordinator) proceed(out *Ready) {
	missing := c.count() - c.there
	if c.stage == StageRestoring && c.mistakes.resumeEarly || c.stage == StageResuming && c.mistakes.finishEarly {
		missing--
	}
	if missing > 0 {
		c.maybeAlone(out)
		return
	}
	switch c.stage {
	case StageChecking:
		c.checked(out)
	case StageFetching:
		if c.mistakes.fenceAll {
			c.enter(StageFencing, out)
			return
		}
		c.enter(StageFencingFirst, out)
	case StageFencingFirst:
		c.enter(StageFencing, out)
	case StageFencing:
		c.enter(StageRestoring, out)
	case StageRestoring:
		c.enter(StageDeciding, out)
	case StageDeciding:
		c.enter(StageResuming, out)
	case StageResuming:
		c.finish(out)
	case StageAborting:
		c.ended(out)
	}
}

// finish: the job runs again, everywhere.
func (c *Coordinator) finish(out *Ready) {
	for _, id := range c.names.ids {
		c.send(out, Message{Type: MsgFinish, To: id})
	}
	c.over(ResultResumed, out)
}

// checked: every host has looked, so all that was found can be shown at once.
func (c *Coordinator) checked(out *Ready) {
	for i, id := range c.names.ids {
		if h := c.hosts.get(i); h.phase == Left || h.problems > 0 {
			cause := CauseProblems
			if h.phase == Left {
				cause = CauseAction
			}
			c.abort(endUntouched, cause, id, fmt.Sprintf("%s cannot take its part", id), out)
			return
		}
	}
	if c.cfg.Problems > 0 {
		c.abort(endUntouched, CauseProblems, CoordinatorHost, "the plan has problems", out)
		return
	}
	if c.cfg.CheckOnly {
		c.abort(endUntouched, CauseNone, CoordinatorHost, "", out)
		return
	}
	c.enter(StageFetching, out)
}

// lost: a host cannot be reached. Before R5 that fails the restore. From then on it says nothing about what the host has done.
func (c *Coordinator) lost(ev Lost, out *Ready) {
	i := c.names.index(ev.Host)
	if i < 0 || c.stage == StageNew || c.stage == StageOver {
		return
	}
	h := c.hosts.get(i)
	if h.lost++; h.lost == alone && c.givenUp(h) {
		c.alone++
	}
	c.hosts = c.hosts.set(i, h)
	reason := fmt.Sprintf("%s cannot be reached: %s", ev.Host, ev.Reason)
	switch c.stage {
	case StageChecking, StageFetching:
		if h.phase != Left {
			c.giveUp(CauseUnreachable, ev.Host, reason, out)
		}
	case StageFencingFirst, StageFencing, StageRestoring:
		if i < len(c.cfg.Targets) || h.phase < Fenced {
			c.giveUp(CauseUnreachable, ev.Host, reason, out)
		}
	case StageDeciding, StageResuming:
		if i >= len(c.cfg.Targets) {
			return
		}
		if c.outcome.Cause == CauseNone {
			c.blame(CauseUnreachable, ev.Host, reason)
		}
		if c.mistakes.abortOnLostAnswer {
			c.abort(endLost, CauseUnreachable, ev.Host, reason, out)
			return
		}
	}
	if i == 0 || c.stage == StageResuming {
		c.askAll(out)
	}
	c.maybeAlone(out)
}

// askAll asks every target, and has it ask the deciding host, when the coordinator has lost that one and needs its word. After the
// decision, the deciding host is to find out about a host that the coordinator has lost.
func (c *Coordinator) askAll(out *Ready) {
	needs := c.stage == StageDeciding || c.stage == StageResuming || c.stage == StageAborting && c.ending == endUnknown
	if !needs || c.asking {
		return
	}
	c.asking = true
	c.retry = c.now + c.cfg.Retry
	c.tell(out)
}

// alone is how often a host must have been unreachable for an abort not to wait for it: the line that has ended, and a
// second try over another one.
const alone = 2

// givenUp says whether an abort does not wait for a host any more.
func (c *Coordinator) givenUp(h host) bool {
	return c.stage == StageAborting && h.lost >= alone && !c.reached(h.phase)
}

// maybeAlone ends an abort that only hosts are left in that nobody can reach. They settle their parts by themselves.
func (c *Coordinator) maybeAlone(out *Ready) {
	if c.stage == StageAborting && c.ending != endUnknown && c.there+c.alone >= c.count() {
		c.ended(out)
	}
}

// ended: the abort is over.
func (c *Coordinator) ended(out *Ready) {
	switch {
	case c.ending == endUnknown:
		c.over(ResultUnknown, out)
	case c.ending >= endStopped:
		c.over(ResultStopped, out)
	case c.outcome.Cause == CauseNone:
		c.over(ResultChecked, out)
	default:
		c.over(ResultUntouched, out)
	}
}

func (c *Coordinator) over(result Result, out *Ready) {
	o := c.outcome
	o.Result = result
	o.Decided = result == ResultUnknown && c.stage == StageResuming
	switch {
	case c.stage == StageNew, result == ResultResumed:
	case c.stage == StageAborting && c.ending == endUnknown, c.stage == StageDeciding:
		o.Unknown = c.names.ids[:len(c.cfg.Targets):len(c.cfg.Targets)]
	default:
		o.Unknown = c.laggards()
	}
	if result == ResultResumed {
		o.Cause, o.Blame, o.Reason = CauseNone, CoordinatorHost, ""
	}
	c.stage = StageOver
	c.outcome = o
	out.Outcome = &o
}
