package marker

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
	hosts       int
	clean       bool // nothing goes wrong: every attempt has to commit
	attempts    []trial
	loss        float64 // of control messages
	duplicates  float64
	delay       int // the longest of a control message that is not very late, µs
	packetLoss  float64
	waits       bool // hosts report connections that wait at a listener
	actionFails float64
	unwritten   float64 // an entry of the journal cannot be written
	hangs       float64 // an action never ends by itself
	captures    float64 // a dump says when it holds the connections
	connectRate float64
	maxConns    int
	prepare     int     // until a host is prepared
	calm        float64 // of hosts, that they are calm when they are prepared
	drain       int     // from the last marker to the seal, µs at most
	hold        int     // until a host has waited for connections that were half open
	record      int     // until the members are frozen
	dump, store int
	crashes     map[int]*crash
	jumps       []jump
}

// trial is one attempt at a cut.
type trial struct {
	after     int // µs after the one before began; 0: when it is over
	initiator int
	stop      bool
	outside   OutsidePolicy
	lease     Millis
	settle    Millis
	dies      int    // coordinator dies in its nth Ready; 0: it does not
	interrupt int    // µs; 0: it is not
	stands    Millis // Config.Standstill
	lineLost  int    // µs after which the line to one of the hosts is gone for good; 0: it is not
}

// jump moves a clock.
type jump struct {
	at, host int // host -1: the coordinators'
	by       Millis
}

func newPlan(rng *rand.Rand) plan {
	p := plan{
		hosts:       3 + rng.IntN(5),
		clean:       rng.IntN(10) < 3,
		duplicates:  rng.Float64() * 0.2,
		delay:       500 + rng.IntN(4000),
		connectRate: rng.Float64() * 0.1,
		prepare:     8000,
		drain:       1 + rng.IntN(3000),
		hold:        1 + rng.IntN(8000),
		record:      500 + rng.IntN(10000),
		dump:        1000 + rng.IntN(15000),
		store:       1000 + rng.IntN(25000),
		crashes:     make(map[int]*crash),
	}
	p.maxConns = 4*p.hosts + 8
	if rng.IntN(2) == 0 {
		p.delay *= 4
	}
	if rng.IntN(3) == 0 {
		p.record *= 5 // some hosts record long after others have dumped
		p.dump /= 4
	}
	if rng.IntN(2) == 0 {
		p.packetLoss = rng.Float64() * 0.05
	}
	if rng.IntN(2) == 0 {
		p.calm = rng.Float64() * 1.5 // all of them in every sixth plan
	}
	if rng.IntN(20) == 0 {
		p.prepare = 3000 * int(staysCalm) // some hosts are prepared when others do not count as calm any more, or are not
	}
	for range 1 + rng.IntN(3) {
		p.attempts = append(p.attempts, trial{
			initiator: rng.IntN(p.hosts),
			outside:   OutsidePolicy(rng.IntN(2)),
			lease:     Millis(60 + rng.IntN(100)),
			settle:    Millis(rng.IntN(15)),
		})
	}
	last := &p.attempts[len(p.attempts)-1]
	last.stop = rng.IntN(3) == 0
	if p.clean {
		for i := range p.attempts {
			p.attempts[i].outside = OutsideClosed // connections that are half open at the record come to a cut's edge
		}
		return p
	}
	p.waits = rng.IntN(2) == 0
	if rng.IntN(3) > 0 {
		p.captures = rng.Float64()
	}
	p.goWrong(rng)
	return p
}

// goWrong adds some of what can go wrong.
func (p *plan) goWrong(rng *rand.Rand) {
	for i := range p.attempts {
		t := &p.attempts[i]
		if i > 0 && rng.IntN(2) == 0 {
			t.after = 1 + rng.IntN(200000)
		}
		if rng.IntN(4) == 0 {
			t.dies = 1 + rng.IntN(8)
		}
		if rng.IntN(8) == 0 {
			t.interrupt = 1 + rng.IntN(120000)
		}
	}
	for i := range p.attempts {
		if rng.IntN(4) == 0 {
			p.attempts[i].stands = Millis(1 + rng.IntN(400))
		}
		if rng.IntN(8) == 0 {
			p.attempts[i].lineLost = 1 + rng.IntN(120000)
		}
	}
	if rng.IntN(2) == 0 {
		p.loss = rng.Float64() * 0.15
	}
	if rng.IntN(4) == 0 {
		p.actionFails = rng.Float64() * 0.1
	}
	if rng.IntN(4) == 0 {
		p.unwritten = rng.Float64() * 0.5
	}
	if rng.IntN(8) == 0 {
		p.hangs = rng.Float64() * 0.05
	}
	if rng.IntN(2) == 0 {
		for range 1 + rng.IntN(2) {
			c := &crash{nth: 1 + rng.IntN(14), part: rng.IntN(3), machine: rng.IntN(4) == 0}
			if rng.IntN(3) > 0 {
				c.restart = 1 + rng.IntN(100000)
			}
			p.crashes[rng.IntN(p.hosts)] = c
		}
	}
	if rng.IntN(4) == 0 {
		for range 1 + rng.IntN(3) {
			p.jumps = append(p.jumps, jump{at: rng.IntN(200000), host: rng.IntN(p.hosts+1) - 1, by: Millis(rng.IntN(250) - 50)})
		}
	}
}

// variant says which mistake is planted, and whether only its harm is to be looked for.
type variant struct {
	mistakes mistakes
	truth    bool
}

// result is what came of a schedule.
type result struct {
	outcomes []string // one per attempt
	failure  string   // empty if every invariant held
	lines    []string
}

// simulate runs one schedule to its end.
func simulate(seed uint64, v variant, tracing bool) (r result) {
	var w *world
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
	w = newWorld(seed, v)
	w.tracing = tracing
	w.trace("seed %d: %+v", seed, w.plan)
	w.runUntil(20000, "warm-up", func() bool { return w.now >= 10000 })
	w.attempts()
	w.runUntil(5_000_000, "everyone ends what it does", w.quiet)
	w.checkRunning()
	w.resolve()
	w.drain()
	for _, c := range w.coords[:len(w.plan.attempts)] {
		r.outcomes = append(r.outcomes, c.summary())
	}
	return r
}

// attempts runs one attempt after the other, or into the other.
func (w *world) attempts() {
	var before *simCoordinator
	for i, t := range w.plan.attempts {
		if t.after == 0 {
			w.runUntil(5_000_000, "the attempt before ends", func() bool { return before == nil || !before.alive || before.outcome != nil })
		} else {
			start := w.now + int64(t.after)
			w.runUntil(5_000_000, "the next attempt begins", func() bool { return w.now >= start })
		}
		before = w.coordinate(NewCoordinator(w.config(i, t)), t.dies)
		if c := before; t.interrupt > 0 {
			w.after(t.interrupt, func() { c.step(interrupts[t.interrupt%2]) })
		}
		if c := before; t.lineLost > 0 {
			w.after(t.lineLost, func() { c.loseLine(w.hosts[w.rng.IntN(len(w.hosts))]) })
		}
	}
}

func (w *world) config(i int, t trial) Config {
	cfg := Config{
		Key:       Key{Job: simJob, Snapshot: SnapshotID("s" + strconv.Itoa(i+1)), Epoch: Epoch(i + 1)},
		Initiator: w.hosts[t.initiator].name, Stop: t.stop, Outside: t.outside, Lease: t.lease, Settle: t.settle,
		PrepareTimeout: 200 + Millis(w.plan.prepare/1000), Standstill: t.stands, Timeout: 600 + Millis(w.plan.prepare/1000), AbortTimeout: 200, FinishTimeout: 200,
	}
	for _, h := range w.hosts {
		cfg.Participants = append(cfg.Participants, h.name)
	}
	return cfg
}

// quiet says that nobody has anything left to do.
func (w *world) quiet() bool {
	if w.pending > 0 {
		return false
	}
	for _, c := range w.coords {
		if c.alive && c.outcome == nil {
			return false
		}
	}
	for _, h := range w.hosts {
		if h.restarts > 0 || !h.alive && h.frozen && !h.dead {
			return false
		}
		if h.alive && h.p.Phase() != Idle && !h.p.Released() {
			return false
		}
	}
	return true
}

// checkRunning: at the end every live host runs with its gates open, and in a schedule in which
// nothing goes wrong every attempt has committed.
func (w *world) checkRunning() {
	for _, h := range w.hosts {
		for i := range h.gates {
			if h.gates[i].closed {
				w.fail("at the end the gate of %s toward h%d is closed", h.name, i)
			}
		}
		if !h.dead && h.frozen {
			w.fail("at the end %s stands still", h.name)
		}
	}
	for _, c := range w.coords {
		if w.plan.clean && (c.outcome == nil || !c.outcome.Committed || len(c.outcome.Unknown) > 0) {
			w.fail("nothing went wrong, and yet: %+v", c.outcome)
		}
	}
}

// resolve starts every agent again, tells the outcome of every attempt whose coordinator may not
// have been able to, and looks for what is half committed.
func (w *world) resolve() {
	w.plan.loss, w.plan.actionFails, w.plan.hangs = 0, 0, 0
	for _, h := range w.hosts {
		h.crash = nil
		h.start()
	}
	for i, t := range w.plan.attempts {
		cfg := w.config(i, t)
		cfg.Participants = nil
		for _, h := range w.hosts {
			if !h.dead {
				cfg.Participants = append(cfg.Participants, h.name)
			}
		}
		if len(cfg.Participants) == 0 {
			continue
		}
		w.runUntil(5_000_000, "agents are ready for resolvers", w.quiet)
		if w.chance(0.5) { // some hear of it from whoever reads the catalogue
			for _, h := range w.hosts {
				if w.chance(0.7) {
					h.step(Resolved{Snapshot: cfg.Key.Snapshot, Committed: w.catalog[cfg.Key] != nil})
				}
			}
			w.runUntil(5_000_000, "what was resolved is carried out", w.quiet)
		}
		w.coordinate(NewResolver(cfg, w.catalog[cfg.Key] != nil), 0)
		w.runUntil(5_000_000, "a resolver ends", w.quiet)
	}
	for _, h := range w.hosts {
		if h.dead {
			continue
		}
		if h.p.Phase() != Idle || len(h.p.InDoubt()) > 0 {
			w.fail("after all is told %s is %s and in doubt of %v", h.name, h.p.Phase(), h.p.InDoubt())
		}
		for key := range h.images {
			if w.catalog[key] == nil {
				w.fail("%s keeps images of %s, which never committed", h.name, key.Snapshot)
			}
		}
		for key := range w.catalog {
			if im := h.images[key]; im == nil || !im.stored {
				w.fail("%s has no images of %s, which committed", h.name, key.Snapshot)
			}
		}
	}
	w.checkRunning()
}

// drain lets the programs read what is left: every byte must have come through, whatever the gates did.
func (w *world) drain() {
	w.draining = true
	w.runUntil(5_000_000, "every byte arrives", func() bool {
		for _, c := range w.conns {
			a, b := w.hosts[c.ends[0].host], w.hosts[c.ends[1].host]
			if a.dead || b.dead || a.killed || b.killed {
				continue
			}
			if c.ends[0].read != c.ends[1].written || c.ends[1].read != c.ends[0].written {
				return false
			}
		}
		return true
	})
}

func (s *simCoordinator) summary() string {
	switch {
	case s.outcome == nil:
		return "coordinator died"
	case s.outcome.Committed:
		return "committed"
	}
	return "aborted: " + s.outcome.Cause.String()
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
func explain(seed uint64, v variant) string {
	lines := simulate(seed, v, true).lines
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
		r := simulate(seed, variant{}, true)
		t.Logf("%s\n%v", strings.Join(r.lines, "\n"), r.outcomes)
		if r.failure != "" {
			t.Fatal(r.failure)
		}
		return
	}
	n := schedules(t)
	var next atomic.Uint64
	var mu sync.Mutex
	counts, attempts := make(map[string]int), 0
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= n && !t.Failed(); seed = next.Add(1) {
				r := simulate(seed, variant{}, false)
				if r.failure != "" {
					t.Errorf("seed %d: %s\nreplay it with SIM_SEED=%d go test -v -run 'TestSimulation$' ./marker\n%s", seed, r.failure, seed, explain(seed, variant{}))
					return
				}
				mu.Lock()
				for _, o := range r.outcomes {
					counts[o]++
					attempts++
				}
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
	t.Logf("%d schedules, %d attempts:%s", n, attempts, table.String())
	if counts["committed"] < attempts/3 {
		t.Errorf("only %d of %d attempts committed: such a simulation proves little", counts["committed"], attempts)
	}
}
