package marker

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

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

// with returns the set that has h as well. It costs O(n), so no set that grows with the job is made by it.
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

// Digest names a list of participants. A Prepare carries it instead of the list, whose bytes would otherwise grow with the
// square of the job.
type Digest [sha256.Size]byte

// group is the participants of an attempt. It never changes, so states and attempts share one.
type group struct {
	digest Digest
	hosts  hostSet
}

func newGroup(hosts []HostID) *group {
	g := &group{hosts: newHostSet(hosts)}
	sum := sha256.New()
	for _, h := range g.hosts {
		sum.Write(binary.BigEndian.AppendUint32(nil, uint32(len(h))))
		sum.Write([]byte(h))
	}
	sum.Sum(g.digest[:0])
	return g
}

// has says whether h takes part. There is no group while nothing is known of one: after a restart, or while Idle.
func (g *group) has(h HostID) bool { return g != nil && g.hosts.has(h) }

func (g *group) all() hostSet {
	if g == nil {
		return nil
	}
	return g.hosts
}
