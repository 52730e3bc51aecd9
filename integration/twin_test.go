package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// TestTwin needs root, gcc and a kernel that tracks memory (Linux 6.7). A member writes its memory as fast as it can, so that copying comes to no end. What is left at the
// freeze comes from a twin of it, in snapshots of a job that runs on and of one that stops, and every page is right in the restored job: the program finds its memory as it has left it before
// it writes it once more, and knows of no child. An agent that is killed while it has a twin leaves none.
func TestTwin(t *testing.T) {
	c := newRigWith(t, "twins: true\ntwins_from: 1\n", "hostA", "hostB").cluster
	j := c.newJob("twin")
	program := j.compiled("../agent/memory/testdata/hurry.c", "hurry", "-pthread")
	j.serve("hurry", "hostA", program, "160", "2", "/srv/hurry.log")
	passes := func() int {
		log, err := c.Host("hostA").ReadFile("/srv/hurry.log")
		if err != nil {
			return 0
		}
		if i := strings.Index(string(log), "BAD"); i >= 0 {
			t.Fatalf("the program found something wrong: %s", log[i:])
		}
		return strings.Count(string(log), "check ")
	}
	goesOn := func(when string) {
		t.Helper()
		before := passes()
		await(t, "the program to write its memory twice more, "+when, func() string {
			if n := passes(); n < before+2 {
				return fmt.Sprintf("%d passes", n)
			}
			return ""
		})
		if n := len(c.instances("hostA", "hurry")); n != 1 {
			t.Fatalf("%s, there are %d processes", when, n)
		}
	}
	goesOn("before the first snapshot")
	cut := func(args ...string) string {
		t.Helper()
		s := j.snapshot(args...)
		var shown shownMemory
		c.CtlJSON(&shown, "show", s.Cut)
		m := shown.Members[0].Memory
		t.Logf("%d bytes were copied while it ran, %d while it stood still, %d from a twin: %q", m.CopiedBytes, m.FrozenBytes, m.TwinBytes, m.Left)
		if !m.Tracked || m.TwinBytes == 0 {
			t.Errorf("%d bytes come from a twin: %q", m.TwinBytes, m.Left)
		}
		return s.Cut
	}
	first := cut()
	goesOn("after a snapshot")
	second := cut()
	goesOn("after two snapshots")
	j.restore(first)
	goesOn("restored")
	ctl := c.ctlTrapped("hostA: storing", func(*lab.Cmd) { _ = unix.Kill(c.Agent("hostA").Pid(), unix.SIGKILL) }, "snapshot", j.name)
	if ctl.ExitCode() == 0 {
		t.Error("a snapshot whose agent was killed has succeeded")
	}
	<-c.Agent("hostA").Done()
	goesOn("without an agent")
	c.Agent("hostA").Start()
	j.restore(cut("--stop"))
	goesOn("stopped and restored")
	j.restore(second, "hostA=hostB")
	await(t, "the program on the other host", func() string {
		if n := len(c.instances("hostB", "hurry")); n != 1 {
			return fmt.Sprintf("%d processes", n)
		}
		return ""
	})
	j.end()
	c.checkLeaks()
}

// twinBlows hit a host whose member has a twin: when it is made, when it is read, and when it ends. The first one is struck in CI.
var twinBlows = []blow{
	{"snapshot", "agent", "hostB", "storing", undone},
	{"snapshot", "agent", "hostB", "dumping memory", undone},
	{"snapshot", "ssctl", "hostB", "storing", undone},
	{"snapshot", "ssctl", "hostB", "dumping memory", undone},
	{"snapshot", "criu", "hostB", "dumping memory", undone},
	{"snapshot", "agent criu", "hostB", "dumping memory", undone},
	{"snapshot", "agent", "hostA", "dumping memory", undone},
	{"snapshot", "agent-term", "hostB", "storing", undone},
	{"snapshot --stop", "agent", "hostB", "storing", undone},
}

// TestFaultsOfTwins does what TestFaults does where a member gets a twin, as it writes its memory as fast as it can. A process that is left of one would be a second one of its
// program. SS_MEMORY_FAULTS says how many of the rows.
func TestFaultsOfTwins(t *testing.T) {
	rows := 1
	if n, err := strconv.Atoi(os.Getenv("SS_MEMORY_FAULTS")); err == nil {
		rows = min(n, len(twinBlows))
	}
	twin := func(f *faultRig) {
		var shown shownMemory
		cuts := f.cuts()
		f.CtlJSON(&shown, "show", cuts[len(cuts)-1])
		for _, m := range shown.Members {
			if m.Memory.TwinBytes > 0 {
				return
			}
		}
		f.t.Errorf("no twin was read for the cut before: %+v", shown)
	}
	strikeAll(t, "twins: true\ntwins_from: 1\n", twin, twinBlows[:rows], "-ballast", "160", "-write", "20000")
}
