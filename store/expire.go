package store

import (
	"slices"
	"time"
)

// Expired lists the cuts of a job that a policy does not keep, oldest first. Pinned cuts and the newest cut are always kept. It is a pure
// function: hours, days and weeks (ISO 8601) are those of UTC.
//
// Imported cuts are no part of it: they are never removed, as a person brought them, and they take no place of a cut that was taken here.
//
// Which of two cuts is newer their epochs say. Hours, days and weeks are those of the cuts' times, and the latest
// ones that have a cut count, however long ago they were: what is kept does not depend on what time it is.
func Expired(cuts []Cut, keep Keep) []Cut {
	if keep == (Keep{}) {
		return nil
	}
	cuts = slices.SortedFunc(slices.Values(cuts), older)
	cuts = slices.DeleteFunc(cuts, func(cut Cut) bool { return cut.Imported != nil })
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
	var expired []Cut
	for i, cut := range cuts {
		if !kept[i] {
			expired = append(expired, cut)
		}
	}
	return expired
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
