package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// expiredSlowly asks of each cut by itself whether any rule keeps it.
func expiredSlowly(cuts []Cut, keep Keep) (expired []string) {
	if keep == (Keep{}) {
		return nil
	}
	week := func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%04d-%02d", y, w) }
	rules := []struct {
		n    int
		name func(time.Time) string // sorts as time does
	}{
		{keep.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15") }},
		{keep.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{keep.Weekly, week},
	}
	all := cuts
	for _, c := range all {
		cuts := slices.DeleteFunc(slices.Clone(all), func(o Cut) bool { return o.fullness() < c.fullness() })
		newer := 0
		for _, o := range cuts {
			if o.Epoch > c.Epoch {
				newer++
			}
		}
		kept := c.Pinned || newer == 0 || newer < keep.Last
		for _, r := range rules {
			own, later, newest := r.name(c.Time.UTC()), map[string]bool{}, true
			for _, o := range cuts {
				p := r.name(o.Time.UTC())
				if p > own {
					later[p] = true
				}
				if p == own && o.Epoch > c.Epoch {
					newest = false
				}
			}
			kept = kept || newest && len(later) < r.n
		}
		if !kept {
			expired = append(expired, fmt.Sprintf("%06d", c.Epoch))
		}
	}
	slices.Sort(expired)
	return expired
}

func epochsOf(cuts []Cut) (epochs []string) {
	for _, c := range cuts {
		epochs = append(epochs, fmt.Sprintf("%06d", c.Epoch))
	}
	return epochs
}

func TestExpiredAgainstTheObviousWay(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	zone := time.FixedZone("far east", 13*3600)
	for round := range 3000 {
		var cuts []Cut
		at := time.Date(2026, 12, 20+rng.IntN(20), 0, 0, 0, 0, time.UTC) // a new year is near
		spread := time.Duration(1+rng.IntN(1<<rng.IntN(18))) * time.Minute
		for i := range rng.IntN(30) {
			at = at.Add(time.Duration(rng.Int64N(int64(spread))))
			if rng.IntN(15) == 0 {
				at = at.Add(-time.Duration(rng.Int64N(3 * int64(spread)))) // someone sets the clock
			}
			c := Cut{ID: fmt.Sprintf("c%d", i), Job: "ring", Epoch: uint64(i*2 + 1), Time: at, Pinned: rng.IntN(12) == 0}
			if rng.IntN(2) == 0 {
				c.Time = c.Time.In(zone)
			}
			if rng.IntN(4) == 0 { // all alike in most rounds, or else no cut ever displaces another
				c.EndedWell = make([]string, rng.IntN(3))
			}
			cuts = append(cuts, c)
		}
		rng.Shuffle(len(cuts), func(i, j int) { cuts[i], cuts[j] = cuts[j], cuts[i] })
		var keep Keep
		for _, n := range []*int{&keep.Last, &keep.Hourly, &keep.Daily, &keep.Weekly} {
			if rng.IntN(2) == 0 {
				*n = rng.IntN(1 << rng.IntN(5))
			}
		}
		before := slices.Clone(cuts)
		got := epochsOf(Expired(cuts, keep))
		if diff := cmp.Diff(expiredSlowly(cuts, keep), got); diff != "" {
			t.Fatalf("seed %d, round %d, %+v: %s", seed, round, keep, diff)
		}
		if diff := cmp.Diff(before, cuts); diff != "" {
			t.Fatalf("the argument was changed: %s", diff)
		}
	}
}

// TestLesserCutsDisplaceNothing: after a member has died, cuts without it are taken, by hand or by a schedule. However many there are, the
// last one that has the whole job stays.
func TestLesserCutsDisplaceNothing(t *testing.T) {
	cut := func(epoch uint64, members int, endedWell ...string) Cut {
		h := CutHost{Host: "hostA", Members: make([]CutMember, members)}
		at := time.Date(2026, 12, 20, 0, 0, 0, 0, time.UTC).Add(time.Duration(epoch) * 40 * time.Minute)
		return Cut{ID: fmt.Sprint(epoch), Epoch: epoch, Time: at, Hosts: []CutHost{h}, EndedWell: endedWell}
	}
	for _, tt := range []struct {
		name string
		cuts []Cut
		keep Keep
		want string // the epochs that expire
	}{
		{"one member fewer", []Cut{cut(1, 3), cut(2, 3), cut(3, 2), cut(4, 2)}, Keep{Last: 1}, "1 3"},
		{"in every period", []Cut{cut(1, 3), cut(2, 2), cut(3, 2), cut(4, 2)}, Keep{Hourly: 1, Daily: 1, Weekly: 1}, "2 3"},
		{"the member is back", []Cut{cut(1, 3), cut(2, 2), cut(3, 3)}, Keep{Last: 1}, "1 2"},
		{"fewer and fewer", []Cut{cut(1, 3), cut(2, 2), cut(3, 1)}, Keep{Last: 1}, ""},
		{"one has done its work", []Cut{cut(1, 3), cut(2, 2, "hostA-3")}, Keep{Last: 1}, "1"},
		{"a pinned one that is fuller stands in the way of none", []Cut{cut(1, 2), cut(2, 2), {ID: "3", Epoch: 3, Pinned: true, Hosts: cut(0, 9).Hosts}}, Keep{Last: 1}, "1 2"},
	} {
		var got []string
		for _, c := range Expired(tt.cuts, tt.keep) {
			got = append(got, fmt.Sprint(c.Epoch))
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %q expire, want %q", tt.name, s, tt.want)
		}
	}
}

func TestExpired(t *testing.T) {
	cut := func(epoch uint64, at string) Cut {
		when, err := time.Parse(time.RFC3339, at)
		check(t, err)
		return Cut{ID: fmt.Sprint(epoch), Epoch: epoch, Time: when}
	}
	cuts := []Cut{
		cut(1, "2026-12-20T23:30:00Z"), // Sunday, week 51
		cut(2, "2026-12-21T00:10:00Z"), // Monday, week 52
		cut(3, "2026-12-31T22:00:00Z"), // Thursday, week 53
		cut(4, "2026-12-31T22:59:59Z"),
		cut(5, "2026-12-31T23:00:00Z"),
		cut(6, "2027-01-01T00:00:00Z"), // Friday, week 53 of 2026 still
		cut(7, "2027-01-01T13:30:00+13:00"),
	}
	pinned := slices.Clone(cuts)
	pinned[0].Pinned = true
	for _, tt := range []struct {
		name string
		cuts []Cut
		keep Keep
		want string // the epochs that expire
	}{
		{"no rule keeps all", cuts, Keep{}, ""},
		{"no cuts", nil, Keep{Last: 1}, ""},
		{"last", cuts, Keep{Last: 3}, "1 2 3 4"},
		{"more than there are", cuts, Keep{Last: 100}, ""},
		{"hourly", cuts, Keep{Hourly: 3}, "1 2 3 6"},
		{"daily", cuts, Keep{Daily: 2}, "1 2 3 4 6"},
		{"weekly", cuts, Keep{Weekly: 2}, "1 3 4 5 6"},
		{"a union", cuts, Keep{Last: 2, Daily: 2, Weekly: 3}, "3 4"},
		{"pinned", pinned, Keep{Last: 1}, "2 3 4 5 6"},
		{"the newest always", cuts[:1], Keep{Last: 0, Daily: -1}, ""},
	} {
		var got []string
		for _, c := range Expired(tt.cuts, tt.keep) {
			got = append(got, fmt.Sprint(c.Epoch))
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %q expire, want %q", tt.name, s, tt.want)
		}
	}
}
