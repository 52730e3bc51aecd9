package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"ss/integration/lab"
)

const (
	// patience bounds every wait.
	patience  = 120 * time.Second
	lookAgain = 5 * time.Millisecond
	// threshold is the shortest gap that the programs tell of.
	threshold = "5ms"
	// smallMiB is the memory of each job's small member.
	smallMiB = 8
)

// job is one job that is measured: a large member on hostA and a small one on hostB, connected.
type job struct {
	*lab.Script
	lab        *lab.Lab
	name       string
	kind       string // "stream" or "requests"
	mib        int
	port       int // that one of the members listens at
	big, small *member
	stop       string // the file whose appearance ends the programs
	last       string // the last cut
	lock       string // of bare dumps
	write      int    // MiB that the large member writes in each second
	staging    func(host string) string
	folder     string // declared for the large member; "": none
}

// member is one program of a job.
type member struct {
	*journal
	host *lab.Host
	proc string   // its folder in the host's own /proc, seen from the machine
	pid  int      // in its cell
	says []string // what it records: "still", its own standstills; "gap", those of what it receives
}

func startStream(s *lab.Script, l *lab.Lab, o options, mib int) *job {
	j := newJob(s, l, o, "stream", mib)
	addr := fmt.Sprintf("%s:%d", l.Host("hostB").Addr(), j.port)
	j.small = j.run("hostB", "words", "serve", "-listen", addr, "-ballast", strconv.Itoa(smallMiB), "-gap", threshold)
	j.big = j.run("hostA", "words", "connect", "-to", addr, "-ballast", strconv.Itoa(mib), "-write", strconv.Itoa(o.write), "-gap", threshold, "-until", j.stop)
	j.awaitBoth()
	return j
}

// startRequests starts a small member that asks and a large one that answers.
func startRequests(s *lab.Script, l *lab.Lab, o options, mib int) *job {
	j := newJob(s, l, o, "requests", mib)
	addr := fmt.Sprintf("%s:%d", l.Host("hostA").Addr(), j.port)
	j.big = j.run("hostA", "echo", "serve", "-listen", addr, "-ballast", strconv.Itoa(mib), "-gap", threshold)
	j.small = j.run("hostB", "echo", "loop", "-to", addr, "-ballast", strconv.Itoa(smallMiB), "-gap", threshold, "-until", j.stop)
	j.awaitBoth()
	return j
}

func newJob(s *lab.Script, l *lab.Lab, o options, kind string, mib int) *job {
	name := fmt.Sprintf("%s-%d", kind, mib)
	return &job{Script: s, lab: l, name: name, kind: kind, mib: mib, port: 9000 + mib%1000, lock: o.lock, write: o.write, staging: func(string) string { return staging }, stop: filepath.Join(l.Dir(), name+".stop")}
}

// run starts a program as a member.
func (j *job) run(host, program string, args ...string) *member {
	bin, err := lab.Binary(program)
	if err != nil {
		j.Fatalf("%v", err)
	}
	m := &member{host: j.lab.Host(host), says: []string{"still"}}
	if program == "words" || args[0] == "loop" {
		m.says = append(m.says, "gap")
	}
	// In memory: a program must not wait for the disk that images are written to.
	log := "/run/bench-" + j.name + ".log"
	m.journal = &journal{path: m.host.Path(log)}
	// More threads than processors: see standstill.Recorder.Run.
	line := []string{"run", j.name, "--host", host, "--log", log, "--env", "GOMAXPROCS=6"}
	if j.folder != "" && host == "hostA" {
		line = append(line, "--files", j.folder)
	}
	j.lab.MustCtl(append(append(line, "--", bin), args...)...)
	return m
}

// members are those that are started.
func (j *job) members() []*member {
	return slices.DeleteFunc([]*member{j.big, j.small}, func(m *member) bool { return m == nil })
}

// awaitBoth returns when both members are connected, and learns where they are.
func (j *job) awaitBoth() {
	for _, m := range j.members() {
		j.await("connection on "+m.host.Name, func() bool { return m.connected })
	}
	j.locate()
}

// locate finds the members' processes.
func (j *job) locate() {
	var ps struct {
		Members []struct {
			Host  string
			Pid   int
			State string
		}
	}
	j.lab.CtlJSON(&ps, "ps", j.name)
	for _, m := range j.members() {
		m.proc = ""
		for _, p := range ps.Members {
			if p.Host == m.host.Name && p.State == "running" {
				m.proc = fmt.Sprintf("/proc/%d/root/proc/%d", m.host.Pid(), p.Pid)
			}
		}
		if m.proc == "" {
			j.Fatalf("ssctl ps %s: no running member on %s: %+v", j.name, m.host.Name, ps)
		}
		var err error
		if m.pid, err = innermostPid(m.proc); err != nil {
			j.Fatalf("%v", err)
		}
	}
}

// await returns when the condition holds, which is examined whenever the members may have said something.
func (j *job) await(what string, holds func() bool) {
	deadline := time.After(patience)
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		for _, m := range j.members() {
			if err := m.read(); err != nil {
				j.Fatalf("%s of %s: %v", what, j.name, err)
			}
			if m.failed != "" {
				j.Fatalf("%s of %s: member on %s: %s", what, j.name, m.host.Name, m.failed)
			}
		}
		if holds() {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			j.Fatalf("%s of %s: not within %v", what, j.name, patience)
		}
	}
}

// awaitFlow returns when both members have run, and received, for a while since the given time.
func (j *job) awaitFlow(since time.Time) {
	const while = 50 * time.Millisecond
	for _, m := range j.members() {
		for _, word := range m.says {
			j.await("going on", func() bool { return m.beats[word].After(since.Add(while)) })
		}
	}
}

// conclude lets the programs end and check all they hold, and removes the job.
func (j *job) conclude() {
	if err := j.big.host.WriteFile(j.stop, nil); err != nil {
		j.Fatalf("%v", err)
	}
	for _, m := range j.members() {
		j.await("verdict on "+m.host.Name, func() bool { return m.passed })
	}
	j.lab.MustCtl("kill", j.name)
	j.removeCut()
}
