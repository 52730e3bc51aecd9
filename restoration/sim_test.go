package restoration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// interrupts are reasons of the coordinator's own to give up.
var interrupts = [2]Event{Interrupt{"interrupted"}, JobLost{"another attempt has the job"}}

// plan says what a schedule is made of and what goes wrong in it.
type plan struct {
	targets, old     int
	clean            bool // nothing goes wrong: the restore has to succeed
	checkOnly        bool
	loss, duplicates float64
	delay            int
	fails, hangs     float64
	unwritten        float64 // an entry of the journal cannot be written
	problems, ends   float64
	coordinatorDies  int // in its nth Ready; 0: it does not
	coordinatorSends int // before the message of that number
	interrupt        int // ms; 0: it is not
	crashes          map[HostID]*crash
	breaks           int // lines that end by themselves
	cuts             int // partitions in one direction
}

func newPlan(rng *rand.Rand) plan {
	n := 2 + rng.IntN(6)
	p := plan{old: rng.IntN(3), clean: rng.IntN(10) == 0, delay: 1 + rng.IntN(20), crashes: map[HostID]*crash{},
		duplicates: rng.Float64() * 0.3, ends: rng.Float64(), checkOnly: rng.IntN(20) == 0}
	p.old = min(p.old, n-1)
	p.targets = n - p.old
	if p.clean {
		return p
	}
	some := func(most int, f func()) {
		if rng.IntN(most) == 0 {
			f()
		}
	}
	some(8, func() { p.unwritten = rng.Float64() * 0.2 })
	some(3, func() { p.loss = rng.Float64() * 0.2 })
	some(5, func() { p.fails = rng.Float64() * 0.1 })
	some(8, func() { p.hangs = rng.Float64() * 0.05 })
	some(10, func() { p.problems = 0.2 })
	some(3, func() { p.coordinatorDies, p.coordinatorSends = 1+rng.IntN(12), rng.IntN(n+1) })
	some(8, func() { p.interrupt = 1 + rng.IntN(250) })
	some(3, func() { p.breaks = 1 + rng.IntN(2) })
	some(2, func() { p.cuts = 1 + rng.IntN(3) })
	some(2, func() {
		for range 1 + rng.IntN(2) {
			c := &crash{nth: 1 + rng.IntN(16), part: rng.IntN(3), machine: rng.IntN(4) == 0}
			if rng.IntN(4) > 0 {
				c.restart = 1 + rng.IntN(600)
			}
			if rng.IntN(3) == 0 {
				c.again = 1 + rng.IntN(8)
			}
			p.crashes[hostName(rng.IntN(n))] = c
		}
	})
	return p
}

func hostName(i int) HostID { return HostID("h" + strconv.Itoa(i)) }

// result is what came of a schedule.
type result struct {
	outcome string
	failure string // empty if every invariant held
	lines   []string
}

// simulate runs one schedule to its end.
func simulate(seed uint64, f mistakes, tracing bool) (r result) {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0x5eed)), mistakes: f, tracing: tracing, calive: true}
	defer func() {
		if e := recover(); e != nil {
			broken, ok := e.(failure)
			if !ok {
				panic(e)
			}
			r.failure = broken.text
		}
		r.lines = w.lines
	}()
	w.plan = newPlan(w.rng)
	w.trace("seed %d: %+v", seed, w.plan)
	w.open()
	w.run(4000, func() bool { return w.outcome != nil || !w.calive })
	if w.calive && w.outcome == nil {
		w.fail("the coordinator does not end: %s", w.standing())
	}
	w.run(300+w.rng.IntN(1000), func() bool { return false })
	w.heal()
	settled := w.run(30_000, w.settled)
	if !settled && !w.anyDead() {
		w.fail("the hosts do not settle: %s", w.standing())
	}
	w.checkEnd(settled)
	w.overrule()
	if w.outcome == nil {
		return result{outcome: "coordinator died"}
	}
	return result{outcome: w.outcome.Result.String()}
}

// open makes the hosts and starts the coordinator.
func (w *world) open() {
	cfg := CoordinatorConfig{ID: "r", CheckOnly: w.plan.checkOnly, Retry: 20, StepTimeout: 500, AskTimeout: 400, AbortTimeout: 300}
	for i := range w.plan.targets + w.plan.old {
		h := &simHost{w: w, name: hostName(i), part: i < w.plan.targets, alive: true, held: true}
		h.had = !h.part || w.rng.IntN(4) > 0
		h.live = h.had
		w.hosts = append(w.hosts, h)
		if h.part {
			cfg.Targets = append(cfg.Targets, h.name)
		} else {
			cfg.Old = append(cfg.Old, h.name)
		}
	}
	for _, h := range w.hosts {
		t, err := NewTarget(h.config())
		if err != nil {
			w.fail("%v", err)
		}
		t.mistakes = w.mistakes
		h.t = &t
	}
	var err error
	if w.c, err = NewCoordinator(cfg); err != nil {
		w.fail("%v", err)
	}
	w.c.mistakes = w.mistakes
	for range w.plan.cuts {
		w.newCut()
	}
	for range w.plan.breaks {
		h := w.hosts[w.rng.IntN(len(w.hosts))]
		w.after(w.rng.IntN(250), func() { w.breakLine(h) })
	}
	if w.plan.interrupt > 0 {
		w.after(w.plan.interrupt, func() { w.coordinator(interrupts[w.plan.interrupt%2]) })
	}
	w.coordinator(Begin{})
}

// newCut partitions in one direction: a pair, all that leaves a host, or all that comes to it.
func (w *world) newCut() {
	name := func() HostID {
		if i := w.rng.IntN(len(w.hosts) + 1); i < len(w.hosts) {
			return hostName(i)
		}
		return CoordinatorHost
	}
	c := cut{from: name(), to: name(), at: w.rng.IntN(250)}
	switch w.rng.IntN(6) {
	case 0:
		c.to = "*"
	case 1:
		c.from = "*"
	}
	c.end = c.at + 1 + w.rng.IntN(800)
	w.cuts = append(w.cuts, c)
	for _, h := range w.hosts {
		toCoordinator := (c.from == h.name || c.from == "*") && (c.to == CoordinatorHost || c.to == "*")
		fromCoordinator := (c.from == CoordinatorHost || c.from == "*") && (c.to == h.name || c.to == "*")
		if toCoordinator || fromCoordinator {
			w.after(c.at+w.rng.IntN(100), func() { w.breakLine(h) })
		}
	}
}

// heal ends all that goes wrong, and brings back every agent whose machine lives.
func (w *world) heal() {
	w.trace("all is healed")
	w.healed = true
	for _, h := range w.hosts {
		h.start()
	}
}

func (w *world) anyDead() bool {
	return slices.ContainsFunc(w.hosts, func(h *simHost) bool { return h.dead })
}

// settled says that the restore is over on every host and nobody has anything left to tell.
func (w *world) settled() bool {
	for _, h := range w.hosts {
		if h.alive && h.t != nil && !h.t.Settled() {
			return false
		}
	}
	return true
}

// overrule ends the job where hosts are in doubt for ever, since another's machine is gone. Nothing may be left then.
func (w *world) overrule() {
	for range 2 { // the second time those that have stopped and whom nobody hears
		for _, h := range w.hosts {
			if h.alive && h.t != nil && !h.t.Settled() {
				w.excused = true
				h.step(Overrule{"ssctl kill"})
			}
		}
		w.run(1000, w.settled)
	}
	if !w.run(10_000, w.settled) {
		w.fail("overruled, and yet: %s", w.standing())
	}
	for _, h := range w.hosts {
		if h.held && h.alive && h.t != nil {
			w.fail("%s is %s and holds the job", h.name, h.t.Phase())
		}
	}
}

// standing describes where everyone stands, for a failure.
func (w *world) standing() string {
	var b strings.Builder
	fmt.Fprintf(&b, "coordinator %s alive=%v", w.c.Stage(), w.calive)
	for _, h := range w.hosts {
		phase := PhaseUnknown
		if h.t != nil {
			phase = h.t.Phase()
		}
		fmt.Fprintf(&b, "; %s %s part=%v alive=%v dead=%v live=%v tree=%d ran=%v", h.name, phase, h.part, h.alive, h.dead, h.live, h.tree, h.ran)
	}
	return b.String()
}

// checkFence: nothing is ended before every host is armed and the deciding host has decided the fence.
func (w *world) checkFence(h *simHost) {
	if d := w.hosts[0]; d.entry == nil || d.entry.Phase < Fencing || d.entry.Phase == Left {
		if w.excused && h.t.Phase() == Stopping && h.t.reason == "ssctl kill" {
			return
		}
		w.fail("R3: %s ends live members and the fence is not decided", h.name)
	}
	for _, o := range w.hosts {
		if o.entry == nil {
			w.fail("R3: %s ends live members and %s is not armed", h.name, o.name)
		}
	}
}

// checkResume: the resume is decided when every target stands, and not after one has stopped of its own accord.
func (w *world) checkResume(h *simHost) {
	w.decided = true
	for _, o := range w.hosts {
		if o.part && !o.stood {
			w.fail("R5: %s resumes and %s does not stand", h.name, o.name)
		}
		if o.part && o.ever && !w.excused {
			w.fail("half a job: %s resumes and %s has stopped", h.name, o.name)
		}
	}
}

// checkCopies: when restored members begin to run, no live member is left on any host that takes part.
func (w *world) checkCopies(h *simHost) {
	for _, o := range w.hosts {
		if o.live {
			w.fail("two living copies: %s runs what it has restored, and the live members of %s have not ended", h.name, o.name)
		}
	}
}

// checkStop: a decided resume is not aborted, unless a target has lost its part.
func (w *world) checkStop(h *simHost) {
	if w.decided && !w.excused {
		w.fail("half a job: %s stops after the resume was decided, and nobody has lost anything", h.name)
	}
}

// checkEnd: all or nothing, among the hosts whose machines never died. unsettled hosts wait for one whose machine is dead.
func (w *world) checkEnd(settled bool) {
	var run, stopped, untouched []HostID
	for _, h := range w.hosts {
		switch {
		case h.died:
		case h.live:
			untouched = append(untouched, h.name)
		case h.tree == treeRun, h.tree == treeEnded:
			run = append(run, h.name)
		case h.part || h.had:
			stopped = append(stopped, h.name)
		}
	}
	// A target that had no members is untouched if it left, and a host without a part is done when the job runs elsewhere.
	stopped = slices.DeleteFunc(stopped, func(id HostID) bool {
		h := w.host(id)
		return !h.had && !h.stood && len(run) == 0 || !h.part && len(run) > 0
	})
	if len(run) > 0 && len(stopped)+len(untouched) > 0 || len(untouched) > 0 && len(stopped) > 0 {
		w.fail("half a job in the end: it runs on %v, is ended on %v, untouched on %v; %s", run, stopped, untouched, w.standing())
	}
	if o := w.outcome; o != nil {
		w.checkOutcome(*o, run, stopped, untouched)
	}
	for _, h := range w.hosts {
		if settled && h.held && h.alive && h.t != nil {
			w.fail("%s is %s and holds the job", h.name, h.t.Phase())
		}
	}
}

// checkOutcome: what the coordinator said is so.
func (w *world) checkOutcome(o Outcome, run, stopped, untouched []HostID) {
	wrong := false
	switch o.Result {
	case ResultChecked, ResultUntouched:
		wrong = len(run)+len(stopped) > 0
	case ResultStopped:
		wrong = len(run)+len(untouched) > 0
	case ResultResumed:
		wrong = len(stopped)+len(untouched) > 0 && !slices.ContainsFunc(w.hosts, func(h *simHost) bool { return h.died })
	case ResultNone:
		wrong = true
	}
	// Of the hosts that it names it has said that it does not know; another's machine may be gone for good, and they wait.
	named := func(id HostID) bool { return slices.Contains(o.Unknown, id) }
	if wrong && w.anyDead() {
		wrong = !slices.ContainsFunc(slices.Concat(run, stopped, untouched), named)
	}
	if wrong {
		w.fail("the coordinator said %s, and the job runs on %v, is ended on %v, untouched on %v", o.Result, run, stopped, untouched)
	}
	if w.plan.clean && o.Result != ResultResumed && !w.plan.checkOnly {
		w.fail("nothing went wrong, and yet: %+v", o)
	}
}

// schedules is the number of schedules to run: SIM_SCHEDULES, or 10,000, or fewer under the race detector or -short.
func schedules(t *testing.T) uint64 {
	if s := os.Getenv("SIM_SCHEDULES"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("SIM_SCHEDULES: %v", err)
		}
		return n
	}
	if raceEnabled || testing.Short() {
		return 3000
	}
	return 10000
}

// explain runs a schedule that failed once more, and returns what happened in it.
func explain(seed uint64, f mistakes) string {
	lines := simulate(seed, f, true).lines
	if len(lines) > 250 {
		lines = append(lines[:1], lines[len(lines)-249:]...)
	}
	return strings.Join(lines, "\n")
}

// TestSimulation runs thousands of random schedules. SIM_SEED replays one of them.
func TestSimulation(t *testing.T) {
	if s := os.Getenv("SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("SIM_SEED: %v", err)
		}
		r := simulate(seed, mistakes{}, true)
		t.Logf("%s\n%v", strings.Join(r.lines, "\n"), r.outcome)
		if r.failure != "" {
			t.Fatal(r.failure)
		}
		return
	}
	n := schedules(t)
	var next atomic.Uint64
	var mu sync.Mutex
	counts := map[string]int{}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= n && !t.Failed(); seed = next.Add(1) {
				r := simulate(seed, mistakes{}, false)
				if r.failure != "" {
					t.Errorf("seed %d: %s\nreplay it with SIM_SEED=%d go test -v -run 'TestSimulation$' ./restoration\n%s", seed, r.failure, seed, explain(seed, mistakes{}))
					return
				}
				mu.Lock()
				counts[r.outcome]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	var table strings.Builder
	for _, o := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&table, "\n  %7d  %s", counts[o], o)
	}
	t.Logf("%d schedules:%s", n, table.String())
	for _, o := range []string{"resumed", "stopped", "untouched", "coordinator died"} {
		if counts[o] < int(n)/20 {
			t.Errorf("only %d of %d schedules ended as %q: such a simulation proves little", counts[o], n, o)
		}
	}
}
