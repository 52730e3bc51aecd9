package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// compiled builds a C program into the lab's folder.
func (c *cluster) compiled(source, name string, flags ...string) string {
	c.t.Helper()
	path := filepath.Join(c.Dir(), name)
	out, err := exec.Command("gcc", append([]string{"-O2", "-Wall", "-Werror", "-o", path, source}, flags...)...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("compile %s: %v\n%s", source, err, out)
	}
	return path
}

// waitingThreads are the calls of agent/cell/testdata/waits.c, each in a leader and in another thread.
const waitingThreads = 2 * 43

// waits starts a member that waits in many system calls at once.
func (j *job) waits(name, host string, args ...string) *member {
	j.t.Helper()
	program := j.compiled("../agent/cell/testdata/waits.c", "waits", "-pthread")
	j.serve(name, host, append([]string{program, "/srv/" + name + ".calls"}, args...)...)
	m := j.members[len(j.members)-1]
	j.undisturbed(m, "before the first snapshot")
	return m
}

// undisturbed waits until a waiting member has settled, and fails the test if a call has returned.
func (j *job) undisturbed(m *member, when string) {
	j.t.Helper()
	if calls := j.returned(m, when); calls != "" {
		j.t.Fatalf("%s, calls have returned:\n%s", when, calls)
	}
}

// returned waits until each thread of a waiting member sleeps in a system call, and returns what it tells of calls that have returned: a thread tells so
// before it sleeps again.
func (j *job) returned(m *member, when string) string {
	j.t.Helper()
	await(j.t, "waiting threads "+when, func() string {
		sleeping, busy := 0, 0
		for _, pid := range j.instances(m.host, "waits") {
			threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)) // a process that has ended has none
			for _, th := range threads {
				dir := fmt.Sprintf("/proc/%d/task/%s/", pid, th.Name())
				name, _ := os.ReadFile(dir + "comm")
				call, err := os.ReadFile(dir + "syscall")
				switch {
				case !strings.HasPrefix(string(name), "w:") && !strings.HasPrefix(string(name), "done:"):
				case err == nil && len(call) > 0 && call[0] >= '0' && call[0] <= '9':
					sleeping++
				default:
					busy++
				}
			}
		}
		if sleeping != waitingThreads || busy != 0 {
			return fmt.Sprintf("%d threads sleep in a system call and %d do not, of %d; the log: %s", sleeping, busy, waitingThreads, j.log(m))
		}
		return ""
	})
	calls, err := j.Host(m.host).ReadFile("/srv/" + m.name + ".calls")
	if err != nil {
		j.t.Fatal(err)
	}
	return string(calls)
}

// stopAll sends a signal that stops or continues all processes of a waiting member, and waits until each of them does.
func (j *job) stopAll(m *member, sig unix.Signal) {
	j.t.Helper()
	all := j.instances(m.host, "waits")
	for _, pid := range all {
		if err := unix.Kill(pid, sig); err != nil {
			j.t.Fatal(err)
		}
	}
	await(j.t, "all processes to heed "+unix.SignalName(sig), func() string {
		for _, pid := range all {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil || strings.Contains(string(status), "\nState:\tT") != (sig == unix.SIGSTOP) {
				return fmt.Sprintf("process %d: %s (%v)", pid, status, err)
			}
		}
		return ""
	})
}

// TestSignalsOfAJob: a signal that waits for a process when a cut is taken, which it does here because the process is stopped, interrupts the same calls in
// the restored job as in the one that ran on. Needs root, CRIU and gcc.
func TestSignalsOfAJob(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	j := c.newJob("signals")
	m := j.waits("w", "hostA", "signal", "0")
	j.stopAll(m, unix.SIGSTOP)
	for _, pid := range j.instances("hostA", "waits") {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	s := j.snapshot()
	lines := func(when string) []string {
		j.stopAll(m, unix.SIGCONT)
		var out []string
		for l := range strings.Lines(j.returned(m, when)) {
			l, _, _ = strings.Cut(l, " after ")
			// Which thread of several takes the signal of their process is the kernel's choice. And sleep says how many seconds were left.
			if strings.HasPrefix(l, "leader") && !strings.Contains(l, " sleep ") {
				out = append(out, l)
			}
		}
		slices.Sort(out)
		return out
	}
	want := lines("after the snapshot")
	if len(want) < 20 {
		t.Fatalf("these calls alone were interrupted: %q", want)
	}
	if err := j.Host("hostA").WriteFile("/srv/w.calls", nil); err != nil {
		t.Fatal(err)
	}
	j.restore(s.Cut)
	if got := lines("restored"); !slices.Equal(got, want) {
		t.Errorf("interrupted in the restored job:\n%s\nin the one that ran on:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	j.end()
	c.checkLeaks()
}

// TestWaitsOfAJob: no system call of a member returns because of a snapshot: not of one that succeeds, of one that fails on another host, or whose CRIU or
// agent is killed in the midst of the dump; nor in the restored job. Needs root, CRIU and gcc.
func TestWaitsOfAJob(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	j := c.newJob("waits")
	m := j.waits("w", "hostA", "all")
	s := j.snapshot()
	j.undisturbed(m, "after a snapshot")
	for _, victim := range []string{"criu", "agent", "agent criu"} {
		ctl := c.ctlTrapped("hostA: dumping", func(*lab.Cmd) {
			if strings.Contains(victim, "criu") {
				c.killAll(func() []int { return c.crius("hostA") })
			}
			if strings.Contains(victim, "agent") {
				c.Agent("hostA").Kill()
			}
		}, "snapshot", j.name)
		<-ctl.Done()
		if ctl.ExitCode() == 0 {
			t.Fatalf("a snapshot whose %s was killed has succeeded", victim)
		}
		j.undisturbed(m, "after the "+victim+" was killed")
		if strings.Contains(victim, "agent") {
			c.Agent("hostA").Start()
			await(t, "the agent to find its member", func() string {
				var ps Members
				c.CtlJSON(&ps, "ps", j.name)
				if len(ps.Members) != 1 || ps.Members[0].State != "running" {
					return fmt.Sprintf("%+v", ps)
				}
				return ""
			})
			j.undisturbed(m, "with a new agent")
		}
		j.snapshot()
		j.undisturbed(m, "after one more snapshot")
	}
	j.restore(s.Cut)
	j.undisturbed(m, "restored")
	j.snapshot()
	j.undisturbed(m, "after a snapshot of the restored job")

	j.serve("beside", "hostB", "sleep", "1000003") // so that hostB takes part
	c.Host("hostB").FailDumps(true)
	if out, stderr, exit := c.Ctl("snapshot", j.name); exit == 0 || !strings.Contains(stderr, lab.FailedDump) {
		t.Fatalf("a snapshot in whose midst CRIU fails ends with exit code %d: %s\n%s", exit, out, stderr)
	}
	c.Host("hostB").FailDumps(false)
	j.undisturbed(m, "after a snapshot that failed on another host")
	j.end()
	c.checkLeaks()
}

// teamSource is an OpenMP program whose threads meet at barriers, and sleep between them. It tells of progress, and of a sleep that ended early.
const teamSource = `
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <poll.h>
int main(void) {
	long sum = 0;
	setvbuf(stdout, 0, _IOLBF, 0);
	#pragma omp parallel num_threads(4)
	for (long n = 1;; n++) {
		if (usleep(20000)) printf("FAIL usleep: %s\n", strerror(errno));
		if (poll(0, 0, 20) < 0) printf("FAIL poll: %s\n", strerror(errno));
		#pragma omp atomic
		sum++;
		#pragma omp barrier
		#pragma omp single
		{
			if (sum != 4 * n) printf("FAIL %ld rounds of 4 threads make %ld\n", n, sum);
			if (n % 5 == 0) printf("progress %ld\n", n);
		}
	}
}
`

// familiar is a job of programs that people know, none of which expects a system call to be interrupted.
type familiar struct {
	*job
	nc, script, team *member
	tails            map[*member]string // the file whose lines arrive in the log
	lines            int
}

func newFamiliar(c *cluster) *familiar {
	c.t.Helper()
	f := &familiar{job: c.newJob("familiar"), tails: map[*member]string{}}
	source := filepath.Join(c.Dir(), "team.c")
	if err := os.WriteFile(source, []byte(teamSource), 0o644); err != nil {
		c.t.Fatal(err)
	}
	last := func() *member { return f.members[len(f.members)-1] }
	for _, file := range []string{"/srv/piped", "/srv/followed"} {
		if err := f.Host("hostA").WriteFile(file, nil); err != nil {
			c.t.Fatal(err)
		}
	}
	f.serve("nc", "hostB", "nc.openbsd", "-n", "-v", "-l", "7100")
	f.nc = last()
	await(c.t, "nc to listen", func() string {
		if log := f.log(f.nc); !strings.Contains(log, "Listening") {
			return log
		}
		return ""
	})
	f.serve("piped", "hostA", "sh", "-c", "tail -F /srv/piped | nc.openbsd "+f.Host("hostB").Addr().String()+" 7100")
	f.tails[f.nc] = "/srv/piped"
	f.serve("followed", "hostA", "tail", "-F", "/srv/followed")
	f.tails[last()] = "/srv/followed"
	f.serve("script", "hostA", "script", "-qfc", "while sleep 0.1; do echo tick; done", "/dev/null")
	f.script = last()
	f.serve("team", "hostB", c.compiled(source, "team", "-fopenmp"))
	f.team = last()
	f.serve("sleep", "hostA", "sleep", "100000")
	return f
}

// lives fails the test unless all of the programs run and do what they are for.
func (f *familiar) lives(when string) {
	f.t.Helper()
	f.goesOn(when)
	f.lines++
	for m, file := range f.tails {
		line := fmt.Sprintf("line %d\n", f.lines)
		out, err := os.OpenFile(f.Host("hostA").Path(file), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = out.WriteString(line)
			_ = out.Close()
		}
		if err != nil {
			f.t.Fatal(err)
		}
		await(f.t, when+", a line of "+file, func() string {
			if log := f.log(m); !strings.Contains(log, line) {
				return log
			}
			return ""
		})
	}
}

// goesOn fails the test unless the programs that need no help go on, and the others run.
func (f *familiar) goesOn(when string) {
	f.t.Helper()
	for m, word := range map[*member]string{f.script: "tick", f.team: "progress"} {
		before := strings.Count(f.log(m), word)
		await(f.t, when+", "+m.name, func() string {
			log := f.log(m)
			if strings.Contains(log, "FAIL") {
				f.t.Fatalf("%s: %s says:\n%s", when, m.name, log)
			}
			if strings.Count(log, word) < before+2 {
				return lastLine(log)
			}
			return ""
		})
	}
	var ps Members
	f.CtlJSON(&ps, "ps", f.name)
	for _, m := range ps.Members {
		if m.State != "running" {
			f.t.Errorf("%s: %s has ended: %s", when, m.Member, m.Exit)
		}
	}
	if len(ps.Members) != len(f.members) {
		f.t.Errorf("%s: %d members of %d", when, len(ps.Members), len(f.members))
	}
	if runs := f.instances("hostA", "sleep"); !slices.ContainsFunc(f.processes("hostA"), func(p process) bool { return strings.HasPrefix(p.command, "sleep 100000") }) {
		f.t.Errorf("%s: sleep has ended; others: %v", when, runs)
	}
}

// TestFamiliarProgramsFeelNothing: tail -F, alone and before nc, nc, script, a program with OpenMP and sleep go on after snapshots, and restored. Needs root,
// CRIU, gcc with OpenMP, OpenBSD's nc and script.
func TestFamiliarProgramsFeelNothing(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	f := newFamiliar(c)
	f.lives("at first")
	for range 3 {
		f.snapshot()
		f.lives("after a snapshot")
	}
	s := f.snapshot()
	f.goesOn("after the last snapshot")
	f.restore(s.Cut)
	f.lives("restored")
	f.snapshot()
	f.lives("restored, after a snapshot")
	f.end()
	c.checkLeaks()
}
