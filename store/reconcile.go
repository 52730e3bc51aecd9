package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// EpochMargin is what Reconcile adds to the last epoch that a job's manifests know. Epochs of snapshots that were aborted, and of restores and
// collections, left no manifest, but agents may have seen them, and refuse every epoch that is not higher than any they saw (M12 of docs/protocol.md).
// A thousand attempts in a row without a cut are not to be expected; and if they were made, snapshots are refused until
// the epoch has passed them, and nothing worse.
const EpochMargin = 1000

// Set names an image set as it was found: whose part of which cut, and the digest of its manifest in hex. One of another
// digest than the cut's is another set, and no copy.
type Set struct {
	Cut, Host, Manifest string
}

// Holders are those who hold a set: hosts by name, vaults by URL.
type Holders struct {
	Copies, Vaults []string
}

// Held is who holds what, as it was found.
type Held map[Set]Holders

// AddCopy notes that a host holds a set.
func (h Held) AddCopy(s Set, host string) {
	at := h[s]
	at.Copies = sorted(append(at.Copies, host))
	h[s] = at
}

// AddVault notes that a vault holds a set.
func (h Held) AddVault(s Set, url string) {
	at := h[s]
	at.Vaults = sorted(append(at.Vaults, url))
	h[s] = at
}

// Reconcile makes of the manifests of cuts, and of what is held, what a catalogue that is lost would say, as far as they know it. The same
// manifest may be there several times, in several versions. It is a pure function, and the order of files is of no account.
//
// The cluster's record, each host's and each job's (with its policy and key) are those of the newest file that has one; hosts are
// never left out. A job's epoch is the highest known and EpochMargin. A cut is in if each of its parts is held by someone, with the holders that
// were found. The remarks are for people: cuts that are not whole any more, sets of which no manifest speaks, and what else may
// not be as it was.
func Reconcile(files []CutFile, held Held) (Rebuilt, []string) {
	if len(files) == 0 {
		return Rebuilt{}, strangers(nil, held)
	}
	files, remarks := ofOneCluster(slices.SortedFunc(slices.Values(files), olderFile))
	newest := files[len(files)-1]
	r := Rebuilt{Cluster: newest.Cluster}
	hosts, jobs, cuts := map[string]Host{}, map[string]Job{}, map[string]Cut{}
	for _, f := range files { // later ones replace earlier ones
		for _, h := range f.Hosts {
			hosts[h.Name] = h
		}
		cuts[f.Cut.ID] = f.Cut
	}
	// Within a job its epoch says what came first, whatever was done to the clock.
	byEpoch := slices.SortedStableFunc(slices.Values(files), func(a, b CutFile) int { return cmp.Compare(a.Epoch, b.Epoch) })
	for _, f := range byEpoch {
		jobs[f.Job.Name] = laterJob(jobs[f.Job.Name], f)
	}
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		r.Hosts = append(r.Hosts, hosts[name])
		if !slices.ContainsFunc(newest.Hosts, func(h Host) bool { return h.Name == name }) {
			remarks = append(remarks, fmt.Sprintf("host %s is in older manifests only: if it was removed, remove it again with \"ssctl host rm\"", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(jobs)) {
		j := jobs[name]
		j.Epoch = min(j.Epoch+EpochMargin, maxEpoch)
		r.Jobs = append(r.Jobs, j)
	}
	for _, cut := range slices.SortedFunc(maps.Values(cuts), older) {
		found, missing := holdersOf(cut, held)
		if len(missing) > 0 {
			remarks = append(remarks, fmt.Sprintf("cut %s of job %s is left out: nobody who answered holds the images of %s; "+
				"if someone else does, rebuild again in another folder when they answer", cut.ID, cut.Job, strings.Join(missing, ", ")))
			continue
		}
		r.Cuts = append(r.Cuts, found)
	}
	return r, append(remarks, strangers(cuts, held)...)
}

// olderFile orders files by the time they were signed. Those of one time are ordered somehow, but always the same way.
func olderFile(a, b CutFile) int {
	if c := cmp.Or(a.Signed.Compare(b.Signed), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Cut.ID, b.Cut.ID)); c != 0 {
		return c
	}
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	if errA != nil || errB != nil { // DecodeCutFile gives none that cannot be encoded
		return 0
	}
	return slices.Compare(textA, textB)
}

// ofOneCluster leaves out what is not of the newest file's cluster. No verifier lets such a file through; one that did must not mix clusters.
func ofOneCluster(files []CutFile) (own []CutFile, remarks []string) {
	cluster := files[len(files)-1].Cluster.ID
	for _, f := range files {
		if f.Cluster.ID != cluster {
			remarks = append(remarks, fmt.Sprintf("cut %s is left out: it is of cluster %s, not of %s", f.Cut.ID, f.Cluster.ID, cluster))
			continue
		}
		own = append(own, f)
	}
	return own, remarks
}

// laterJob is what a file that came after all others that j is made of says of the job. A key that was known is not forgotten.
func laterJob(j Job, f CutFile) Job {
	later := f.Job
	if later.Key == "" {
		later.Key, later.KeyID = f.Cut.Key, f.Cut.KeyID
	}
	if later.Key == "" {
		later.Key, later.KeyID = j.Key, j.KeyID
	}
	later.Epoch = max(j.Epoch, f.Epoch, f.Cut.Epoch)
	return later
}

// holdersOf returns the cut with those who hold its parts, and the hosts whose parts nobody holds.
func holdersOf(cut Cut, held Held) (found Cut, missing []string) {
	cut.Hosts = slices.Clone(cut.Hosts)
	for i := range cut.Hosts {
		h := &cut.Hosts[i]
		at := held[Set{cut.ID, h.Host, h.Manifest}]
		h.Copies, h.Vaults = sorted(slices.Clone(at.Copies)), sorted(slices.Clone(at.Vaults))
		if len(at.Copies)+len(at.Vaults) == 0 {
			missing = append(missing, h.Host)
		}
	}
	return cut, missing
}

// strangers remarks on sets that no cut speaks of.
func strangers(cuts map[string]Cut, held Held) (remarks []string) {
	sets := slices.SortedFunc(maps.Keys(held), func(a, b Set) int {
		return cmp.Or(cmp.Compare(a.Cut, b.Cut), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Manifest, b.Manifest))
	})
	for _, s := range sets {
		cut, ok := cuts[s.Cut]
		if ok && slices.ContainsFunc(cut.Hosts, func(h CutHost) bool { return h.Host == s.Host && h.Manifest == s.Manifest }) {
			continue
		}
		why := "no signed manifest of that snapshot was found"
		if ok {
			why = "the snapshot's manifest names another set, or none, as that host's"
		}
		remarks = append(remarks, fmt.Sprintf("images of %s in snapshot %s, held by %s, belong to no cut: %s", s.Host, s.Cut,
			strings.Join(slices.Concat(held[s].Copies, held[s].Vaults), ", "), why))
	}
	return remarks
}
