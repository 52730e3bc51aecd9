package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ss/integration/lab"
)

const (
	// soon bounds every wait for something that takes a moment.
	soon = 60 * time.Second
	// lookAgain is how often a condition is examined that nothing reports: a line in a log, a state of a member.
	lookAgain = 20 * time.Millisecond
)

// Snapshot is what `ssctl snapshot -o json` prints, as far as tests care.
type Snapshot struct {
	Schema   string
	Cut      string
	Job      string
	Members  []SnapshotMember
	Channels []SnapshotChannel
	TotalMS  float64 `json:"total_ms"`
}

// SnapshotMember is one member of a Snapshot.
type SnapshotMember struct {
	Host, Name string
	Command    any
	ImageBytes int64   `json:"image_bytes"`
	FrozenMS   float64 `json:"frozen_ms"`
	StallMS    float64 `json:"stall_ms"`
}

// SnapshotChannel is one direction of one connection in a Snapshot.
type SnapshotChannel struct {
	From, To  string
	InTransit int64  `json:"in_transit_bytes"`
	SndUna    uint32 `json:"snd_una"`
	RcvNxt    uint32 `json:"rcv_nxt"`
	WriteSeq  uint32 `json:"write_seq"`
}

// Members is what `ssctl ps -o json` prints, as far as tests care.
type Members struct {
	Members []struct {
		Job, Member, Host, State, Exit string
		Pid                            int
	}
}

// cluster is a lab whose agents run.
type cluster struct {
	*lab.Lab
	t *testing.T
}

func newCluster(t *testing.T, hosts ...string) *cluster {
	t.Helper()
	if len(hosts) == 0 {
		hosts = []string{"hostA", "hostB", "hostC"}
	}
	return newClusterWith(t, "", hosts...)
}

// plainVariable names the folder of programs without the race detector, which CI sets.
const plainVariable = "SS_PLAIN_BIN"

// withoutRace has a test run the programs that the race detector does not slow down, where CI has set them apart. It is for tests that ask of many
// kinds of things what becomes of each, or wait for much memory to be stored. Those that kill and attack keep the race detector, and `make test-race` has it everywhere.
func withoutRace(t *testing.T) {
	t.Helper()
	if dir := os.Getenv(plainVariable); dir != "" {
		t.Setenv(lab.BinVariable, dir)
	}
}

// newClusterWith makes a cluster of agents whose agent.yaml has some more lines.
func newClusterWith(t *testing.T, config string, hosts ...string) *cluster {
	t.Helper()
	l := lab.New(t, hosts...)
	l.AgentConfig = config
	l.StartAgents()
	return &cluster{Lab: l, t: t}
}

// member is one member of a job as its test sees it.
type member struct {
	name    string // of its log
	host    string // where it is now
	endless bool   // a server that does not end by itself and passes no verdict
}

// job is a job under test.
type job struct {
	*cluster
	name    string
	members []*member
	stop    string // the file whose appearance ends the programs
}

func (c *cluster) newJob(name string) *job {
	return &job{cluster: c, name: name, stop: filepath.Join(c.Dir(), name+".stop")}
}

// run starts a member. Its log is in the host's own /srv.
func (j *job) run(name, host string, command ...string) {
	j.t.Helper()
	m := &member{name: name, host: host}
	j.members = append(j.members, m)
	args := append([]string{"run", j.name, "--host", host, "--log", j.logPath(m), "--"}, command...)
	j.MustCtl(args...)
}

// serve starts a member that ends when it is killed and not before.
func (j *job) serve(name, host string, command ...string) {
	j.t.Helper()
	j.run(name, host, command...)
	j.members[len(j.members)-1].endless = true
}

// rates are how much a test program does in a second, unless a test says otherwise: left alone they take every processor there is, and a
// test is about something else.
var rates = map[string]string{"words": "1000000", "ring": "2000", "tree": "1000", "echo": "500", "counter": "500"}

// fullSpeed is what a program is told that is to do what it can.
var fullSpeed = []string{"-rate", "0"}

// program starts one of the test programs as a member.
func (j *job) program(name, host, program string, args ...string) {
	j.t.Helper()
	if rate, ok := rates[program]; ok && !slices.Contains(args, fullSpeed[0]) {
		args = append(slices.Clip(args), "-rate", rate)
	}
	j.run(name, host, append([]string{binary(j.t, program)}, args...)...)
}

func (j *job) logPath(m *member) string { return "/srv/" + j.name + "-" + m.name + ".log" }

// log is what a member has written, where it is now.
func (j *job) log(m *member) string {
	j.t.Helper()
	data, err := j.Host(m.host).ReadFile(j.logPath(m))
	if err != nil {
		return ""
	}
	return string(data)
}

// moved notes that the members of one host are now on another.
func (j *job) moved(from, to string) {
	for _, m := range j.members {
		if m.host == from {
			m.host = to
		}
	}
}

// await returns when the condition holds, and ends the test if that takes too long. The condition returns what is
// missing, or "".
func await(t *testing.T, what string, missing func() string) {
	t.Helper()
	deadline := time.After(soon)
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		lack := missing()
		if lack == "" {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("%s: not within %v: %s", what, soon, lack)
		}
	}
}

// awaitProgress returns when every member that tells of progress has told so at least twice more.
func (j *job) awaitProgress() {
	j.t.Helper()
	before := map[*member]int{}
	for _, m := range j.members {
		before[m] = strings.Count(j.log(m), "\nprogress ")
	}
	await(j.t, "progress of "+j.name, func() string {
		telling := 0
		for _, m := range j.members {
			log := j.log(m)
			if strings.Contains(log, "FAIL") {
				j.t.Fatalf("member %s on %s:\n%s", m.name, m.host, log)
			}
			switch now := strings.Count(log, "\nprogress "); {
			case now >= before[m]+2:
				telling++
			case now > 0:
				return fmt.Sprintf("member %s on %s: %s", m.name, m.host, lastLine(log))
			}
		}
		if telling == 0 {
			return "no member tells of any"
		}
		return ""
	})
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// snapshot takes a cut and checks what every cut must hold: each channel's inequalities (M8).
func (j *job) snapshot(args ...string) Snapshot {
	j.t.Helper()
	var s Snapshot
	j.CtlJSON(&s, append([]string{"snapshot", j.name}, args...)...)
	if s.Cut == "" || s.Job != j.name || s.Schema == "" || len(s.Members) != len(j.members) {
		j.t.Fatalf("snapshot of %s with %d members: %+v", j.name, len(j.members), s)
	}
	var transit int64
	for _, c := range s.Channels {
		transit += c.InTransit
		if int32(c.RcvNxt-c.SndUna) < 0 || int32(c.WriteSeq-c.RcvNxt) < 0 || c.InTransit != int64(c.WriteSeq-c.RcvNxt) {
			j.t.Errorf("channel %s→%s breaks snd_una ≤ rcv_nxt ≤ write_seq: %+v", c.From, c.To, c)
		}
	}
	j.t.Logf("cut %s: %d members, %d channels, %d bytes in transit, %.0f ms", s.Cut, len(s.Members), len(s.Channels), transit, s.TotalMS)
	return s
}

// restore restores a cut and notes where members are then.
func (j *job) restore(cut string, remap ...string) {
	j.t.Helper()
	args := []string{"restore", cut}
	for _, r := range remap {
		args = append(args, "--remap", r)
	}
	j.MustCtl(args...)
	for _, r := range remap {
		from, to, _ := strings.Cut(r, "=")
		j.moved(from, to)
	}
}

// finish tells the programs to end and checks that every one of them passes: with its own verdict, and with status 0.
func (j *job) finish() {
	j.t.Helper()
	j.touchStop()
	await(j.t, "end of "+j.name, func() string {
		for _, m := range j.members {
			log := j.log(m)
			if strings.Contains(log, "FAIL") {
				j.t.Fatalf("member %s on %s:\n%s", m.name, m.host, log)
			}
			if !m.endless && !strings.Contains(log, "PASS") {
				return fmt.Sprintf("member %s on %s: %s", m.name, m.host, lastLine(log))
			}
		}
		return ""
	})
	await(j.t, "exit of "+j.name, func() string {
		var ps Members
		j.CtlJSON(&ps, "ps", j.name)
		left := len(j.members)
		for _, m := range ps.Members {
			if m.State == "exited" && m.Exit == "exit status 0" {
				left--
			}
		}
		for _, m := range j.members {
			if m.endless {
				left--
			}
		}
		if left > 0 {
			return fmt.Sprintf("%+v", ps)
		}
		return ""
	})
	for _, m := range j.members {
		j.t.Logf("%s on %s: %s", m.name, m.host, lastLine(j.log(m)))
	}
}

func (j *job) touchStop() {
	j.t.Helper()
	if err := j.Host(lab.AdminName).WriteFile(j.stop, nil); err != nil {
		j.t.Fatal(err)
	}
}

// end removes what is left of the job and checks that nothing stays.
func (j *job) end() {
	j.t.Helper()
	j.MustCtl("kill", j.name)
}

// checkLeaks ends the test badly if a job's traces are left on any host that is on.
func (c *cluster) checkLeaks() {
	c.t.Helper()
	if leaks := c.Leaks(); len(leaks) > 0 {
		c.t.Errorf("left behind:\n%s", strings.Join(leaks, "\n"))
	}
}
