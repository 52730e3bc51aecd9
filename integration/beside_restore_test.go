package integration

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"ss/integration/lab"
)

// TestBesideARestore: while a restore has a job, nothing of it starts, and the other commands say what the job is busy with. A restore names the members that it ends
// for good. Where they are is true whatever comes at once.
func TestBesideARestore(t *testing.T) {
	c := newCluster(t, "hostA", "hostB", "hostC")
	for _, host := range []string{"hostA", "hostB"} {
		c.MustCtl("run", "ring", "--host", host, "--", "sleep", "1000")
	}
	var cut Snapshot
	c.CtlJSON(&cut, "snapshot", "ring")
	const both = "hostA-1@hostA:running hostB-1@hostB:running"

	// An ssctl that stands still in the middle of a restore keeps the job.
	var said []string
	run := c.ctlTrapped("hostA: fencing", func(ctl *lab.Cmd) {
		_ = ctl.Process.Signal(syscall.SIGSTOP)
		// Whether the members have ended by now decides in which words a snapshot says what is under way.
		for command, words := range map[string]string{
			"run ring --host hostC -- sleep 1000":                  `a restore of job "ring" is under way`,
			"run ring --host hostA -- sleep 1000":                  `a restore of job "ring" is under way`,
			"attach ring --host hostC --pid 1":                     `a restore of job "ring" is under way`,
			"snapshot ring":                                        "restore",
			"check ring":                                           "restore",
			"kill ring --host hostA":                               "busy with restore",
			fmt.Sprint("restore ", cut.Cut):                        `a restore of job "ring" is under way`,
			"snapshot ring --without hostA-1 --without hostB-1 -q": "restore",
		} {
			if _, stderr, exit := c.Ctl(strings.Fields(command)...); exit != 8 || !strings.Contains(stderr, words) || strings.Contains(stderr, "any more") {
				said = append(said, fmt.Sprintf("%s: exit code %d, want 8 and %q: %s", command, exit, words, stderr))
			}
		}
		_ = ctl.Process.Signal(syscall.SIGCONT)
	}, "restore", cut.Cut)
	for _, s := range said {
		t.Error(s)
	}
	if exit := run.ExitCode(); exit != 0 {
		t.Fatalf("the restore: exit code %d\n%s", exit, run.stderr)
	}
	c.mustBe("ring", both)

	// A member that was started after the cut is named.
	c.MustCtl("run", "ring", "--host", "hostC", "--", "sleep", "1000")
	if _, stderr, exit := c.Ctl("restore", cut.Cut, "--dry-run"); exit != 0 || !strings.Contains(stderr, "hostC-1 on hostC is not in the cut: a restore of it ends hostC-1") {
		t.Errorf("dry run: exit code %d\n%s", exit, stderr)
	}
	if _, stderr, exit := c.Ctl("restore", cut.Cut); exit != 0 || !strings.Contains(stderr, "hostC: hostC-1 is not in the cut, and was ended") {
		t.Errorf("exit code %d\n%s", exit, stderr)
	}
	c.mustBe("ring", both)

	// Both at once: what is said to run runs, or is said to have ended.
	for _, phase := range []string{"checking", "fetching", "fencing", "restoring", "resuming"} {
		type done struct {
			stdout, stderr string
			exit           int
		}
		started := make(chan done, 1)
		restore := c.ctlTrapped("hostA: "+phase, func(*lab.Cmd) {
			go func() {
				stdout, stderr, exit := c.Ctl("run", "ring", "--host", "hostC", "--", "sleep", "1000")
				started <- done{stdout, stderr, exit}
			}()
		}, "restore", cut.Cut)
		s := <-started
		<-restore.Done()
		stderr, exit := restore.stderr.String(), restore.ExitCode()
		name, _, _ := strings.Cut(s.stdout, " ")
		switch states := c.states("ring"); {
		case exit != 0 && exit != 8:
			t.Errorf("%s: the restore: exit code %d: %s", phase, exit, stderr)
		case s.exit != 0 && s.exit != 8:
			t.Errorf("%s: the start: exit code %d: %s", phase, s.exit, s.stderr)
		case s.exit == 8 && states != both:
			t.Errorf("%s: the start was refused, and these live: %s\n%s", phase, states, s.stderr)
		case s.exit == 0 && !strings.Contains(states, name+"@hostC:running") && !strings.Contains(stderr, name+" is not in the cut, and was ended"):
			t.Errorf("%s: %s was started and is gone without a word: %s\n%s", phase, name, states, stderr)
		}
		c.CtlJSON(&cut, "snapshot", "ring") // what the catalogue has is there
		if strings.Contains(c.states("ring"), "hostC") {
			c.MustCtl("kill", "ring", "--host", "hostC")
			c.CtlJSON(&cut, "snapshot", "ring")
		}
	}
	c.MustCtl("kill", "ring")

	// A folder that is not there, or not yet, is said at the start.
	must(t, os.MkdirAll(c.Host("hostA").Path("/srv/there"), 0o755))
	for folder, notice := range map[string]bool{"/srv/nope": true, "/srv/there": false} {
		_, stderr, exit := c.Ctl("run", "ring", "--host", "hostA", "--files", folder, "--", "sleep", "1000")
		if exit != 0 || strings.Contains(stderr, "the folder "+folder+" does not exist on hostA yet: cuts hold it from when it does") != notice {
			t.Errorf("--files %s: exit code %d, %s", folder, exit, stderr)
		}
	}
	c.mustFail(2, "run", "ring", "--host", "hostA", "--", "sh", "-c", "sleep 1000 # \xff")
	c.MustCtl("kill", "ring")
	c.checkLeaks()
}
