package memory

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/cgroup"
	"ss/agent/proc"
)

// TestTwin takes cuts of a program that writes its memory faster than it is copied. What is left at the freeze comes from a twin while the program writes on; what the
// program keeps from its children is copied while it stands still. Each cut is compared with CRIU's, and the last one is restored. The program sees no child.
func TestTwin(t *testing.T) {
	counts := []int{1, 5}
	if raceEnabled {
		counts = counts[1:] // scripts/test runs both without the race detector
	}
	for _, threads := range counts {
		t.Run(strconv.Itoa(threads)+" threads", func(t *testing.T) {
			const mib = 96
			r := newRig(t)
			r.tracker.cfg.TwinsFrom = 0
			log := filepath.Join(r.dir, "hurry.log")
			m := r.start(compile(t, "hurry"), strconv.Itoa(mib), strconv.Itoa(threads), log)
			eventually(t, "the program's second pass", func() bool { return checks(t, log) > 1 })
			var last string
			copied := int64(0)
			for cut := range 3 {
				both := r.cut(m)
				for _, d := range both.compare(t) {
					t.Errorf("cut %d: %s", cut, d)
				}
				t.Logf("cut %d: %+v", cut, both.report)
				if both.report.CopiedTwin == 0 {
					t.Errorf("cut %d: nothing comes from a twin", cut)
				}
				copied += both.report.CopiedFrozen
				last = both.ours
				before := checks(t, log)
				eventually(t, "further passes", func() bool { return checks(t, log) > before+1 })
				if left := twinsOf(t, m.Units()[0]); len(left) > 0 {
					t.Errorf("left: %+v", left)
				}
			}
			if copied == 0 {
				t.Error("nothing was copied that a twin does not have")
			}
			r.kill(m)
			r.restore(m, last, log)
		})
	}
}

// TestNoTwin refuses twins, each time for another reason. What is left is copied while the member stands still then, and the report says why.
func TestNoTwin(t *testing.T) {
	r := newRig(t)
	r.tracker.cfg.TwinsFrom = 0
	log := filepath.Join(r.dir, "hurry.log")
	m := r.start(compile(t, "hurry"), "16", "1", log)
	eventually(t, "the program's first pass", func() bool { return checks(t, log) > 0 })
	for _, row := range []struct {
		why    string
		change func()
	}{
		{"memory is short on this host", func() { r.tracker.spare = 1 << 50 }},
		{"", func() { r.tracker.spare, r.tracker.cfg.NoTwins = 0, true }},
		{"the agent has ended", func() { // its watcher has the lock
			r.tracker.cfg.NoTwins = false
			r.beforeTwins = func() func() {
				f, err := os.OpenFile(filepath.Join(r.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
				if err == nil {
					err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
				}
				if err != nil {
					t.Fatal(err)
				}
				return func() { _ = f.Close() }
			}
		}},
	} {
		row.change()
		both := r.cut(m)
		for _, d := range both.compare(t) {
			t.Errorf("%s: %s", row.why, d)
		}
		if why := strings.Join(both.report.Left, "; "); both.report.CopiedTwin != 0 || both.report.CopiedFrozen == 0 || !strings.Contains(why, row.why) {
			t.Errorf("want %q: %+v", row.why, both.report)
		}
		before := checks(t, log)
		eventually(t, "further passes", func() bool { return checks(t, log) > before+1 })
	}
}

// twinsOf lists what is there of twins of a member's processes, also those that have ended and that nobody has taken in.
func twinsOf(t testing.TB, u agent.Unit) (out []proc.Stat) {
	t.Helper()
	all, err := proc.Tree(u.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range all {
		if st.Farewell == 0 && st.Session == st.Pid {
			out = append(out, st)
		}
	}
	return out
}

// twinProgram is an agent that takes what is left of a unit's memory from twins, again and again: for each time it writes a line.
func twinProgram(args []string) int {
	var u agent.Unit
	exe, err := os.Executable()
	if err != nil || json.Unmarshal([]byte(args[0]), &u) != nil {
		return 2
	}
	tracker, at := New(Config{Exe: []string{exe, "memory-helper"}}), cgroup.Dir(u.Cgroup)
	for ctx, n := context.Background(), 0; ; n++ {
		dir := filepath.Join(args[1], strconv.Itoa(n))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return 3
		}
		tracker.cfg.TwinsFrom = 0
		k := tracker.Track(ctx, u, dir)
		k.Halt()
		fmt.Println("begins", n)
		if err := at.Freeze(ctx); err != nil {
			return 4
		}
		if _, err := k.Divide(); err != nil {
			return 5
		}
		if err := k.CopyRest(ctx); err != nil {
			return 6
		}
		if err := k.MakeTwins(ctx, args[2]); err != nil {
			return 7
		}
		if err := at.Thaw(ctx); err != nil {
			return 8
		}
		fmt.Println("made", n)
		pages, err := k.Pages()
		if err != nil || k.Report().CopiedTwin == 0 {
			fmt.Fprintln(os.Stderr, err, k.Report())
			return 9
		}
		for _, p := range pages {
			for i := range p.Runs {
				if err := p.Write(io.Discard, i); err != nil {
					return 10
				}
			}
		}
		if err := k.Keep(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 11
		}
	}
}

// TestAgentWithTwinsIsKilled kills an agent at all kinds of instants while it makes, reads and ends twins. Somebody thaws the member then, as the agent's
// watcher does. No twin is left, and nothing else that a tracker leaves; the program goes on, and has seen nothing. SS_MEMORY_KILLS says how often.
func TestAgentWithTwinsIsKilled(t *testing.T) {
	kills := 15
	if n, err := strconv.Atoi(os.Getenv("SS_MEMORY_KILLS")); err == nil {
		kills = n
	}
	r := newRig(t)
	log, lock := filepath.Join(r.dir, "hurry.log"), filepath.Join(r.dir, "lock")
	m := r.start(compile(t, "hurry"), "32", "3", log)
	eventually(t, "the program's first pass", func() bool { return checks(t, log) > 0 })
	u := m.Units()[0]
	unit, err := json.Marshal(u)
	exe, err2 := os.Executable()
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	for n := range kills {
		cmd := exec.Command(exe, "twin", string(unit), r.folder("killed"), lock)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Half of them before the first thaw, and half of them after it.
		lines := bufio.NewReader(out)
		for i, want := range []string{"begins", "made"}[:1+n%2] {
			if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, want) {
				t.Fatalf("the agent says %q as its line %d: %v", line, i, err)
			}
		}
		timer := time.NewTimer(time.Duration(rand.IntN(40_000)) * time.Microsecond) // an instant is what the test is about
		<-timer.C
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		asWatcher(t, lock, u)
		eventually(t, "the program to be as before: "+trace(m), func() bool { return trace(m) == "" && len(twinsOf(t, u)) == 0 })
		before := checks(t, log)
		eventually(t, "a further pass", func() bool { return checks(t, log) > before })
	}
}

// asWatcher thaws a member of a dead agent when nobody holds the lock.
func asWatcher(t *testing.T, lock string, u agent.Unit) {
	t.Helper()
	f, err := os.OpenFile(lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR { //nolint:errorlint // it is an errno
			break
		}
	}
	if err == nil {
		err = cgroup.Dir(u.Cgroup).Thaw(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTwinEndsWithItsHelper kills a helper that has a twin: the kernel ends the twin, the cut fails, and the next one takes in what is left of it.
func TestTwinEndsWithItsHelper(t *testing.T) {
	r := newRig(t)
	r.tracker.cfg.TwinsFrom = 0
	log := filepath.Join(r.dir, "hurry.log")
	m := r.start(compile(t, "hurry"), "16", "1", log)
	eventually(t, "the program's first pass", func() bool { return checks(t, log) > 0 })
	u := m.Units()[0]
	k, at := r.tracker.Track(r.context(), u, r.folder("staging")), cgroup.Dir(u.Cgroup)
	k.Halt()
	if err := at.Freeze(r.context()); err != nil {
		t.Fatal(err)
	}
	_, err := k.Divide()
	if err == nil {
		err = k.CopyRest(r.context())
	}
	if err == nil {
		err = k.MakeTwins(r.context(), filepath.Join(r.dir, "lock"))
	}
	made := twinsOf(t, u)
	if err != nil || len(made) != 1 {
		t.Fatalf("%v, %+v, %+v", err, made, k.Report())
	}
	helper := proc.Tracer(made[0].Pid)
	if made[0].State != 't' || !slices.Equal(proc.Arguments(helper)[1:], []string{"memory-helper"}) {
		t.Fatalf("the twin is in state %c, and %s traces it", made[0].State, proc.Whose(helper))
	}
	if fds, err := os.ReadDir(proc.Path(made[0].Pid, "fd")); err != nil || len(fds) > 0 {
		t.Errorf("it has %d descriptors: %v", len(fds), err)
	}
	if err := unix.Kill(helper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the twin to end", func() bool { left := twinsOf(t, u); return len(left) == 1 && left[0].Dead() })
	if err := at.Thaw(r.context()); err != nil {
		t.Fatal(err)
	}
	pages, err := k.Pages()
	if err != nil {
		t.Fatal(err)
	}
	for i := range pages[0].Runs {
		err = pages[0].Write(io.Discard, i)
		if err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "twin") {
		t.Errorf("pages were written that nobody has: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	both := r.cut(m)
	for _, d := range both.compare(t) {
		t.Error(d)
	}
	if left := twinsOf(t, u); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}
