package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
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
	c.certify("hostA", bundle)
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
	c.certify("hostA", bundle+"2")

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

// certify gives a host's agent the certificate of a bundle: the one that it had counts no more once the host was removed.
func (c *cluster) certify(host, bundle string) {
	c.t.Helper()
	c.Agent(host).Stop()
	for _, name := range []string{"agent.key", "agent.crt"} {
		copyFile(c.t, bundle+"/"+name, c.Dir()+"/bundles/"+host+"/"+name)
	}
	c.Agent(host).Start()
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
	pid := c.findPid(m)
	if pid == 0 {
		c.t.Fatalf("%s has no process %d", m.Host, m.Pid)
	}
	return pid
}

// findPid is pidOf; 0 if the member has ended meanwhile.
func (c *cluster) findPid(m psMember) int {
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
	return 0
}

// TestNamesOfAnyLength: what the catalogue takes the agents take, and the other way round; what neither takes starts nothing.
func TestNamesOfAnyLength(t *testing.T) {
	withoutRace(t)
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

// TestEndsAtOnce: a program that ends at once with an error is an error, with its status and what it wrote, and leaves nothing behind.
func TestEndsAtOnce(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	for _, tt := range []struct{ script, status, said string }{
		{"exit 1", "exit status 1", "its log is empty"},
		{"echo no such option >&2; exit 64", "exit status 64", "no such option"},
		{"echo before; kill -KILL $$", "signal: killed", "before"},
		{"i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; exit 2", "exit status 2", "line 499"},
	} {
		stderr := c.mustFail(1, "run", "xx", "--host", "hostA", "--", "/bin/sh", "-c", tt.script)
		for _, want := range []string{"hostA", "xx", "ended at once", tt.status, tt.said} {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s: %q is not in %s", tt.script, want, stderr)
			}
		}
		if len(stderr) > 4000 {
			t.Errorf("%s: %d bytes of error", tt.script, len(stderr))
		}
	}
	// With a log of its own, that is shown and stays.
	if stderr := c.mustFail(1, "run", "xx", "--host", "hostA", "--log", "/srv/own.log", "--", "/bin/sh", "-c", "echo mine; exit 3"); !strings.Contains(stderr, "mine") {
		t.Error(stderr)
	}
	if data, err := c.Host("hostA").ReadFile("/srv/own.log"); err != nil || string(data) != "mine\n" {
		t.Errorf("%q, %v", data, err)
	}
	c.mustFail(1, "run", "xx", "--host", "hostA", "--", "/no/such/program")
	c.mustFail(10, "job", "show", "xx") // no start has succeeded, so there is no job
	if logs, _ := os.ReadDir(c.Host("hostA").Path("/var/lib/ss/logs")); len(logs) > 0 {
		t.Errorf("logs are left: %v", logs)
	}
	// One that has done its work is none, and is told from one that runs.
	if out := c.MustCtl("run", "xx", "--host", "hostA", "--", "/bin/sh", "-c", "echo done"); !strings.Contains(out, "hostA-1 on hostA has ended already: exit status 0") {
		t.Error(out)
	}
	if out := c.MustCtl("logs", "xx", "hostA-1"); out != "done\n" {
		t.Errorf("%q", out)
	}
	// Its root has ended, and what it has started runs on.
	c.MustCtl("run", "xx", "--host", "hostA", "--", "/bin/sh", "-c", "setsid sleep 1000 & exit 0")
	if got := c.states("xx"); got != "hostA-1@hostA:exited hostA-2@hostA:running" {
		t.Error(got)
	}
}

// TestDeadMember: a member has been killed, on one host or another, or has failed. No cut is taken that lacks it without a word, and what is
// taken on that word displaces no whole cut. Every cut is restored.
func TestDeadMember(t *testing.T) {
	c := newCluster(t)
	for _, host := range []string{"hostA", "hostB"} {
		c.MustCtl("run", "ring", "--host", host, "--", "sleep", "1000")
	}
	c.MustCtl("run", "ring", "--host", "hostB", "--", "/bin/sh", "-c", "trap 'exit 7' TERM; sleep 1000 & wait")
	c.MustCtl("run", "ring", "--host", "hostB", "--", "/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")
	c.MustCtl("job", "set", "ring", "--keep-last", "1")
	var whole, lesser Snapshot
	c.CtlJSON(&whole, "snapshot", "ring")
	if len(whole.Members) != 4 {
		t.Fatalf("%d members", len(whole.Members))
	}
	exit := func(name string, sig unix.Signal) {
		t.Helper()
		for _, m := range c.ps("ring") {
			if m.Name == name {
				if err := unix.Kill(c.pidOf(m), sig); err != nil {
					t.Fatal(err)
				}
			}
		}
		await(t, "end of "+name, func() string {
			states := c.states("ring")
			if strings.Contains(states, name+"@hostB:exited") {
				return ""
			}
			if strings.Contains(states, name+"@hostB:running") { // the sleep that its shell has started lives on
				for _, m := range c.ps("ring") {
					if pid := c.findPid(m); m.Name == name && pid > 0 {
						_ = unix.Kill(pid, unix.SIGKILL) // it may end by itself
					}
				}
			}
			return states
		})
	}
	exit("hostB-3", unix.SIGTERM) // it ends well, and is not missed
	c.CtlJSON(&whole, "snapshot", "ring")
	if len(whole.Members) != 3 {
		t.Fatalf("%d members", len(whole.Members))
	}
	exit("hostB-1", unix.SIGKILL)
	if stderr := c.mustFail(4, "snapshot", "ring"); !strings.Contains(stderr, "hostB-1 on hostB has ended (signal: killed)") || !strings.Contains(stderr, "--without hostB-1") {
		t.Error(stderr)
	}
	exit("hostB-2", unix.SIGTERM)
	if stderr := c.mustFail(4, "snapshot", "ring", "--without", "hostB-1"); !strings.Contains(stderr, "hostB-2 on hostB has ended (exit status 7)") {
		t.Error(stderr)
	}
	c.mustFail(4, "snapshot", "ring", "--without", "hostB-1", "--without", "hostB-2", "--without", "hostA-1")
	c.mustFail(10, "snapshot", "ring", "--without", "hostB-9")
	for range 3 {
		c.CtlJSON(&lesser, "snapshot", "ring", "--without", "hostB-1", "--without", "hostB-2")
		if len(lesser.Members) != 1 {
			t.Fatalf("%d members", len(lesser.Members))
		}
	}
	j := &job{cluster: c, name: "ring"}
	if cuts := j.cuts(); !slices.Equal(cuts, []string{whole.Cut, lesser.Cut}) {
		t.Errorf("cuts %v, want the last whole one and the last, %s %s", cuts, whole.Cut, lesser.Cut)
	}
	c.MustCtl("restore", lesser.Cut)
	c.mustBe("ring", "hostA-1@hostA:running")
	c.MustCtl("restore", whole.Cut)
	c.mustBe("ring", "hostA-1@hostA:running hostB-1@hostB:running hostB-2@hostB:running")
	c.CtlJSON(&whole, "snapshot", "ring")
	if cuts := j.cuts(); !slices.Equal(cuts, []string{whole.Cut}) {
		t.Errorf("cuts %v, want %s", cuts, whole.Cut)
	}
	c.MustCtl("restore", whole.Cut)
}

// TestMemberEndsInASnapshot: a member ends while a snapshot is under way. What is said afterwards is true.
func TestMemberEndsInASnapshot(t *testing.T) {
	c := newCluster(t)
	c.MustCtl("run", "ring", "--host", "hostA", "--", "sleep", "1000")
	c.MustCtl("run", "ring", "--host", "hostB", "--", "sleep", "1000")
	victim := c.ps("ring")[0]
	pid := c.pidOf(victim)
	c.Host("hostA").HoldDumps(true)
	run := c.ctlTrapped("hostA: preparing", func(*lab.Cmd) {
		defer c.Host("hostA").HoldDumps(false)
		await(t, "CRIU", func() string {
			for _, p := range c.processes("hostA") {
				if strings.Contains(p.command, " swrk ") {
					return ""
				}
			}
			return "none"
		})
		must(t, unix.Kill(pid, unix.SIGKILL))
		await(t, "the member's end", func() string { // CRIU comes to it when it has ended
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
				return string(stat)
			}
			return ""
		})
	}, "snapshot", "ring")
	<-run.Done()
	stderr := run.stderr.String()
	if first, _, _ := strings.Cut(stderr[strings.Index(stderr, "ssctl: "):], "criu "); !strings.Contains(first, "hostA-1: the member has ended meanwhile (signal: killed)") {
		t.Errorf("what has happened does not come first:\n%s", stderr)
	}
	if run.ExitCode() == 0 || strings.Contains(stderr, "the job runs on") || !strings.Contains(stderr, "hostA-1 on hostA has ended (signal: killed)") {
		t.Fatalf("exit code %d\n%s", run.ExitCode(), stderr)
	}
	c.mustFail(4, "snapshot", "ring")
	c.mustBe("ring", "hostA-1@hostA:exited hostB-1@hostB:running")
}

// TestDeadBystander: a host that is dead and has nothing to do with the job holds none of its commands up, and what is said of its
// copies and members is no more than is known.
func TestDeadBystander(t *testing.T) {
	c := newCluster(t, "hostA", "hostB", "hostC", "hostD")
	c.MustCtl("run", "ring", "--host", "hostA", "--", "sleep", "1000")
	c.MustCtl("run", "ring", "--host", "hostB", "--", "sleep", "1000")
	c.MustCtl("run", "other", "--host", "hostC", "--", "sleep", "1000")
	c.MustCtl("job", "set", "ring", "--copies", "3")
	var before, cut Snapshot
	c.CtlJSON(&before, "snapshot", "ring")
	c.Host("hostC").PowerOff()
	c.CtlJSON(&cut, "snapshot", "ring")
	j := &job{cluster: c, name: "ring"}
	for _, h := range j.show(cut.Cut).Hosts {
		if len(h.Copies) != 3 || slices.Contains(h.Copies, "hostC") {
			t.Errorf("copies of %s on %v", h.Host, h.Copies)
		}
	}
	c.MustCtl("restore", cut.Cut)

	members := c.ps("other")
	if len(members) != 1 || members[0].State != "unreachable" || members[0].Since == nil || members[0].Host != "hostC" {
		t.Errorf("a dead host's members: %+v", members)
	}
	if out := c.MustCtl("ps", "other"); !strings.Contains(out, "not reachable since") {
		t.Error(out)
	}
	stderr := c.mustFail(5, "repair", "ring")
	if !strings.Contains(stderr, "do not answer still hold theirs") {
		t.Error(stderr)
	}
	var repaired struct {
		Parts []struct {
			Cut, Host, State string
			Copies, Silent   []string
		}
	}
	stdout, _, _ := c.Ctl("-o", "json", "repair", "ring")
	must(t, json.Unmarshal([]byte(stdout), &repaired))
	for _, p := range repaired.Parts {
		silent := slices.Contains(p.Silent, "hostC")
		if want := map[bool]string{true: "unconfirmed", false: "whole"}[silent]; p.State != want || slices.Contains(p.Copies, "hostC") {
			t.Errorf("%+v, want it %s", p, want)
		}
	}
	c.mustFail(5, "kill", "other")
	c.mustFail(8, "host", "rm", "hostC")
	c.mustFail(5, "snapshot", "other")
	// It is gone for good: now there are other copies.
	c.MustCtl("host", "rm", "hostC", "--lost")
	c.MustCtl("repair", "ring")
	c.MustCtl("restore", before.Cut)
	c.MustCtl("kill", "other")
}

// TestJobSettings: what cannot be is refused, and what is set outlives the catalogue.
func TestJobSettings(t *testing.T) {
	c := newCluster(t)
	c.MustCtl("run", "ring", "--host", "hostA", "--", "sleep", "1000")
	if stderr := c.mustFail(4, "job", "set", "ring", "--copies", "9"); !strings.Contains(stderr, "3 hosts and 0 vaults") {
		t.Error(stderr)
	}
	c.mustFail(4, "job", "set", "ring", "--copies", "4")
	c.MustCtl("job", "set", "ring", "--copies", "4", "--vault", "file:///vault/a")
	c.mustFail(4, "job", "set", "ring", "--no-vault")
	c.MustCtl("job", "set", "ring", "--copies", "3", "--no-vault")
	for _, addr := range []string{"foo:7070", ":7070", "1.2.3.4", "1.2.3.4:abc", "1.2.3.4:99999", "1.2.3.4:0", "1.2.3.4:-1", "0.0.0.0:7070", "[::]:7070", "fe80::1:7070", "255.255.255.255:7070", "[fe80::1]:7070", "224.0.0.1:7070"} {
		c.mustFail(2, "host", "add", "x", "--addr", addr, "--bundle", c.Dir()+"/x")
	}
	c.mustFail(8, "host", "add", "x", "--addr", c.Host("hostB").Addr().String()+":7070", "--bundle", c.Dir()+"/x")
	var cut Snapshot
	c.CtlJSON(&cut, "snapshot", "ring")
	c.MustCtl("job", "set", "ring", "--copies", "2", "--keep-last", "5", "--keep-daily", "7")
	type settings struct {
		Copies int
		Keep   struct{ Last, Daily int }
	}
	var set, found settings
	c.CtlJSON(&set, "job", "show", "ring")
	c.MustCtl("run", "ring", "--host", "hostB", "--", "sleep", "1000")
	must(t, os.Remove(c.Host(lab.AdminName).Path("/var/lib/ssctl/catalogue.db")))
	out, stderr, exit := c.Ctl("catalog", "rebuild", "--host", "hostA="+c.Host("hostA").Addr().String()+":7070")
	if exit != 0 || !strings.Contains(out+stderr, "settings of job ring") {
		t.Fatalf("exit code %d\n%s%s", exit, out, stderr)
	}
	c.CtlJSON(&found, "job", "show", "ring")
	if set != found || set.Keep.Daily != 7 {
		t.Errorf("set %+v, found %+v", set, found)
	}
	// Where members are the hosts say; no name is given twice.
	c.MustCtl("run", "ring", "--host", "hostB", "--", "sleep", "1000")
	c.mustBe("ring", "hostA-1@hostA:running hostB-1@hostB:running hostB-2@hostB:running")
	c.CtlJSON(&cut, "snapshot", "ring")
	if len(cut.Members) != 3 {
		t.Errorf("%d members in the cut", len(cut.Members))
	}
	c.MustCtl("restore", cut.Cut)
}

// TestLogs: a member that was started without a log has one, which survives it, goes with it, and goes with its job.
func TestLogs(t *testing.T) {
	c := newCluster(t)
	talk := "i=0; while :; do i=$((i+1)); echo says $i; sleep 0.1; done"
	c.MustCtl("run", "ring", "--host", "hostA", "--", "/bin/sh", "-c", talk)
	c.MustCtl("run", "ring", "--host", "hostB", "--log", "/srv/own.log", "--", "/bin/sh", "-c", talk)
	says := func(args ...string) string {
		t.Helper()
		return c.MustCtl(append([]string{"logs", "ring"}, args...)...)
	}
	await(t, "words of both", func() string {
		if out := says(); strings.Contains(out, "hostA-1 | says 3\n") && strings.Contains(out, "hostB-1 | says 3\n") {
			return ""
		}
		return "not yet"
	})
	if out := says("hostB-1"); !strings.HasPrefix(out, "says 1\nsays 2\n") {
		t.Errorf("%.100q", out)
	}
	if out := says("hostA-1", "--tail", "20"); !strings.HasPrefix(out, "says ") || len(out) > 60 {
		t.Errorf("%q", out)
	}
	for _, m := range c.ps("ring") {
		want := map[string]string{"hostA-1": "/var/lib/ss/logs/ring/hostA-1.log", "hostB-1": "/srv/own.log"}[m.Name]
		if m.Log != want || m.LogBytes <= 0 {
			t.Errorf("%+v", m)
		}
	}
	c.mustFail(10, "logs", "ring", "hostA-9")
	c.mustFail(10, "logs", "none")
	c.mustFail(2, "logs", "ring", "../x")

	var cut Snapshot
	c.CtlJSON(&cut, "snapshot", "ring")
	c.MustCtl("restore", cut.Cut, "--remap", "hostA=hostC")
	at := strings.Count(says("hostA-1"), "\n")
	// The log goes on where it was: every number once, in order.
	await(t, "words after the restore", func() string {
		out := says("hostA-1")
		for i, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
			if line != fmt.Sprintf("says %d", i+1) {
				t.Fatalf("line %d is %q", i+1, line)
			}
		}
		if strings.Count(out, "\n") < at+3 {
			return "nothing new"
		}
		return ""
	})
	// It is followed on every host, until its job ends.
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	follow := c.CtlCommand(ctx, "logs", "ring", "-f", "--tail", "10")
	lines, w := io.Pipe()
	follow.Stdout = w
	must(t, follow.Start())
	go func() {
		<-follow.Done()
		w.Close()
	}()
	seen := map[string]int{}
	killed := false
	for scan := bufio.NewScanner(lines); scan.Scan(); {
		name, _, _ := strings.Cut(scan.Text(), " | ")
		if seen[name]++; seen["hostA-1"] > 3 && seen["hostB-1"] > 3 && !killed {
			killed = true
			c.MustCtl("kill", "ring")
		}
	}
	if follow.ExitCode() != 0 || !killed {
		t.Errorf("followed to exit code %d, with %v", follow.ExitCode(), seen)
	}
	// The log has outlived its member, and is the one of where that was last; that of the owner's is the owner's.
	if out := says("hostA-1"); strings.Count(out, "\n") < at+3 {
		t.Errorf("after kill: %d lines", strings.Count(out, "\n"))
	}
	c.mustFail(10, "logs", "ring", "hostB-1")
	c.mustFail(8, "job", "rm", "ring") // it has a cut
	c.MustCtl("rm", cut.Cut)
	c.MustCtl("job", "rm", "ring")
	c.mustFail(10, "job", "show", "ring")
	for _, h := range c.Hosts() {
		if left, _ := os.ReadDir(h.Path("/var/lib/ss/logs")); len(left) > 0 {
			t.Errorf("%s has logs: %v", h.Name, left)
		}
	}
	if _, err := c.Host("hostB").ReadFile("/srv/own.log"); err != nil {
		t.Error(err)
	}
	c.MustCtl("run", "ring", "--host", "hostA", "--", "sleep", "1000")
	c.mustFail(8, "job", "rm", "ring") // a member lives
}

// TestLostStateFolder: an agent's state folder is new, and its members live on. No start and no restore touches them, no cut is taken
// without them, and no live job is ended for a restore that could not succeed.
func TestLostStateFolder(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	c.MustCtl("run", "ring", "--host", "hostA", "--", "sleep", "1000")
	c.MustCtl("run", "ring", "--host", "hostB", "--", "sleep", "1000")
	var cut Snapshot
	c.CtlJSON(&cut, "snapshot", "ring")
	orphan := c.pidOf(c.ps("ring")[0])
	c.Agent("hostA").Stop()
	must(t, os.RemoveAll(c.Host("hostA").Path("/var/lib/ss/members")))
	c.Agent("hostA").Start()
	if stderr := c.mustFail(4, "snapshot", "ring"); !strings.Contains(stderr, "host hostA has no member hostA-1 any more") {
		t.Error(stderr)
	}
	c.MustCtl("run", "ring", "--host", "hostA", "--", "sleep", "1000")
	if stderr := c.mustFail(4, "restore", cut.Cut); !strings.Contains(stderr, "is in use by") {
		t.Error(stderr)
	}
	c.mustBe("ring", "hostA-2@hostA:running hostB-1@hostB:running")
	if err := unix.Kill(orphan, 0); err != nil {
		t.Fatalf("the living member: %v", err)
	}
	c.MustCtl("kill", "ring")
	if err := unix.Kill(orphan, 0); err != nil {
		t.Fatalf("the living member, of which the agent knows nothing: %v", err)
	}
	must(t, unix.Kill(orphan, unix.SIGKILL))
	await(t, "end of the member", func() string {
		if err := unix.Kill(orphan, 0); err == nil {
			return "it is there"
		}
		return ""
	})
	c.MustCtl("restore", cut.Cut)
	c.mustBe("ring", "hostA-1@hostA:running hostB-1@hostB:running")
}
