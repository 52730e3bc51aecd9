package cell

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ss/agent"
)

// waitsProgram compiles testdata/waits.c.
func waitsProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "waits")
	out, err := exec.Command("gcc", "-O2", "-Wall", "-Werror", "-pthread", "-o", path, "testdata/waits.c").CombinedOutput()
	if err != nil {
		t.Fatalf("compile testdata/waits.c: %v\n%s", err, out)
	}
	return path
}

// waiter is a member that waits in many calls at once.
type waiter struct {
	t   *testing.T
	g   *Manager
	m   agent.Member
	log string
}

func startWaiter(t *testing.T, g *Manager, args ...string) *waiter {
	t.Helper()
	w := &waiter{t: t, g: g, log: filepath.Join(t.TempDir(), "log")}
	w.m = start(t, g, agent.Member{Command: append([]string{waitsProgram(t), w.log}, args...)})
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
				out = append(out, thread{pid, tid, s, err == nil && call[0] >= '0' && call[0] <= '9'})
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
	allCalls   = 2 * 41
	liveCalls  = 2 * 5
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

// inTime waits until n calls have returned, and fails the test if one has before its time, or when half as long again had passed.
func (w *waiter) inTime(n int) {
	w.t.Helper()
	text := ""
	eventually(w.t, "the waits to end, or to be late", func() bool {
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

// rounds is how many snapshots fit into a wait: SS_WAITS_CUTS, or else 50.
func rounds(t *testing.T) int {
	n := 50
	if s := os.Getenv("SS_WAITS_CUTS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestWaitsEndAtTheirDeadlines: calls that wait for some length of time end when they would have, under 50 snapshots, in the running member and in the
// restored one. Time is measured by the member's own clock: a wait is late if an absolute one of half as long again ends first. One that began once more with each
// snapshot would end when nearly twice as long has passed. SS_WAITS_CUTS says how many snapshots there are. Needs root, CRIU and gcc.
func TestWaitsEndAtTheirDeadlines(t *testing.T) {
	g := newManager(t, Config{})
	n := rounds(t)
	w := startWaiter(t, g, "for", fmt.Sprint(max(4, n*2/5)))
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
