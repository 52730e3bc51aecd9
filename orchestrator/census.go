package orchestrator

import (
	"context"
	"maps"
	"slices"
	"sync"

	"ss/fault"
	"ss/store"
)

// Census is what the hosts and vaults of a cluster hold, as far as they say.
type Census struct {
	Statuses []HostStatus
	Hosts    map[string]Inventory // by name
	Vaults   map[string]Inventory // by URL
	Silent   map[string]error     // hosts and vaults of which it is not known what they hold
}

// TakeCensus asks every host, and each of the vaults by way of a host, what it holds of a job ("": of all).
func (c *Cluster) TakeCensus(ctx context.Context, job string, vaults []string) (Census, error) {
	statuses, err := c.Hosts(ctx)
	if err != nil {
		return Census{}, err
	}
	return c.Inventories(ctx, job, statuses, vaults), nil
}

// Inventories asks the hosts that have answered, and the vaults, what they hold of a job ("": of all).
func (c *Cluster) Inventories(ctx context.Context, job string, statuses []HostStatus, vaults []string) Census {
	s := Census{Statuses: statuses, Hosts: map[string]Inventory{}, Vaults: map[string]Inventory{}, Silent: map[string]error{}}
	ctx, cancel := context.WithTimeout(ctx, VaultTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	ask := func(where string, into map[string]Inventory, get func() (Inventory, error)) {
		wg.Go(func() {
			inv, err := get()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.Silent[where] = err
				return
			}
			into[where] = inv
		})
	}
	for _, h := range statuses {
		ask(h.Name, s.Hosts, func() (Inventory, error) {
			a, err := c.Answering(statuses, h.Name)
			if err != nil {
				return Inventory{}, err
			}
			return a.Inventory(ctx, "", job)
		})
	}
	for _, v := range vaults {
		ask(v, s.Vaults, func() (inv Inventory, err error) {
			err = c.OnVault(ctx, statuses, nil, func(a Agent) (err error) {
				inv, err = a.Inventory(ctx, v, job)
				return err
			})
			return inv, err
		})
	}
	wg.Wait()
	return s
}

// VaultsOf lists every vault that a cluster, its jobs or its cuts name.
func VaultsOf(cluster store.Cluster, jobs []store.Job, cuts []store.Cut) []string {
	names := map[string]bool{}
	add := func(urls []string) {
		for _, u := range urls {
			names[u] = true
		}
	}
	add(cluster.Vaults)
	for _, j := range jobs {
		add(j.Policy.Vaults)
	}
	for _, cut := range cuts {
		_, vaults := Holders(cut)
		add(vaults)
	}
	return slices.Sorted(maps.Keys(names))
}

// hasCut says whether a cut's manifest is in an inventory.
func (inv Inventory) hasCut(id string) bool {
	return slices.ContainsFunc(inv.Cuts, func(c HeldCut) bool { return c.Snapshot == id })
}

// BadManifests says what is wrong with the cut's signed manifest on those of its holders that have answered, by holder: it is missing, damaged, or
// that of another cut.
func (s Census) BadManifests(cut store.Cut, v store.Verifier) map[string]error {
	hosts, vaults := Holders(cut)
	bad := map[string]error{}
	look := func(inventories map[string]Inventory, names []string) {
		for _, where := range names {
			if inv, up := inventories[where]; up {
				if err := inv.checkManifest(cut, v); err != nil {
					bad[where] = err
				}
			}
		}
	}
	look(s.Hosts, hosts)
	look(s.Vaults, vaults)
	return bad
}

// LacksCut says whether one of a cut's holders does not have its manifest, or has it damaged.
func (s Census) LacksCut(cut store.Cut, v store.Verifier) bool {
	return len(s.BadManifests(cut, v)) > 0
}

// ErrNoManifest says that a holder does not have the cut's signed manifest. The news of a commit may not have reached it; that is not damage.
var ErrNoManifest = fault.New(fault.Integrity, "the cut's signed manifest is missing", "")

// checkManifest says what is wrong with a cut's manifest in an inventory.
func (inv Inventory) checkManifest(cut store.Cut, v store.Verifier) error {
	i := slices.IndexFunc(inv.Cuts, func(c HeldCut) bool { return c.Job == cut.Job && c.Snapshot == cut.ID })
	if i < 0 {
		return ErrNoManifest
	}
	if v == nil {
		return nil
	}
	f, err := store.DecodeCutFile(inv.Cuts[i].Manifest, v)
	if err != nil {
		return &fault.Error{Kind: fault.Integrity, Err: err}
	}
	same := f.Cut.ID == cut.ID && f.Cut.Job == cut.Job && f.Cut.Epoch == cut.Epoch && slices.EqualFunc(f.Cut.Hosts, cut.Hosts, func(a, b store.CutHost) bool {
		return a.Host == b.Host && a.Manifest == b.Manifest
	})
	if !same {
		return fault.New(fault.Integrity, "the signed manifest is that of another cut", "")
	}
	return nil
}

// Candidates are the hosts that a copy may go to.
func (s Census) Candidates() []Candidate {
	var out []Candidate
	for _, h := range s.Statuses {
		if s.Silent[h.Name] == nil {
			out = append(out, Candidate{h.Name, h.Info.FreeBytes})
		}
	}
	return out
}

// Participants finds hosts by their names.
func (s Census) Participants(names []string) []Participant {
	var out []Participant
	for _, h := range s.Statuses {
		if slices.Contains(names, h.Name) {
			out = append(out, h.participant())
		}
	}
	return out
}
