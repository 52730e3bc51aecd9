package orchestrator

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// rank orders the hosts that may hold copies of a host's images, best first: rendezvous hashing (Thaler and Ravishankar, "Using name-based
// mappings to increase hit rates", 1998), in which the highest random weight wins. hosts are those with room, in any order; source, whose images they
// are, is left out, and so is a host named twice.
//
// A host's weight depends on no other host. So one that comes takes only what it now is best for, one that goes leaves to the others only
// what it held, and the copies of a job's second cut go where those of its first are: most of its chunks are there already. The job is in
// it so that the jobs of one host do not all burden the same neighbour.
func rank(job, source string, hosts []string) []string {
	weight := make(map[string]uint64, len(hosts))
	for _, h := range hosts {
		if h != source {
			weight[h] = placementWeight(job, source, h)
		}
	}
	ranked := make([]string, 0, len(weight))
	for h := range weight {
		ranked = append(ranked, h)
	}
	slices.SortFunc(ranked, func(a, b string) int { return cmp.Or(cmp.Compare(weight[b], weight[a]), cmp.Compare(a, b)) })
	return ranked
}

// placementWeight is the same on every machine and in every version, or copies would move for nothing. No name has a zero byte in it.
func placementWeight(job, source, host string) uint64 {
	sum := sha256.Sum256([]byte(job + "\x00" + source + "\x00" + host))
	return binary.BigEndian.Uint64(sum[:])
}
