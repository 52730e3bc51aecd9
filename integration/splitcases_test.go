package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ss/integration/lab"
)

// TestSplitCases are ways in which a host comes back that TestSplitBrain does not go. Each is done once; SPLIT_CASES=20 does each twenty times in a row.
func TestSplitCases(t *testing.T) {
	withoutRace(t)
	for name, comeBack := range map[string]func(*split, string){
		"agent restarted before any contact": (*split).restartedBefore,
		"no agent when the network is back":  (*split).noAgent,
		"ssctl comes first":                  (*split).ctlFirst,
		"agents of the new hosts restarted":  (*split).newRestarted,
		"record of the new host lost":        (*split).recordLost,
		"record of the new host old":         (*split).recordOld,
		"ssctl killed as it resumes":         (*split).ctlKilled,
		"killed while the old host is away":  (*split).killedAway,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			s := newSplit(t)
			for range rounds(t, "SPLIT_CASES", 1) {
				to := "hostC"
				if s.mover.host == "hostC" {
					to = "hostA"
				}
				comeBack(s, to)
			}
			s.end()
			s.checkLeaks()
		})
	}
}

// ends checks what every way back comes to: the old copy ends, nothing has got from one side to the other, and the job can be recorded.
func (s *split) ends(old string, mark, oldMark int) {
	s.t.Helper()
	s.gone(old)
	s.settled()
	if reached := s.reached(old, mark, oldMark); reached != "" {
		s.t.Fatal(reached)
	}
	s.flows("after the old copy has ended")
	s.unique(s.snapshot().Cut)
	s.flows("after a snapshot")
}

// restartedBefore: the old host's agent is new when the network is back, and knows of no restore.
func (s *split) restartedBefore(to string) {
	old, mark := s.apart(to)
	oldMark := s.oldLog(old)
	s.Agent(old).Kill()
	s.Agent(old).Start()
	s.Host(old).HealNetwork()
	s.ends(old, mark, oldMark)
}

// noAgent: nobody answers on the old host. What it sends is dropped for as long as that takes.
func (s *split) noAgent(to string) {
	old, mark := s.apart(to)
	oldMark := s.oldLog(old)
	s.Agent(old).Kill()
	s.Host(old).HealNetwork()
	s.flows("beside an old copy that nobody can end")
	s.unique(s.snapshot().Cut)
	tried := func() int {
		log, err := s.Host(old).ReadFile(s.logPath(s.mover))
		if err != nil {
			s.t.Fatal(err)
		}
		return strings.Count(since(string(log), oldMark), "trying ")
	}
	first := tried()
	await(s.t, "two tries of the old copy to reach the job", func() string {
		if len(s.instances(old, "redial")) == 0 {
			s.t.Fatal("the old copy has ended without an agent")
		}
		if n := tried(); n < first+2 {
			return fmt.Sprintf("%d more", n-first)
		}
		return ""
	})
	if reached := s.reached(old, mark, oldMark); reached != "" {
		s.t.Fatal(reached)
	}
	if ps, stderr, _ := s.Ctl("ps", s.name); !strings.Contains(stderr, "superseded") || !strings.Contains(stderr, old) {
		s.t.Errorf("ps does not name %s:\n%s%s", old, ps, stderr)
	}
	if list := s.MustCtl("host", "list"); !strings.Contains(list, "superseded by epoch") {
		s.t.Errorf("host list does not name %s:\n%s", old, list)
	}
	s.Agent(old).Start()
	s.ends(old, mark, oldMark)
}

// ctlFirst: no agent of the new hosts runs, so ssctl is the first to reach the old one. Its word is an admin's.
func (s *split) ctlFirst(to string) {
	old, mark := s.apart(to)
	oldMark := s.oldLog(old)
	for _, host := range []string{to, "hostB"} {
		s.Agent(host).Kill()
	}
	s.Host(old).HealNetwork()
	await(s.t, "the old copy's end by ssctl", func() string {
		_, stderr, _ := s.Ctl("ps", s.name)
		if len(s.instances(old, "redial")) > 0 {
			return stderr
		}
		return ""
	})
	for _, host := range []string{to, "hostB"} {
		s.Agent(host).Start()
	}
	s.ends(old, mark, oldMark)
}

// newRestarted: the agents of the new hosts are new, and what they drop is not forgotten.
func (s *split) newRestarted(to string) {
	old, mark := s.apart(to)
	oldMark := s.oldLog(old)
	for _, host := range []string{to, "hostB"} {
		s.Agent(host).Kill()
		s.Agent(host).Start()
	}
	s.Agent("hostB").Stop()
	s.Host(old).HealNetwork()
	s.Agent("hostB").Start()
	s.ends(old, mark, oldMark)
}

// record is where an agent keeps what it knows of the job.
func (s *split) record(host string) string {
	return s.Host(host).Path("/var/lib/ss/standing/" + s.name + ".json")
}

// recordLost: a bit of the new host's record is another one. The record is set aside, and the others tell.
func (s *split) recordLost(to string) {
	old, mark := s.apart(to)
	oldMark := s.oldLog(old)
	s.Agent(to).Kill()
	b, err := os.ReadFile(s.record(to))
	if err != nil {
		s.t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(s.record(to), b, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.Agent(to).Start()
	s.Host(old).HealNetwork()
	s.ends(old, mark, oldMark)
	if found, err := filepath.Glob(s.record(to) + ".damaged"); err != nil || len(found) == 0 {
		s.t.Errorf("the damaged record is not set aside: %v", err)
	}
}

// recordOld: the old host is shown, by its own disk, what was true before: its record is put back from a copy of an earlier time.
func (s *split) recordOld(to string) {
	from := s.mover.host
	before, err := os.ReadFile(s.record(from))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	old, mark := s.apart(to)
	oldMark := s.oldLog(old)
	s.Host(old).HealNetwork()
	s.ends(old, mark, oldMark)
	// Now the job goes back, and the host that it leaves gets the statement of before.
	s.Agent(old).Kill()
	if before == nil {
		err = os.RemoveAll(s.record(old))
	} else {
		err = os.WriteFile(s.record(old), before, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.Agent(old).Start()
	s.flows("after an agent has come back with an old record")
	s.unique(s.snapshot().Cut)
}

// ctlKilled: the ssctl of the restore dies when the job resumes, and the catalogue does not know that it was restored.
func (s *split) ctlKilled(to string) {
	old := s.mover.host
	cut := s.snapshot()
	s.Host(old).CutNetwork()
	run := s.ctlTrapped(to+": resuming", func(ctl *lab.Cmd) { _ = ctl.Process.Kill() }, "restore", cut.Cut, "--remap", old+"="+to)
	<-run.Done()
	await(s.t, "the restored member, or none", func() string {
		var ps Members
		s.CtlJSON(&ps, "ps", s.name)
		if _, _, exit := s.Ctl("restore", cut.Cut, "--remap", old+"="+to, "--dry-run"); exit == 8 {
			return "the restore is not settled"
		}
		return ""
	})
	if len(s.instances(to, "redial")) == 0 { // ssctl died before any host was told
		s.restore(cut.Cut, old+"="+to)
	} else {
		s.moved(old, to)
	}
	mark, oldMark := len(s.log(s.server)), s.oldLog(old)
	s.flows("after the restore whose ssctl was killed")
	s.unique(s.snapshot().Cut)
	s.Host(old).HealNetwork()
	s.ends(old, mark, oldMark)
}

// killedAway: the job is ended while the old host is away. Its copy must not be all that is left.
func (s *split) killedAway(to string) {
	old, _ := s.apart(to)
	cut := s.cuts()
	s.MustCtl("kill", s.name)
	s.Host(old).HealNetwork()
	s.gone(old)
	s.settled()
	s.restore(cut[len(cut)-1])
	s.mover.host = old // where the cut has it
	s.flows("after it was restored where it was")
}

// identityOf is a process as an agent's record of an attached tree names it.
func identityOf(t *testing.T, pid int) map[string]any {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"pid": pid, "start_ticks": json.Number(fields[19]), "boot_id": strings.TrimSpace(string(boot))}
}

// TestMovedOnWhileAHostIsAway needs root. A job leaves a host that does not answer, and then the host where it stood since. That one keeps nothing of the restore: it
// drops no packets any more, and finds and ends an old copy of a member that is started there later.
func TestMovedOnWhileAHostIsAway(t *testing.T) {
	c := newCluster(t, "hostA", "hostB", "hostC", "hostD")
	j := c.newJob("moves")
	j.serve("moving", "hostA", "sleep", "1000003")
	j.serve("staying", "hostB", "sleep", "1000004")
	first := j.snapshot().Cut
	c.Agent("hostA").Kill()
	j.restore(first, "hostA=hostC")
	j.restore(j.snapshot().Cut, "hostC=hostD")
	await(t, "blocks lifted on hostC", func() string {
		for _, leak := range c.Leaks() {
			if strings.HasPrefix(leak, "hostC: ") && strings.Contains(leak, "ssblock") {
				return leak
			}
		}
		return ""
	})
	j.serve("late", "hostC", "sleep", "1000005")
	cut := j.snapshot().Cut
	c.Host("hostC").CutNetwork()
	j.restore(cut, "hostC=hostB")
	if len(j.instances("hostC", "sleep")) == 0 {
		t.Fatal("there is no old copy")
	}
	c.Host("hostC").HealNetwork()
	c.Agent("hostA").Start()
	for _, host := range []string{"hostA", "hostC"} {
		await(t, "the end of the old copy on "+host, func() string {
			if pids := j.instances(host, "sleep"); len(pids) > 0 {
				return fmt.Sprintf("processes %v", pids)
			}
			return ""
		})
	}
	j.end()
	c.checkLeaks()
}
