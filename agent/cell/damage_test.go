package cell

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"ss/agent"
)

// TestDamagedStateSetsOneMemberAside: whatever bit of a member's state files is another one, a restarted agent finds all other members as they are, never takes
// the damaged one for anything else than it was, and can end it and what is left of it.
func TestDamagedStateSetsOneMemberAside(t *testing.T) {
	const flips = 60 // of each file
	flavours(t, func(t *testing.T, g *Manager) {
		victim := start(t, g, agent.Member{Job: "job", Command: shell("exec sleep 1000"), Log: filepath.Join(t.TempDir(), "log")})
		other := start(t, g, agent.Member{Job: "other", Command: shell("exec sleep 1000")})
		rng := rand.New(rand.NewPCG(1, 2))
		for _, name := range []string{memberFile, initFile, rootFile} {
			path := filepath.Join(g.dir(victim.Job, victim.Name), name)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for range flips {
				bit := rng.IntN(len(whole) * 8)
				bad := slices.Clone(whole)
				bad[bit/8] ^= 1 << (bit % 8)
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				checkAside(t, g, victim, other)
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			if m := find(t, g, victim.Name); m.State != agent.Running || m.Pid != victim.Pid {
				t.Fatalf("%s is whole again, and the member is %+v", name, m)
			}
		}
		for _, name := range []string{memberFile, initFile, rootFile} { // all at once, and nothing that is not JSON keeps it from being ended
			if err := os.WriteFile(filepath.Join(g.dir(victim.Job, victim.Name), name), []byte("\x00"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		checkAside(t, g, victim, other)
		if err := g.Kill(limit(t), agent.Member{Job: victim.Job, Name: victim.Name}); err != nil {
			t.Fatal(err)
		}
		all, err := g.Members(limit(t))
		if err != nil || len(all) != 1 || all[0].Name != other.Name {
			t.Fatalf("%+v, %v", all, err)
		}
		if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(victim.Pid))); err == nil {
			t.Error("its process lives")
		}
		kill(t, g, other)
	})
}

// checkAside looks at both members as an agent does that has just started.
func checkAside(t *testing.T, g *Manager, victim, other agent.Member) {
	t.Helper()
	again, err := New(g.cfg)
	if err != nil {
		t.Fatalf("the agent does not start: %v", err)
	}
	all, err := again.Members(limit(t))
	if err != nil || len(all) != 2 {
		t.Fatalf("%d members, %v", len(all), err)
	}
	for _, m := range all {
		switch {
		case m.Job == other.Job && (m.State != agent.Running || m.Pid != other.Pid):
			t.Fatalf("the other job's member is %+v", m)
		case m.Job == victim.Job && (m.State != agent.Aside || m.Exit == "" || m.Name != victim.Name):
			t.Fatalf("the damaged one is %+v", m)
		}
	}
}

// TestExitStatusIsChecked: how a member ended is not taken from a damaged file.
func TestExitStatusIsChecked(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		m := start(t, g, agent.Member{Command: shell("exit 3")})
		eventually(t, "its end", func() bool { return find(t, g, m.Name).State == agent.Exited })
		path := filepath.Join(g.dir(m.Job, m.Name), exitFile)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range len(whole) * 8 {
			bad := slices.Clone(whole)
			bad[bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := find(t, g, m.Name); got.State != agent.Aside {
				t.Fatalf("bit %d: %+v", bit, got)
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := find(t, g, m.Name); got.State != agent.Exited || got.Exit != "exit status 3" {
			t.Errorf("%+v", got)
		}
		kill(t, g, m)
	})
}

// TestStateOfAnOlderProgram: files without checksums are read.
func TestStateOfAnOlderProgram(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		m := start(t, g, agent.Member{Command: shell("exec sleep 1000")})
		for name, text := range map[string]string{
			memberFile: "{\n  \"job\": \"job\",\n  \"name\": \"" + m.Name + "\",\n  \"kind\": \"started\",\n  \"command\": [\n    \"x\"\n  ],\n  \"dir\": \"/\"\n}\n",
			rootFile:   "{\n  \"inner_pid\": " + strconv.Itoa(m.InnerPid) + "\n}\n",
		} {
			if err := os.WriteFile(filepath.Join(g.dir(m.Job, m.Name), name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := find(t, g, m.Name); got.State != agent.Running || got.Pid != m.Pid || got.Command[0] != "x" {
			t.Errorf("%+v", got)
		}
		kill(t, g, m)
	})
}

func kill(t *testing.T, g *Manager, m agent.Member) {
	t.Helper()
	if err := g.Kill(limit(t), m); err != nil {
		t.Error(err)
	}
}
