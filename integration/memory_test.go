package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ss/integration/lab"
)

// shownMemory is what `ssctl show -o json` says of members' memory.
type shownMemory struct {
	Members []struct {
		Name    string
		Command []string
		Memory  struct {
			Tracked     bool
			CopiedBytes int64 `json:"copied_bytes"`
			FrozenBytes int64 `json:"frozen_bytes"`
			TwinBytes   int64 `json:"twin_bytes"`
			Left        []string
		}
	}
}

// TestMemoryIsTrackedByDefault needs root and a kernel that tracks memory (Linux 6.7). An agent whose agent.yaml says nothing tracks the memory of a large
// member. A small member, one that was started or attached with --memory frozen, and all members of a host that says so are copied while they stand still, also
// after a restore. ssctl show and host list say so, and why.
func TestMemoryIsTrackedByDefault(t *testing.T) {
	withoutRace(t)
	if mode, set := os.LookupEnv(lab.MemoryVariable); set {
		t.Setenv(lab.MemoryVariable, "") // what is tested is what agents do without
		t.Logf("without %s=%s", lab.MemoryVariable, mode)
	}
	c := newCluster(t, "hostA", "hostB")
	j := c.newJob("memory")
	j.program("large", "hostA", "words", "serve", "-listen", j.Host("hostA").Addr().String()+":9001", "-ballast", "112")
	j.program("small", "hostB", "words", "connect", "-to", j.Host("hostA").Addr().String()+":9001", "-until", j.stop)
	frozen := []string{binary(t, "words"), "serve", "-listen", j.Host("hostA").Addr().String() + ":9002", "-ballast", "112"}
	c.MustCtl(append([]string{"run", j.name, "--host", "hostA", "--memory", "frozen", "--log", "/srv/memory-frozen.log", "--"}, frozen...)...)
	j.members = append(j.members, &member{name: "frozen", host: "hostA", endless: true})
	j.serve("partner", "hostB", binary(t, "words"), "connect", "-to", j.Host("hostA").Addr().String()+":9002")
	j.awaitProgress()

	check := func(cut string, want map[string]string) {
		t.Helper()
		var shown shownMemory
		c.CtlJSON(&shown, "show", cut)
		if len(shown.Members) != len(j.members) {
			t.Fatalf("cut %s has %d members, want %d", cut, len(shown.Members), len(j.members))
		}
		for _, m := range shown.Members {
			kind := "small"
			for port, is := range map[string]string{":9001 -ballast": "large", ":9002 -ballast": "frozen"} {
				if strings.Contains(strings.Join(m.Command, " "), port) {
					kind = is
				}
			}
			left := strings.Join(m.Memory.Left, "; ")
			if tracked := want[kind] == ""; m.Memory.Tracked != tracked || !strings.Contains(left, want[kind]) {
				t.Errorf("cut %s, the %s member %s: tracked %v, left %q, want %q", cut, kind, m.Name, m.Memory.Tracked, left, want[kind])
			}
		}
	}
	usual := map[string]string{"large": "", "small": "less than the 98304 KiB from which memory is tracked", "frozen": "--memory frozen"}
	cut := j.snapshot().Cut
	check(cut, usual)
	j.restore(cut)
	j.awaitProgress()
	check(j.snapshot().Cut, usual)

	if list := c.MustCtl("host", "list"); strings.Count(list, "tracked") != 2 {
		t.Errorf("host list:\n%s", list)
	}
	c.changeConfig("hostA", "memory: frozen\n")
	list := c.MustCtl("host", "list")
	if strings.Count(list, "tracked") != 1 || !strings.Contains(list, "hostA: memory is copied while frozen: agent.yaml says so") {
		t.Errorf("host list:\n%s", list)
	}
	says := "agent.yaml says so (memory: frozen)"
	check(j.snapshot().Cut, map[string]string{"large": says, "small": "less than", "frozen": says})
	j.end()
	c.checkLeaks()
}

// changeConfig adds lines to a host's agent.yaml and starts its agent again.
func (c *cluster) changeConfig(host, lines string) {
	c.t.Helper()
	path := filepath.Join(c.Dir(), "bundles", host, "agent.yaml")
	before, err := os.ReadFile(path)
	must(c.t, err)
	must(c.t, os.WriteFile(path, fmt.Appendf(before, "%s", lines), 0o600))
	c.Agent(host).Stop()
	c.Agent(host).Start()
}
