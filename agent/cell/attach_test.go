package cell

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// outsider starts a process tree that is not a member.
func outsider(t *testing.T, args ...string) int {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func TestAttachTakesTheWholeTree(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		b := newBell(t)
		pid := outsider(t, member("tree", b.path)...)
		b.wait(t)
		eventually(t, "the whole tree", func() bool { all, err := proc.Tree(pid); return err == nil && len(all) == 5 })
		before, err := folderOf(proc.Self, "/", true)
		if err != nil {
			t.Fatal(err)
		}
		m, err := g.Attach(limit(t), agent.Member{Job: "job", Name: "hostA-1", Tree: agent.Tree{Pid: pid}})
		if err != nil {
			t.Fatal(err)
		}
		if !m.Attached || m.Pid != pid || m.InnerPid != pid || m.InitPid != 0 || m.Name != "hostA-1" || m.Command[1] != "member" || m.Dir == "" {
			t.Errorf("%+v", m)
		}
		if p, err := g.Processes(limit(t), m); err != nil || len(p) != 5 {
			t.Errorf("processes %+v, %v", p, err)
		}
		if after, err := folderOf(proc.Self, "/", true); err != nil || after != before {
			t.Errorf("the agent itself moved to %s", after)
		}
		if o, err := g.Obstacles(limit(t), m); err != nil || len(o) != 0 {
			t.Errorf("obstacles %v, %v", o, err)
		}
		if _, err := g.Attach(limit(t), agent.Member{Job: "job", Name: "hostA-1", Tree: agent.Tree{Pid: pid}}); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("attached twice: %v", err)
		}
		again := newManager(t, g.cfg)
		if found := find(t, again, m.Name); found.Pid != pid || found.State != agent.Running || !found.Attached {
			t.Errorf("after a restart of the agent: %+v", found)
		}
		if err := g.Freeze(limit(t), m); err != nil {
			t.Fatal(err)
		}
		if err := g.Kill(limit(t), m); err != nil {
			t.Fatal(err)
		}
		if s, err := proc.ReadStat(pid); err == nil && !s.Dead() {
			t.Errorf("killed, but %+v", s)
		}
	})
}

func TestAttachedTreeEnds(t *testing.T) {
	g := newManager(t, Config{})
	pid := outsider(t, "sleep", "1000")
	m, err := g.Attach(limit(t), agent.Member{Job: "job", Name: "s", Tree: agent.Tree{Pid: pid}})
	if err != nil {
		t.Fatal(err)
	}
	id, err := proc.Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := id.AwaitEnd(limit(t)); err != nil {
		t.Fatal(err)
	}
	if m = find(t, g, m.Name); m.State != agent.Exited || m.Pid != 0 {
		t.Errorf("%+v", m)
	}
	if err := g.Forget(limit(t), m); err != nil {
		t.Error(err)
	}
}

func TestAttachRefuses(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		b := newBell(t)
		m := start(t, g, agent.Member{Command: member("tree", b.path)})
		b.wait(t)
		dead := exec.Command("true")
		if err := dead.Start(); err != nil {
			t.Fatal(err)
		}
		id, err := proc.Identify(dead.Process.Pid)
		if err == nil {
			err = id.AwaitEnd(limit(t))
		}
		if err != nil && !proc.Gone(err) {
			t.Fatal(err)
		}
		defer dead.Wait() //nolint:errcheck // it is a zombie until here
		netns := exec.Command("sleep", "1000")
		netns.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		if err := netns.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = netns.Process.Kill(); _ = netns.Wait() }()
		for pid, want := range map[int]string{
			0: "PID", 1: "other than 1", -5: "PID", 1 << 22: "no such process",
			os.Getpid():       "this agent",
			m.Pid:             "",
			m.InitPid:         "",
			dead.Process.Pid:  "has ended",
			netns.Process.Pid: "net namespace",
		} {
			_, err := g.Attach(limit(t), agent.Member{Job: "job", Name: "x", Tree: agent.Tree{Pid: pid}})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("attach %d: %v, want %q", pid, err, want)
			}
		}
		if all, err := g.Members(limit(t)); err != nil || len(all) != 1 {
			t.Errorf("members %+v, %v", all, err)
		}
	})
}

func TestAttachedTreeIsGatheredAfterACrash(t *testing.T) {
	g := newManager(t, Config{})
	b := newBell(t)
	pid := outsider(t, member("tree", b.path)...)
	b.wait(t)
	m, err := g.Attach(limit(t), agent.Member{Job: "job", Name: "m", Tree: agent.Tree{Pid: pid}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := proc.Tree(pid)
	if err != nil || len(all) < 2 {
		t.Fatal(all, err)
	}
	// As if the agent had died before it came to this one.
	if err := enterDir(g.cg.v2, all[1].Pid); err != nil {
		t.Fatal(err)
	}
	if o, err := g.Obstacles(limit(t), m); err != nil || !strings.Contains(strings.Join(o, "\n"), "left the member's cgroup") {
		t.Errorf("obstacles %v, %v", o, err)
	}
	again := newManager(t, g.cfg)
	if o, err := again.Obstacles(limit(t), m); err != nil || len(o) != 0 {
		t.Errorf("obstacles %v, %v", o, err)
	}
}
