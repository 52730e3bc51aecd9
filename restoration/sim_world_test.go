package restoration

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
)

// world is one schedule: everything that happens in it follows from its seed.
type world struct {
	rng      *rand.Rand
	now      int // ms
	queue    eventQueue
	count    int
	plan     plan
	mistakes mistakes

	hosts   []*simHost
	c       Coordinator
	calive  bool
	creadys int
	ctimer  int
	outcome *Outcome
	cuts    []cut
	decided bool // some host has begun to resume
	excused bool // a target has lost its part, by a death or a resume that failed, or a person has ended the job: it need not be whole
	healed  bool
	tracing bool
	lines   []string
}

// failure is what a schedule panics with when it finds something wrong.
type failure struct{ text string }

func (w *world) fail(format string, args ...any) {
	panic(failure{fmt.Sprintf("at %d ms: ", w.now) + fmt.Sprintf(format, args...)})
}

func (w *world) trace(format string, args ...any) {
	if w.tracing {
		w.lines = append(w.lines, fmt.Sprintf("%6d ms  ", w.now)+fmt.Sprintf(format, args...))
	}
}

type event struct {
	at, n int
	do    func()
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
	*q = (*q)[:len(*q)-1]
	return last
}

func (w *world) after(ms int, do func()) {
	w.count++
	heap.Push(&w.queue, event{w.now + max(ms, 0), w.count, do})
}

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// run carries out events until done holds, or nothing happens any more, or the time is over. It says whether done holds.
func (w *world) run(limit int, done func() bool) bool {
	end := w.now + limit
	for len(w.queue) > 0 && !done() {
		e := heap.Pop(&w.queue).(event)
		if e.at > end {
			heap.Push(&w.queue, e)
			w.now = end
			return done()
		}
		w.now = e.at
		e.do()
	}
	return done()
}

func (w *world) host(id HostID) *simHost {
	for _, h := range w.hosts {
		if h.name == id {
			return h
		}
	}
	return nil
}

// post sends a message: late, twice, out of order, or not at all.
func (w *world) post(m Message, undeliverable func()) {
	copies := 1
	if w.chance(w.plan.duplicates) {
		copies = 2
	}
	for i := range copies {
		late := 1 + w.rng.IntN(w.plan.delay)
		if i > 0 && w.chance(0.5) {
			late += w.rng.IntN(1500)
		}
		cut := w.cutOff(m.From, m.To)
		if !w.healed && (cut || w.chance(w.plan.loss)) {
			if cut && w.chance(0.8) {
				w.after(late+w.rng.IntN(60), undeliverable)
			}
			continue
		}
		w.after(late, func() { w.arrive(m, undeliverable) })
	}
}

func (w *world) arrive(m Message, undeliverable func()) {
	if m.To == CoordinatorHost {
		w.coordinator(Received{m})
		return
	}
	h := w.host(m.To)
	switch {
	case !h.alive:
		if w.chance(0.9) {
			w.after(w.rng.IntN(20), undeliverable)
		}
	case h.t == nil: // its agent was restarted and found nothing written down
		if m.Type != MsgReport && m.Type != MsgFinish {
			w.post(Message{Type: MsgReport, ID: m.ID, From: m.To, To: m.From}, func() {})
		}
	default:
		h.step(Received{m})
	}
}

// cut is a partition in one direction.
type cut struct {
	from, to HostID
	at, end  int
}

func (w *world) cutOff(from, to HostID) bool {
	for _, c := range w.cuts {
		if (c.from == from || c.from == "*") && (c.to == to || c.to == "*") && w.now >= c.at && w.now < c.end {
			return true
		}
	}
	return false
}

// coordinator hands an event to the coordinator.
func (w *world) coordinator(ev Event) {
	for _, ev := range []Event{Tick{Millis(w.now)}, ev} {
		if !w.calive || w.outcome != nil {
			return
		}
		before := w.c.Stage()
		next, out, err := w.c.Step(ev)
		if err != nil {
			w.fail("%v", err)
		}
		w.c = next
		if next.Stage() != before || len(out.Messages) > 0 {
			w.trace("coordinator %s -> %s on %s: %s", before, next.Stage(), describe(ev), describeReady(out))
		}
		w.coordinatorDoes(out)
	}
	if d := int(w.c.Deadline()); d > 0 && (w.ctimer <= w.now || w.ctimer > d) {
		w.ctimer = d
		w.after(d-w.now, func() { w.coordinator(Tick{Millis(w.now)}) })
	}
}

func (w *world) coordinatorDoes(out Ready) {
	if len(out.Messages) > 0 || out.Outcome != nil {
		w.creadys++
	}
	dies := w.creadys == w.plan.coordinatorDies && len(out.Messages) > 0
	for i, m := range out.Messages {
		if dies && i == w.plan.coordinatorSends {
			break
		}
		w.post(m, func() { w.coordinator(Lost{m.To, "connection refused"}) })
	}
	switch {
	case dies:
		w.trace("coordinator dies")
		w.calive = false
		w.hangUp(200)
	case out.Outcome != nil:
		w.outcome = out.Outcome
		w.trace("coordinator: %+v", *out.Outcome)
		w.hangUp(20)
	}
}

// hangUp ends every line, at most so late.
func (w *world) hangUp(late int) {
	for _, h := range w.hosts {
		life := h.life
		w.after(1+w.rng.IntN(late), func() {
			if h.life == life {
				h.step(Gone{})
			}
		})
	}
}

// breakLine ends the line between the coordinator and a host. Each of the two notices by itself, some time.
func (w *world) breakLine(h *simHost) {
	life := h.life
	w.trace("the line to %s ends", h.name)
	w.after(w.rng.IntN(120), func() {
		if h.life == life {
			h.step(Gone{})
		}
	})
	w.after(w.rng.IntN(120), func() { w.coordinator(Lost{h.name, "the line ended"}) })
}

func describe(ev Event) string {
	if r, ok := ev.(Received); ok {
		return messageText(r.Message) + fmt.Sprintf(" from %q", r.Message.From)
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", ev), "restoration.")
}

func messageText(m Message) string {
	s := m.Type.String()
	if m.Type == MsgReport || m.Type == MsgAsk && m.From != CoordinatorHost {
		s += "(" + m.Phase.String() + ")"
	}
	if m.Ended {
		s += " ended"
	}
	if m.Lost {
		s += " lost"
	}
	return s
}

func describeReady(r Ready) string {
	var parts []string
	if r.Journal != nil {
		parts = append(parts, "journal "+r.Journal.Phase.String())
	}
	for _, a := range r.Actions {
		parts = append(parts, "do "+a.String())
	}
	for _, m := range r.Messages {
		parts = append(parts, fmt.Sprintf("send %s to %q", messageText(m), m.To))
	}
	return strings.Join(parts, ", ")
}
