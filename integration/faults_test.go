package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

const (
	// theLease is the coordinator's: how long a host that hears nothing holds out.
	theLease = 5 * time.Second
	// noise is what a busy machine, with another test beside, may add to it.
	noise = 6 * time.Second
	// inDoubt is the exit code of a restore whose outcome ssctl cannot know.
	inDoubt = 11
)

// outcome is what a fault may lead to.
type outcome int

const (
	undone  outcome = iota + 1 // nothing of the attempt is left, and the job runs
	done                       // the attempt has succeeded all the same
	stopped                    // of a restore: the job stands nowhere, and its cut is whole
	whole                      // of a restore: the job stands nowhere, or everywhere; the fault races with the end
)

// blow is one row: which process is killed on which host, at which line of ssctl's, and what may come of it.
type blow struct {
	op     string // what ssctl does: "snapshot", "snapshot --stop", "restore"
	victim string // "agent", "ssctl", "criu", or several; "agent-term" is told to end, as systemd does it
	host   string
	at     string // the phase that ssctl names for that host, or a whole line of ssctl's
	want   outcome
}

func (b blow) name() string {
	return strings.NewReplacer(" --", "-", " ", "-", ":", "").Replace(b.op + "/" + b.victim + "/" + b.at + "/" + b.host)
}

// line is what ssctl prints when the time has come.
func (b blow) line() string {
	if strings.Contains(b.at, ":") {
		return b.at
	}
	return b.host + ": " + b.at
}

func (b blow) hits(victim string) bool { return slices.Contains(strings.Fields(b.victim), victim) }

// downs says whether an agent is gone after the blow.
func (b blow) downs() bool { return b.hits("agent") || b.hits("agent-term") }

// blows are all that can be hit: a CRIU lives in some phases only.
var blows = []blow{
	{"snapshot", "agent", "hostB", "preparing", undone},
	{"snapshot", "agent", "hostA", "preparing", undone},
	{"snapshot", "agent", "hostA", "holding new connections", undone},
	{"snapshot", "agent", "hostB", "holding new connections", undone},
	{"snapshot", "criu", "hostA", "holding new connections", undone},
	{"snapshot", "ssctl", "hostB", "holding new connections", undone},
	{"snapshot", "agent", "hostA", "recording", undone},
	{"snapshot", "agent", "hostB", "recording", undone},
	{"snapshot", "agent", "hostA", "dumping", undone},
	{"snapshot", "agent", "hostB", "dumping", undone},
	{"snapshot", "agent", "hostB", "dumping memory", undone}, // the gates are about to open, the members stand still
	{"snapshot", "agent", "hostB", "storing", undone},
	{"snapshot", "agent", "hostB", "finishing", done},
	{"snapshot", "criu", "hostB", "preparing", undone},
	{"snapshot", "criu", "hostB", "recording", undone},
	{"snapshot", "criu", "hostA", "dumping", undone},
	{"snapshot", "criu", "hostB", "dumping", undone},
	{"snapshot", "criu", "hostB", "dumping memory", undone},
	{"snapshot", "ssctl", "hostB", "preparing", undone},
	{"snapshot", "ssctl", "hostB", "recording", undone},
	{"snapshot", "ssctl", "hostB", "dumping", undone},
	{"snapshot", "ssctl", "hostB", "dumping memory", undone},
	{"snapshot", "ssctl", "hostB", "storing", undone},
	{"snapshot", "ssctl", "hostB", "finishing", done},
	{"snapshot", "agent criu", "hostB", "dumping", undone},
	{"snapshot", "agent criu", "hostB", "dumping memory", undone},
	{"snapshot", "keeper", "hostB", "dumping", undone},
	{"snapshot", "watcher", "hostB", "dumping", done},
	{"snapshot", "agent", "hostC", "hostB: storing", done}, // where the images go
	{"snapshot", "agent-term", "hostB", "dumping", undone},
	{"snapshot", "agent-term", "hostB", "storing", undone},
	{"snapshot", "agent-term", "hostB", "finishing", done},
	{"snapshot --stop", "agent", "hostB", "dumping", undone},
	{"snapshot --stop", "agent", "hostB", "storing", undone},
	{"snapshot --stop", "agent", "hostB", "finishing", done},
	{"snapshot --stop", "agent-term", "hostB", "finishing", done},
	{"snapshot --stop", "criu", "hostB", "dumping", undone},
	{"snapshot --stop", "ssctl", "hostB", "storing", undone},
	{"snapshot --stop", "ssctl", "hostB", "finishing", done},

	{"restore", "agent", "hostB", "checking", undone},
	{"restore", "agent", "hostB", "fetching", undone},
	{"restore", "agent", "hostA", "fencing", whole}, // the one that decides: it may not have been told
	{"restore", "agent", "hostB", "fencing", stopped},
	{"restore", "agent", "hostB", "restoring", stopped},
	{"restore", "agent", "hostA", "resuming", whole},
	{"restore", "agent", "hostB", "resuming", whole},
	{"restore", "criu", "hostB", "restoring", stopped},
	{"restore", "criu", "hostB", "resuming", whole},
	{"restore", "agent-term", "hostB", "fencing", stopped},
	{"restore", "agent-term", "hostB", "restoring", stopped},
	{"restore", "agent-term", "hostA", "resuming", whole}, // the one that decides
	{"restore", "agent-term", "hostB", "resuming", whole},
	{"restore", "ssctl", "hostB", "checking", undone},
	{"restore", "ssctl", "hostB", "fetching", undone},
	{"restore", "ssctl", "hostA", "fencing", whole},
	{"restore", "ssctl", "hostB", "fencing", whole},
	{"restore", "ssctl", "hostB", "restoring", stopped},
	{"restore", "ssctl", "hostB", "resuming", whole},
	{"restore --remap hostA=hostC", "agent", "hostC", "fencing", stopped},
	{"restore --remap hostA=hostC", "agent", "hostC", "restoring", stopped},
	{"restore --remap hostA=hostC", "criu", "hostC", "restoring", stopped},
	{"restore --remap hostA=hostC", "ssctl", "hostC", "fencing", whole},
	{"restore --remap hostA=hostC", "ssctl", "hostC", "restoring", stopped},
	{"restore --remap hostA=hostC", "ssctl", "hostC", "resuming", whole},
}

// TestFaults kills every party in every phase of a snapshot and of a restore. One job lives through all of it: that it
// does, with every word in order, is what the rows have in common.
func TestFaults(t *testing.T) { strikeAll(t, "", func(*faultRig) {}, blows) }

// strikeAll strikes rows, one after the other, on one job whose agents have some more lines in agent.yaml. Before each of them it calls prepare. load
// are arguments of the program on hostB.
func strikeAll(t *testing.T, config string, prepare func(*faultRig), rows []blow, load ...string) {
	t.Helper()
	var f *faultRig
	for _, b := range rows {
		ok := t.Run(b.name(), func(t *testing.T) {
			if f == nil {
				f = newFaultRig(t, config, load...)
				f.prepare = func() { prepare(f) }
			}
			f.use(t)
			f.strike(b)
		})
		if f != nil && !ok {
			f.use(t)
			f.rig.relay.close() // what a failed row has left must not spoil the next
			f = nil
		}
	}
	if f != nil {
		f.use(t)
		f.conclude()
		f.keptMatches()
		f.rig.relay.close()
	}
}

// faultRig is a cluster with a job whose images are large enough to be hit on their way.
type faultRig struct {
	*job
	rig     *rig
	prepare func() // before a row
}

// faultMembers are the members of its job: what their command lines hold.
var faultMembers = map[string]string{"serve": "words serve", "connect": "words connect", "idleA": "sleep 1000001", "idleB": "sleep 1000002"}

func newFaultRig(t *testing.T, config string, load ...string) *faultRig {
	t.Helper()
	r := newRigWith(t, config, "hostA", "hostB", "hostC")
	j := r.newJob("words")
	addr := r.Host("hostB").Addr().String() + ":9001"
	j.program("serve", "hostB", "words", append([]string{"serve", "-listen", addr, "-ballast", "64"}, load...)...)
	j.program("connect", "hostA", "words", "connect", "-to", addr, "-ballast", "48", "-until", j.stop)
	// Two that nothing ends but a kill: a part of a job that the rest has left would show.
	j.serve("idleA", "hostA", "sleep", "1000001")
	j.serve("idleB", "hostB", "sleep", "1000002")
	j.awaitProgress()
	j.snapshot() // to go back to
	return &faultRig{job: j, rig: r, prepare: func() {}}
}

func (f *faultRig) use(t *testing.T) { f.rig.use(t) }

// strike carries out one row. CRIU runs system calls inside of the tasks that it dumps: a task in whose name it is at one when it is
// killed ends with it, which README's limits say and nobody from outside can help. Then the job goes back to its cut, and the row is struck again.
func (f *faultRig) strike(b blow) {
	f.t.Helper()
	const tries = 5
	for try := 1; ; try++ {
		f.prepare()
		before := f.cuts()
		if f.strikeOnce(b, before) {
			return
		}
		if try == tries {
			f.t.Fatalf("%d times in a row CRIU died within a call of a member's, or was done before it was hit: that is not an accident", tries)
		}
		f.MustCtl("restore", before[len(before)-1])
		f.mustFlow("before the row is struck again", soon)
	}
}

func (f *faultRig) strikeOnce(b blow, before []string) bool {
	t := f.t
	t.Helper()
	args := append(strings.Fields(b.op), f.name)
	if b.restores() {
		args[len(args)-1] = before[len(before)-1]
	}
	leave := func() {}
	if b.at == "holding new connections" {
		leave = f.visit()
	}
	hit := true
	run := f.ctlTrapped(b.line(), func(ctl *lab.Cmd) { hit = f.kill(b, ctl) }, args...)
	leave()
	if !hit {
		<-run.Done()
		t.Logf("the blow came when CRIU had let go of the members of %s; ssctl ended with exit code %d", b.host, run.ExitCode())
		return false
	}
	deadline := time.Now().Add(theLease + noise)
	if b.downs() {
		<-f.Agent(b.host).Done()
	}
	exit := run.ExitCode()
	if b.victim == "criu" && strings.HasPrefix(b.at, "dumping") && b.want == undone && exit == 0 {
		t.Logf("CRIU had dumped the members of %s before it was hit: there is a cut", b.host)
		return false
	}
	if b.hits("criu") && !b.restores() && f.trapped(b) {
		return false
	}
	if b.want == undone {
		// The agent that was killed is still dead.
		if err := f.flows(deadline); err != nil {
			t.Errorf("the job does not run within its lease: %v", err)
		}
	}
	if exit != inDoubt { // then hosts stand ready behind closed gates until they know; the aftermath looks at them
		f.gatesOpen(deadline)
	}
	t.Logf("exit %d, %.1fs after the fault\n%s%s", exit, time.Since(deadline.Add(-theLease-noise)).Seconds(), run.stderr, &run.stdout)
	f.judge(b, exit, run.stderr.String(), before)
	if b.downs() {
		f.Agent(b.host).Start()
	}
	f.aftermath(b, exit)
	f.nobodyGoesFirst()
	return true
}

// nobodyGoesFirst returns when the sessions of agents and members have no precedence: agents have it while members stand still, and members never.
// A kernel without sched_autogroup_enabled gives none.
func (f *faultRig) nobodyGoesFirst() {
	f.t.Helper()
	await(f.t, "sessions without precedence", func() string {
		pids := map[int]string{}
		for _, h := range []string{"hostA", "hostB"} {
			pids[f.Agent(h).Pid()] = "the agent of " + h
			for _, p := range f.processes(h) {
				if p.exe == "words" || p.exe == "sleep" {
					pids[p.pid] = p.command
				}
			}
		}
		for pid, who := range pids {
			group, err := os.ReadFile(fmt.Sprintf("/proc/%d/autogroup", pid)) // gone, or there are no groups
			if err == nil && !strings.HasSuffix(strings.TrimSpace(string(group)), " nice 0") {
				return fmt.Sprintf("%s is in %s", who, group)
			}
		}
		return ""
	})
}

// trapped says whether a member on the host that was hit ended by the trap instruction that CRIU puts behind a call of its own. A member that
// ended otherwise is for the checks that follow.
func (f *faultRig) trapped(b blow) bool {
	t := f.t
	t.Helper()
	where := f.where()
	for _, m := range f.members {
		if m.host != b.host || len(where[m.name]) > 0 {
			continue
		}
		if b.hits("agent") {
			f.Agent(b.host).Start()
		}
		ps, stderr, _ := f.Ctl("ps", f.name)
		if !strings.Contains(ps, "trace/breakpoint trap") && !strings.Contains(f.log(m), "SIGTRAP: trace trap") { // of Go's own handler
			t.Fatalf("%s is gone from %s:\n%s%s%s", m.name, m.host, ps, stderr, f.log(m))
		}
		t.Logf("%s ended with the CRIU that was killed", m.name)
		return true
	}
	return false
}

// restores says whether it is a restore that is hit.
func (b blow) restores() bool { return strings.HasPrefix(b.op, "restore") }

// kill is done at the line. It reports false if what was to be hit was over by then.
func (f *faultRig) kill(b blow, ctl *lab.Cmd) bool {
	if b.victim == "criu" && b.at == "dumping memory" {
		return f.killTracers(b.host)
	}
	if b.hits("agent") {
		_ = unix.Kill(f.Agent(b.host).Pid(), unix.SIGKILL) // gone already: the row will say so
	}
	if b.hits("agent-term") {
		_ = unix.Kill(f.Agent(b.host).Pid(), unix.SIGTERM)
	}
	if b.hits("ssctl") {
		_ = ctl.Process.Kill()
	}
	if b.hits("criu") {
		f.killAll(func() []int { return f.crius(b.host) })
	}
	for victim, word := range map[string]string{"keeper": "criu-exec", "watcher": "cell-watch"} {
		if b.hits(victim) {
			f.killAll(func() []int { return f.helpers(b.host, word) })
		}
	}
	return true
}

// killTracers kills the CRIUs that hold the members of a host, and reports whether there was one. A CRIU without a member has dumped it.
func (f *faultRig) killTracers(host string) (killed bool) {
	f.t.Helper()
	all := f.processes(host)
	for _, p := range all {
		if p.exe != "words" && p.exe != "sleep" {
			continue
		}
		tracer := tracerOf(p.pid)
		if !slices.ContainsFunc(all, func(q process) bool { return q.pid == tracer && q.isCRIU() }) || unix.Kill(tracer, unix.SIGSTOP) != nil {
			continue
		}
		if tracerOf(p.pid) == tracer { // it held the member when it stopped, so it has not answered yet
			killed = unix.Kill(tracer, unix.SIGKILL) == nil || killed
		} else {
			_ = unix.Kill(tracer, unix.SIGCONT) // it may have ended
		}
	}
	return killed
}

// tracerOf is the process that traces another, 0 if none does.
func tracerOf(pid int) (tracer int) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0 // it has ended
	}
	if _, rest, ok := strings.Cut(string(status), "\nTracerPid:"); ok {
		_, _ = fmt.Sscan(rest, &tracer)
	}
	return tracer
}

// visit has a host of no member open a connection that the member on hostB does not accept. Hosts are told to hold new connections then: where all are
// calm by the time they are prepared, nobody needs to be.
func (f *faultRig) visit() (leave func()) {
	f.t.Helper()
	exe, err := os.Executable()
	must(f.t, err)
	const log = "/srv/visitor.log"
	host := f.Host("hostC")
	cmd := host.Command(f.t.Context(), exe, holdWord, "visitor").LogTo(log)
	cmd.Env = append(os.Environ(), visitorVariable+"="+f.Host("hostB").Addr().String()+":9001")
	must(f.t, cmd.Start())
	await(f.t, "visitor", func() string {
		said, err := host.ReadFile(log)
		if err != nil || strings.Contains(string(said), "FAIL") {
			f.t.Fatalf("%v: %s", err, said)
		}
		if !strings.Contains(string(said), "holding visitor") {
			return "it has not knocked"
		}
		return ""
	})
	return func() { cmd.Kill(); must(f.t, os.Remove(host.Path(log))) }
}

// judge checks what ssctl said, and whether there is a new cut.
func (f *faultRig) judge(b blow, exit int, stderr string, before []string) {
	t := f.t
	t.Helper()
	after := f.cuts()
	if committed := len(after) > len(before); committed != (b.want == done) {
		t.Errorf("cuts were %v and are %v", before, after)
	}
	want := map[outcome][]int{undone: {9}, stopped: {9}, done: {0}, whole: {0, 9, inDoubt}}[b.want]
	if b.hits("ssctl") {
		want = []int{-1}
	}
	if !slices.Contains(want, exit) {
		t.Errorf("exit code %d, want %v", exit, want)
	}
	if exit > 0 && !strings.Contains(lastSaid(stderr), b.host) {
		t.Errorf("the message does not name %s", b.host)
	}
}

// lastSaid is what ssctl said for a person: notes and the error, not the phases.
func lastSaid(stderr string) string {
	i := strings.Index(stderr, "ssctl:")
	return stderr[max(0, i):]
}

// gatesOpen ends the test if a gate of a host is closed after the deadline.
func (f *faultRig) gatesOpen(deadline time.Time) {
	t := f.t
	t.Helper()
	over := time.After(time.Until(deadline))
	again := time.NewTicker(lookAgain) // the kernel does not tell of a table that goes with the process that owned it
	defer again.Stop()
	for {
		closed := slices.DeleteFunc(f.Leaks(), func(leak string) bool { return !strings.Contains(leak, ": nft ") })
		if len(closed) == 0 {
			return
		}
		select {
		case <-again.C:
		case <-over:
			t.Fatalf("gates are closed:\n%s", strings.Join(closed, "\n"))
		}
	}
}

// aftermath checks that the job is whole or nowhere, that nothing is left, and that what failed can be done again.
func (f *faultRig) aftermath(b blow, exit int) {
	t := f.t
	t.Helper()
	cuts := f.cuts()
	last := cuts[len(cuts)-1]
	switch stands := f.settle(b); {
	case b.want == done && strings.Contains(b.op, "--stop"), b.want == stopped, b.want == whole && exit == 9:
		if stands {
			t.Fatal("the job runs")
		}
		f.nothingLeft()
		f.MustCtl("verify", last)
		f.MustCtl("restore", last)
	case !stands && (b.want != whole || exit == 0):
		t.Fatal("the job does not run")
	default:
		if stands {
			f.mustFlow("after the fault", soon)
		}
		f.nothingLeft()
		f.MustCtl("verify", last)
		if b.restores() {
			f.MustCtl("restore", last)
		}
	}
	if !f.settle(b) {
		t.Fatal("the job does not run in the end")
	}
	f.mustFlow("in the end", soon)
	if !b.restores() {
		f.snapshot()
		f.mustFlow("after a snapshot", soon)
		f.imagesMatch()
		for _, id := range f.cuts()[:len(f.cuts())-1] {
			f.MustCtl("rm", id)
		}
	}
	f.nothingLeft()
}

// where lists the hosts on which each of the members has a process.
func (f *faultRig) where() map[string][]string {
	f.t.Helper()
	where := map[string][]string{}
	for _, h := range f.Hosts() {
		for _, p := range f.processes(h.Name) {
			for name, command := range faultMembers {
				if p.exe == strings.Fields(command)[0] && strings.Contains(p.command, command) {
					where[name] = append(where[name], h.Name)
				}
			}
		}
	}
	return where
}

// settle returns when the job stands everywhere (true) or nowhere, and nobody is at it any more. It ends the test if a part of
// the job is without the rest for long.
func (f *faultRig) settle(b blow) (stands bool) {
	t := f.t
	t.Helper()
	await(t, "an end of the attempt", func() string {
		_, stderr, exit := f.Ctl("restore", "latest", "--job", f.name, "--dry-run")
		if exit == 8 {
			return stderr
		}
		return ""
	})
	where := f.where()
	for _, m := range f.members {
		switch hosts := where[m.name]; {
		case len(hosts) == 1:
			m.host = hosts[0]
		case len(hosts) > 1:
			t.Fatalf("%s is on %v", m.name, hosts)
		case len(where) > 0:
			members, _, _ := f.Ctl("ps", f.name)
			t.Fatalf("half a job: %s is nowhere, the others are on %v\n%s", m.name, where, members)
		}
	}
	return len(where) > 0
}
