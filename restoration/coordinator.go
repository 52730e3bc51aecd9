package restoration

import (
	"fmt"
	"slices"
	"strings"
)

// CoordinatorConfig is what a coordinator must know of the restore that it drives. Of the limits, 0 means none.
type CoordinatorConfig struct {
	ID        ID
	Targets   []HostID // hosts that get a part; the first decides
	Old       []HostID // hosts that get none, and whose members of the job end
	CheckOnly bool     // R1 and no more
	Problems  int      // that the plan itself has: they count like those that the hosts' checks find

	Retry        Millis // until what was not answered is said again
	StepTimeout  Millis // for each of R1 to R4
	AskTimeout   Millis // R5: until a host that does not answer is given up, and the outcome is unknown
	AbortTimeout Millis // until all have said that they have stopped, or left
}

// Stage is where a coordinator stands. It only goes forward.
type Stage int

// The stages of a coordinator.
const (
	StageNew          Stage = iota // Begin is awaited
	StageChecking                  // R1
	StageFetching                  // R2
	StageFencingFirst              // R3: the deciding host is told to fence, and nobody else
	StageFencing                   // R3: everyone is
	StageRestoring                 // R4
	StageDeciding                  // R5: the deciding host is told to resume, and nobody else. Whether it does is its word alone
	StageResuming                  // R5: the resume was decided
	StageAborting                  // everyone leaves, or stops
	StageOver                      // Ready.Outcome is out
)

// aims says, by stage, the order that it consists of and the phase that it leads to.
var aims = map[Stage]struct {
	order MessageType
	goal  Phase
}{
	StageChecking:     {MsgCheck, Checked},
	StageFetching:     {MsgFetch, Armed},
	StageFencingFirst: {MsgFence, Fencing},
	StageFencing:      {MsgFence, Fenced},
	StageRestoring:    {MsgRestore, Standing},
	StageDeciding:     {MsgResume, Resuming},
	StageResuming:     {MsgResume, Resumed},
}

// ending is what an abort is to lead to.
type ending int

const (
	endUnknown   ending = iota // the deciding host was told to fence and has not said whether it did: it is asked, and it binds itself
	endUntouched               // nothing was ended
	endStopped                 // the live members were ended: all of the job ends
	endLost                    // the resume was decided and a target has lost its part: all of the job ends
)

// Coordinator is the role of the process that restores, for one restore. It is a value, like Target.
type Coordinator struct {
	cfg   *CoordinatorConfig
	names *roster // the targets, then the old hosts
	hosts vec[host]

	stage    Stage
	ending   ending
	now      Millis
	there    int  // hosts that the stage waits for and that have reached its goal
	alone    int  // hosts that an abort waits for and that nobody can reach
	asking   bool // Deciding, FencingFirst, Aborting with endUnknown: the deciding host is lost, all are asked
	retry    Millis
	limit    Millis // of the stage; 0: none
	outcome  Outcome
	mistakes mistakes
}

// host is what the coordinator knows of one host.
type host struct {
	phase    Phase
	problems int
	lost     int // how often it could not be reached since it was last heard of, in this stage
}

// NewCoordinator returns a coordinator that waits for Begin.
func NewCoordinator(cfg CoordinatorConfig) (Coordinator, error) {
	names := newRoster(slices.Concat(cfg.Targets, cfg.Old))
	switch {
	case len(cfg.Targets) == 0:
		return Coordinator{}, &ConfigError{"the restore has no targets"}
	case names.index(CoordinatorHost) >= 0:
		return Coordinator{}, &ConfigError{"a host of the restore has no name"}
	case cfg.Retry <= 0:
		return Coordinator{}, &ConfigError{"the time between two tries is not positive"}
	}
	return Coordinator{cfg: &cfg, names: names, hosts: newVec[host](len(names.ids))}, nil
}

// Stage is where the coordinator stands.
func (c Coordinator) Stage() Stage { return c.stage }

// HostPhase is where a host stands, as far as it has said.
func (c Coordinator) HostPhase(id HostID) Phase {
	if i := c.names.index(id); i >= 0 {
		return c.hosts.get(i).phase
	}
	return PhaseUnknown
}

// Deadline is the next instant at which a Tick changes something, 0 if there is none.
func (c Coordinator) Deadline() Millis {
	if c.stage == StageNew || c.stage == StageOver {
		return 0
	}
	if c.limit != 0 {
		return min(c.retry, c.limit)
	}
	return c.retry
}

// Step applies one event and returns the next state and the work it makes. A *TransitionError leaves the state as it is.
func (c Coordinator) Step(ev Event) (Coordinator, Ready, error) {
	next, out := c, Ready{}
	if !next.apply(ev, &out) {
		return c, Ready{}, &TransitionError{Role: "coordinator", Event: ev, State: c.stage.String()}
	}
	return next, out, nil
}

func (c *Coordinator) apply(ev Event, out *Ready) bool {
	switch ev := ev.(type) {
	case Tick:
		c.tick(ev.Now, out)
	case Received:
		c.receive(ev.Message, out)
	case Lost:
		c.lost(ev, out)
	case Interrupt:
		c.giveUp(CauseInterrupt, CoordinatorHost, ev.Reason, out)
	case JobLost:
		c.giveUp(CauseJobLost, CoordinatorHost, ev.Reason, out)
	case Begin:
		if c.stage != StageNew {
			return false
		}
		c.enter(StageChecking, out)
	default:
		return false
	}
	return true
}

// awaited says whether the stage waits for the i-th host.
func (c *Coordinator) awaited(i int) bool {
	switch c.stage {
	case StageFencingFirst, StageDeciding:
		return i == 0
	case StageRestoring, StageResuming:
		return i < len(c.cfg.Targets)
	case StageAborting:
		return c.ending != endUnknown || i == 0
	}
	return true
}

// count is how many hosts the stage waits for.
func (c *Coordinator) count() int {
	switch {
	case c.stage == StageFencingFirst, c.stage == StageDeciding, c.stage == StageAborting && c.ending == endUnknown:
		return 1
	case c.stage == StageRestoring, c.stage == StageResuming:
		return len(c.cfg.Targets)
	}
	return len(c.names.ids)
}

// reached says whether a host in that phase is where the stage wants it.
func (c *Coordinator) reached(p Phase) bool {
	if c.stage == StageAborting {
		return p == Stopped || p == Left
	}
	return p >= aims[c.stage].goal && !p.stops() && p != Left || c.stage == StageChecking && p == Left
}

// enter goes on to a stage and tells everyone who has to do something for it.
func (c *Coordinator) enter(stage Stage, out *Ready) {
	c.stage = stage
	c.asking = false
	c.retry = c.now + c.cfg.Retry
	c.limit = 0
	limit := c.cfg.StepTimeout
	switch stage {
	case StageDeciding, StageResuming:
		limit = c.cfg.AskTimeout
	case StageAborting:
		limit = c.cfg.AbortTimeout
	}
	if limit > 0 {
		c.limit = c.now + limit
	}
	c.recount()
	c.tell(out)
	c.proceed(out)
}

func (c *Coordinator) recount() {
	c.there, c.alone = 0, 0
	for i := range c.names.ids {
		h := c.hosts.get(i)
		if h.lost > 0 && c.stage == StageAborting {
			h.lost = 0
			c.hosts = c.hosts.set(i, h)
		}
		if c.awaited(i) && c.reached(h.phase) {
			c.there++
		}
	}
}

// tell says to every host that the stage waits for, and that is not there yet, what is to be done.
func (c *Coordinator) tell(out *Ready) {
	for i, id := range c.names.ids {
		h := c.hosts.get(i)
		switch {
		case c.awaited(i) && !c.reached(h.phase):
			c.send(out, c.orderFor(id))
		case c.asking && !c.awaited(i) && i < len(c.cfg.Targets):
			c.send(out, Message{Type: MsgAsk, To: id})
		}
	}
	if c.asking {
		c.send(out, Message{Type: MsgAsk, To: c.names.ids[0]})
	}
}

func (c *Coordinator) orderFor(id HostID) Message {
	if c.stage == StageAborting {
		return Message{Type: MsgAbort, To: id, Ended: c.ending >= endStopped, Lost: c.ending == endLost}
	}
	return Message{Type: aims[c.stage].order, To: id}
}

func (c *Coordinator) send(out *Ready, m Message) {
	m.ID = c.cfg.ID
	out.Messages = append(out.Messages, m)
}

func (c *Coordinator) tick(now Millis, out *Ready) {
	if now < c.now {
		return
	}
	c.now = now
	switch {
	case c.stage == StageNew, c.stage == StageOver:
	case c.limit != 0 && now >= c.limit:
		c.tooLate(out)
	case now >= c.retry:
		c.retry = now + c.cfg.Retry
		c.tell(out)
	}
}

// tooLate ends a stage that takes too long. From the word to resume on it does not mean that anything has failed.
func (c *Coordinator) tooLate(out *Ready) {
	late := c.laggards()
	switch c.stage {
	case StageDeciding, StageResuming:
		if c.outcome.Cause == CauseNone {
			c.blame(CauseTimeout, late[0], fmt.Sprintf("%s has not said whether the job runs again there", join(late)))
		}
		c.over(ResultUnknown, out)
	case StageAborting:
		c.ended(out)
	default:
		c.giveUp(CauseTimeout, late[0], fmt.Sprintf("%s took longer than %d ms while %s", join(late), c.cfg.StepTimeout, c.stage), out)
	}
}

func (c *Coordinator) blame(cause Cause, host HostID, reason string) {
	c.outcome.Cause, c.outcome.Blame, c.outcome.Reason = cause, host, reason
}

// laggards are the hosts that the stage waits for.
func (c *Coordinator) laggards() []HostID {
	var late []HostID
	for i, id := range c.names.ids {
		if c.awaited(i) && !c.reached(c.hosts.get(i).phase) {
			late = append(late, id)
		}
	}
	return late
}

func join(ids []HostID) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	return strings.Join(names, ", ")
}

// giveUp aborts, where there is still a way back. Where the deciding host has been told to resume there is none without its word.
func (c *Coordinator) giveUp(cause Cause, host HostID, reason string, out *Ready) {
	switch c.stage {
	case StageNew:
		c.blame(cause, host, reason)
		c.over(ResultUntouched, out)
	case StageChecking, StageFetching:
		c.abort(endUntouched, cause, host, reason, out)
	case StageFencingFirst:
		c.abort(endUnknown, cause, host, reason, out)
	case StageFencing, StageRestoring:
		c.abort(endStopped, cause, host, reason, out)
	case StageDeciding, StageResuming:
		if c.mistakes.interruptResume {
			c.abort(endLost, cause, host, reason, out)
		}
	}
}

func (c *Coordinator) abort(end ending, cause Cause, host HostID, reason string, out *Ready) {
	if c.stage != StageAborting {
		c.blame(cause, host, reason)
	}
	c.ending = end
	c.enter(StageAborting, out)
}
