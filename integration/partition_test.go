package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// aimed is one try: at a line of ssctl's, what one host says to another on the agents' port stops arriving.
type aimed struct {
	host, at string // the line: the host, and what it is at
	from, to string
	refuse   bool          // the sender is told, by a RST; otherwise packets vanish
	late     time.Duration // after the line
	kills    []string      // what is killed at that instant: "ssctl", or a host, whose agent it is
}

func (a aimed) String() string {
	how := "lost"
	if a.refuse {
		how = "refused"
	}
	return fmt.Sprintf("%s: %s, from %s to %s %s after %v, killed: %v", a.host, a.at, a.from, a.to, how, a.late, a.kills)
}

// allAimed lists every direction between any two, at every step that ends or restores something, in a random order.
func allAimed(rng *rand.Rand) []aimed {
	hosts := []string{"hostA", "hostB", "hostC"}
	everyone := append([]string{lab.AdminName}, hosts...)
	var out []aimed
	for _, at := range []string{"fencing", "restoring", "resuming"} {
		for _, host := range hosts {
			for _, from := range everyone {
				for _, to := range everyone {
					if from == to {
						continue
					}
					late := time.Duration(rng.IntN(60)) * time.Millisecond
					if rng.IntN(2) == 0 {
						late = 0 // before the order leaves
					}
					var kills []string
					if rng.IntN(2) == 0 { // between two agents a direction matters only when ssctl is gone
						kills = append(kills, "ssctl")
					}
					if rng.IntN(4) == 0 {
						kills = append(kills, hosts[rng.IntN(len(hosts))])
					}
					out = append(out, aimed{host, at, from, to, rng.IntN(3) > 0, late, kills})
				}
			}
		}
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestRestoreUnderOneWayPartitions cuts one direction between two hosts, or between a host and ssctl, at every step of a restore. In some
// tries ssctl is killed as well, or an agent, or both. The job runs on all of its hosts in the end, or on none. It makes 20 tries, or as many as SS_PARTITIONS says (make partitions: 200);
// SS_PARTITIONS_SEED repeats an order.
func TestRestoreUnderOneWayPartitions(t *testing.T) {
	withoutRace(t)
	tries, seed := 20, uint64(time.Now().UnixNano())
	for name, set := range map[string]func(uint64){"SS_PARTITIONS": func(n uint64) { tries = int(n) }, "SS_PARTITIONS_SEED": func(n uint64) { seed = n }} {
		if s := os.Getenv(name); s != "" {
			n, err := strconv.ParseUint(s, 10, 63)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			set(n)
		}
	}
	t.Logf("SS_PARTITIONS_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	p := newPartitionRig(t)
	ends := map[string]int{}
	list := allAimed(rng)
	for i := range tries {
		if i > 0 && i%len(list) == 0 {
			list = allAimed(rng)
		}
		end := p.try(i, list[i%len(list)])
		ends[end]++
	}
	t.Logf("%d tries: %v", tries, ends)
	p.nothingLeft()
}

// partitionRig is a job of three hosts, and a cut of it.
type partitionRig struct {
	*job
	cut string
}

func newPartitionRig(t *testing.T) *partitionRig {
	t.Helper()
	c := newCluster(t)
	j := c.newJob("three")
	addr := c.Host("hostB").Addr().String() + ":9001"
	j.program("serve", "hostB", "words", "serve", "-listen", addr)
	j.program("connect", "hostA", "words", "connect", "-to", addr, "-until", j.stop)
	j.serve("idleA", "hostA", "sleep", "1000001")
	j.serve("idleB", "hostB", "sleep", "1000002")
	j.serve("idleC", "hostC", "sleep", "1000003")
	j.awaitProgress()
	return &partitionRig{job: j, cut: j.snapshot().Cut}
}

// try carries out one try, and says how it ended.
func (p *partitionRig) try(i int, a aimed) string {
	t := p.t
	t.Helper()
	hit := make(chan error, 1)
	run := p.ctlTrapped(a.host+": "+a.at, func(ctl *lab.Cmd) {
		if a.late == 0 {
			hit <- p.hit(a, ctl)
			return
		}
		go func() {
			<-time.After(a.late) // where in the step it hits is a matter of chance
			hit <- p.hit(a, ctl)
		}()
	}, "restore", p.cut)
	if err := <-hit; err != nil {
		t.Fatal(err)
	}
	exit := run.ExitCode()
	if err := p.Host(a.to).DropNothing(); err != nil {
		t.Fatal(err)
	}
	for _, victim := range a.kills {
		if victim != "ssctl" {
			<-p.Agent(victim).Done()
			p.Agent(victim).Start()
		}
	}
	if !slices.Contains([]int{-1, 0, 9, inDoubt}, exit) {
		t.Errorf("try %d: %v: exit code %d\n%s%s", i, a, exit, run.stderr, &run.stdout)
	}
	stands := p.settled(i, a, exit, run.stderr.String())
	end := fmt.Sprintf("exit %d, runs: %v", exit, stands)
	t.Logf("try %d: %v: %s", i, a, end)
	if exit == 0 && !stands || exit == 9 && stands && !strings.Contains(run.stderr.String(), "nothing was touched") {
		t.Errorf("try %d: %v: that is not what ssctl said:\n%s", i, a, run.stderr)
	}
	if stands {
		p.mustFlow(a.String(), soon)
	} else {
		p.MustCtl("restore", p.cut)
	}
	return end
}

// hit cuts the direction where it arrives, and kills.
func (p *partitionRig) hit(a aimed, ctl *lab.Cmd) error {
	err := p.Host(a.to).DropFrom(p.Host(a.from), a.refuse)
	for _, victim := range a.kills {
		if victim == "ssctl" {
			_ = ctl.Process.Kill() // it may have ended
		} else {
			_ = unix.Kill(p.Agent(victim).Pid(), unix.SIGKILL)
		}
	}
	return err
}

// settled returns when nobody is at the restore any more: whether the job runs everywhere (true) or nowhere. It ends the test if a part is
// without the rest.
func (p *partitionRig) settled(i int, a aimed, exit int, stderr string) bool {
	t := p.t
	t.Helper()
	await(t, fmt.Sprintf("try %d: %v: exit %d: an end of it", i, a, exit), func() string {
		_, said, exit := p.Ctl("restore", p.cut, "--dry-run")
		if exit == 0 || exit == 4 {
			return ""
		}
		return said
	})
	where := map[string][]string{}
	for _, h := range p.Hosts() {
		for _, proc := range p.processes(h.Name) {
			for name, command := range map[string]string{"serve": "words serve", "connect": "words connect", "idleA": "sleep 1000001", "idleB": "sleep 1000002", "idleC": "sleep 1000003"} {
				if proc.exe == strings.Fields(command)[0] && strings.Contains(proc.command, command) {
					where[name] = append(where[name], h.Name)
				}
			}
		}
	}
	for _, m := range p.members {
		if len(where) > 0 && len(where[m.name]) != 1 {
			ps, _, _ := p.Ctl("ps", p.name)
			t.Fatalf("try %d: %v: half a job: %v; exit %d\n%s\n%s", i, a, where, exit, ps, stderr)
		}
	}
	return len(where) > 0
}

// TestAMemberThatEndsAfterTheResume: a member whose work is done when it runs again ends, and the restore has succeeded all the same.
// It restores five times, or as often as SS_REPEAT says.
func TestAMemberThatEndsAfterTheResume(t *testing.T) {
	times := 5
	if s := os.Getenv("SS_REPEAT"); s != "" {
		var err error
		if times, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	c := newCluster(t)
	j, cut := c.cutBeforeTheEnd(5 * time.Second)
	done := func() int { return strings.Count(j.log(j.members[0]), "done") }
	await(t, "the end of the member's work", func() string {
		if done() == 0 {
			return j.log(j.members[0])
		}
		return ""
	})
	for i := range times {
		stdout, stderr, exit := c.Ctl("restore", cut)
		if exit != 0 {
			t.Fatalf("restore %d: exit code %d\n%s%s", i, exit, stdout, stderr)
		}
		// Its log goes back to the cut, so what stands there it has written since.
		await(t, "the member's last word", func() string {
			if done() != 1 {
				return j.log(j.members[0])
			}
			return ""
		})
		if idle := j.instances("hostB", "sleep"); len(idle) != 1 {
			t.Fatalf("restore %d: the other member is %v", i, idle)
		}
	}
	c.MustCtl("kill", j.name)
}

// cutBeforeTheEnd returns a job whose first member works for so long, or for longer on a slow machine, and a cut from before its end.
func (c *cluster) cutBeforeTheEnd(work time.Duration) (*job, string) {
	c.t.Helper()
	for ; work < soon; work *= 2 {
		j := c.newJob(fmt.Sprintf("deadline%d", int(work.Seconds())))
		end := time.Now().Add(work).Unix()
		j.run("deadline", "hostA", c.compile("deadline"), strconv.FormatInt(end, 10))
		j.serve("idleB", "hostB", "sleep", "1000002")
		stdout, stderr, exit := c.Ctl("-o", "json", "snapshot", j.name)
		if exit == 0 {
			if cut := decode(c.t, stdout); len(cut.Members) == len(j.members) {
				return j, cut.Cut
			}
		}
		c.t.Logf("the member's %v were over before the cut: exit code %d\n%s%s", work, exit, stdout, stderr)
		c.MustCtl("kill", j.name)
	}
	c.t.Fatal("no cut was taken in time")
	return nil, ""
}

// TestADoubtEndsWithARestoreElsewhere: the machine that decides a restore dies at the word to resume and never comes back. ssctl does not know, and says
// so. The other host stands ready and waits; it refuses a snapshot and says for whom it waits; a restore elsewhere takes the job over.
func TestADoubtEndsWithARestoreElsewhere(t *testing.T) {
	c := newCluster(t)
	j := c.newJob("words")
	addr := c.Host("hostB").Addr().String() + ":9001"
	j.program("serve", "hostB", "words", "serve", "-listen", addr)
	j.program("connect", "hostA", "words", "connect", "-to", addr, "-until", j.stop)
	j.awaitProgress()
	cut := j.snapshot().Cut
	run := c.ctlTrapped("hostA: resuming", func(*lab.Cmd) { c.Host("hostA").PowerOff() }, "restore", cut)
	if exit := run.ExitCode(); exit != inDoubt || !strings.Contains(lastSaid(run.stderr.String()), "hostA") {
		t.Fatalf("exit code %d\n%s", exit, run.stderr)
	}
	if _, stderr, exit := c.Ctl("restore", cut, "--remap", "hostA=hostC", "--dry-run"); exit != 8 || !strings.Contains(stderr, "is asking hostA for the outcome") {
		t.Errorf("a look at it: exit code %d\n%s", exit, stderr)
	}
	if out, stderr, exit := c.Ctl("restore", cut, "--remap", "hostA=hostC"); exit != 0 {
		t.Fatalf("restore elsewhere: exit code %d\n%s%s", exit, out, stderr)
	}
	j.moved("hostA", "hostC")
	j.mustFlow("after the restore elsewhere", soon)
	c.Host("hostA").PowerOn()
	c.Agent("hostA").Start()
	await(t, "an end of what the old agent was at", func() string {
		left, err := filepath.Glob(c.Host("hostA").Path("/var/lib/ss/restore/*"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(left, "\n")
	})
	j.mustFlow("beside the host that has come back", soon)
}
