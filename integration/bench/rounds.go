package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// afterglow is how long TCP's counters are watched after all run again: a timeout that a snapshot causes comes within a few hundred
// milliseconds.
const afterglow = time.Second

// commandStart is the most that ssctl takes from its start to its first question, from which on it counts how long a snapshot takes.
const commandStart = 150 * time.Millisecond

// Round is a bare dump of each member, a time in which nothing is done to them, and a snapshot of both.
type Round struct {
	BareBig   Dump     `json:"bare_big"`
	BareSmall Dump     `json:"bare_small"`
	Quiet     Counters `json:"counters_without_snapshot"`
	Ours      Snapshot `json:"snapshot"`
}

// Snapshot is one snapshot. All times are in milliseconds.
type Snapshot struct {
	Wall       float64           `json:"wall_ms"`  // of the whole command, which waits for durable copies
	Total      float64           `json:"total_ms"` // until all run again
	GapSmall   float64           `json:"gap_small_ms"`
	GapBig     float64           `json:"gap_big_ms"`
	StillBig   float64           `json:"still_big_ms"`
	StillSmall float64           `json:"still_small_ms"`
	Storing    float64           `json:"still_small_storing_ms"` // the small member's longest while images are stored, when all run
	CRIUBig    Stats             `json:"criu_big"`
	CRIUSmall  Stats             `json:"criu_small"`
	Counters   Counters          `json:"counters"`
	Read       float64           `json:"read_mib"` // of the large member, by the agent
	Phases     map[string][]Span `json:"phases"`   // by host
}

// Span is one phase of a snapshot on one host.
type Span struct {
	Name     string  `json:"name"`
	Start    float64 `json:"start_ms"`
	Duration float64 `json:"duration_ms"`
}

// Restore is a bare restore of the large member, and two restores of both. All times are in milliseconds.
type Restore struct {
	Bare     float64  `json:"bare_ms"` // until its loop turns
	BareWall float64  `json:"bare_wall_ms"`
	Kept     Restored `json:"kept"`  // from the dump that its host has kept
	Store    Restored `json:"store"` // from its host's packs
}

// Restored is one restore of ours.
type Restored struct {
	Ours  float64            `json:"ours_ms"` // until the large member's loop turns
	Small float64            `json:"small_ms"`
	Wall  float64            `json:"wall_ms"`
	Steps map[string]float64 `json:"steps_ms"`
}

// until is when all ran.
func (r Restored) until() float64 { return max(r.Ours, r.Small) }

// JobResult is all that was measured of one job.
type JobResult struct {
	Kind     string    `json:"kind"`
	MiB      int       `json:"mib"`
	Rounds   []Round   `json:"rounds"`
	Restores []Restore `json:"restores,omitempty"`
}

// warmUp does once what is measured later, so that the first round finds programs and CRIU's cache in memory like the others.
func (j *job) warmUp() {
	j.bareDump(j.big)
	j.bareDump(j.small)
	j.snapshot()
}

// snapshots takes n rounds.
func (j *job) snapshots(n int) JobResult {
	r := JobResult{Kind: j.kind, MiB: j.mib}
	for i := range n {
		var one Round
		j.removeCut() // before the bare dumps, so that all find the same memory and disk free
		one.BareBig, one.BareSmall = j.bareDump(j.big), j.bareDump(j.small)
		one.Quiet = j.watch(time.Duration(one.BareBig.Wall) * time.Millisecond)
		one.Ours = j.snapshot()
		r.Rounds = append(r.Rounds, one)
		j.Logf("%-13s round %d of %d: bare %6.1f ms (loop still %6.1f), 8 MiB %5.1f (%5.1f); snapshot %6.1f ms (gap %6.1f, loop still %6.1f), 8 MiB still %5.1f",
			j.name, i+1, n, one.BareBig.Wall, one.BareBig.Still, one.BareSmall.Wall, one.BareSmall.Still,
			one.Ours.Total, one.Ours.GapSmall, one.Ours.StillBig, one.Ours.StillSmall)
	}
	return r
}

func (j *job) removeCut() {
	if j.last != "" {
		j.lab.MustCtl("rm", j.last)
		j.last = ""
	}
}

// watch is what TCP counts in the time of a snapshot that takes so long, when there is none.
func (j *job) watch(long time.Duration) Counters {
	before := j.counters()
	<-time.After(long + afterglow)
	return j.counters().minus(before)
}

// snapshot takes a cut.
func (j *job) snapshot() Snapshot {
	j.removeCut()
	j.settleDisk()
	before := j.counters()
	var cut struct {
		Cut   string
		Total float64 `json:"total_ms"`
		Hosts []struct {
			Host   string
			Phases []Span
		}
		Members []struct {
			Host, Name string
			Memory     struct {
				CopiedBytes int64 `json:"copied_bytes"`
				FrozenBytes int64 `json:"frozen_bytes"`
				TwinBytes   int64 `json:"twin_bytes"`
				Left        []string
			}
		}
	}
	began := time.Now()
	j.lab.CtlJSON(&cut, "snapshot", j.name)
	wall := time.Since(began)
	j.last = cut.Cut
	<-time.After(time.Until(began.Add(time.Duration(cut.Total)*time.Millisecond + afterglow)))
	j.awaitFlow(time.Now())
	s := Snapshot{Wall: ms(wall), Total: cut.Total, Counters: j.counters().minus(before), Phases: map[string][]Span{}}
	// Images are stored after the snapshot proper, at low priority and for much longer: what that does to the members is told apart.
	all := began.Add(time.Duration(cut.Total)*time.Millisecond + commandStart)
	s.GapSmall, _ = j.small.split("gap", began, all)
	s.GapBig, _ = j.big.split("gap", began, all)
	s.StillBig, _ = j.big.split("still", began, all)
	s.StillSmall, s.Storing = j.small.split("still", began, all)
	for _, h := range cut.Hosts {
		s.Phases[h.Host] = h.Phases
	}
	for _, m := range cut.Members {
		st, err := readStats(filepath.Join(j.lab.Host(m.Host).Path(j.imageDir(m.Host)), "stats-dump"))
		if err != nil {
			j.Fatalf("snapshot of %s: %v", j.name, err)
		}
		if m.Host == j.big.host.Name {
			s.CRIUBig, s.Read = st, float64(m.Memory.CopiedBytes+m.Memory.FrozenBytes+m.Memory.TwinBytes)/(1<<20)
			if j.write > 0 {
				j.Logf("%-13s %d MiB were read while it ran, %d MiB while it stood still and %d MiB from a twin; left: %q", j.name, m.Memory.CopiedBytes>>20, m.Memory.FrozenBytes>>20, m.Memory.TwinBytes>>20, m.Memory.Left)
			}
		} else {
			s.CRIUSmall = st
		}
	}
	return s
}

func (j *job) counters() Counters {
	c, err := readCounters(j.lab)
	if err != nil {
		j.Fatalf("TCP's counters: %v", err)
	}
	return c
}

// staging is where an agent's dumps are, and stay if they are kept (docs/format.md).
const staging = "/var/lib/ss/staging"

// imageDir finds CRIU's images of a host's member in the last cut, as the host sees them.
func (j *job) imageDir(host string) string {
	h, dir := j.lab.Host(host), j.staging(host)
	found, err := filepath.Glob(filepath.Join(h.Path(dir), j.name, j.last, host, "*", "images"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d folders of images, want 1", len(found))
	}
	if err != nil {
		j.Fatalf("images of cut %s on %s: %v", j.last, host, err)
	}
	return dir + strings.TrimPrefix(found[0], h.Path(dir))
}

// restores kills the job and brings it back from the last cut n times, with CRIU alone and with ssctl, from the kept dump and from the store.
func (j *job) restores(n int) []Restore {
	var all []Restore
	images := j.imageDir(j.big.host.Name)
	for i := range n {
		var r Restore
		j.kill()
		r.Bare, r.BareWall = j.bareRestore(images)
		j.await("end of the connections", func() bool { return !j.connected() })
		r.Kept = j.restore()
		j.kill()
		j.await("end of the connections", func() bool { return !j.connected() })
		back := j.setAside()
		r.Store = j.restore()
		back()
		all = append(all, r)
		j.Logf("%-13s round %d of %d: bare restore %6.1f ms; restore %6.1f ms, from the store %6.1f ms", j.name, i+1, n, r.Bare, r.Kept.until(), r.Store.until())
	}
	j.locate()
	return all
}

// restore restores the last cut.
func (j *job) restore() Restored {
	j.settleDisk()
	var res struct {
		Steps map[string]float64 `json:"steps_ms"`
	}
	began := time.Now()
	j.lab.CtlJSON(&res, "restore", j.last)
	r := Restored{Wall: ms(time.Since(began)), Steps: res.Steps}
	for _, m := range j.members() {
		m.rewind() // a restore puts a log back to what it was at the cut
	}
	r.Ours, r.Small = j.firstLook("a restore", j.big, began), j.firstLook("a restore", j.small, began)
	return r
}

// setAside hides the dumps that the hosts have kept, and returns what brings them back.
func (j *job) setAside() (back func()) {
	move := func(from, to string) {
		for _, h := range j.lab.Hosts() {
			if err := os.Rename(h.Path(from), h.Path(to)); err != nil {
				j.Fatalf("set the kept dump aside: %v", err)
			}
		}
	}
	kept, aside := filepath.Join(staging, j.name), "/var/lib/ss/aside"
	move(kept, aside)
	return func() { move(aside, kept) }
}

// kill ends the job's programs. One that outlives the other for a moment may find its connection broken, and say so.
func (j *job) kill() {
	j.lab.MustCtl("kill", j.name)
	for _, m := range j.members() {
		if err := m.read(); err != nil {
			j.Fatalf("kill %s: %v", j.name, err)
		}
		m.failed = ""
	}
}

// connected tells whether the kernel of the large member's host still knows a connection of the job.
func (j *job) connected() bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", j.big.host.Pid()))
	if err != nil {
		j.Fatalf("%v", errors.Join(errors.New("list connections"), err))
	}
	return strings.Contains(string(data), fmt.Sprintf(":%04X ", j.port))
}
