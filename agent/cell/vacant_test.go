package cell

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ss/agent"
	"ss/agent/proc"
)

// TestFailedStartTouchesNothingElse: where a member lives of which this state folder knows nothing (the folder is new, or it is another agent
// that shares the cgroup tree), every way to make a member of its name fails, and the member lives on, untouched.
func TestFailedStartTouchesNothingElse(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		b := newBell(t)
		m := start(t, g, agent.Member{Name: "hostA-1", Command: member("tree", b.path)})
		b.wait(t)
		var before []int
		eventually(t, "the whole tree", func() (all bool) {
			before, _ = g.cg.group("job", "hostA-1").live()
			return len(before) == 5
		})
		other := newManager(t, Config{ForceV1: g.cfg.ForceV1, StateDir: t.TempDir()})
		name := agent.Member{Job: "job", Name: "hostA-1"}
		pid := outsider(t, "sleep", "1000")
		log := filepath.Join(t.TempDir(), "log")
		for what, try := range map[string]func() error{
			"run": func() error {
				_, err := other.Start(limit(t), agent.Member{Job: "job", Name: "hostA-1", Command: shell("sleep 1000")})
				return err
			},
			"a command that is not there": func() error {
				_, err := other.Start(limit(t), agent.Member{Job: "job", Name: "hostA-1", Command: []string{"no-such-command"}})
				return err
			},
			"restore": func() error {
				_, err := other.NewCell(limit(t), agent.Member{Job: "job", Name: "hostA-1", Command: []string{"x"}, Log: log})
				return err
			},
			"attach": func() error {
				_, err := other.Attach(limit(t), agent.Member{Job: "job", Name: "hostA-1", Tree: agent.Tree{Pid: pid}})
				return err
			},
		} {
			if err := try(); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "in use by") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := other.Vacant(limit(t), name); !errors.Is(err, ErrExists) {
			t.Errorf("a cgroup that is in use is vacant: %v", err)
		}
		if err := errors.Join(g.Vacant(limit(t), name), other.Vacant(limit(t), agent.Member{Job: "job", Name: "hostA-2"})); err != nil {
			t.Error(err)
		}
		for what, try := range map[string]func() error{
			"kill":      func() error { return other.Kill(limit(t), name) },
			"forget":    func() error { return other.Forget(limit(t), name) },
			"the sweep": other.sweep,
		} {
			if err := try(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if s, err := proc.ReadStat(pid); err != nil || s.Dead() {
			t.Errorf("the tree that was not attached: %+v, %v", s, err)
		}
		if all, err := other.Members(limit(t)); err != nil || len(all) != 0 {
			t.Errorf("the failures left %+v, %v", all, err)
		}
		after, err := g.cg.group("job", "hostA-1").live()
		if now := find(t, g, "hostA-1"); err != nil || now.State != agent.Running || now.Pid != m.Pid || now.InitPid != m.InitPid || len(after) != len(before) {
			t.Errorf("before %+v %v\nafter %+v %v %v", m, before, now, after, err)
		}
	})
}

// TestInterruptedStartTouchesNothingElse: an agent was killed between the record of a member and its cgroup, as agents of before could be,
// and somebody else's member has that cgroup. The next start of the agent removes the record and lets the member live.
func TestInterruptedStartTouchesNothingElse(t *testing.T) {
	g := newManager(t, Config{})
	b := newBell(t)
	m := start(t, g, agent.Member{Name: "hostA-1", Command: member("tree", b.path)})
	b.wait(t)
	other := newManager(t, Config{StateDir: t.TempDir()})
	dir, err := other.makeDir("job", "hostA-1")
	if err == nil {
		err = writeState(dir, memberFile, record{Job: "job", Name: "hostA-1", Kind: started})
	}
	if err != nil {
		t.Fatal(err)
	}
	half, err := other.makeDir("job", "hostA-2") // and one without a record
	if err != nil {
		t.Fatal(err)
	}
	again := newManager(t, other.cfg)
	if all, err := again.Members(limit(t)); err != nil || len(all) != 0 {
		t.Errorf("left: %+v, %v", all, err)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("a folder without a record: %v", err)
	}
	if now := find(t, g, "hostA-1"); now.State != agent.Running || now.Pid != m.Pid {
		t.Errorf("%+v", now)
	}
}

// TestStartInALeftCgroup: an empty cgroup of that name, left by an agent that was killed, is not an obstacle.
func TestStartInALeftCgroup(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		if err := g.cg.group("job", "hostA-1").create(); err != nil {
			t.Fatal(err)
		}
		if m := start(t, g, agent.Member{Name: "hostA-1", Command: []string{"sleep", "1000"}}); m.State != agent.Running {
			t.Errorf("%+v", m)
		}
	})
}
