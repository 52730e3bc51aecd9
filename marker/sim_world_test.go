package marker

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
)

const simJob JobID = "job"

// world is one schedule: everything that happens in it follows from its seed.
type world struct {
	rng   *rand.Rand
	now   int64 // µs
	queue eventQueue
	count int
	plan  plan
	variant

	hosts    []*simHost
	conns    []*conn
	coords   []*simCoordinator
	ready    map[Key]map[int]bool // M1: who was prepared
	catalog  map[Key]*Commit      // what is durable of cuts
	pending  int                  // commits on their way to the disk
	draining bool
	tracing  bool
	lines    []string
}

// failure is what a schedule panics with when it finds something wrong.
type failure struct{ text string }

func (w *world) fail(format string, args ...any) {
	panic(failure{fmt.Sprintf("at %d µs: ", w.now) + fmt.Sprintf(format, args...)})
}

func (w *world) trace(format string, args ...any) {
	if w.tracing {
		w.lines = append(w.lines, fmt.Sprintf("%9d µs  ", w.now)+fmt.Sprintf(format, args...))
	}
}

type event struct {
	at int64
	n  int
	do func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].n < q[j].n
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = event{}
	*q = (*q)[:len(*q)-1]
	return last
}

func (w *world) at(at int64, do func()) {
	w.count++
	heap.Push(&w.queue, event{at, w.count, do})
}

func (w *world) after(us int, do func()) { w.at(w.now+int64(us), do) }

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

func (w *world) index(name HostID) int {
	for i, h := range w.hosts {
		if h.name == name {
			return i
		}
	}
	return -1
}

// runUntil runs events until done holds, which is looked at every few milliseconds.
func (w *world) runUntil(limit int64, what string, done func() bool) {
	end := w.now + limit
	next := w.now
	for len(w.queue) > 0 {
		if w.now >= next {
			if done() {
				return
			}
			next = w.now + 5000
		}
		if w.now > end {
			w.fail("%s: not within %d ms%s", what, limit/1000, w.standing())
		}
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
}

// standing describes where everyone stands, for a failure.
func (w *world) standing() string {
	var b strings.Builder
	for _, h := range w.hosts {
		fmt.Fprintf(&b, "; %s %s alive=%v dead=%v frozen=%v", h.name, h.p.Phase(), h.alive, h.dead, h.frozen)
	}
	for _, c := range w.coords {
		fmt.Fprintf(&b, "; coordinator %s %s alive=%v", c.c.Key().Snapshot, c.c.Stage(), c.alive)
	}
	return b.String()
}

// repeat runs f now and then, until the world is thrown away.
func (w *world) repeat(least, spread int, f func()) {
	w.after(least+w.rng.IntN(spread), func() { f(); w.repeat(least, spread, f) })
}

func newWorld(seed uint64, v variant) *world {
	w := &world{
		rng:     rand.New(rand.NewPCG(seed, 0x5eed)),
		ready:   make(map[Key]map[int]bool),
		catalog: make(map[Key]*Commit),
		variant: v,
	}
	w.plan = newPlan(w.rng)
	for i := range w.plan.hosts {
		h := &simHost{
			w: w, id: i, name: HostID(fmt.Sprintf("h%d", i)), alive: true,
			gates:  make([]gate, w.plan.hosts),
			images: make(map[Key]*image),
			offset: Millis(w.rng.IntN(1000000)),
			crash:  w.plan.crashes[i],
		}
		h.p = NewParticipant(h.name, simJob, 0)
		h.p.mistakes = v.mistakes
		w.hosts = append(w.hosts, h)
	}
	for range 1 + w.rng.IntN(2*w.plan.hosts) {
		w.connect(w.rng.IntN(w.plan.hosts), w.rng.IntN(w.plan.hosts))
	}
	for _, h := range w.hosts {
		w.repeat(1500, 4000, func() { w.program(h) })
	}
	w.repeat(4000, 2000, w.kernelTick)
	for _, j := range w.plan.jumps {
		w.after(j.at, func() { w.jump(j) })
	}
	return w
}

func (w *world) jump(j jump) {
	if j.host < 0 {
		for _, c := range w.coords {
			c.offset += j.by
			c.step(Tick{c.now()})
		}
		return
	}
	h := w.hosts[j.host]
	h.offset += j.by
	h.step(Tick{h.now()})
}

// post sends a message between agents and coordinators: late, twice, out of order, or not at all.
func (w *world) post(m Message, undeliverable func(Event)) {
	if !w.chance(w.plan.loss) {
		w.after(100+w.rng.IntN(w.plan.delay), func() { w.arrive(m, undeliverable) })
	}
	if w.chance(w.plan.duplicates) {
		late := w.rng.IntN(w.plan.delay)
		if w.chance(0.4) {
			late = w.rng.IntN(600000)
		}
		w.after(100+late, func() { w.arrive(m, undeliverable) })
	}
}

func (w *world) arrive(m Message, undeliverable func(Event)) {
	if m.To == CoordinatorHost {
		for _, c := range w.coords {
			if !c.deaf[m.From] {
				c.step(Received{m})
			}
		}
		return
	}
	h := w.hosts[w.index(m.To)]
	if !h.alive {
		if w.chance(0.7) {
			undeliverable(Unreachable{Host: m.To, Reason: "connection refused"})
		}
		return
	}
	h.step(Received{m})
}

// simCoordinator is the process that drives one attempt.
type simCoordinator struct {
	w       *world
	c       Coordinator
	alive   bool
	offset  Millis
	timer   int64
	readys  int
	dies    int // in which Ready
	outcome *Outcome
	deaf    map[HostID]bool // hosts whose line is lost
}

func (w *world) coordinate(c Coordinator, dies int) *simCoordinator {
	s := &simCoordinator{w: w, c: c, alive: true, offset: Millis(w.rng.IntN(1000000)), dies: dies, deaf: map[HostID]bool{}}
	s.c.mistakes = w.mistakes
	w.coords = append(w.coords, s)
	s.step(Begin{})
	return s
}

// loseLine cuts the line to a host for good: both ends notice.
func (s *simCoordinator) loseLine(h *simHost) {
	if !s.alive || s.outcome != nil || s.deaf[h.name] {
		return
	}
	s.w.trace("line of %s to %s lost", s.c.Key().Snapshot, h.name)
	s.deaf[h.name] = true
	s.step(LineLost{Host: h.name, Reason: "connection reset"})
	s.w.orphan(h, s.c.Key())
}

// stores lets the coordinator of an attempt hear that a host stores.
func (w *world) stores(h *simHost, key Key) {
	w.after(1+w.rng.IntN(w.plan.delay), func() {
		for _, s := range w.coords {
			if s.c.Key() == key && !s.deaf[h.name] {
				s.step(Stores{Host: h.name})
			}
		}
	})
}

// orphan lets a host notice, after a while, that its coordinator's line is gone.
func (w *world) orphan(h *simHost, key Key) {
	w.after(1+w.rng.IntN(w.plan.delay), func() { h.step(Orphaned{key}) })
}

func (s *simCoordinator) now() Millis { return Millis(s.w.now/1000) + s.offset }

func (s *simCoordinator) step(ev Event) {
	if !s.alive || s.outcome != nil {
		return
	}
	s.apply(Tick{s.now()})
	if s.alive && s.outcome == nil {
		s.apply(ev)
	}
	s.arm()
}

func (s *simCoordinator) apply(ev Event) {
	before := s.c.Stage()
	next, out, err := s.c.Step(ev)
	if err != nil {
		s.w.fail("coordinator: %v", err)
	}
	s.c = next
	if s.w.tracing && (next.Stage() != before || len(out.Messages) > 0) {
		s.w.trace("coordinator %s %s -> %s on %s: %s", s.c.Key().Snapshot, before, next.Stage(), describe(ev), describeReady(out))
	}
	if len(out.Messages) > 0 || out.Commit != nil {
		if s.readys++; s.readys == s.dies {
			s.alive = false
			s.w.trace("coordinator %s dies", s.c.Key().Snapshot)
			for _, h := range s.w.hosts {
				if s.w.chance(0.5) {
					s.w.orphan(h, s.c.Key())
				}
			}
			if out.Commit == nil || s.w.chance(0.5) {
				return
			}
		}
	}
	if out.Commit != nil {
		s.w.verifyCut(s.c.Key())
		s.commit(out.Commit)
	}
	for _, m := range out.Messages {
		if !s.deaf[m.To] {
			s.w.post(m, s.step)
		}
	}
	if out.Outcome != nil {
		s.over(out.Outcome)
	}
}

// commit makes the cut durable, whether the coordinator lives to hear of it or not.
func (s *simCoordinator) commit(c *Commit) {
	w := s.w
	w.pending++
	w.after(100+w.rng.IntN(3000), func() {
		w.pending--
		if w.chance(w.plan.actionFails) {
			s.step(CommitFailed{Reason: "disk full"})
			return
		}
		w.verifyCut(c.Key)
		w.catalog[c.Key] = c
		w.trace("cut %s is durable", c.Key.Snapshot)
		s.step(CommitDone{})
	})
}

func (s *simCoordinator) over(o *Outcome) {
	s.outcome = o
	s.w.trace("coordinator %s: %+v", s.c.Key().Snapshot, *o)
	if o.Committed != (s.w.catalog[s.c.Key()] != nil) {
		s.w.fail("outcome of %s: %+v, but in the catalogue: %v", s.c.Key().Snapshot, *o, !o.Committed)
	}
	if o.Cause == CauseCheck || o.Cause == CauseOutside {
		var ends []End
		for _, h := range s.c.hosts.all {
			ends = append(ends, h.report().ends...)
		}
		if _, err := Check(ends, OutsideClosed); err != nil {
			s.w.fail("a cut of which every host is complete breaks M8: %v", err)
		}
	}
	for _, h := range s.w.hosts {
		acknowledged := s.c.HostPhase(h.name) == HostAborted
		if acknowledged && h.alive && h.p.Key() == s.c.Key() && h.p.Phase() != Idle {
			s.w.fail("%s has said that it runs again, and is %s", h.name, h.p.Phase())
		}
	}
}

func (s *simCoordinator) arm() {
	d := s.c.Deadline()
	if d == 0 || !s.alive || s.outcome != nil {
		return
	}
	at := max(int64(d-s.offset)*1000, s.w.now+1000)
	if s.timer > s.w.now && s.timer <= at {
		return
	}
	s.timer = at
	s.w.at(at, func() {
		if s.timer == at {
			s.step(Tick{s.now()})
		}
	})
}

// prepared and checkM1: no host records before every host is prepared.
func (w *world) prepared(key Key, host int) {
	if w.ready[key] == nil {
		w.ready[key] = make(map[int]bool)
	}
	w.ready[key][host] = true
}

func (w *world) checkM1(key Key) {
	if len(w.ready[key]) < len(w.hosts) {
		w.fail("M1: a host records for %s and only %d are prepared", key.Snapshot, len(w.ready[key]))
	}
}

// checkMessage: nobody hears of a record before the gates are closed (M3).
func (w *world) checkMessage(h *simHost, m Message) {
	if !w.truth && (m.Type == MsgMarker || m.Type == MsgRecorded) && h.recorded != m.Key {
		w.fail("M3: %s sends %s for %s before its gates are closed", h.name, m.Type, m.Key.Snapshot)
	}
}

// checkHost: what holds of a host after each step of its agent.
func (w *world) checkHost(h *simHost) {
	if !h.alive || w.truth {
		return
	}
	switch phase := h.p.Phase(); {
	case h.holding && (phase < Preparing || phase == Complete && (h.p.Released() || !h.p.a.stop)):
		w.fail("%s is %s and holds SYNs", h.name, phase)
	case phase < Recording, phase == Complete && (h.p.Released() || !h.p.a.stop):
		if h.frozen {
			w.fail("%s is %s and its members are frozen", h.name, phase)
		}
		for i := range h.gates {
			if h.gates[i].closed {
				w.fail("%s is %s and its gate toward h%d is closed", h.name, phase, i)
			}
		}
	}
}

func describe(ev Event) string {
	if r, ok := ev.(Received); ok {
		return fmt.Sprintf("%s of %s from %q", r.Message.Type, r.Message.Key.Snapshot, r.Message.From)
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", ev), "marker.")
}

func describeReady(r Ready) string {
	var parts []string
	if r.Journal != nil {
		parts = append(parts, "journal "+r.Journal.Phase.String())
	}
	for _, a := range r.Actions {
		parts = append(parts, "act "+a.Type.String()+" "+string(a.Peer))
	}
	for _, m := range r.Messages {
		parts = append(parts, fmt.Sprintf("send %s to %q", m.Type, m.To))
	}
	return strings.Join(parts, ", ")
}
