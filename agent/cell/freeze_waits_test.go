package cell

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/criu"
	"ss/agent/proc"
)

// waitsDir is where waitsProgram puts what it compiles; TestMain removes it.
var waitsDir string

// waitsProgram compiles testdata/waits.c, for all tests of this process.
var waitsProgram = sync.OnceValues(func() (_ string, err error) {
	if waitsDir, err = os.MkdirTemp("", "ss-cell-test-"); err != nil {
		return "", err
	}
	path := filepath.Join(waitsDir, "waits")
	out, err := exec.Command("gcc", "-O2", "-Wall", "-Werror", "-pthread", "-o", path, "testdata/waits.c").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("compile testdata/waits.c: %w\n%s", err, out)
	}
	return path, err
})

// waiter is a member that waits in many calls at once.
type waiter struct {
	t   *testing.T
	g   *Manager
	m   agent.Member
	log string
}

func startWaiter(t *testing.T, g *Manager, args ...string) *waiter {
	t.Helper()
	program, err := waitsProgram()
	if err != nil {
		t.Fatal(err)
	}
	w := &waiter{t: t, g: g, log: filepath.Join(t.TempDir(), "log")}
	w.m = start(t, g, agent.Member{Command: append([]string{program, w.log}, args...)})
	return w
}

// thread is one of a waiter's that has said what it is about to do.
type thread struct {
	pid, tid int
	name     string
	sleeps   bool // in a system call
}

// threads lists them, those that are not named yet left out.
func (w *waiter) threads() []thread {
	w.t.Helper()
	all, err := w.g.cg.group(w.m.Job, w.m.Name).procs()
	if err != nil {
		w.t.Fatal(err)
	}
	var out []thread
	for _, pid := range all {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, e := range tasks {
			dir := fmt.Sprintf("/proc/%d/task/%s/", pid, e.Name())
			name, _ := os.ReadFile(dir + "comm")
			call, err := os.ReadFile(dir + "syscall")
			tid, _ := strconv.Atoi(e.Name())
			s := strings.TrimSpace(string(name))
			if strings.HasPrefix(s, "w:") || strings.HasPrefix(s, "done:") {
				sleeps := err == nil && call[0] >= '0' && call[0] <= '9'
				if strings.HasPrefix(s, "done:") {
					// Before its last call, it may sleep in write(2), where a busy disk holds it and the log is still empty.
					sleeps = bytes.HasPrefix(call, []byte(fmt.Sprint(unix.SYS_PAUSE, " ")))
				}
				out = append(out, thread{pid, tid, s, sleeps})
			}
		}
	}
	return out
}

// settled waits until n threads sleep, and returns them. A thread whose call has returned has told so in the log before it sleeps again.
func (w *waiter) settled(n int) []thread {
	w.t.Helper()
	var all []thread
	eventually(w.t, fmt.Sprint(n, " waiting threads"), func() bool {
		if text, _ := os.ReadFile(w.log); strings.Contains(string(text), "cannot") {
			w.t.Fatalf("the waiter says: %s", text)
		}
		all = w.threads()
		return len(all) == n && !slices.ContainsFunc(all, func(th thread) bool { return !th.sleeps })
	})
	return all
}

// undisturbed fails the test if a call has returned.
func (w *waiter) undisturbed(n int, when string) {
	w.t.Helper()
	w.settled(n)
	if text := read(w.t, w.log); text != "" {
		w.t.Errorf("%s, calls have returned:\n%s", when, text)
		if err := os.Truncate(w.log, 0); err != nil {
			w.t.Fatal(err)
		}
	}
}

// dump freezes the member and has CRIU dump it. The member is left frozen.
func (w *waiter) dump() (dir string) {
	w.t.Helper()
	if err := w.g.Freeze(limit(w.t), w.m); err != nil {
		w.t.Fatal(err)
	}
	dir = w.t.TempDir()
	runCRIU(w.t, w.g, w.m, dir, "dump", "--tree", fmt.Sprint(w.m.InnerPid), "--freeze-cgroup", w.m.Cgroup, "--leave-running", "--file-locks")
	return dir
}

func (w *waiter) thaw() {
	w.t.Helper()
	if err := w.g.Thaw(limit(w.t), w.m); err != nil {
		w.t.Fatal(err)
	}
}

// restore ends the member and restores what dump has made.
func (w *waiter) restore(dir string) {
	w.t.Helper()
	if err := w.g.Kill(limit(w.t), w.m); err != nil {
		w.t.Fatal(err)
	}
	to, err := w.g.NewCell(limit(w.t), agent.Member{Job: w.m.Job, Name: w.m.Name, Command: w.m.Command})
	if err != nil {
		w.t.Fatal(err)
	}
	runCRIU(w.t, w.g, to, dir, "restore", "--restore-detached", "--file-locks")
	if w.m, err = w.g.Adopt(limit(w.t), to, w.m.InnerPid); err != nil {
		w.t.Fatal(err)
	}
}

// Calls of testdata/waits.c, each counted twice: in a leader, and in another thread.
const (
	allCalls   = 2 * 43
	liveCalls  = 2 * 8
	timedCalls = 2 * 20
)

// TestWaitsAreUndisturbed: no system call returns because of a snapshot, in the running and in the restored member, again and again; nor because of one
// that failed before, in or after the dump. Needs root, CRIU and gcc.
func TestWaitsAreUndisturbed(t *testing.T) {
	g := newManager(t, Config{})
	w := startWaiter(t, g, "all")
	w.undisturbed(allCalls, "before the first snapshot")
	for range 2 {
		if err := errors.Join(g.Freeze(limit(t), w.m), g.Freeze(limit(t), w.m)); err != nil {
			t.Fatal(err)
		}
		w.thaw()
		w.undisturbed(allCalls, "after a freeze without a dump")
		dir := w.dump()
		w.thaw()
		w.undisturbed(allCalls, "after a snapshot")
		w.dump()
		w.thaw()
		w.undisturbed(allCalls, "after another snapshot")
		w.restore(dir)
		w.undisturbed(allCalls, "restored")
		w.restore(func() string { dir := w.dump(); w.thaw(); return dir }())
		w.undisturbed(allCalls, "restored from a snapshot of the restored member")
	}
}

// TestWaitsThatEndWithARestore: CRIU leaves System V objects out of what it dumps, and restores full sockets with some room.
func TestWaitsThatEndWithARestore(t *testing.T) {
	g := newManager(t, Config{})
	w := startWaiter(t, g, "live")
	w.undisturbed(liveCalls, "before the first snapshot")
	for range 3 {
		w.dump()
		w.thaw()
		w.undisturbed(liveCalls, "after a snapshot")
	}
}

// stop sends a signal that stops or continues all of the member's processes, and waits until each of them does.
func (w *waiter) stop(sig unix.Signal) {
	w.t.Helper()
	all, err := w.g.cg.group(w.m.Job, w.m.Name).procs()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, pid := range all {
		if err := unix.Kill(pid, sig); err != nil {
			w.t.Fatal(err)
		}
	}
	eventually(w.t, "all processes to heed "+unix.SignalName(sig), func() bool {
		return !slices.ContainsFunc(all, func(pid int) bool {
			s, err := proc.ReadStat(pid)
			return err != nil || (s.State == 'T') != (sig == unix.SIGSTOP)
		})
	})
}

// TestWaitsOfStoppedProcesses: processes that are stopped stay so over a snapshot, and no call returns when they go on. After that, restart_syscall is what
// some of their threads stand in, of which a snapshot does not know the call: they go on as well, restored too. Needs root, CRIU and gcc.
func TestWaitsOfStoppedProcesses(t *testing.T) {
	g := newManager(t, Config{})
	w := startWaiter(t, g, "all")
	w.undisturbed(allCalls, "at first")
	w.stop(unix.SIGSTOP)
	w.dump()
	w.thaw()
	w.stop(unix.SIGCONT)
	w.undisturbed(allCalls, "stopped, with a snapshot, and continued")
	w.stop(unix.SIGSTOP)
	w.stop(unix.SIGCONT)
	w.settled(allCalls)
	if err := os.Truncate(w.log, 0); err != nil { // some return by their nature
		t.Fatal(err)
	}
	dir := w.dump()
	w.thaw()
	w.undisturbed(allCalls, "stopped and continued, after a snapshot")
	w.restore(dir)
	w.undisturbed(allCalls, "stopped and continued, restored")
}

// inTime waits until n calls have returned, and fails the test if one has before its time, or when half as long again had passed.
func (w *waiter) inTime(n int) {
	w.t.Helper()
	text := ""
	bound := 20*time.Second + 2*time.Second*time.Duration(number(w.t, "SS_WAITS_SECONDS", 0))
	within(w.t, bound, "the waits to end, or to be late", func() bool {
		text = read(w.t, w.log)
		return strings.Contains(text, "late\n") || strings.Count(text, "\n") >= n
	})
	if strings.Count(text, "\n") != n || strings.Contains(text, "late\n") || strings.Contains(text, "EARLY") || strings.Contains(text, "EINTR") {
		w.t.Errorf("not each of %d calls has returned in time:\n%s", n, text)
	}
	for l := range strings.Lines(text) {
		if strings.Contains(l, "thread clock_abs") {
			w.t.Logf("an absolute one: %s", l)
		}
	}
	w.t.Logf("the latest: %s", latest(text))
}

// latest is the line of the call that returned last.
func latest(text string) (line string) {
	most := 0.0
	for l := range strings.Lines(text) {
		_, took, _ := strings.Cut(strings.TrimSpace(l), " after ")
		if s, err := strconv.ParseFloat(took, 64); err == nil && s > most {
			most, line = s, l
		}
	}
	return line
}

// number reads a variable of the environment.
func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// TestWaitsEndAtTheirDeadlines: calls that wait for some length of time end when they would have, under 50 snapshots, in the running member and in the
// restored one. Time is measured by the member's own clock: a wait is late if an absolute one of half as long again ends first. One that began once more with each
// snapshot would end when nearly twice as long has passed. SS_WAITS_CUTS says how many snapshots there are, SS_WAITS_SECONDS
// how long the calls wait: on a busy machine fewer fit into it. Needs root, CRIU and gcc.
func TestWaitsEndAtTheirDeadlines(t *testing.T) {
	g := newManager(t, Config{})
	n := number(t, "SS_WAITS_CUTS", 50)
	w := startWaiter(t, g, "for", fmt.Sprint(number(t, "SS_WAITS_SECONDS", max(4, n*2/5))))
	w.settled(timedCalls)
	var middle string
	under := 0
	for i := range n {
		dir := w.dump()
		w.thaw()
		if read(t, w.log) != "" {
			break
		}
		under++
		if i <= n/2 {
			middle = dir
		}
		w.settled(timedCalls)
	}
	w.inTime(timedCalls)
	t.Logf("%d snapshots of %d came under all waits", under, n)
	if err := os.Truncate(w.log, 0); err != nil {
		t.Fatal(err)
	}
	w.restore(middle)
	w.inTime(timedCalls)
}

// TestWaitsOfManyThreads measures what a freeze and a thaw cost for each of 2,000 threads.
func TestWaitsOfManyThreads(t *testing.T) {
	const threads = 2000
	for _, call := range []string{"sem_wait", "poll", "recv"} {
		t.Run(call, func(t *testing.T) {
			g := newManager(t, Config{})
			w := startWaiter(t, g, "crowd", fmt.Sprint(threads), call)
			w.settled(threads)
			gr := g.cg.group(w.m.Job, w.m.Name)
			var observe, keep, back time.Duration
			const rounds = 3
			for range rounds {
				begin := time.Now()
				seen, _ := g.observe(w.m, gr)
				observe += time.Since(begin)
				if err := gr.freeze(limit(t)); err != nil {
					t.Fatal(err)
				}
				begin = time.Now()
				if err := g.keepWaits(limit(t), w.m, gr, seen); err != nil {
					t.Fatal(err)
				}
				keep += time.Since(begin)
				begin = time.Now()
				if err := g.giveBackWaits(w.m, gr); err != nil {
					t.Fatal(err)
				}
				back += time.Since(begin)
				w.thaw()
				w.undisturbed(threads, "after a freeze")
			}
			each := func(d time.Duration) time.Duration { return d / (rounds * threads) }
			t.Logf("for each thread: %v before the freeze, %v in it and %v before its end", each(observe), each(keep), each(back))
		})
	}
}

// missing lists what is in want and not in got, and the other way round.
func missing(got, want []string) string {
	var out strings.Builder
	for _, l := range want {
		if !slices.Contains(got, l) {
			fmt.Fprintln(&out, "missing:", l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			fmt.Fprintln(&out, "too much:", l)
		}
	}
	return out.String()
}

// said waits until n threads sleep and returns what the waiter has said then, in order, without what differs from run to run.
func (w *waiter) said(n int) []string {
	w.t.Helper()
	var lines []string
	w.settled(n)
	lines = strings.Split(strings.TrimSpace(read(w.t, w.log)), "\n")
	for i, l := range lines {
		l, _, _ = strings.Cut(l, " after ")
		if strings.Contains(l, " sleep ") {
			l, _, _ = strings.Cut(l, " returned ") // the seconds that were left
		}
		lines[i] = l
	}
	slices.Sort(lines)
	return lines
}

// signal sends SIGTERM to each waiting thread, or SIGALRM to each process whose leader waits.
func (w *waiter) signal(sig unix.Signal, to []thread) {
	w.t.Helper()
	for _, th := range to {
		var err error
		switch {
		case sig == unix.SIGTERM:
			err = unix.Tgkill(th.pid, th.tid, sig)
		case th.pid == th.tid:
			err = unix.Kill(th.pid, sig)
		}
		if err != nil {
			w.t.Fatalf("signal %s: %v", th.name, err)
		}
	}
}

// TestSignalsInterruptWaits: a signal that has a handler interrupts each system call that it would have interrupted without a snapshot, and no other, whether
// it comes before the member is frozen, while it is, before CRIU or after it, or after the thaw; and in the restored member, where the images hold
// it. Needs root, CRIU and gcc.
func TestSignalsInterruptWaits(t *testing.T) {
	runner, err := criu.New(criu.Config{Path: criuProgram(t), Exe: []string{os.Args[0]}, WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGALRM} {
		for _, flags := range []string{"0", "0x10000000"} { // SA_RESTART
			t.Run(fmt.Sprint(unix.SignalName(sig), "-", flags), func(t *testing.T) {
				g := newManager(t, Config{})
				var w *waiter
				begin := func() []thread {
					if w != nil {
						if err := errors.Join(g.Kill(limit(t), w.m), g.Forget(limit(t), w.m)); err != nil {
							t.Fatal(err)
						}
					}
					w = startWaiter(t, g, "signal", flags)
					return w.settled(allCalls)
				}
				all := begin()
				w.signal(sig, all)
				want := w.said(allCalls)
				if len(want) < 20 {
					t.Fatalf("without a snapshot, these alone return: %q", want)
				}
				check := func(when string) {
					t.Helper()
					if got := w.said(allCalls); !slices.Equal(got, want) {
						t.Errorf("%s, unlike without a snapshot:\n%s", when, missing(got, want))
					}
				}
				for when, at := range map[string]int{"before the freeze": 0, "before the dump": 1, "after the dump": 2, "after the thaw": 3} {
					all = begin()
					send := func(now int) {
						if now == at {
							w.signal(sig, all)
						}
					}
					send(0)
					if err := w.g.Freeze(limit(t), w.m); err != nil {
						t.Fatal(err)
					}
					send(1)
					dir := w.dump()
					send(2)
					w.thaw()
					if at == 3 {
						w.settled(allCalls) // a thread that is just going back onto its call may meet its signal there
					}
					send(3)
					check(when)
					if at != 1 {
						continue
					}
					waits, err := w.g.Waits(t.Context(), w.m)
					if err != nil {
						t.Fatal(err)
					}
					if err := runner.Interrupt(dir, waits); err != nil {
						t.Fatal(err)
					}
					if err := os.Truncate(w.log, 0); err != nil {
						t.Fatal(err)
					}
					w.restore(dir)
					check(when + ", restored")
				}
			})
		}
	}
}
