package integration

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ss/integration/lab"
)

// TestCommandsCutOff: an ssctl dies at any instant of run, kill, rm, job rm, host add or host rm, so that it has been heard and no answer counts; or an agent dies
// that it talks to. The same command, given again, ends it, and nothing is left of what it was about. Each round draws other instants: 2 rounds, or as many as
// SS_CUT_OFF says; SS_CUT_OFF_SEED repeats them. It needs root.
func TestCommandsCutOff(t *testing.T) {
	n, seed := rounds(t, "SS_CUT_OFF", 2), rounds(t, "SS_CUT_OFF_SEED", 1)
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	c := newCluster(t, "hostA", "hostB", "hostC")
	// abruptly gives the command once and lets somebody die, and gives it again until it says that it is done or that there is nothing to do.
	abruptly := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		run := c.CtlCommand(ctx, args...)
		must(t, run.Start())
		select {
		case <-run.Done():
		case <-time.After(time.Duration(rng.IntN(150)) * time.Millisecond): // the instant is what is drawn, nothing is waited for
		}
		if victim := []string{"ssctl", "ssctl", "hostA", "hostB"}[rng.IntN(4)]; victim == "ssctl" {
			run.Kill()
		} else {
			c.Agent(victim).Kill()
			run.ExitCode()
			c.Agent(victim).Start()
		}
		await(t, strings.Join(args, " "), func() string {
			stdout, stderr, exit := c.Ctl(args...)
			if exit == 0 || exit == 10 || exit == 8 && strings.Contains(stderr, "already") {
				return ""
			}
			return stdout + stderr
		})
	}
	for round := range n {
		job := "abrupt"
		for _, host := range []string{"hostA", "hostB"} {
			c.MustCtl("run", job, "--host", host, "--", "sleep", "1000006")
		}
		var s Snapshot
		c.CtlJSON(&s, "snapshot", job)
		abruptly("kill", job)
		if left := slices.Concat(c.instances("hostA", "sleep"), c.instances("hostB", "sleep")); len(left) > 0 {
			t.Fatalf("round %d: processes %v are left", round, left)
		}
		abruptly("rm", s.Cut)
		abruptly("job", "rm", job)
		abruptly("host", "rm", "hostC")
		bundle := filepath.Join(c.Dir(), "bundles", "again")
		c.MustCtl("gc")
		for _, host := range []string{"hostA", "hostB"} {
			sets, err := filepath.Glob(c.Host(host).Path(imageRoot) + "/*/sets/*/*")
			if err != nil || len(sets) > 0 {
				t.Errorf("round %d: %s has %v, %v", round, host, sets, err)
			}
		}
		if list := c.MustCtl("list") + c.MustCtl("ps"); strings.Contains(list, job) {
			t.Errorf("round %d: what is left of the job:\n%s", round, list)
		}
		if round == 0 {
			c.Agent("hostC").Stop()
		}
		c.MustCtl("host", "add", "hostC", "--addr", c.Host("hostC").Addr().String()+":7070", "--bundle", bundle)
		must(t, os.RemoveAll(bundle))
	}
	c.MustCtl("host", "rm", "hostC", "--lost")
	c.checkLeaks()
}

// TestSecondAgent: an agent that is started in the state folder of one that runs, while that takes a snapshot, says so and touches nothing. When the first has been killed, the next one starts though
// members live on. It needs root.
func TestSecondAgent(t *testing.T) {
	c := newCluster(t)
	c.MustCtl("run", "ring", "--host", "hostA", "--", "sleep", "1000")
	first := c.Agent("hostA").Pid()
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(first), "cmdline"))
	must(t, err)
	var said []byte
	run := c.ctlTrapped("hostA: preparing", func(*lab.Cmd) {
		said, err = c.Host("hostA").Command(t.Context(), strings.Split(strings.TrimRight(string(args), "\x00"), "\x00")...).CombinedOutput()
	}, "snapshot", "ring")
	<-run.Done()
	for _, w := range []string{"works in the state folder /var/lib/ss already", "/ssagent --config", "systemctl stop ssagent"} {
		if err == nil || !strings.Contains(err.Error()+string(said), w) {
			t.Errorf("no %q in %s (%v)", w, said, err)
		}
	}
	if run.ExitCode() != 0 {
		t.Errorf("exit code %d\n%s", run.ExitCode(), run.stderr.String())
	}
	c.Agent("hostA").Kill()
	c.Agent("hostA").Start()
	c.mustBe("ring", "hostA-1@hostA:running")
	c.MustCtl("snapshot", "ring")
}
