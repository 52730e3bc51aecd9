package main

import (
	"fmt"

	"ss/integration/lab"
)

// The bounds of members whose memory is copied while they run.
const (
	boundTracked    = 2   // of the standstill, to that of the 8 MiB member's bare dump
	boundTrackedOwn = 0.1 // to its own bare dump, from
	ownBoundFrom    = 4096

	// withoutPause is more than memory takes, in MiB a second: such a member writes as fast as it can, and gets a twin.
	withoutPause = 10_000
	boundTwin    = 3 // of its standstill, to that of the 8 MiB member's bare dump
)

// measureTracked runs one job for each size, with agents that copy memory while members run.
func measureTracked(s *lab.Script, o options) result {
	l := lab.New(s, "hostA", "hostB")
	l.AgentConfig = "keep_dumps: true\ntracked_from: 0\ntwins: true\n"
	l.StartAgents()
	res := result{Schema: "ss/bench/1", Rounds: o.n, Lock: o.lock, Write: o.write, Machine: describeMachine(s, l)}
	for i, mib := range o.sizes {
		j := startStream(s, l, o, mib)
		if i == 0 {
			j.warmUp()
		}
		res.Jobs = append(res.Jobs, j.snapshots(o.n))
		if i == len(o.sizes)-1 {
			res.Memory = j.memory()
		}
		j.conclude()
	}
	return res
}

// rowsOf are the comparisons of what was measured.
func rowsOf(o options, jobs []JobResult) []Row {
	if o.write == 0 {
		return rows(jobs)
	}
	var out []Row
	for _, j := range jobs {
		out = append(out, trackedRows(j, o.write)...)
	}
	return out
}

func trackedRows(j JobResult, write int) []Row {
	name, bound := fmt.Sprintf("%s, %d MiB/s written", size(j.MiB), write), float64(boundTracked)
	if write >= withoutPause {
		name, bound = size(j.MiB)+", written without a pause", boundTwin
	}
	small, own := func(r Round) float64 { return r.BareSmall.Still }, func(r Round) float64 { return r.BareBig.Still }
	boundOwn := float64(noBound)
	if j.MiB >= ownBoundFrom {
		boundOwn = boundTrackedOwn
	}
	read := Row{What: name + ": MiB read of the member in all snapshots; MiB that it has", Base: float64(j.MiB * len(j.Rounds)), Bound: noBound, Count: true}
	for _, r := range j.Rounds {
		read.Ours += r.Ours.Read
	}
	return []Row{
		compare(name+": standstill ÷ bare standstill of 8 MiB", j.Rounds, bound, small, func(r Round) float64 { return r.Ours.StillBig }),
		compare(name+": gap seen by the receiver ÷ bare standstill of 8 MiB", j.Rounds, bound, small, func(r Round) float64 { return r.Ours.GapSmall }),
		compare(name+": standstill ÷ its own bare standstill", j.Rounds, boundOwn, own, func(r Round) float64 { return r.Ours.StillBig }),
		read,
		timeouts(j),
	}
}
