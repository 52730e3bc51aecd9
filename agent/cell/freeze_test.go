package cell

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// clock is a counter that a process outside of all cells advances for the length of the test.
func clock(t *testing.T) sharedCounter {
	t.Helper()
	b := newBell(t)
	file := filepath.Join(t.TempDir(), "clock")
	cmd := exec.Command(os.Args[0], "member", "count", file, b.path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	b.wait(t)
	c, err := mapCounter(file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// counting starts a member that counts, and returns its counter.
func counting(t *testing.T, g *Manager) (agent.Member, sharedCounter) {
	t.Helper()
	b := newBell(t)
	file := filepath.Join(t.TempDir(), "counter")
	m := start(t, g, agent.Member{Command: member("count", file, b.path)})
	b.wait(t)
	c, err := mapCounter(file)
	if err != nil {
		t.Fatal(err)
	}
	return m, c
}

func TestFreezeAndThaw(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		m, c := counting(t, g)
		tick := clock(t)
		for range 3 {
			begin := time.Now()
			if err := g.Freeze(limit(t), m); err != nil {
				t.Fatal(err)
			}
			t.Logf("frozen in %v", time.Since(begin))
			c.stands(t, tick)
			if now := find(t, g, m.Name); !now.Frozen || now.State != agent.Running {
				t.Errorf("frozen, but: %+v", now)
			}
			if err := g.Freeze(limit(t), m); err != nil {
				t.Errorf("freeze a frozen member: %v", err)
			}
			if err := errors.Join(g.Thaw(limit(t), m), g.Thaw(limit(t), m)); err != nil {
				t.Fatal(err)
			}
			c.passes(t, c.value())
			if now := find(t, g, m.Name); now.Frozen {
				t.Errorf("thawed, but: %+v", now)
			}
		}
		if err := g.Freeze(limit(t), agent.Member{Job: "job", Name: "none"}); !errors.Is(err, ErrUnknown) {
			t.Errorf("freeze an unknown member: %v", err)
		}
		if err := g.Thaw(limit(t), agent.Member{Job: "job", Name: "none"}); err != nil {
			t.Errorf("thaw an unknown member: %v", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Freeze(gone, m); !errors.Is(err, context.Canceled) {
			t.Errorf("freeze under a lost lease: %v", err)
		}
		c.passes(t, c.value())
	})
}

// A process that is stuck in the kernel is not at hand; what a wait does that does not come to its
// end is the same.
func TestWaitEndsWithItsContext(t *testing.T) {
	g := newManager(t, Config{})
	m, c := counting(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.cg.group(m.Job, m.Name).freezer().AwaitEvent(ctx, "frozen 2"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("want the deadline: %v", err)
	}
	c.passes(t, c.value())
}

// A member that does nothing but start programs is never left between vfork and exec.
func TestFreezeWaitsForExec(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		b := newBell(t)
		m := start(t, g, agent.Member{Command: member("spawn", b.path)})
		b.wait(t)
		gr := g.cg.group(m.Job, m.Name)
		between := 0
		for range 200 {
			if err := gr.freeze(limit(t)); err != nil {
				t.Fatal(err)
			}
			if _, child, err := gr.sharing(); err != nil {
				t.Fatal(err)
			} else if child != 0 {
				between++
			}
			if err := errors.Join(gr.thaw(limit(t)), g.Freeze(limit(t), m)); err != nil {
				t.Fatal(err)
			}
			if parent, child, err := gr.sharing(); err != nil || child != 0 {
				t.Fatalf("%d waits for %d to execute something (%v)", parent, child, err)
			}
			if err := g.Thaw(limit(t), m); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("of 200 bare freezes %d met the member between vfork and exec", between)
	})
}

func TestKill(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		for _, frozen := range []bool{false, true} {
			b := newBell(t)
			m := start(t, g, agent.Member{Command: member("tree", b.path)})
			b.wait(t)
			eventually(t, "the whole tree", func() bool {
				p, err := g.Processes(limit(t), m)
				return err == nil && len(p) == 5
			})
			procs, err := g.Processes(limit(t), m)
			if err != nil {
				t.Fatal(err)
			}
			if frozen {
				if err := g.Freeze(limit(t), m); err != nil {
					t.Fatal(err)
				}
			}
			begin := time.Now()
			if err := g.Kill(limit(t), m); err != nil {
				t.Fatal(err)
			}
			t.Logf("killed (frozen: %v) in %v", frozen, time.Since(begin))
			for _, p := range append(procs, agent.Process{Pid: m.InitPid}) {
				if err := unix.Kill(p.Pid, 0); !errors.Is(err, unix.ESRCH) {
					t.Errorf("process %d is still there: %v", p.Pid, err)
				}
			}
			for _, d := range g.cg.group(m.Job, m.Name).dirs() {
				if _, err := os.Stat(d); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("cgroup: %v", err)
				}
			}
			if err := errors.Join(g.Kill(limit(t), m), g.Forget(limit(t), m)); err != nil {
				t.Errorf("kill and forget what is not there: %v", err)
			}
		}
	})
}

func TestKillReachesSubgroups(t *testing.T) {
	g := newManager(t, Config{})
	b := newBell(t)
	m := start(t, g, agent.Member{Command: shell("echo ready > " + b.path + "; sleep 1000")})
	b.wait(t)
	sub := filepath.Join(m.Cgroup, "own", "deep")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := enterDir(sub, m.Pid); err != nil {
		t.Fatal(err)
	}
	if now := find(t, g, m.Name); now.Pid != m.Pid {
		t.Errorf("a member that made a cgroup of its own: %+v", now)
	}
	if err := g.Kill(limit(t), m); err != nil {
		t.Fatal(err)
	}
}

func TestNewCellWaitsAndAdopts(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		log := filepath.Join(t.TempDir(), "log")
		m, err := g.NewCell(limit(t), agent.Member{Job: "job", Name: "hostB-3", Command: []string{"x"}, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		if m.InitPid == 0 || m.Pid != 0 || m.InnerPid != 0 || m.State != agent.Running {
			t.Errorf("a new cell: %+v", m)
		}
		if _, err := os.Stat(log); err != nil {
			t.Errorf("the log for CRIU to open: %v", err)
		}
		if _, err := g.Adopt(limit(t), m, 1234); err == nil {
			t.Error("adopted a process that is not there")
		}
		// In CRIU's place: a tree that is born in the cell with a child, below a parent outside of it.
		b := newBell(t)
		cmd := exec.Command("nsenter", "-t", strconv.Itoa(m.InitPid), "-p", "-m", "-i", "/bin/sh", "-c", "/bin/dash -c 'sleep 1000 & echo ready > "+b.path+"; wait; exit 4' & wait")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		b.wait(t)
		inner := innerOf(t, m, "/bin/dash")
		if root, err := findInner(proc.Identity{Pid: m.InitPid}, inner, g.cg.group(m.Job, m.Name)); err != nil {
			t.Fatal(err)
		} else if err := enterDir(m.Cgroup, root); err != nil { // as CRIU leaves it: in the folder that freezes
			t.Fatal(err)
		}
		m, err = g.Adopt(limit(t), m, inner)
		if err != nil {
			t.Fatal(err)
		}
		if m.InnerPid != inner || m.Pid == 0 {
			t.Errorf("adopted: %+v", m)
		}
		if inside, err := g.cg.group(m.Job, m.Name).members(); err != nil || len(inside) != 2 {
			t.Errorf("the cgroup has %v, %v", inside, err)
		}
		if _, err := g.Adopt(limit(t), m, inner); err != nil {
			t.Errorf("adopt again: %v", err)
		}
		// With its parent dead, the tree becomes a child of the cell's PID 1.
		s, err := proc.ReadStat(m.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(s.Parent, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		sleep := topChild(t, m)
		if err := unix.Kill(sleep, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if m = end(t, g, m); m.Exit != "exit status 4" {
			t.Errorf("the restored tree ended: %+v", m)
		}
	})
}

// innerOf returns the PID inside of the process of m's cell that has this command.
func innerOf(t *testing.T, m agent.Member, name string) int {
	t.Helper()
	all, err := proc.Pids()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := proc.Namespace(m.InitPid, "pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range all {
		if ns, err := proc.Namespace(pid, "pid"); err != nil || ns != ours {
			continue
		}
		if args := proc.Arguments(pid); len(args) > 0 && args[0] == name {
			p, err := proc.NSPids(pid)
			if err != nil {
				t.Fatal(err)
			}
			return p[len(p)-1]
		}
	}
	t.Fatalf("no %s in the cell", name)
	return 0
}

func topChild(t *testing.T, m agent.Member) int {
	t.Helper()
	all, err := proc.Tree(m.Pid)
	if err != nil || len(all) < 2 {
		t.Fatalf("tree of %d: %v, %v", m.Pid, all, err)
	}
	return all[1].Pid
}
