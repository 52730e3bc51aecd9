package criu

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

func TestCheck(t *testing.T) {
	r := newRunner(t)
	version, err := r.Check(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("CRIU %s", version)
	r.cfg.Path = "/nonexistent"
	if again, err := r.Check(testContext(t)); err != nil || again != version {
		t.Errorf("a check that passed was not remembered: %q, %v", again, err)
	}
}

// A tree with pipes in it, dumped twice while it works, restored from the second dump into a fresh cell,
// dumped there and restored again.
func TestDumpRestoreTree(t *testing.T) {
	for _, v1 := range []bool{false, true} {
		t.Run("v1="+strconv.FormatBool(v1), func(t *testing.T) {
			r := newRunner(t)
			c := startIn(t, nil, v1, nil, "parent")
			counts(t, c.dir, 0)
			dumpCell(t, r, c)
			if !c.frozen() {
				t.Fatal("the member is not frozen after the dump")
			}
			c.thaw()
			counts(t, c.dir, 0)
			dir := dumpCell(t, r, c)
			left, _ := os.ReadDir(r.cfg.WorkDir)
			if len(left) != 0 {
				t.Errorf("the dump left %v in the work folder", left)
			}
			at := readCount(c.dir)
			counted := c.dir
			c.kill()

			for range 2 {
				c2, s := restoreCell(t, r, nil, v1, dir)
				if got := readCount(counted); got != at {
					t.Fatalf("the tree runs before Resume: %d instead of %d", got, at)
				}
				if err := s.Resume(testContext(t)); err != nil {
					t.Fatal(err)
				}
				c2.adopt(strconv.Itoa(s.InnerPid()))
				counts(t, counted, at)
				sameNiceness(t, c2.member.Pid)
				if ppid := parentOf(c2.member.Pid); ppid != c2.member.InitPid {
					t.Errorf("the restored root's parent is %d instead of the cell's first process %d", ppid, c2.member.InitPid)
				}
				dir = dumpCell(t, r, c2)
				at = readCount(counted)
				c2.kill()
			}
		})
	}
}

// sameNiceness checks that none of a process's threads has CRIU's niceness (agent.Ahead) instead of what was dumped, which is this test's own.
func sameNiceness(t *testing.T, pid int) {
	t.Helper()
	want, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	if group, err := proc.Text(pid, "autogroup"); err == nil && !strings.HasSuffix(group, " nice 0") { // it is not there where sessions are not scheduled as groups
		t.Errorf("the session of the restored process is in %s", group)
	}
	threads, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads of %d: %d, %v", pid, len(threads), err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err != nil || got != want {
			t.Errorf("thread %d of the restored process has niceness %d, want %d: %v", tid, 20-got, 20-want, err)
		}
	}
}

func parentOf(pid int) int {
	s, err := proc.ReadStat(pid)
	if err != nil {
		return 0
	}
	return s.Parent
}
