package marker

import "slices"

// hostSet is a sorted set of hosts. It is never changed in place, so states may share one.
type hostSet []HostID

func newHostSet(hosts []HostID) hostSet {
	s := slices.Clone(hosts)
	slices.Sort(s)
	return hostSet(slices.Compact(s))
}

func (s hostSet) has(h HostID) bool {
	_, found := slices.BinarySearch(s, h)
	return found
}

// with returns the set that has h as well.
func (s hostSet) with(h HostID) hostSet {
	i, found := slices.BinarySearch(s, h)
	if found {
		return s
	}
	next := make(hostSet, 0, len(s)+1)
	next = append(next, s[:i]...)
	next = append(next, h)
	return append(next, s[i:]...)
}
