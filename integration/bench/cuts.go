package main

import (
	"fmt"
	"strconv"
	"time"

	"ss/integration/lab"
)

const (
	cutsMiB     = 64 // of each member
	cutsWrite   = 16 // MiB that each member writes in a second
	cutsBefore  = 20 * time.Second
	cutsRestore = 10 // each so many'th cut is restored
	// boundWord is of the time that a word takes while cuts are taken, to what it takes before: nine tenths of the throughput.
	boundWord = 1 / 0.9
)

// measureCuts takes a cut of the stream job in each second, and restores every tenth of them.
func measureCuts(s *lab.Script, o options) result {
	l := lab.New(s, "hostA", "hostB")
	l.AgentConfig = "tracked_from: 0\n" // they are smaller than what is tracked by default
	l.StartAgents()
	res := result{Schema: "ss/bench/1", Rounds: 1, Lock: o.lock, Write: cutsWrite, Machine: describeMachine(s, l)}
	j := newJob(s, l, o, "stream", cutsMiB)
	addr := fmt.Sprintf("%s:%d", l.Host("hostB").Addr(), j.port)
	ballast := []string{"-ballast", strconv.Itoa(cutsMiB), "-write", strconv.Itoa(cutsWrite), "-gap", threshold}
	j.small = j.run("hostB", "words", append([]string{"serve", "-listen", addr}, ballast...)...)
	j.big = j.run("hostA", "words", append([]string{"connect", "-to", addr, "-until", j.stop}, ballast...)...)
	j.awaitBoth()

	before := j.wordTime(func() { <-time.After(cutsBefore) })
	quiet := j.watch(cutsBefore)
	count := j.counters()
	var cuts []string
	began := time.Now()
	var took time.Duration
	during := j.wordTime(func() {
		for i := range o.cuts {
			<-time.After(time.Until(began.Add(time.Duration(i) * time.Second)))
			var cut struct{ Cut string }
			l.CtlJSON(&cut, "snapshot", j.name) // it ends the bench if it does not commit
			cuts = append(cuts, cut.Cut)
		}
		took = time.Since(began)
	})
	timeouts := j.counters().minus(count).Timeouts
	for i := cutsRestore - 1; i < len(cuts); i += cutsRestore {
		began := time.Now()
		l.MustCtl("restore", cuts[i])
		for _, m := range j.members() {
			m.rewind()
		}
		j.locate()
		j.awaitFlow(began)
	}
	name := fmt.Sprintf("%d cuts, %d MiB each, %d MiB/s written", len(cuts), cutsMiB, cutsWrite)
	res.Rows = []Row{
		{What: name + ": seconds; wanted", Base: float64(o.cuts), Ours: took.Seconds(), Bound: float64(o.cuts), Count: true},
		compare(name+": time of a word ÷ before (here ns)", []struct{}{{}}, boundWord, func(struct{}) float64 { return before }, func(struct{}) float64 { return during }),
		{What: name + ": TCP retransmission timeouts; without", Base: float64(quiet.Timeouts), Ours: float64(timeouts), Count: true},
		{What: fmt.Sprintf("%s: restored, each %dth; wanted", name, cutsRestore), Base: float64(o.cuts / cutsRestore), Ours: float64(len(cuts) / cutsRestore), Bound: float64(o.cuts / cutsRestore), Count: true},
	}
	j.conclude()
	for _, id := range cuts {
		l.MustCtl("rm", id)
	}
	return res
}

// wordTime is how many nanoseconds a word takes that the member on hostB receives.
func (j *job) wordTime(during func()) float64 {
	at, n := time.Now(), j.received()
	during()
	return float64(time.Since(at)) / (j.received() - n)
}

// received is how many words the member on hostB has received, by the line that it writes next.
func (j *job) received() float64 {
	was := j.small.reports
	j.await("report of "+j.small.host.Name, func() bool { return j.small.reports > was })
	return j.small.words
}
