package marker

import (
	"reflect"
	"slices"
)

// simHost is a host: its kernel's gates, its program, and its agent, which carries out what its
// Participant asks for with random delays, fails, dies and comes back.
type simHost struct {
	w    *world
	id   int
	name HostID

	// The kernel's and the program's.
	vc       vclock
	gates    []gate
	held     int       // how often it began to hold SYNs
	holding  bool      // M1a: SYNs for the host's listeners are held
	syns     []segment // those
	frozen   bool
	killed   bool // the members, by --stop
	dead     bool // the machine
	existing map[int]bool
	channels map[HostID]bool // the hosts with which the record lists channels
	images   map[Key]*image  // on disk
	freezes  int

	// The agent's.
	alive    bool
	life     int // counts the agent's lives, so that what an old one began does not end in a new one
	work     int // counts the long actions, likewise
	p        Participant
	offset   Millis // its clock's
	timer    int64
	recorded Key    // gates are closed for this attempt
	entry    *Entry // the journal on disk
	readys   int    // how much work the agent has been given
	crash    *crash
	restarts int // scheduled and not yet done
}

// crash says when an agent dies: in its nth Ready, before the part-th of its parts.
type crash struct {
	nth, part int
	machine   bool
	restart   int // after so many µs; never if 0
}

func (h *simHost) now() Millis { return Millis(h.w.now/1000) + h.offset }

// step hands an event to the agent, after the time.
func (h *simHost) step(ev Event) {
	if !h.alive {
		return
	}
	h.apply(Tick{h.now()})
	if h.alive {
		h.apply(ev)
	}
	h.arm()
}

func (h *simHost) apply(ev Event) {
	before := h.p
	next, out, err := before.Step(ev)
	if err != nil {
		h.w.fail("%s: %v", h.name, err)
	}
	if h.w.rng.IntN(64) == 0 {
		if _, again, _ := before.Step(ev); !reflect.DeepEqual(out, again) {
			h.w.fail("%s: Step is not pure: %+v and then %+v", h.name, out, again)
		}
	}
	h.p = next
	if h.w.tracing && (next.Phase() != before.Phase() || len(out.Actions)+len(out.Messages) > 0) {
		h.w.trace("%s %s -> %s on %s: %s", h.name, before.Phase(), next.Phase(), describe(ev), describeReady(out))
	}
	h.do(out)
	h.w.checkHost(h)
}

// do carries a Ready out in its order, unless the agent dies in the middle of it.
func (h *simHost) do(out Ready) {
	if out.Journal == nil && len(out.Actions)+len(out.Messages) == 0 {
		return
	}
	h.readys++
	dies := func(part int) bool {
		if c := h.crash; c != nil && h.readys == c.nth && c.part == part {
			h.die(c)
			return true
		}
		return false
	}
	if dies(0) {
		return
	}
	if out.Journal != nil {
		if h.w.rng.Float64() >= h.w.plan.unwritten {
			h.entry = out.Journal
		} else if out.Binding {
			h.apply(Unwritten{Key: out.Journal.Key, Reason: "no space left on device"})
			return
		}
	}
	if dies(1) {
		return
	}
	for _, a := range out.Actions {
		h.act(a)
	}
	if dies(2) {
		return
	}
	for _, m := range out.Messages {
		h.w.checkMessage(h, m)
		h.w.post(m, h.sender())
	}
}

// sender is told if a message of this agent cannot be delivered.
func (h *simHost) sender() func(Event) {
	life := h.life
	return func(ev Event) {
		if h.life == life {
			h.step(ev)
		}
	}
}

// arm sets a timer for the participant's deadline.
func (h *simHost) arm() {
	d := h.p.Deadline()
	if d == 0 || !h.alive {
		return
	}
	at := max(int64(d-h.offset)*1000, h.w.now+1000)
	if h.timer > h.w.now && h.timer <= at {
		return
	}
	h.timer = at
	h.w.at(at, func() {
		if h.timer == at {
			h.step(Tick{h.now()})
		}
	})
}

// long runs the next part of a long action after a while, unless it is cancelled before.
func (h *simHost) long(most int, f func()) {
	life, work := h.life, h.work
	h.w.after(1+h.w.rng.IntN(most), func() {
		if h.life == life && h.work == work && h.alive {
			f()
		}
	})
}

// end ends a long action, well or badly.
func (h *simHost) end(a Action, ev Event) {
	if h.w.chance(h.w.plan.hangs) {
		return // for ever, or until it is cancelled
	}
	if h.w.chance(h.w.plan.actionFails) {
		h.step(ActionFailed{Key: a.Key, Action: a.Type, Reason: "no luck"})
		return
	}
	h.step(ev)
}

func (h *simHost) act(a Action) {
	switch a.Type {
	case ActPrepare:
		h.long(h.w.plan.prepare, func() { h.prepare(a) })
	case ActHold:
		h.holding, h.held = true, h.held+1
		h.long(h.w.plan.hold, func() { h.end(a, HoldDone{a.Key}) })
	case ActRecord:
		h.w.checkM1(a.Key)
		h.long(h.w.plan.record, func() { h.freeze(a) })
	case ActSettle:
		if i := h.w.index(a.Peer); h.gates[i].closed {
			h.gates[i].settling = true
			h.w.releaseHeld(h.id, i)
		}
	case ActDump:
		h.long(h.w.plan.drain, func() { h.seal(a) })
	case ActThaw:
		h.frozen = false
	case ActOpen:
		h.open(h.w.index(a.Peer))
	case ActOpenRest:
		for i, q := range h.w.hosts {
			if i != h.id && !h.channels[q.name] {
				h.open(i)
			}
		}
	case ActStore:
		h.w.stores(h, a.Key)
		h.long(h.w.plan.store, func() { h.images[a.Key].stored = true; h.end(a, StoreDone{a.Key}) })
	case ActRollback:
		h.work++
		h.long(4000, func() { h.rollback(a) })
	case ActFinish:
		h.long(4000, func() { h.finish(a) })
	case ActRelease:
		h.frozen = false
		h.openAll()
	case ActDiscard:
		delete(h.images, a.Key)
	}
}

// freeze is the first part of a record; M4 has the order.
func (h *simHost) freeze(a Action) {
	h.frozen = true
	h.freezes++
	h.long(1000, func() {
		h.existing = make(map[int]bool)
		peers := make(map[HostID][]string)
		for _, c := range h.w.conns {
			for i := range c.ends {
				if c.ends[i].host == h.id && c.ends[i].state == sockOpen {
					h.existing[c.id] = true
					q := h.w.hosts[c.ends[1-i].host].name
					peers[q] = append(peers[q], c.address(i)+">"+c.address(1-i))
				}
			}
		}
		h.channels = make(map[HostID]bool)
		for q := range peers {
			h.channels[q] = true
		}
		h.long(1000, func() {
			for i := range h.gates {
				h.gates[i].closed = true
			}
			h.recorded = a.Key
			h.end(a, RecordDone{Key: a.Key, Peers: peers})
		})
	})
}

// seal is the first part of a dump. CRIU reads the sockets at some moment after it.
func (h *simHost) seal(a Action) {
	for i := range h.gates {
		h.gates[i].settling = false
	}
	im := &image{}
	h.images[a.Key] = im
	h.long(h.w.plan.dump, func() {
		im.capture(h.w, h)
		if h.w.chance(h.w.plan.captures) {
			h.step(Captured{a.Key})
		}
		h.long(h.w.plan.dump, func() { h.end(a, DumpDone{Key: a.Key, Ends: im.ends(h.w, h)}) })
	})
}

func (h *simHost) rollback(a Action) {
	h.frozen = false
	h.openAll()
	delete(h.images, a.Key)
	h.step(RollbackDone{Key: a.Key})
}

func (h *simHost) finish(a Action) {
	if im := h.images[a.Key]; im == nil || !im.stored {
		h.w.fail("%s finishes %s without images", h.name, a.Key.Snapshot)
	} else {
		im.kept = true
	}
	if a.Kill {
		h.killed = true
		h.frozen = false
		h.openAll()
	}
	h.step(FinishDone{Key: a.Key})
}

func (h *simHost) open(peer int) {
	h.gates[peer].closed, h.gates[peer].settling = false, false
	h.w.releaseHeld(h.id, peer)
	if !slices.ContainsFunc(h.gates, func(g gate) bool { return g.closed }) {
		h.releaseSYNs()
	}
}

// prepare ends ActPrepare. Some hosts hold SYNs by then, and let them go if nothing comes of it.
func (h *simHost) prepare(a Action) {
	h.w.prepared(a.Key, h.id)
	done := PrepareDone{Key: a.Key, Calm: h.w.chance(h.w.plan.calm)}
	if done.Calm {
		h.holding, h.held = true, h.held+1
		life, held := h.life, h.held
		h.w.after(2000*int(staysCalm), func() {
			if h.life == life && h.held == held && h.p.Phase() == Prepared && h.p.Key() == a.Key {
				h.releaseSYNs()
			}
		})
	}
	h.end(a, done)
}

// releaseSYNs ends what ActHold or ActPrepare began, with the last gate.
func (h *simHost) releaseSYNs() {
	syns := h.syns
	h.holding, h.syns = false, nil
	for _, s := range syns {
		h.w.deliver(h.id, s)
	}
}

func (h *simHost) openAll() {
	for i := range h.gates {
		h.open(i)
	}
}

// die ends the agent. The kernel drops its gates and what they hold; the watcher thaws the members.
func (h *simHost) die(c *crash) {
	h.w.trace("%s dies (machine: %v)", h.name, c.machine)
	h.alive = false
	h.life++
	h.dead = c.machine
	for i := range h.gates {
		h.gates[i] = gate{}
	}
	h.holding, h.syns = false, nil
	freezes := h.freezes
	h.w.after(1+h.w.rng.IntN(5000), func() {
		if h.freezes == freezes {
			h.frozen = false
		}
	})
	if c.restart > 0 && !c.machine {
		h.restarts++
		h.w.after(c.restart, func() { h.restarts--; h.start() })
	}
}

// start starts the agent again, with what it finds on disk.
func (h *simHost) start() {
	if h.alive || h.dead {
		return
	}
	h.life++
	h.alive = true
	h.timer = 0
	h.recorded = Key{}
	entry := Entry{Key: Key{Job: simJob}}
	if h.entry != nil {
		entry = *h.entry
	}
	p, out := Recover(h.name, simJob, entry)
	p.mistakes = h.w.mistakes
	h.p = p
	h.w.trace("%s starts again: %s: %s", h.name, p.Phase(), describeReady(out))
	h.do(out)
	h.arm()
}
