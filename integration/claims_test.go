package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plant makes a host's agent believe that it has a member: a record of an attached tree, which is a process that the test starts there.
// It returns what ends the process.
func (s *split) plant(host, name string, epoch uint64) (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	sleep := s.Host(host).Command(ctx, "sleep", "1000003")
	if err := sleep.Start(); err != nil {
		s.t.Fatal(err)
	}
	id := identityOf(s.t, sleep.Pid())
	id["pid"] = innerPidOf(s.t, sleep.Pid())
	record := map[string]any{"job": s.name, "name": name, "kind": "attached", "command": []string{"sleep"}, "dir": "/", "root": id, "epoch": epoch}
	file := s.Host(host).Path("/var/lib/ss/members/" + s.name + "/" + name + "/member.json")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		s.t.Fatal(err)
	}
	data, err := json.Marshal(record) // as agents wrote it before these files had a checksum: they are read still
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return func() { cancel(); <-sleep.Done() }
}

// innerPidOf is a process as its host numbers it.
func innerPidOf(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			inner := 0
			fields := strings.Fields(rest)
			if _, err := fmt.Sscan(fields[len(fields)-1], &inner); err != nil {
				t.Fatal(err)
			}
			return inner
		}
	}
	t.Fatalf("process %d has no NSpid", pid)
	return 0
}

// TestClaims: a real agent, on a host outside of the job, claims members of it. Snapshots and restores go on without it, and a person is told.
// That it gets no key is shown in orchestrator (TestClaimsGetNoKey).
func TestClaims(t *testing.T) {
	s := newSplit(t)
	var stops []func()
	for _, claim := range []struct {
		name  string
		epoch uint64
	}{{"hostC-1", 0}, {"hostA-1", 0}, {"hostB-1", 99}} {
		stops = append(stops, s.plant("hostC", claim.name, claim.epoch))
		_, stderr, exit := s.Ctl("snapshot", s.name)
		if exit != 0 || !strings.Contains(stderr, "hostC says that "+claim.name) || !strings.Contains(stderr, "takes no part") {
			ps, _, _ := s.Ctl("ps", s.name)
			t.Fatalf("%s: exit code %d\n%s%s", claim.name, exit, stderr, ps)
		}
		cuts := s.cuts()
		s.unique(cuts[len(cuts)-1])
		if log := s.Agent("hostC").Log(); strings.Contains(log, "snapshot="+cuts[len(cuts)-1]) {
			t.Errorf("hostC took part:\n%s", log)
		}
	}
	s.restore(s.snapshot().Cut) // in place, and without hostC
	s.flows("after a restore beside a host that claims members")
	s.unique(s.snapshot().Cut)
	if out := s.MustCtl("kill", s.name, "--host", "hostC"); !strings.Contains(out, "hostB-1") {
		t.Errorf("kill --host hostC: %s", out)
	}
	s.flows("after hostC was cleared")
	if _, stderr, exit := s.Ctl("snapshot", s.name); exit != 0 || strings.Contains(stderr, "takes no part") {
		t.Errorf("exit code %d\n%s", exit, stderr)
	}
	for _, stop := range stops {
		stop() // a planted record has no cgroup, so no agent can end what it names
	}
	s.end()
	s.checkLeaks()
}
