package integration

import (
	"fmt"
	"strings"
	"testing"
)

// scenario starts a job on hostA, hostB and perhaps hostC, and may check more than its members do themselves.
type scenario struct {
	name  string
	start func(j *job)
	check func(j *job) // before the job is told to end; may be nil
}

var scenarios = []scenario{
	{name: "words", start: startFastWords},
	{name: "words6", start: startWords6},
	{name: "ring", start: startRing},
	{name: "tree", start: startTree},
	{name: "redis", start: startRedis, check: checkRedis},
}

func startWords(j *job)     { wordsAt(j, j.Host("hostB").Addr().String()) }
func startWords6(j *job)    { wordsAt(j, fmt.Sprintf("[%s]", j.Host("hostB").Addr6())) }
func startFastWords(j *job) { wordsAt(j, j.Host("hostB").Addr().String(), fullSpeed...) }

func wordsAt(j *job, serverAddr string, flags ...string) {
	j.program("serve", "hostB", "words", append([]string{"serve", "-listen", serverAddr + ":9001", "-ballast", "16"}, flags...)...)
	j.program("connect", "hostA", "words", append([]string{"connect", "-to", serverAddr + ":9001", "-ballast", "16", "-until", j.stop}, flags...)...)
}

// startRing makes a circle of five processes over three hosts. Its process 0 is on the host that will die.
func startRing(j *job) {
	hosts := []string{"hostA", "hostB", "hostC", "hostA", "hostB"}
	addr := func(id int) string {
		return fmt.Sprintf("%s:%d", j.Host(hosts[id]).Addr(), 9100+id)
	}
	for id, host := range hosts {
		j.program(fmt.Sprintf("ring%d", id), host, "ring", "-id", fmt.Sprint(id), "-of", fmt.Sprint(len(hosts)),
			"-listen", addr(id), "-next", addr((id+1)%len(hosts)), "-until", j.stop)
	}
}

func startTree(j *job) {
	addr := j.Host("hostA").Addr().String() + ":9200"
	j.program("serve", "hostA", "tree", "serve", "-listen", addr)
	j.program("connect", "hostB", "tree", "connect", "-to", addr, "-until", j.stop)
}

const redisPort = "6379"

// startRedis makes a primary on the host that will die, a replica, and a client that counts in the primary.
func startRedis(j *job) {
	primary := j.Host("hostA").Addr().String()
	common := []string{"redis-server", "--port", redisPort, "--bind", "*", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/srv"}
	j.serve("primary", "hostA", append(common, "--repl-diskless-sync-delay", "0")...)
	j.serve("replica", "hostB", append(common, "--replicaof", primary, redisPort)...)
	await(j.t, "replica's link", func() string {
		if info := redis(j, "hostB", "INFO", "replication"); !strings.Contains(info, "master_link_status:up") {
			return info
		}
		return ""
	})
	j.program("counter", "hostB", "counter", "-to", primary+":"+redisPort, "-until", j.stop)
}

// redis asks the server of a host, from that host.
func redis(j *job, host string, args ...string) string {
	j.t.Helper()
	out, err := j.Host(host).Command(j.t.Context(), append([]string{"redis-cli", "-p", redisPort}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	return string(out)
}

// checkRedis checks that the replica's link has survived: no second synchronisation, and what is counted arrives.
func checkRedis(j *job) {
	primary := j.members[0]
	if stats := redis(j, primary.host, "INFO", "stats"); !strings.Contains(stats, "sync_full:1\r\n") || !strings.Contains(stats, "sync_partial_ok:0\r\n") {
		j.t.Errorf("the replica has synchronised again:\n%s", stats)
	}
	if info := redis(j, "hostB", "INFO", "replication"); !strings.Contains(info, "master_link_status:up") {
		j.t.Errorf("the replica's link is down:\n%s", info)
	}
	await(j.t, "counter's way to the replica", func() string {
		before := redis(j, primary.host, "GET", "counter")
		var has, want int
		if _, err := fmt.Sscan(before, &want); err != nil {
			return before
		}
		if _, err := fmt.Sscan(redis(j, "hostB", "GET", "counter"), &has); err != nil || has < want {
			return fmt.Sprintf("replica has %d, primary had %d, %v", has, want, err)
		}
		return ""
	})
}

// TestHostDies is the main job: a cut under load, the job goes on, a host dies, the job goes on from the cut with that
// host's part elsewhere, and its result is right.
func TestHostDies(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			c := newCluster(t)
			j := c.newJob(sc.name)
			sc.start(j)
			j.awaitProgress()
			cut := j.snapshot()
			j.awaitProgress()

			c.Host("hostA").PowerOff()
			j.restore(cut.Cut, "hostA=hostC")
			j.awaitProgress()
			if sc.check != nil {
				sc.check(j)
			}
			j.conclude()
		})
	}
}

// conclude lets the job end by itself where its programs do, and checks that it leaves nothing.
func (j *job) conclude() {
	j.t.Helper()
	j.finish()
	j.end()
	j.checkLeaks()
}

// TestRestoreInPlace kills a job and restores it where it was, at once, while what its sockets left in the kernel is still there.
func TestRestoreInPlace(t *testing.T) {
	c := newCluster(t)
	j := c.newJob("words")
	startWords(j)
	j.awaitProgress()
	cut := j.snapshot()
	c.MustCtl("kill", j.name)
	j.restore(cut.Cut)
	j.awaitProgress()
	j.conclude()
}

// TestTenCuts takes ten cuts in a row and goes back to the third.
func TestTenCuts(t *testing.T) {
	c := newCluster(t)
	j := c.newJob("words")
	startFastWords(j)
	j.awaitProgress()
	var cuts []Snapshot
	for range 10 {
		cuts = append(cuts, j.snapshot())
	}
	j.restore(cuts[2].Cut)
	j.awaitProgress()
	j.conclude()
}

// TestStop takes a cut that ends the job, and starts it again from there.
func TestStop(t *testing.T) {
	c := newCluster(t)
	j := c.newJob("ring")
	startRing(j)
	j.awaitProgress()
	cut := j.snapshot("--stop")
	c.checkLeaks()
	j.restore(cut.Cut)
	j.awaitProgress()
	j.conclude()
}

// TestTwoJobs stops one of two jobs that share their hosts; the other does not notice.
func TestTwoJobs(t *testing.T) {
	c := newCluster(t)
	one, two := c.newJob("one"), c.newJob("two")
	startWords(one)
	addr := c.Host("hostB").Addr().String() + ":9002"
	two.program("serve", "hostB", "echo", "serve", "-listen", addr)
	two.program("loop", "hostA", "echo", "loop", "-to", addr, "-until", two.stop)
	one.awaitProgress()
	cut := one.snapshot("--stop")
	one.restore(cut.Cut)
	one.awaitProgress()
	one.finish()
	two.finish()
	one.end()
	two.end()
	c.checkLeaks()
}
