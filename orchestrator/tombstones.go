package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/fault"
	"ss/store"
	"ss/store/tombstone"
)

// sign makes the tombstone of a cut that is to be removed, and lists who has to see it: every host, whoever holds it, and the vaults.
func (c *Cluster) sign(ctx context.Context, t tombstone.Tombstone, statuses []HostStatus, hosts, vaults []string) (store.Removed, error) {
	if c.Statements == nil {
		return store.Removed{}, errors.New("no admin's key is here to sign the tombstone with")
	}
	cluster, err := c.Catalogue.Cluster(ctx)
	if err != nil {
		return store.Removed{}, err
	}
	t.Cluster, t.Removed = cluster.ID, time.Now()
	statement, err := t.Encode(c.Statements)
	if err != nil {
		return store.Removed{}, err
	}
	if t, err = tombstone.Decode(statement, c.Statements); err != nil { // its canonical form has the id
		return store.Removed{}, err
	}
	who := slices.Concat(hosts, vaults)
	for _, h := range statuses {
		who = append(who, h.Name)
	}
	return store.Removed{Cut: t.Cut, Job: t.Job, ID: t.ID(), Statement: statement, Holders: who, Pending: who}, nil
}

func tombstoneOf(cut store.Cut) tombstone.Tombstone {
	t := tombstone.Tombstone{Job: cut.Job, Cut: cut.ID, Epoch: cut.Epoch}
	for _, h := range cut.Hosts {
		t.Sets = append(t.Sets, tombstone.Set{Host: h.Host, Manifest: h.Manifest})
	}
	return t
}

// IsVault says whether a place is a vault, by its URL, and not a host.
func IsVault(place string) bool { return strings.Contains(place, "://") }

// bury shows a tombstone to those who have not seen it and can be reached, and has them remove what it covers; or, where everyone has seen it, has
// them forget it. Who cannot be reached is told another time. It returns what went wrong, by place.
func (c *Cluster) bury(ctx context.Context, r store.Removed, statuses []HostStatus, vaults bool) map[string]error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var told []string
	failed := map[string]error{}
	for _, place := range r.Pending {
		removal := Removal{Job: r.Job, Snapshot: r.Cut, Tombstone: r.Statement, Forget: r.Forgetting}
		var tell func() error
		if IsVault(place) {
			if !vaults {
				continue
			}
			removal.Vault = place
			tell = func() error {
				return c.OnVault(ctx, statuses, nil, func(a Agent) error { return a.RemoveImages(ctx, removal) })
			}
		} else {
			tell = func() error {
				a, err := c.Answering(statuses, place)
				if err != nil {
					return err
				}
				return a.RemoveImages(ctx, removal)
			}
		}
		if !r.Forgetting {
			c.Doing(place, "removing "+r.Cut)
		}
		wg.Go(func() {
			err := tell()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[place] = err
				return
			}
			told = append(told, place)
		})
	}
	wg.Wait()
	if err := c.Catalogue.Told(noted(ctx), r, told); err != nil {
		c.Noticef("the catalogue does not know which hosts have seen the tombstone of %s: %v", r.Cut, err)
	}
	return failed
}

// Spread shows tombstones to hosts, and with vaults to vaults, that have not seen them yet: they could not be reached when the cut was removed.
func (c *Cluster) Spread(ctx context.Context, statuses []HostStatus, vaults bool) error {
	all, err := c.Catalogue.Tombstones(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Forgetting && !vaults {
			continue // nobody waits for it
		}
		if on, err := c.restoring(ctx, r.Job); err != nil || on {
			if err != nil {
				return err
			}
			continue // the restore may have begun before the cut was removed
		}
		up := r
		up.Pending = slices.DeleteFunc(slices.Clone(r.Pending), func(place string) bool {
			return !IsVault(place) && slices.ContainsFunc(statuses, func(h HostStatus) bool { return h.Name == place && h.Err != nil })
		})
		failed := c.bury(ctx, up, statuses, vaults)
		for _, place := range slices.Sorted(maps.Keys(failed)) {
			c.Noticef("images of %s, which was removed, are left on %s until ssctl gc: %v", r.Cut, place, failed[place])
		}
	}
	return nil
}

// removeUnknown removes, on an admin's word, images of a snapshot that hosts or vaults hold and the catalogue has no cut of.
func (c *Cluster) removeUnknown(ctx context.Context, id string, force bool, notFound error) (store.Cut, error) {
	cluster, err := c.Catalogue.Cluster(ctx)
	if err != nil {
		return store.Cut{}, err
	}
	jobs, err := c.Catalogue.Jobs(ctx)
	if err != nil {
		return store.Cut{}, err
	}
	cuts, err := c.Catalogue.Cuts(ctx, "")
	if err != nil {
		return store.Cut{}, err
	}
	s, err := c.TakeCensus(ctx, "", VaultsOf(cluster, jobs, cuts))
	if err != nil {
		return store.Cut{}, err
	}
	if err := Current(s.Statuses); err != nil {
		return store.Cut{}, err
	}
	graves, err := c.OpenGraves(ctx, s)
	if err != nil {
		return store.Cut{}, err
	}
	t, hosts, vaults := s.unknown(id, graves)
	if len(t.Sets) == 0 {
		return store.Cut{}, notFound
	}
	if !force {
		return store.Cut{}, &fault.Error{Kind: fault.Refused, Op: "rm", Job: t.Job, Snapshot: id,
			Err:  fmt.Errorf("the catalogue has no such cut, and %s hold images of it", strings.Join(slices.Concat(hosts, vaults), ", ")),
			Next: "ssctl catalog rebuild --replace takes it in, if its manifest is there; to remove the images for good, give --force"}
	}
	if live, err := c.LiveAttempt(ctx, id); err != nil || live {
		return store.Cut{}, errors.Join(err, fault.New(fault.Conflict, "the snapshot is under way", "wait for its end"))
	}
	r, err := c.sign(ctx, t, s.Statuses, hosts, vaults)
	if err != nil {
		return store.Cut{}, err
	}
	if err := c.Catalogue.AddTombstone(ctx, r); err != nil {
		return store.Cut{}, err
	}
	failed := c.bury(ctx, r, s.Statuses, true)
	for _, place := range slices.Sorted(maps.Keys(failed)) {
		c.Noticef("images of %s are left on %s until ssctl gc: %v", id, place, failed[place])
	}
	gone := store.Cut{ID: id, Job: t.Job, Hosts: []store.CutHost{{Vaults: vaults}}}
	c.collectAfter(ctx, t.Job, []store.Cut{gone}, s.Statuses)
	return gone, nil
}

// LiveAttempt says whether an attempt is under way: its ssctl lives.
func (c *Cluster) LiveAttempt(ctx context.Context, id string) (bool, error) {
	attempts, err := c.Catalogue.Attempts(ctx)
	return slices.ContainsFunc(attempts, func(at store.Attempt) bool { return at.Live && at.ID == id }), err
}

// unknown makes a tombstone of all sets of a snapshot that are found and that none covers yet, and says where.
func (s Census) unknown(id string, graves []Grave) (t tombstone.Tombstone, hosts, vaults []string) {
	t.Cut = id
	look := func(inventories map[string]Inventory) (where []string) {
		for name, inv := range inventories {
			for _, set := range inv.Sets {
				if set.Key.Snapshot != id || set.Digest == "" || GraveOf(graves, set) != nil || t.Job != "" && t.Job != set.Key.Job {
					continue
				}
				t.Job, t.Epoch = set.Key.Job, max(t.Epoch, set.Epoch)
				t.Sets = append(t.Sets, tombstone.Set{Host: set.Key.Host, Manifest: set.Digest})
				where = append(where, name)
			}
		}
		slices.Sort(where)
		return slices.Compact(where)
	}
	return t, look(s.Hosts), look(s.Vaults)
}

// Grave is a tombstone, opened.
type Grave struct {
	tombstone.Tombstone
	Statement []byte
}

// OpenGraves opens the tombstones that the catalogue, the hosts and the vaults have.
func (c *Cluster) OpenGraves(ctx context.Context, s Census) ([]Grave, error) {
	if c.Statements == nil {
		return nil, nil
	}
	removed, err := c.Catalogue.Tombstones(ctx)
	if err != nil {
		return nil, err
	}
	var statements [][]byte
	for _, r := range removed {
		statements = append(statements, r.Statement)
	}
	for _, inventories := range []map[string]Inventory{s.Hosts, s.Vaults} {
		for _, inv := range inventories {
			for _, held := range inv.Tombstones {
				statements = append(statements, held.Manifest)
			}
		}
	}
	var graves []Grave
	seen := map[string]bool{}
	for _, s := range statements {
		t, err := tombstone.Decode(s, c.Statements)
		if err == nil && !seen[t.Cut+"/"+t.ID()] {
			seen[t.Cut+"/"+t.ID()] = true
			graves = append(graves, Grave{t, s})
		}
	}
	return graves, nil
}

// BuriedBy says whether one of the tombstones covers all of a cut.
func BuriedBy(graves []Grave, cut store.Cut) bool {
	return slices.ContainsFunc(graves, func(gr Grave) bool {
		return !slices.ContainsFunc(cut.Hosts, func(h store.CutHost) bool { return !gr.Covers(cut.Job, cut.ID, h.Host, h.Manifest) })
	})
}

// GraveOf finds the tombstone that covers a set; nil where none does.
func GraveOf(graves []Grave, s HeldSet) *Grave {
	for i := range graves {
		if graves[i].Covers(s.Key.Job, s.Key.Snapshot, s.Key.Host, s.Digest) {
			return &graves[i]
		}
	}
	return nil
}
