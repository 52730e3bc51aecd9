package orchestrator

import (
	"slices"

	"ss/store"
)

// Candidate is a host that may get a copy.
type Candidate struct {
	Name string
	Free int64 // bytes of room for images
}

// HostCopies is how many hosts hold each set where copies are wanted and so many vaults have one: at least one, for a host restores faster
// from itself.
func HostCopies(copies, vaults int) int { return max(1, copies-vaults) }

// OrderHolders ranks the hosts that may hold a copy of source's images of a job: those with room for need bytes first.
func OrderHolders(job, source string, hosts []Candidate, need int64) []string {
	free := map[string]int64{}
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name)
		free[h.Name] = h.Free
	}
	names = rank(job, source, names)
	slices.SortStableFunc(names, func(a, b string) int { return tight(free[a], need) - tight(free[b], need) })
	return names
}

func tight(free, need int64) int {
	if free < need {
		return 1
	}
	return 0
}

// Holders are the hosts and the vaults that hold any part of a cut, as the catalogue says.
func Holders(cut store.Cut) (hosts, vaults []string) {
	for _, h := range cut.Hosts {
		hosts = append(hosts, h.Copies...)
		vaults = append(vaults, h.Vaults...)
	}
	slices.Sort(hosts)
	slices.Sort(vaults)
	return slices.Compact(hosts), slices.Compact(vaults)
}
