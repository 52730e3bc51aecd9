package upkeep

import (
	"context"
	"errors"
	"maps"
	"slices"

	"ss/fault"
	"ss/orchestrator"
	"ss/store"
	"ss/store/images"
)

// carryOut makes the copies, cut by cut, and writes down who holds what.
func (r *repair) carryOut(ctx context.Context, plans []repairPlan) {
	for _, cut := range r.cuts {
		changed := false
		for _, p := range plans {
			if p.Key.Snapshot != cut.ID || ctx.Err() != nil {
				continue
			}
			if p.State != StateLost && p.State != StateSilent {
				r.copyOut(ctx, p)
			}
			changed = r.writeDown(ctx, p) || changed
		}
		r.handOut(ctx, cut.ID, changed)
	}
}

// copyOut makes the copies of one part.
func (r *repair) copyOut(ctx context.Context, p repairPlan) {
	out := r.out[p.Key]
	left := slices.Clone(p.Spare)
	for queue := slices.Clone(p.Fetch); len(queue) > 0 && ctx.Err() == nil; {
		host := queue[0]
		queue = queue[1:]
		r.c.Doing(host, "fetching "+p.Key.Snapshot+", images of "+p.Key.Host)
		if _, err := r.fetch(ctx, host, p.repairPart); err != nil {
			r.failed(p.Key, "%s got no copy: %v", host, err)
			if len(left) > 0 {
				queue, left = append(queue, left[0]), left[1:]
			} else {
				out.State = StateShort
			}
			continue
		}
		r.did(p.Key, "copied to %s", host)
		p.Held, out.Copies = append(p.Held, host), append(out.Copies, host)
	}
	for _, v := range p.Push {
		if err := r.push(ctx, v, p.repairPart); err != nil {
			r.failed(p.Key, "%s got no copy: %v", v, err)
			out.State = StateShort
			continue
		}
		r.did(p.Key, "copied to %s", v)
		out.Vaults = append(out.Vaults, v)
	}
}

// push has one of those who hold a set put it into a vault. Nobody may collect there meanwhile.
func (r *repair) push(ctx context.Context, vault string, p repairPart) error {
	return r.c.Alone(ctx, p.Key.Job, func() error { return r.pushAlone(ctx, vault, p) })
}

func (r *repair) pushAlone(ctx context.Context, vault string, p repairPart) error {
	// The host that the images are of comes first: what else it holds it shares with them.
	held := slices.Clone(p.Held)
	slices.SortStableFunc(held, func(a, b string) int {
		switch {
		case a == p.Key.Host:
			return -1
		case b == p.Key.Host:
			return 1
		}
		return 0
	})
	var errs []error
	for _, host := range held {
		a, err := r.c.Answering(r.census.Statuses, host)
		if err == nil {
			r.c.Doing(host, "copying "+p.Key.Snapshot+", images of "+p.Key.Host+", to the vault")
			_, err = a.PushImages(ctx, p.Key, p.Digest, vault)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return fault.New(fault.NotFound, "no host holds the images that could put them there", "")
	}
	return errors.Join(errs...)
}

// writeDown notes in the catalogue who holds a part, if that has changed. What nobody holds any more keeps its record: it may come back.
func (r *repair) writeDown(ctx context.Context, p repairPlan) bool {
	out := r.out[p.Key]
	slices.Sort(out.Copies)
	slices.Sort(out.Vaults)
	if len(out.Copies)+len(out.Vaults) == 0 || slices.Equal(out.Copies, p.Copies) && slices.Equal(out.Vaults, p.Vaults) {
		return false
	}
	err := r.c.Catalogue.SetHolders(context.WithoutCancel(ctx), p.Key.Snapshot, p.Key.Host, out.Copies, out.Vaults)
	switch {
	case errors.Is(err, store.ErrNotFound):
		r.c.Noticef("%s was removed meanwhile; what was copied is in doubt and goes with the next snapshot or gc", p.Key.Snapshot)
	case err != nil:
		r.failed(p.Key, "the catalogue does not know of it: %v", err)
		out.State = StateShort
	}
	return err == nil
}

// handOut gives a cut's manifest to its holders, if it has changed or one of them lacks it.
func (r *repair) handOut(ctx context.Context, id string, changed bool) {
	cut, err := r.c.Catalogue.Cut(ctx, "", id)
	if err != nil || cut.ID != id {
		return // it was removed meanwhile
	}
	bad := r.census.BadManifests(cut, r.c.Verifier)
	for _, where := range slices.Sorted(maps.Keys(bad)) {
		key := images.Key{Job: cut.Job, Snapshot: cut.ID, Host: cut.Hosts[0].Host}
		if out := r.out[key]; out.State == StateWhole {
			out.State = StateRepaired
		}
		r.did(key, "signed the cut's manifest again for %s (%v)", where, bad[where])
	}
	if changed || r.unsaid[id] || len(bad) > 0 {
		r.c.Publish(ctx, cut, r.census.Statuses)
	}
}

// healVaults reads what the vaults hold of the cuts. Objects in a vault are never replaced, so a damaged one has to go first, and with
// it every set that refers to it; what a host has whole is put there again.
func (r *repair) healVaults(ctx context.Context) {
	type place struct{ vault, job string }
	damaged := map[place][]int{}
	for i := range r.parts {
		p := &r.parts[i]
		for _, v := range slices.Clone(p.HeldIn) {
			r.c.Doing(v, "reading "+p.Key.Snapshot+", images of "+p.Key.Host)
			err := r.verifyIn(ctx, v, *p)
			if err == nil {
				continue
			}
			if !fault.Is(err, fault.Integrity) && !fault.Is(err, fault.NotFound) {
				r.c.Noticef("the copy of %s in %s could not be read, and counts: %v", p.Key, v, err)
				continue
			}
			p.HeldIn = slices.DeleteFunc(p.HeldIn, func(u string) bool { return u == v })
			if r.onHosts(p.Key.Snapshot) {
				damaged[place{v, p.Key.Job}] = append(damaged[place{v, p.Key.Job}], i)
			} else {
				r.failed(p.Key, "the copy in %s is not whole: %v", v, err)
			}
		}
	}
	for i, p := range r.parts { // what was put there and is there no more may have left a damaged manifest, which nothing replaces either
		for _, v := range p.Vaults {
			if _, up := r.census.Vaults[v]; up && !slices.Contains(holding(r.census.Vaults, p.Key), v) && r.onHosts(p.Key.Snapshot) {
				damaged[place{v, p.Key.Job}] = append(damaged[place{v, p.Key.Job}], i)
			}
		}
	}
	for at, parts := range damaged {
		err := r.c.Alone(ctx, at.job, func() error { return r.healVault(ctx, at.vault, at.job, parts) })
		if err != nil {
			for _, i := range parts {
				r.failed(r.parts[i].Key, "the damaged copy in %s is not replaced: %v", at.vault, err)
			}
		}
	}
}

// onHosts says whether every part of a cut is whole on a host, so that what a vault has of it may go.
func (r *repair) onHosts(snapshot string) bool {
	return !slices.ContainsFunc(r.parts, func(p repairPart) bool { return p.Key.Snapshot == snapshot && len(p.Held) == 0 })
}

func (r *repair) verifyIn(ctx context.Context, vault string, p repairPart) error {
	return r.c.OnVault(ctx, r.census.Statuses, p.Held, func(a orchestrator.Agent) error {
		_, err := a.VerifyImages(ctx, orchestrator.VerifyRequest{Key: p.Key, Digest: p.Digest, Vault: vault})
		return err
	})
}

// healVault takes damaged sets of a job out of a vault, frees the room, so that no damaged object is left, and puts the sets there again.
func (r *repair) healVault(ctx context.Context, vault, job string, parts []int) error {
	on := func(do func(orchestrator.Agent) error) error { return r.c.OnVault(ctx, r.census.Statuses, nil, do) }
	gone := map[string]bool{}
	for _, i := range parts {
		id := r.parts[i].Key.Snapshot
		if gone[id] {
			continue
		}
		gone[id] = true
		r.unsaid[id] = true // its manifest goes as well
		if err := on(func(a orchestrator.Agent) error {
			return a.RemoveImages(ctx, orchestrator.Removal{Vault: vault, Job: job, Snapshot: id, Replace: true})
		}); err != nil {
			return err
		}
	}
	if err := on(func(a orchestrator.Agent) error { _, err := a.Collect(ctx, vault, job, false); return err }); err != nil {
		return err
	}
	for i := range r.parts { // all parts of these cuts went: the plan puts back those that no host is named for here
		p := &r.parts[i]
		if p.Key.Job != job || !gone[p.Key.Snapshot] {
			continue
		}
		p.HeldIn = slices.DeleteFunc(p.HeldIn, func(u string) bool { return u == vault })
		if err := r.pushAlone(ctx, vault, *p); err != nil {
			r.failed(p.Key, "%s got no new copy: %v", vault, err)
			continue
		}
		if err := r.verifyIn(ctx, vault, *p); err != nil {
			r.failed(p.Key, "the copy in %s is still damaged: %v; ssctl gc, and then repair again", vault, err)
			continue
		}
		r.did(p.Key, "made the copy in %s again", vault)
		p.HeldIn = append(p.HeldIn, vault)
		slices.Sort(p.HeldIn)
	}
	return nil
}
