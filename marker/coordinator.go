package marker

import (
	"fmt"
	"slices"
	"strings"
)

// Config is what a coordinator must know of the attempt that it drives. Of the limits, 0 means none.
type Config struct {
	Key          Key
	Participants []HostID // in any order
	Initiator    HostID   // one of them; records first
	Stop         bool     // members stay frozen and are killed by the commit
	Outside      OutsidePolicy

	Lease  Millis // how long a participant that hears nothing holds out; renewed three times as often
	Settle Millis // the longest that a recorded participant waits for its peers before it dumps

	PrepareTimeout Millis // until all are prepared
	Standstill     Millis // until every host stores, or is complete: its members run again then, unless Stop holds them
	Timeout        Millis // until all are complete
	AbortTimeout   Millis // until all that an abort reaches run again
	FinishTimeout  Millis // until all have carried out the commit
}

// Stage is where a coordinator stands. It only goes forward.
type Stage int

// The stages of a coordinator.
const (
	StageNew        Stage = iota // Begin is awaited
	StagePreparing               // M1: everyone prepares
	StageRunning                 // they record, dump and store
	StageCommitting              // M9: Ready.Commit is being made durable
	StageFinishing               // the cut exists; everyone is told
	StageAborting                // M10: everyone returns to running
	StageOver                    // Ready.Outcome is out
)

// Progress is how far the coordinator knows a host to be.
type Progress int

// The progress of a host, as its messages tell it.
const (
	HostUntouched Progress = iota
	HostContacted          // a Prepare, or the outcome, is on its way to it
	HostPrepared
	HostCalm // M1a: it holds new connections, and none is half open
	HostRecorded
	HostComplete
	HostDone    // it has carried out the commit
	HostAborted // it runs again
)

// Coordinator is the role of the one who asked for the cut, for one attempt. It is a value, like Participant.
type Coordinator struct {
	cfg      Config
	verdict  verdict
	stage    Stage
	now      Millis // of the latest Tick
	group    *group
	hosts    vector[host]         // by the group's order
	tally    [HostAborted + 1]int // how many hosts are at each progress
	awaited  int                  // hosts that the end of the attempt waits for, once its outcome stands
	prepared Millis               // instant at which PrepareTimeout ends, 0 if it does not
	stores   Millis               // Standstill
	complete Millis               // Timeout
	ended    Millis               // AbortTimeout or FinishTimeout
	renew    Millis               // M11: the next renewal
	calm     Millis               // M1a: instant until which a host that was calm when it was prepared counts as calm; 0: there is none
	outcome  Outcome
	mistakes mistakes
}

// verdict is what a Resolver knows of its attempt's outcome.
type verdict int

const (
	undecided verdict = iota
	committed
	notCommitted
)

// host is what the coordinator knows of one participant, whose name is in the group. Sixteen of them are copied when one changes, so it is small.
type host struct {
	said        *said
	progress    Progress
	stores      bool // it has said Stores
	lacks       bool // it does not know the group: a Prepare lists it
	unreachable bool // M10: it has never answered and cannot be reached, so an abort does not wait for it
	lost        bool // its line is gone: nothing will be heard of it any more
}

// said is what a participant has reported once. It never changes, so states share it; nil is nothing.
type said struct {
	ends []End
	note string
}

// report is what a participant has said, as far as it has said anything.
func (h host) report() said {
	if h.said == nil {
		return said{}
	}
	return *h.said
}

// note adds what a participant said last to what is known of it.
func (h *host) note(text string) { h.said = &said{h.report().ends, text} }

// NewCoordinator returns a coordinator that waits for Begin.
func NewCoordinator(cfg Config) Coordinator {
	c := Coordinator{cfg: cfg, group: newGroup(cfg.Participants)}
	c.hosts = newVector(make([]host, len(c.group.hosts)))
	c.tally[HostUntouched] = len(c.group.hosts)
	return c
}

// NewResolver returns a coordinator for an attempt that its own coordinator has left in doubt: after
// Begin it tells the participants the outcome and waits for their acknowledgements. exists says whether
// the cut exists. Before it says false the caller must have made sure that the attempt's own
// coordinator, should it be alive, cannot commit any more.
func NewResolver(cfg Config, exists bool) Coordinator {
	c := NewCoordinator(cfg)
	c.verdict = notCommitted
	if exists {
		c.verdict = committed
	}
	return c
}

// Stage is where the coordinator stands.
func (c Coordinator) Stage() Stage { return c.stage }

// Key is the attempt's key.
func (c Coordinator) Key() Key { return c.cfg.Key }

// Hosts lists the participants, sorted.
func (c Coordinator) Hosts() []HostID {
	return slices.Clone(c.group.hosts)
}

// HostPhase is how far a participant is known to be; HostUntouched if it is none.
func (c Coordinator) HostPhase(id HostID) Progress {
	if i := c.index(id); i >= 0 {
		return c.hosts.get(i).progress
	}
	return HostUntouched
}

// Deadline is the next instant at which a Tick changes something, 0 if there is none.
func (c Coordinator) Deadline() Millis {
	next := Millis(0)
	for _, at := range c.timers() {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	return next
}

// timers lists the instants that matter in this stage.
func (c *Coordinator) timers() []Millis {
	switch c.stage {
	case StagePreparing:
		return []Millis{c.renew, c.prepared, c.stores, c.complete}
	case StageRunning:
		return []Millis{c.renew, c.stores, c.complete}
	case StageCommitting:
		return []Millis{c.renew}
	case StageFinishing, StageAborting:
		return []Millis{c.renew, c.ended}
	}
	return nil
}

// Step applies one event and returns the next state and the work it makes. It performs no I/O and
// reads no clock: spans count from the latest Tick, so the caller gives it a Tick before every other
// event. A *TransitionError or *ConfigError leaves the state as it is.
func (c Coordinator) Step(ev Event) (Coordinator, Ready, error) {
	next, out := c, Ready{}
	if err := next.apply(ev, &out); err != nil {
		return c, Ready{}, err
	}
	return next, out, nil
}

func (c *Coordinator) apply(ev Event, out *Ready) error {
	switch ev := ev.(type) {
	case Tick:
		c.tick(ev.Now, out)
		return nil
	case Received:
		c.receive(ev.Message, out)
		return nil
	case Unreachable:
		c.unreachable(ev, false, out)
		return nil
	case LineLost:
		c.unreachable(Unreachable(ev), true, out)
		return nil
	case Stores:
		if i := c.index(ev.Host); i >= 0 {
			c.put(i, func(h *host) { h.stores = true })
		}
		return nil
	case Interrupt:
		c.giveUp(CauseInterrupt, ev.Reason, out)
		return nil
	case JobLost:
		c.giveUp(CauseJobLost, ev.Reason, out)
		return nil
	case Begin:
		if c.stage == StageNew {
			return c.begin(out)
		}
	case CommitDone:
		if c.stage == StageCommitting {
			c.finish(out)
			return nil
		}
	case CommitFailed:
		if c.stage == StageCommitting {
			c.abort(out, CauseCommit, CoordinatorHost, "the cut could not be made durable: "+ev.Reason)
			return nil
		}
	}
	return &TransitionError{
		Role:  "coordinator",
		Event: ev,
		State: fmt.Sprintf("%s (%s, epoch %d)", c.stage, c.cfg.Key.Snapshot, c.cfg.Key.Epoch),
	}
}

func (c *Coordinator) begin(out *Ready) error {
	set := c.group.hosts
	switch {
	case len(set) == 0:
		return &ConfigError{"the job has no participants"}
	case set.has(CoordinatorHost):
		return &ConfigError{"a participant has no name"}
	case c.verdict == undecided && !set.has(c.cfg.Initiator):
		return &ConfigError{fmt.Sprintf("initiator %q is not among the participants", c.cfg.Initiator)}
	case c.cfg.Lease <= 0 || c.cfg.Settle < 0:
		return &ConfigError{"lease or settle time is not positive"}
	}
	for i := range set {
		c.put(i, func(h *host) { h.progress = HostContacted })
	}
	switch c.verdict {
	case committed:
		c.finish(out)
		return nil
	case notCommitted:
		c.abort(out, CauseResolved, CoordinatorHost, "the cut was never committed")
		return nil
	}
	c.stage = StagePreparing
	c.prepared = c.after(c.cfg.PrepareTimeout)
	c.stores = c.after(c.cfg.Standstill)
	c.complete = c.after(c.cfg.Timeout)
	c.renew = c.now + c.interval()
	c.tellAll(out)
	return nil
}

// after returns the instant at which a limit that begins now ends, 0 if there is no limit.
func (c *Coordinator) after(limit Millis) Millis {
	if limit == 0 {
		return 0
	}
	return c.now + limit
}

// interval is the time between two renewals, which also is the one between two attempts to tell a host something.
func (c *Coordinator) interval() Millis { return max(c.cfg.Lease/3, 1) }

func (c *Coordinator) tick(now Millis, out *Ready) {
	if now < c.now {
		return
	}
	c.now = now
	due := func(at Millis) bool { return at != 0 && now >= at }
	switch {
	case c.stage == StagePreparing && due(c.prepared):
		c.abort(out, CauseTimeout, c.slowest(HostCalm), fmt.Sprintf("not all hosts were ready within %d ms: %s", c.cfg.PrepareTimeout, c.laggards(HostCalm)))
	case (c.stage == StagePreparing || c.stage == StageRunning) && due(c.complete):
		c.abort(out, CauseTimeout, c.slowest(HostComplete), fmt.Sprintf("not all hosts were complete within %d ms: %s", c.cfg.Timeout, c.laggards(HostComplete)))
	case (c.stage == StagePreparing || c.stage == StageRunning) && due(c.stores):
		if late := c.standing(); len(late) > 0 {
			c.abort(out, CauseTimeout, c.group.hosts[late[0]], fmt.Sprintf("the dump on %s is not finished after %d ms", c.names(late), c.cfg.Standstill))
			return
		}
		c.stores = 0
		c.tick(now, out)
	case (c.stage == StageFinishing || c.stage == StageAborting) && due(c.ended):
		c.over(out)
	case c.stage != StageNew && c.stage != StageOver && due(c.renew):
		c.renew = now + c.interval()
		c.tellAll(out)
	}
}

// giveUp ends the attempt for a reason of the coordinator's own. Once the cut is being made durable that is too late.
func (c *Coordinator) giveUp(cause Cause, reason string, out *Ready) {
	switch c.stage {
	case StageNew:
		c.stage = StageOver
		c.outcome = Outcome{Cause: cause, Reason: reason}
		c.publish(out)
	case StagePreparing, StageRunning:
		c.abort(out, cause, CoordinatorHost, reason)
	}
}

// unreachable notes that a message did not reach a host. If its line is gone for good, nothing more is to be heard of it.
func (c *Coordinator) unreachable(ev Unreachable, gone bool, out *Ready) {
	i := c.index(ev.Host)
	if i < 0 {
		return
	}
	c.put(i, func(h *host) {
		h.lost = h.lost || gone
		if c.stage == StagePreparing || c.stage == StageRunning || c.stage == StageAborting {
			h.unreachable = h.progress < HostPrepared
		}
	})
	switch c.stage {
	case StagePreparing, StageRunning:
		c.abort(out, CauseUnreachable, ev.Host, fmt.Sprintf("%s is unreachable: %s", ev.Host, ev.Reason))
	case StageAborting, StageFinishing:
		c.maybeOver(out)
	}
}

// abort gives the attempt up (M10). Only what comes before the commit leads here.
func (c *Coordinator) abort(out *Ready, cause Cause, blame HostID, reason string) {
	c.outcome = Outcome{Cause: cause, Blame: blame, Reason: reason}
	c.decide(StageAborting, c.cfg.AbortTimeout)
	c.tellAll(out)
	c.maybeOver(out)
}

// finish: the cut exists (M9).
func (c *Coordinator) finish(out *Ready) {
	c.outcome = Outcome{Committed: true}
	c.decide(StageFinishing, c.cfg.FinishTimeout)
	c.tellAll(out)
	c.maybeOver(out)
}

// maybeOver ends the attempt when everyone that is waited for has acknowledged its outcome.
func (c *Coordinator) maybeOver(out *Ready) {
	if c.awaited == 0 {
		c.over(out)
	}
}

// awaits says whether the end of the attempt waits for the host.
func (c *Coordinator) awaits(h host) bool {
	return !c.acknowledged(h) && !h.lost && (c.stage != StageAborting || !h.unreachable)
}

// decide turns to the stage in which everyone is told the outcome.
func (c *Coordinator) decide(s Stage, limit Millis) {
	c.stage = s
	c.ended = c.after(limit)
	c.renew = c.now + c.interval()
	c.awaited = 0
	for _, h := range c.hosts.all {
		if c.awaits(h) {
			c.awaited++
		}
	}
}

func (c *Coordinator) acknowledged(h host) bool {
	if c.stage == StageFinishing {
		return h.progress == HostDone
	}
	return h.progress == HostAborted
}

func (c *Coordinator) over(out *Ready) {
	for i, h := range c.hosts.all {
		if !c.acknowledged(h) {
			c.outcome.Unknown = append(c.outcome.Unknown, c.group.hosts[i])
		}
		if note := h.report().note; note != "" {
			c.outcome.Notes = append(c.outcome.Notes, string(c.group.hosts[i])+": "+note)
		}
	}
	c.stage = StageOver
	c.publish(out)
}

func (c *Coordinator) publish(out *Ready) {
	o := c.outcome
	o.Unknown, o.Notes = slices.Clone(o.Unknown), slices.Clone(o.Notes)
	out.Outcome = &o
}

// reached says whether every host is at least so far.
func (c *Coordinator) reached(p Progress) bool { return c.atLeast(p) == len(c.group.hosts) }

// atLeast counts the hosts that are at least so far.
func (c *Coordinator) atLeast(p Progress) int {
	sum := 0
	for _, n := range c.tally[p:] {
		sum += n
	}
	return sum
}

// put changes what is known of a host. Nothing else does.
func (c *Coordinator) put(i int, change func(*host)) {
	h := c.hosts.get(i)
	c.count(h, -1)
	change(&h)
	c.count(h, 1)
	c.hosts = c.hosts.set(i, h)
}

func (c *Coordinator) count(h host, by int) {
	c.tally[h.progress] += by
	if (c.stage == StageAborting || c.stage == StageFinishing) && c.awaits(h) {
		c.awaited += by
	}
}

// slowest is the first host that is not so far, CoordinatorHost if there is none.
func (c *Coordinator) slowest(p Progress) HostID {
	for i, h := range c.hosts.all {
		if h.progress < p {
			return c.group.hosts[i]
		}
	}
	return CoordinatorHost
}

// standing lists the hosts that neither store nor are complete, by their place in the group.
func (c *Coordinator) standing() (late []int) {
	for i, h := range c.hosts.all {
		if !h.stores && h.progress < HostComplete {
			late = append(late, i)
		}
	}
	return late
}

func (c *Coordinator) names(places []int) string {
	out := make([]string, len(places))
	for i, place := range places {
		out[i] = string(c.group.hosts[place])
	}
	return strings.Join(out, ", ")
}

// laggards describes the hosts that are not so far.
func (c *Coordinator) laggards(p Progress) string {
	var late []string
	for i, h := range c.hosts.all {
		if h.progress < p {
			late = append(late, fmt.Sprintf("%s (%s)", c.group.hosts[i], h.progress))
		}
	}
	return strings.Join(late, ", ")
}

// index finds a host, -1 if it takes no part.
func (c *Coordinator) index(id HostID) int {
	i, found := slices.BinarySearch(c.group.hosts, id)
	if !found {
		return -1
	}
	return i
}
