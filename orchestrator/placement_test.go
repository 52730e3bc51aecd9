package orchestrator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func hostNames(n int) (hosts []string) {
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("host%d", i))
	}
	return hosts
}

func TestRankLeavesTheSourceOut(t *testing.T) {
	if got := rank("ring", "host0", nil); got == nil || len(got) != 0 {
		t.Errorf("of nobody: %v", got)
	}
	if got := rank("ring", "host0", []string{"host0"}); len(got) != 0 {
		t.Errorf("of the source: %v", got)
	}
	hosts := hostNames(9)
	given := append(slices.Clone(hosts), hosts...) // twice: still never two copies on one
	rand.Shuffle(len(given), func(i, j int) { given[i], given[j] = given[j], given[i] })
	before := slices.Clone(given)
	got := rank("ring", "host0", given)
	if !slices.Equal(before, given) {
		t.Error("the argument was changed")
	}
	if !slices.Equal(got, rank("ring", "host0", hosts)) {
		t.Error("the order given makes a difference")
	}
	slices.Sort(got)
	if !slices.Equal(got, hosts[1:]) {
		t.Errorf("%v", got)
	}
}

// TestRankStaysTheSame: a change of the weights would move every copy there is.
func TestRankStaysTheSame(t *testing.T) {
	if got := fmt.Sprint(rank("ring", "hostA", []string{"hostA", "hostB", "hostC", "hostD", "hostE"})); got != "[hostD hostC hostE hostB]" {
		t.Errorf("%v", got)
	}
}

// TestRankMovesOnlyWhatMust: a host that comes or goes changes nothing in the order of the others.
func TestRankMovesOnlyWhatMust(t *testing.T) {
	for jobs := range 200 {
		job, hosts := fmt.Sprintf("job%d", jobs), hostNames(12)
		all := rank(job, "host0", hosts)
		for _, gone := range hosts {
			left := slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == gone })
			want := slices.DeleteFunc(slices.Clone(all), func(h string) bool { return h == gone })
			if got := rank(job, "host0", left); gone != "host0" && !slices.Equal(got, want) {
				t.Fatalf("%s: without %s: %v, want %v", job, gone, got, want)
			}
		}
	}
}

// TestRankIsFair: over many jobs, and over the hosts of one job, each host is chosen about as often as any other.
func TestRankIsFair(t *testing.T) {
	hosts := hostNames(10)
	first, ofOneJob := map[string]int{}, map[string]int{}
	const jobs = 3000
	for i := range jobs {
		first[rank(fmt.Sprintf("job%d", i), "host0", hosts)[0]]++
		ofOneJob[rank("ring", fmt.Sprintf("source%d", i), hosts[1:])[0]]++
	}
	for _, chosen := range []map[string]int{first, ofOneJob} {
		for _, h := range hosts[1:] {
			// 333 expected, with a standard deviation of 17. The names are fixed, and so is the outcome.
			if n := chosen[h]; n < 250 || n > 420 {
				t.Errorf("%s is first %d times in %d", h, n, jobs)
			}
		}
	}
}
