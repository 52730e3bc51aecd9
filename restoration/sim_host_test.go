package restoration

import "reflect"

// tree is what there is of the restored members on a host.
type tree int

const (
	treeNone  tree = iota
	treeStand      // restored; no task has run; it dies with the agent
	treeRun
	treeEnded // by themselves, their work done
)

// simHost is a host: its members and its agent, which carries out what its Target asks for with random delays, fails, dies and
// comes back.
type simHost struct {
	w    *world
	name HostID
	part bool

	// The truth.
	had, live bool // it had members of the job, and they still live
	tree      tree
	stood     bool // its part has stood ready
	ran       bool // its part has run
	died      bool // the machine has, some time
	dead      bool // it is

	// The agent's.
	alive  bool
	life   int // counts the agent's lives, so that what an old one began does not end in a new one
	work   int // counts cancellations, likewise
	t      *Target
	entry  *Entry // the journal on disk
	held   bool   // the job
	timer  int
	readys int
	ever   bool // it has stopped what it had, by its own account
}

// crash says when an agent dies: in its nth Ready, before the part-th of its parts.
type crash struct {
	nth, part int
	machine   bool
	restart   int // after so many ms; 0: never
	again     int // and once more, so many Readys later; 0: not
}

func (h *simHost) config() Config {
	cfg := Config{ID: "r", Host: h.name, Retry: 20}
	for _, o := range h.w.hosts {
		if o.part {
			cfg.Targets = append(cfg.Targets, o.name)
		} else {
			cfg.Old = append(cfg.Old, o.name)
		}
	}
	return cfg
}

func (h *simHost) step(ev Event) {
	for _, ev := range []Event{Tick{Millis(h.w.now)}, ev} {
		if !h.alive || h.t == nil {
			return
		}
		h.apply(ev)
	}
	h.arm()
}

func (h *simHost) apply(ev Event) {
	before := *h.t
	next, out, err := before.Step(ev)
	if err != nil {
		h.w.fail("%s: %v", h.name, err)
	}
	if h.w.rng.IntN(64) == 0 {
		if _, again, _ := before.Step(ev); !reflect.DeepEqual(out, again) {
			h.w.fail("%s: Step is not pure: %+v and then %+v", h.name, out, again)
		}
	}
	*h.t = next
	if next.Phase() != before.Phase() || len(out.Actions)+len(out.Messages) > 0 {
		h.w.trace("%s %s -> %s on %s: %s", h.name, before.Phase(), next.Phase(), describe(ev), describeReady(out))
	}
	h.do(out)
}

func (h *simHost) arm() {
	if h.t == nil || !h.alive {
		return
	}
	if d := int(h.t.Deadline()); d > 0 && (h.timer <= h.w.now || h.timer > d) {
		h.timer = d
		h.w.after(d-h.w.now, func() { h.step(Tick{Millis(h.w.now)}) })
	}
}

// do carries a Ready out in its order, unless the agent dies in the middle of it.
func (h *simHost) do(out Ready) {
	if out.Journal == nil && len(out.Actions)+len(out.Messages) == 0 {
		return
	}
	h.readys++
	dies := func(part int) bool {
		c := h.w.plan.crashes[h.name]
		if c == nil || h.readys != c.nth || c.part != part || h.w.healed {
			return false
		}
		if c.again > 0 {
			c.nth, c.again = h.readys+c.again, 0
		}
		h.die(c)
		return true
	}
	if dies(0) {
		return
	}
	if out.Journal != nil {
		if h.w.healed || h.w.rng.Float64() >= h.w.plan.unwritten {
			h.entry = out.Journal
		} else if out.Binding {
			h.apply(Unwritten{Reason: "no space left on device"})
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
		h.w.post(m, func() { h.undelivered(m) })
	}
}

// undelivered: of a lost answer a target hears nothing but time.
func (h *simHost) undelivered(Message) {}

// long runs the next part of an action after a while, unless it is cancelled before.
func (h *simHost) long(most int, f func()) {
	life, work := h.life, h.work
	h.w.after(1+h.w.rng.IntN(most), func() {
		if h.life == life && h.work == work && h.alive {
			f()
		}
	})
}

// end ends an action, well or badly, or not at all.
func (h *simHost) end(a ActionType, ev Event) {
	switch {
	case h.w.chance(h.w.plan.fails) && !h.w.healed:
		h.step(ActionFailed{a, "no luck"})
	case h.w.chance(h.w.plan.hangs) && !h.w.healed:
	default:
		h.step(ev)
	}
}

func (h *simHost) act(a ActionType) {
	w := h.w
	switch a {
	case ActCheck:
		problems := 0
		if w.chance(w.plan.problems) {
			problems = 1
		}
		h.long(10, func() { h.end(a, CheckDone{problems}) })
	case ActFetch:
		h.long(30, func() { h.end(a, FetchDone{}) })
	case ActFence:
		h.long(10, func() { h.kill(); h.long(10, func() { h.end(a, FenceDone{}) }) })
	case ActRestore:
		h.long(30, func() {
			if h.part {
				h.tree, h.stood = treeStand, true
			}
			h.end(a, RestoreDone{})
		})
	case ActResume:
		h.resume()
	case ActStop:
		h.stop()
	case ActRelease:
		h.work++
		h.held = false
	}
}

// kill ends the live members.
func (h *simHost) kill() {
	if h.live {
		h.w.checkFence(h)
	}
	h.live = false
}

func (h *simHost) resume() {
	w := h.w
	w.checkResume(h)
	if h.tree != treeStand {
		w.fail("%s resumes and nothing stands there", h.name)
	}
	if w.chance(w.plan.fails) && !w.healed {
		h.long(10, func() {
			h.tree = treeNone
			w.excused = true
			h.step(ActionFailed{ActResume, "CRIU failed"})
		})
		return
	}
	h.long(10, func() {
		h.tree, h.ran = treeRun, true
		w.checkCopies(h)
		if w.chance(w.plan.ends) {
			w.after(w.rng.IntN(30), func() {
				if h.tree == treeRun {
					h.tree = treeEnded
				}
			})
		}
		h.long(10, func() { h.step(ResumeDone{}) })
	})
}

func (h *simHost) stop() {
	w := h.w
	h.work++
	if h.part {
		w.checkStop(h)
	}
	h.long(20, func() {
		h.kill()
		h.tree = treeNone
		if w.chance(w.plan.fails) && !w.healed {
			h.step(ActionFailed{ActStop, "no luck"})
			return
		}
		h.ever = true
		h.step(StopDone{})
	})
}

// die ends the agent, and what of the restored members has not run yet; or the whole machine.
func (h *simHost) die(c *crash) {
	h.w.trace("%s dies (machine: %v)", h.name, c.machine)
	h.alive = false
	h.life++
	h.held = false
	if h.tree == treeStand {
		h.tree = treeNone
	}
	if h.part && h.stood && h.entry.Phase == Fencing || c.machine {
		h.w.excused = true // lost, or as good as: that its part ran is not written down
	}
	if c.machine {
		h.died, h.dead = true, true
		h.live, h.tree = false, treeNone
	}
	life := h.life
	h.w.after(1+h.w.rng.IntN(100), func() { h.w.coordinator(Lost{h.name, "the line ended"}) })
	if c.restart > 0 {
		h.w.after(c.restart, func() {
			if h.life == life {
				h.dead = false
				h.start()
			}
		})
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
	h.t = nil
	if h.entry == nil {
		h.w.trace("%s starts again and knows nothing", h.name)
		return
	}
	t, out, err := Recover(h.config(), *h.entry)
	if err != nil {
		h.w.fail("%s: %v", h.name, err)
	}
	t.mistakes = h.w.mistakes
	t.now = Millis(h.w.now)
	h.t = &t
	h.held = true
	h.w.trace("%s starts again: %s: %s", h.name, t.Phase(), describeReady(out))
	h.do(out)
	h.arm()
}
