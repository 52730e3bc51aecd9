package store

import (
	"slices"
	"time"
)

// Expired lists the cuts of a job that a policy does not keep, oldest first. Pinned cuts and the newest cut are always kept. It is a pure
// function: hours, days and weeks (ISO 8601) are those of UTC.
//
// Imported cuts are not part of it: they are never removed, as a person brought them, and they take no place of a cut that was taken here.
//
// A cut of fewer members never displaces a fuller one (keepFuller).
//
// Which of two cuts is newer their epochs say. Hours, days and weeks are those of the cuts' times, and the latest
// ones that have a cut count, however long ago they were: what is kept does not depend on what time it is.
func Expired(cuts []Cut, keep Keep) []Cut {
	if keep == (Keep{}) {
		return nil
	}
	cuts = slices.SortedFunc(slices.Values(cuts), older)
	cuts = slices.DeleteFunc(cuts, func(cut Cut) bool { return cut.Imported != nil })
	var expired []Cut
	for i, keeps := range keepFuller(cuts, keep) {
		if !keeps {
			expired = append(expired, cuts[i])
		}
	}
	return expired
}

// fullness is how many members of its job a cut accounts for: those that are in it, and those that had done their work.
func (c Cut) fullness() int {
	n := len(c.EndedWell)
	for _, h := range c.Hosts {
		n += len(h.Members)
	}
	return n
}

// keepFuller says of each cut, in order of age, whether it is kept. A cut of fewer members never takes the place of a fuller one: for
// each cut the rules are applied as if those that are less full were not there.
func keepFuller(cuts []Cut, keep Keep) []bool {
	kept := make([]bool, len(cuts))
	levels := map[int]bool{}
	for _, cut := range cuts {
		levels[cut.fullness()] = true
	}
	for level := range levels {
		var among []Cut
		var at []int
		for i, cut := range cuts {
			if cut.fullness() >= level {
				among, at = append(among, cut), append(at, i)
			}
		}
		for i, keeps := range keepByRule(among, keep) {
			if among[i].fullness() == level {
				kept[at[i]] = keeps
			}
		}
	}
	return kept
}

// keepByRule says of each cut, in order of age, whether a rule keeps it.
func keepByRule(cuts []Cut, keep Keep) []bool {
	kept := make([]bool, len(cuts))
	for i, cut := range cuts {
		kept[i] = cut.Pinned || i >= len(cuts)-max(1, keep.Last)
	}
	for _, rule := range []struct {
		n      int
		period func(time.Time) [4]int
	}{{keep.Hourly, hourOf}, {keep.Daily, dayOf}, {keep.Weekly, weekOf}} {
		newest := map[[4]int]int{} // period → the newest of its cuts
		for i, cut := range cuts {
			newest[rule.period(cut.Time.UTC())] = i
		}
		periods := make([][4]int, 0, len(newest))
		for p := range newest {
			periods = append(periods, p)
		}
		slices.SortFunc(periods, func(a, b [4]int) int { return slices.Compare(b[:], a[:]) })
		for _, p := range periods[:min(len(periods), max(0, rule.n))] {
			kept[newest[p]] = true
		}
	}
	return kept
}

func hourOf(t time.Time) [4]int {
	return [4]int{t.Year(), int(t.Month()), t.Day(), t.Hour()}
}

func dayOf(t time.Time) [4]int {
	return [4]int{t.Year(), int(t.Month()), t.Day()}
}

func weekOf(t time.Time) [4]int {
	year, week := t.ISOWeek()
	return [4]int{year, week}
}
