//go:build upgrade

package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// oldBinVariable names the folder with ssagent and ssctl of 94ec08b, the last version that says nothing of its protocol. `make upgrade` builds them
// from the history, which CI does not have: there the golden files (testdata/94ec08b) and the recorded answers (api/wire) stand for them.
const oldBinVariable = "SS_OLD_BIN"

func oldPrograms(t *testing.T) string {
	t.Helper()
	folder := os.Getenv(oldBinVariable)
	if folder == "" {
		t.Fatalf("%s is not set: run this with `make upgrade`", oldBinVariable)
	}
	return folder
}

// newOldCluster is a cluster that the old programs have made and that runs.
func newOldCluster(t *testing.T, hosts ...string) *cluster {
	t.Helper()
	l := lab.New(t, hosts...)
	l.Bin = oldPrograms(t)
	l.StartAgents()
	return &cluster{Lab: l, t: t}
}

// upgrade starts today's agent in the place of a host's old one.
func (c *cluster) upgrade(host string) {
	c.t.Helper()
	a := c.Agent(host)
	select {
	case <-a.Done():
	default:
		a.Kill()
	}
	a.Bin = ""
	a.Start()
}

// eachCommand are commands that change or ask a host something, with the exit code of a refusal.
func eachCommand(cut string) [][]string {
	return [][]string{
		{"run", "other", "--host", "hostA", "--", "sleep", "9"}, {"snapshot", "words"}, {"verify", cut}, {"restore", cut}, {"restore", cut, "--dry-run"},
		{"kill", "words"},
	}
}

// TestUpgrade: the programs of 94ec08b and today's refuse each other, both pairings, with a sentence that says what to upgrade, and nothing happens. Members
// whose PID 1 is the old program, the old catalogue and the old image sets live on under today's programs.
func TestUpgrade(t *testing.T) {
	c := newOldCluster(t, "hostA", "hostB")
	j := c.newJob("words")
	startWords(j)
	j.awaitProgress()
	first := j.snapshot("--label", "first").Cut
	c.MustCtl("pin", first)
	before := c.MustCtl("list")
	oldCatalogue := filepath.Join(c.Dir(), "old.db")
	copyFile(t, c.catalogueFile(), oldCatalogue)

	refused := func(sentence string) {
		t.Helper()
		for _, args := range eachCommand(first) {
			stdout, stderr, exit := c.Ctl(args...)
			if exit == 0 || !strings.Contains(stdout+stderr, sentence) {
				t.Errorf("ssctl %s: exit code %d, want %q\n%s%s", strings.Join(args, " "), exit, sentence, stdout, stderr)
			}
		}
		for _, args := range [][]string{{"ps"}, {"host", "list"}} {
			stdout, stderr, exit := c.Ctl(args...)
			if exit != 0 || !strings.Contains(stdout+stderr, sentence) {
				t.Errorf("ssctl %s: exit code %d, want %q\n%s%s", strings.Join(args, " "), exit, sentence, stdout, stderr)
			}
		}
		j.mustFlow("after the refusals", soon)
		for _, host := range []string{"hostA", "hostB"} {
			if n := len(c.instances(host, "words")); n != 1 {
				t.Errorf("%d members of words on %s", n, host)
			}
			if n := len(c.instances(host, "sleep")); n != 0 {
				t.Errorf("a refused run has started %d members on %s", n, host)
			}
		}
	}
	c.Bin = ""
	refused("upgrade the agent of hostA")
	c.upgrade("hostA")
	c.upgrade("hostB")
	copyFile(t, c.catalogueFile(), filepath.Join(c.Dir(), "new.db"))
	copyFile(t, oldCatalogue, c.catalogueFile()) // an ssctl of before on another machine, whose catalogue nobody has upgraded
	c.Bin = oldPrograms(t)
	refused("upgrade this ssctl")
	copyFile(t, filepath.Join(c.Dir(), "new.db"), c.catalogueFile())
	c.fails(7, []string{"use a newer ssctl"}, "list")
	c.Bin = ""

	if after := c.MustCtl("list"); after != before {
		t.Errorf("the old catalogue lists\n%s\nand not\n%s", after, before)
	}
	j.mustFlow("under the new agents", soon)
	c.MustCtl("verify", first, "--read-data")
	second := j.snapshot().Cut
	j.mustFlow("after a snapshot of members whose PID 1 is the old program", soon)
	c.MustCtl("verify", second, "--read-data")
	j.restore(first)
	j.mustFlow("after a restore of the old cut", soon)
	j.snapshot()
	c.MustCtl("logs", "words")
	c.MustCtl("gc")
	c.MustCtl("rm", second)
	c.MustCtl("verify", first, "--read-data")
	c.MustCtl("kill", "words")
	j.restore(first)
	j.mustFlow("after a second restore of the old cut", soon)
	j.finish()
	j.end()
	for _, host := range []string{"hostA", "hostB"} {
		if log := c.Agent(host).Log(); strings.Contains(log, "DATA RACE") {
			t.Errorf("%s: a data race:\n%s", host, log)
		}
	}
}

// TestUpgradeOfMembers: a job of one member, and one that has ended, live on; the job gets another member.
func TestUpgradeOfMembers(t *testing.T) {
	c := newOldCluster(t, "hostA")
	c.MustCtl("run", "naps", "--host", "hostA", "--", "sleep", "1000001")
	c.MustCtl("run", "short", "--host", "hostA", "--", "sleep", "0.5")
	await(t, "end of short", func() string {
		if ps := c.MustCtl("ps", "short"); !strings.Contains(ps, "exit status 0") {
			return ps
		}
		return ""
	})
	c.upgrade("hostA")
	c.Bin = ""
	c.MustCtl("job", "set", "naps", "--copies", "1")
	if ps := c.MustCtl("ps"); !strings.Contains(ps, "exit status 0") || !strings.Contains(ps, "running") {
		t.Errorf("members of the old agent:\n%s", ps)
	}
	c.MustCtl("run", "naps", "--host", "hostA", "--", "sleep", "1000002") // another of the same job, with a name of its own
	c.MustCtl("snapshot", "naps")
	c.MustCtl("kill", "naps")
	if n := len(c.instances("hostA", "sleep")); n != 0 {
		t.Errorf("%d members after the kill", n)
	}
	c.MustCtl("restore", "latest", "--job", "naps")
	c.MustCtl("kill", "naps")
	c.MustCtl("kill", "short")
	if leaks := c.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(leaks, "\n"))
	}
}

// TestUpgradeInTheMidst: an old agent dies in each phase of a snapshot and of a restore, and today's starts in its place. What it has left, the journal, the
// restore's note, frozen members, closed gates, partial images, is taken over.
func TestUpgradeInTheMidst(t *testing.T) {
	for _, b := range []blow{
		{"snapshot", "agent", "hostB", "preparing", undone},
		{"snapshot", "agent", "hostB", "recording", undone},
		{"snapshot", "agent", "hostB", "dumping", undone},
		{"snapshot", "agent", "hostB", "storing", undone},
		{"snapshot", "agent", "hostB", "finishing", done},
		{"snapshot --stop", "agent", "hostB", "finishing", done},
		{"restore", "agent", "hostB", "fetching", undone},
		{"restore", "agent", "hostB", "fencing", stopped},
		{"restore", "agent", "hostB", "restoring", stopped},
		{"restore", "agent", "hostB", "resuming", whole},
	} {
		t.Run(b.name(), func(t *testing.T) {
			c := newOldCluster(t, "hostA", "hostB")
			j := c.newJob("words")
			startWords(j)
			j.awaitProgress()
			first := j.snapshot().Cut
			args := append(strings.Fields(b.op), "words")
			if b.restores() {
				args[len(args)-1] = first
			}
			run := c.ctlTrapped(b.line(), func(*lab.Cmd) { _ = unix.Kill(c.Agent("hostB").Pid(), unix.SIGKILL) }, args...)
			<-c.Agent("hostB").Done()
			t.Logf("exit code %d\n%s%s", run.ExitCode(), run.stderr, &run.stdout)
			saveState(t, c, "hostB", b.name())
			c.Bin = ""
			c.upgrade("hostB")
			c.upgrade("hostA")
			stands := func() bool { return len(c.instances("hostA", "words"))+len(c.instances("hostB", "words")) == 2 }
			if half := len(c.instances("hostA", "words")) + len(c.instances("hostB", "words")); half == 1 {
				t.Logf("one part of the job runs, as an old agent may leave it")
			}
			if b.want == undone || b.want == done && !strings.Contains(b.op, "--stop") {
				if !stands() {
					t.Fatalf("the job does not run:\n%s", c.MustCtl("ps"))
				}
				j.mustFlow("after the upgrade", soon)
			}
			for _, cut := range j.cuts() {
				c.MustCtl("verify", cut, "--read-data")
			}
			j.restore(j.cuts()[len(j.cuts())-1])
			j.mustFlow("after a restore", soon)
			j.snapshot()
			j.mustFlow("after a snapshot", soon)
			j.nothingLeft()
		})
	}
}

// goldenVariable names a folder in which the tests leave what the testdata/94ec08b of other packages was made of.
const goldenVariable = "SS_GOLDEN"

// TestGolden leaves a catalogue and an agent's state folder of the old programs. It needs goldenVariable.
func TestGolden(t *testing.T) {
	folder := os.Getenv(goldenVariable)
	if folder == "" {
		t.Skip(goldenVariable + " is not set")
	}
	c := newOldCluster(t, "hostA", "hostB")
	c.MustCtl("run", "naps", "--host", "hostA", "--log", "/srv/naps.log", "--", "sleep", "1000001")
	c.MustCtl("job", "set", "naps", "--copies", "1", "--keep-last", "5")
	c.MustCtl("run", "naps", "--host", "hostB", "--", "sleep", "1000002")
	c.MustCtl("run", "short", "--host", "hostA", "--", "sleep", "0.5")
	c.MustCtl("snapshot", "naps", "--label", "first")
	c.MustCtl("pin", "latest")
	c.MustCtl("snapshot", "naps")
	c.MustCtl("restore", "latest", "--job", "naps")
	c.MustCtl("snapshot", "naps")
	c.Agent("hostA").Stop()
	must(t, os.MkdirAll(folder, 0o700))
	copyRegular(t, c.Host("hostA").Path("/var/lib/ss"), filepath.Join(folder, "hostA"))
	copyRegular(t, c.Host(lab.AdminName).Path("/var/lib/ssctl"), filepath.Join(folder, "ssctl"))
}

// copyRegular copies the regular files of a folder, and not the sockets and locks beside them.
func copyRegular(t *testing.T, from, to string) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		must(t, err)
		target := filepath.Join(to, rel)
		must(t, os.MkdirAll(filepath.Dir(target), 0o700))
		copyFile(t, path, target)
		return nil
	}))
}

func saveState(t *testing.T, c *cluster, host, name string) {
	t.Helper()
	folder := os.Getenv(goldenVariable)
	if folder == "" {
		return
	}
	for _, pattern := range []string{"journal/*.json", "restore/*.json", "members/*/*/*.json", "names/*"} {
		root := c.Host(host).Path("/var/lib/ss")
		found, err := filepath.Glob(filepath.Join(root, pattern))
		must(t, err)
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			must(t, err)
			to := filepath.Join(folder, name, rel)
			must(t, os.MkdirAll(filepath.Dir(to), 0o700))
			copyFile(t, f, to)
		}
	}
	copyFile(t, c.catalogueFile(), filepath.Join(folder, name, "catalogue.db"))
}
