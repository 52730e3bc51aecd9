package upkeep

import (
	"slices"

	"ss/orchestrator"
	"ss/store"
	"ss/store/images"
)

// repairPart is one host's part of a cut, and who was found to hold it.
type repairPart struct {
	Key    images.Key
	Digest string
	Bytes  int64 // about
	// As the catalogue has it.
	Copies, Vaults []string
	// As it was found, and is known to be whole.
	Held, HeldIn []string
	// As it should be.
	WantHosts  int
	WantVaults []string
}

// repairPlan says what is to be done for one part.
type repairPlan struct {
	repairPart
	Await   []string // holders that do not answer, hosts and vaults: no copy is made in place of theirs until someone says that they are lost
	Fetch   []string // hosts that get a copy
	Spare   []string // hosts that may get it instead
	Push    []string // vaults that get one
	Missing int      // copies that no host is left for
	State   RepairState
}

// RepairState is how a part of a cut stands.
type RepairState string

// The states. Of the last two, no copy is left to make another of.
const (
	StateWhole    RepairState = "whole"
	StateRepaired RepairState = "repaired"
	StateShort    RepairState = "short" // fewer copies than there should be
	// StateUnconfirmed: there are enough copies only if those who do not answer still hold theirs.
	StateUnconfirmed RepairState = "unconfirmed"
	StateSilent      RepairState = "out of reach" // those who hold it do not answer
	StateLost        RepairState = "lost"
)

// planRepair decides what brings the parts back to their copies. up are the hosts that answer, silent says of which hosts and vaults
// it is not known what they hold. Hosts that are neither are not registered any more and count for nothing.
func planRepair(parts []repairPart, up []orchestrator.Candidate, silent map[string]bool) []repairPlan {
	var out []repairPlan
	for _, p := range parts {
		out = append(out, planRepairOf(p, up, silent))
	}
	return out
}

func planRepairOf(p repairPart, up []orchestrator.Candidate, silent map[string]bool) repairPlan {
	plan := repairPlan{repairPart: p, State: StateWhole}
	await := 0
	for _, h := range p.Copies {
		if silent[h] {
			plan.Await = append(plan.Await, h)
			await++
		}
	}
	for _, v := range p.Vaults {
		if silent[v] {
			plan.Await = append(plan.Await, v)
		}
	}
	if len(p.Held)+len(p.HeldIn) == 0 {
		plan.State = StateLost
		if len(plan.Await) > 0 {
			plan.State = StateSilent
		}
		return plan
	}
	need := max(0, p.WantHosts-len(p.Held)-await)
	if len(p.Held) == 0 {
		need = max(1, need) // only vaults have it that answer: one host should as well, and the other vaults get it from there
	}
	plan.Fetch, plan.Spare = newHolders(p, up, need)
	plan.Missing = need - len(plan.Fetch)
	for _, v := range p.WantVaults {
		switch {
		case silent[v] && !slices.Contains(p.Vaults, v):
			plan.Missing++
		case !silent[v] && !slices.Contains(p.HeldIn, v):
			plan.Push = append(plan.Push, v)
		}
	}
	switch {
	case plan.Missing > 0:
		plan.State = StateShort
	case len(p.Held)+len(plan.Fetch) < p.WantHosts, slices.ContainsFunc(p.WantVaults, func(v string) bool { return slices.Contains(plan.Await, v) }):
		plan.State = StateUnconfirmed
	case len(plan.Fetch)+len(plan.Push) > 0:
		plan.State = StateRepaired
	}
	return plan
}

// newHolders chooses hosts for copies: the one that the images are of, if it has none, and then by rank.
func newHolders(p repairPart, up []orchestrator.Candidate, need int) (fetch, spare []string) {
	free := slices.DeleteFunc(slices.Clone(up), func(h orchestrator.Candidate) bool { return slices.Contains(p.Held, h.Name) })
	names := orchestrator.OrderHolders(p.Key.Job, p.Key.Host, free, p.Bytes)
	if slices.ContainsFunc(free, func(h orchestrator.Candidate) bool { return h.Name == p.Key.Host }) {
		names = append([]string{p.Key.Host}, names...) // order leaves it out
	}
	need = min(need, len(names))
	return names[:need], names[need:]
}

// partsOf lists the parts of cuts, and what their jobs want of them.
func partsOf(cuts []store.Cut, jobs map[string]store.Job, cluster store.Cluster) []repairPart {
	var out []repairPart
	for _, cut := range cuts {
		job := jobs[cut.Job]
		vaults := job.EffectiveVaults(cluster)
		for _, h := range cut.Hosts {
			p := repairPart{Key: images.Key{Job: cut.Job, Snapshot: cut.ID, Host: h.Host}, Digest: h.Manifest, Copies: h.Copies, Vaults: h.Vaults,
				WantHosts: orchestrator.HostCopies(job.Policy.EffectiveCopies(), len(vaults)), WantVaults: vaults}
			for _, m := range h.Members {
				p.Bytes += m.ImageBytes
			}
			out = append(out, p)
		}
	}
	return out
}
