package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// How long the soak is, and what its moves are drawn from.
const (
	soakSnapshotsVariable = "SS_SOAK_SNAPSHOTS"
	soakRestoresVariable  = "SS_SOAK_RESTORES"
	soakSeedVariable      = "SS_SOAK_SEED"
)

// agentCost is what an agent takes of its host.
type agentCost struct {
	descriptors int
	resident    int64 // bytes
}

// soak is one job for a long time.
type soak struct {
	*randomRig
	job   *randomJob
	rnd   *rand.Rand
	where map[string]string // from the host that a member was started on to the one that it is on
}

// TestSoak takes 200 snapshots of one job whose members make and end connections all the time, and restores it 50 times, mostly on
// other hosts. The members check every word. In the end the agents hold what they held at the start: descriptors, memory, packet filters,
// cgroups, mounts, processes.
//
// CI runs a part: SS_SOAK_SNAPSHOTS (20), SS_SOAK_RESTORES (5); make soak runs all. SS_SOAK_SEED (1) decides the moves. It needs root and gcc.
func TestSoak(t *testing.T) {
	snapshots := int(number(t, soakSnapshotsVariable, 20))
	restores := int(number(t, soakRestoresVariable, 5))
	seed := number(t, soakSeedVariable, 1)
	t.Logf("%s=%d %s=%d %s=%d", soakSnapshotsVariable, snapshots, soakRestoresVariable, restores, soakSeedVariable, seed)
	s := &soak{randomRig: newRandomRig(t, ""), rnd: rand.New(rand.NewPCG(seed, 2)), where: map[string]string{}}
	s.beginSoak()
	s.round(4, 2) // what is made at first use is there after it
	before := s.costs()
	s.round(snapshots, restores)
	after := s.costs()
	for host, was := range before {
		is := after[host]
		t.Logf("agent of %s: %d descriptors, then %d; %d KiB, then %d KiB", host, was.descriptors, is.descriptors, was.resident>>10, is.resident>>10)
		if is.descriptors > was.descriptors+3 { // a connection to a peer that was not needed before
			t.Errorf("the agent of %s had %d descriptors and has %d", host, was.descriptors, is.descriptors)
		}
		if is.resident > 2*was.resident+64<<20 {
			t.Errorf("the agent of %s had %d KiB in memory and has %d KiB", host, was.resident>>10, is.resident>>10)
		}
	}
	must(t, s.clear(s.job))
	await(t, "nothing left behind", func() string { return strings.Join(s.Leaks(), "\n") })
}

// beginSoak starts the job: on three hosts, each with a server and with clients of all servers, and with files and streams beside.
func (s *soak) beginSoak() {
	s.t.Helper()
	s.job = &randomJob{name: "soak", addr: s.addr, remap: map[string]string{}}
	homes := s.names[:3]
	id := 0
	next := func() string { id++; return fmt.Sprintf("o%d", id) }
	for i, host := range homes {
		s.where[host] = host
		m := &randomMember{name: fmt.Sprintf("server%d", i), host: host, log: fmt.Sprintf("/srv/soak/server%d.log", i)}
		m.objects = []object{
			{next(), "echo", []string{"0.0.0.0", fmt.Sprint(9100 + i)}},
			{next(), "append", []string{fmt.Sprintf("/srv/soak/server%d/lines", i)}},
			{next(), "serve", []string{"0.0.0.0", fmt.Sprint(9200 + i), "reuse", "3", "keep", "fast"}},
		}
		s.job.members = append(s.job.members, m)
	}
	for i, host := range homes {
		m := &randomMember{name: fmt.Sprintf("client%d", i), host: host, log: fmt.Sprintf("/srv/soak/client%d.log", i)}
		for k, server := range homes {
			m.objects = append(m.objects,
				object{next(), "churn", []string{s.addr[server], fmt.Sprint(9100 + k)}},
				object{next(), "connect", []string{s.addr[server], fmt.Sprint(9200 + k), "fast"}})
		}
		m.objects = append(m.objects, object{next(), "inplace", []string{fmt.Sprintf("/srv/soak/client%d/block", i)}}, object{next(), "child", []string{"session"}})
		s.job.members = append(s.job.members, m)
	}
	must(s.t, s.begin(s.job))
	must(s.t, s.ask(s.job))
	s.MustCtl("job", "set", "soak", "--keep-last", "3")
}

// round takes so many snapshots, and spreads so many restores evenly among them.
func (s *soak) round(snapshots, restores int) {
	s.t.Helper()
	done := 0
	for i := range snapshots {
		cut := s.snapshotOnce()
		if (i+1)*restores/snapshots == done {
			continue
		}
		done++
		s.restoreSomewhere(cut)
		if err := s.ask(s.job); err != nil {
			s.t.Fatalf("after snapshot %d and restore %d: %v", i+1, done, err)
		}
	}
	if err := s.ask(s.job); err != nil {
		s.t.Fatalf("after %d snapshots: %v", snapshots, err)
	}
	s.MustCtl("gc", "-q")
}

// snapshotOnce takes a cut. One that meets a connection in the making five times over is asked for again.
func (s *soak) snapshotOnce() string {
	s.t.Helper()
	for try := 0; ; try++ {
		stdout, stderr, exit := s.Ctl("snapshot", "soak", "-q")
		id, _, _ := strings.Cut(stdout, ":")
		if exit == 0 {
			return id
		}
		if exit != 9 || try == 5 || !strings.Contains(stderr, "try again") {
			s.t.Fatalf("exit code %d\n%s%s", exit, stdout, stderr)
		}
	}
}

// restoreSomewhere restores a cut: each part on a host of its own, drawn at random.
func (s *soak) restoreSomewhere(cut string) {
	s.t.Helper()
	args := []string{"restore", cut, "-q"}
	targets := s.rnd.Perm(len(s.names))
	for i, home := range s.names[:3] {
		from, to := s.where[home], s.names[targets[i]]
		if from != to {
			args = append(args, "--remap", from+"="+to)
		}
		s.where[home] = to
	}
	s.MustCtl(args...)
}

// costs measures every agent.
func (s *soak) costs() map[string]agentCost {
	s.t.Helper()
	out := map[string]agentCost{}
	for _, host := range s.names {
		pid := s.Agent(host).Pid()
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		must(s.t, err)
		statm, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "statm"))
		must(s.t, err)
		pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
		must(s.t, err)
		out[host] = agentCost{len(open), pages * int64(os.Getpagesize())}
	}
	return out
}
