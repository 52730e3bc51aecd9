package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mustFail runs ssctl, ends the test unless it fails with that exit code, and returns what it wrote on standard error.
func (c *cluster) mustFail(exit int, args ...string) string {
	c.t.Helper()
	stdout, stderr, got := c.Ctl(args...)
	if got != exit {
		c.t.Fatalf("ssctl %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, exit, stdout, stderr)
	}
	return stderr
}

// psMember is a member in `ssctl ps -o json`.
type psMember struct {
	Job, Name, Host, State, Exit, Log string
	Pid                               int
	Since                             *string
	LogBytes                          int64 `json:"log_bytes"`
}

// ps lists the members of a job.
func (c *cluster) ps(job string) []psMember {
	c.t.Helper()
	var ps struct{ Members []psMember }
	c.CtlJSON(&ps, "ps", job)
	return ps.Members
}

// states are the members of a job as NAME@HOST:STATE.
func (c *cluster) states(job string) string {
	c.t.Helper()
	var out []string
	for _, m := range c.ps(job) {
		out = append(out, fmt.Sprintf("%s@%s:%s", m.Name, m.Host, m.State))
	}
	return strings.Join(out, " ")
}

// mustBe ends the test unless the members of a job are these.
func (c *cluster) mustBe(job, want string) {
	c.t.Helper()
	if got := c.states(job); got != want {
		c.t.Fatalf("members of %s: %q, want %q", job, got, want)
	}
}

// placement is where the catalogue has the members of a job, as HOST:NAME,….
func (c *cluster) placement(job string) string {
	c.t.Helper()
	var show struct{ Placement map[string][]string }
	c.CtlJSON(&show, "job", "show", job)
	var out []string
	for host, members := range show.Placement {
		out = append(out, host+":"+strings.Join(members, ","))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestPlacementIsTrue: whatever ends members takes them off the catalogue, and a host on which none lives can go.
func TestPlacementIsTrue(t *testing.T) {
	c := newCluster(t)
	run := func(job, host string) { t.Helper(); c.MustCtl("run", job, "--host", host, "--", "sleep", "1000") }

	// kill: the host can go, and comes back; names go on where they were.
	run("xx", "hostA")
	c.MustCtl("kill", "xx")
	if got := c.placement("xx"); got != "" {
		t.Errorf("after kill: %s", got)
	}
	c.MustCtl("host", "rm", "hostA")
	bundle := c.Dir() + "/bundle"
	c.MustCtl("host", "add", "hostA", "--addr", c.Host("hostA").Addr().String()+":7070", "--bundle", bundle)
	run("xx", "hostA")
	c.mustBe("xx", "hostA-2@hostA:running")

	// A member that has died by itself keeps no host; one that lives does.
	c.mustFail(8, "host", "rm", "hostA")
	c.end("xx")
	c.MustCtl("host", "rm", "hostA")
	if got := c.placement("xx"); got != "" {
		t.Errorf("after host rm: %s", got)
	}
	c.MustCtl("host", "add", "hostA", "--addr", c.Host("hostA").Addr().String()+":7070", "--bundle", bundle+"2")

	// snapshot --stop.
	run("st", "hostA")
	run("st", "hostB")
	var s Snapshot
	c.CtlJSON(&s, "snapshot", "st", "--stop")
	if got := c.placement("st"); got != "" {
		t.Errorf("after --stop: %s", got)
	}
	// A restore, and one elsewhere; a member started afterwards has a name of its own.
	c.MustCtl("restore", s.Cut)
	c.mustBe("st", "hostA-1@hostA:running hostB-1@hostB:running")
	c.MustCtl("restore", s.Cut, "--remap", "hostA=hostC")
	c.mustBe("st", "hostB-1@hostB:running hostA-1@hostC:running")
	run("st", "hostA")
	c.mustBe("st", "hostA-2@hostA:running hostB-1@hostB:running hostA-1@hostC:running")
	if got := c.placement("st"); got != "hostA:hostA-2 hostB:hostB-1 hostC:hostA-1" {
		t.Errorf("after a restore elsewhere and a run: %s", got)
	}
	c.CtlJSON(&s, "snapshot", "st")
	c.MustCtl("restore", s.Cut)
	c.mustBe("st", "hostA-2@hostA:running hostB-1@hostB:running hostA-1@hostC:running")
	c.MustCtl("kill", "st")

	// A job that has left a host before that dies has nothing to do with it any more.
	run("mv", "hostA")
	c.MustCtl("kill", "mv")
	run("mv", "hostB")
	c.Host("hostA").PowerOff()
	c.CtlJSON(&s, "snapshot", "mv")
	c.MustCtl("restore", s.Cut)
	c.MustCtl("kill", "mv")
	c.MustCtl("host", "rm", "hostA", "--lost")
}

// end kills the processes of a job's members and returns when ps says that they have ended.
func (c *cluster) end(job string) {
	c.t.Helper()
	for _, m := range c.ps(job) {
		c.kill9(m)
	}
	await(c.t, "end of "+job, func() string {
		for _, m := range c.ps(job) {
			if m.State != "exited" {
				return m.Name + " is " + m.State
			}
		}
		return ""
	})
}

// kill9 kills a member's root, as the machine's administrator would.
func (c *cluster) kill9(m psMember) {
	c.t.Helper()
	pid := c.pidOf(m)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		c.t.Fatalf("kill %s (%d): %v", m.Name, pid, err)
	}
}

// pidOf is a member's PID on the machine. A host has a PID namespace of its own.
func (c *cluster) pidOf(m psMember) int {
	c.t.Helper()
	for _, p := range c.processes(m.Host) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "NSpid:" && f[2] == fmt.Sprint(m.Pid) {
				return p.pid
			}
		}
	}
	c.t.Fatalf("%s has no process %d", m.Host, m.Pid)
	return 0
}

// TestNamesOfAnyLength: what the catalogue takes the agents take, and the other way round; what neither takes starts nothing.
func TestNamesOfAnyLength(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	long := strings.Repeat("j", 63)
	c.MustCtl("run", long, "--host", "hostA", "--", "sleep", "1000")
	var s Snapshot
	c.CtlJSON(&s, "snapshot", long)
	c.MustCtl("restore", s.Cut)
	c.MustCtl("kill", long)
	for _, name := range []string{strings.Repeat("j", 64), ".x", "a/b", "a b", "ä"} {
		c.mustFail(2, "run", name, "--host", "hostA", "--", "sleep", "1000")
		c.mustFail(2, "attach", name, "--host", "hostA", "--pid", "1")
	}
	var all struct{ Members []json.RawMessage }
	c.CtlJSON(&all, "ps")
	if len(all.Members) != 0 {
		t.Errorf("something runs: %s", all.Members)
	}
}
