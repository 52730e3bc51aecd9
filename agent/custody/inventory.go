package custody

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"ss/fault"
	"ss/names"
	"ss/store/blob"
	"ss/store/images"
)

// Inventory is what a host or a vault holds.
type Inventory struct {
	Sets   []images.Set
	Cuts   []StoredCut
	Usage  []images.Usage
	Damage []images.Damage
	// Tombstones are the signed words that cuts were removed.
	Tombstones []images.StoredTombstone
}

// StoredCut is the signed manifest of a cut, as it was put there.
type StoredCut struct {
	Job, Snapshot string
	Manifest      []byte
}

// Inventory lists what this host holds of a job, or of all if job is empty. Where vault is not empty it lists what is there: a set
// counts as committed if its cut's manifest is in the vault, too, and a manifest that cannot be read is listed as damage.
func (h *Holder) Inventory(ctx context.Context, vault, job string) (Inventory, error) {
	var inv Inventory
	var err error
	if vault != "" {
		inv, err = h.inventoryOf(ctx, vault, job)
	} else {
		inv, err = h.inventoryHere(ctx, job)
	}
	if err != nil {
		return Inventory{}, h.fault(err)
	}
	slices.SortFunc(inv.Cuts, func(x, y StoredCut) int { return strings.Compare(x.Job+"/"+x.Snapshot, y.Job+"/"+y.Snapshot) })
	return inv, nil
}

func (h *Holder) inventoryHere(ctx context.Context, job string) (Inventory, error) {
	var inv Inventory
	other := func(j string) bool { return job != "" && j != job }
	var err error
	if inv.Sets, err = h.cfg.Store.Sets(); err != nil {
		return inv, err
	}
	if inv.Usage, err = h.cfg.Store.Usage(ctx); err != nil {
		return inv, err
	}
	if inv.Damage, err = h.cfg.Store.Damaged(); err != nil {
		return inv, err
	}
	if inv.Tombstones, err = h.cfg.Store.Tombstones(ctx, job); err != nil {
		return inv, err
	}
	cuts, err := h.cfg.Store.Cuts(ctx)
	if err != nil {
		return inv, err
	}
	for j, bySnapshot := range cuts {
		if other(j) {
			continue
		}
		for snapshot, b := range bySnapshot {
			inv.Cuts = append(inv.Cuts, StoredCut{j, snapshot, b})
		}
	}
	inv.Sets = slices.DeleteFunc(inv.Sets, func(s images.Set) bool { return other(s.Key.Job) })
	inv.Usage = slices.DeleteFunc(inv.Usage, func(u images.Usage) bool { return other(u.Job) })
	inv.Damage = slices.DeleteFunc(inv.Damage, func(d images.Damage) bool { return other(d.Job) })
	return inv, nil
}

func (h *Holder) inventoryOf(ctx context.Context, vault, job string) (Inventory, error) {
	v, err := h.vault(ctx, vault)
	if err != nil {
		return Inventory{}, err
	}
	keys, err := images.SetsIn(ctx, v, job)
	if err != nil {
		return Inventory{}, err
	}
	var jobs []string
	if job != "" {
		jobs = append(jobs, job)
	}
	for _, k := range keys {
		jobs = append(jobs, k.Job)
	}
	slices.Sort(jobs)
	var inv Inventory
	exists := map[string]bool{}
	for _, j := range slices.Compact(jobs) {
		cuts, err := cutsIn(ctx, v, j)
		if err != nil {
			return Inventory{}, err
		}
		for _, c := range cuts {
			exists[images.CutName(c.Job, c.Snapshot)] = true
		}
		inv.Cuts = append(inv.Cuts, cuts...)
		removed, err := images.TombstonesIn(ctx, v, j)
		if err != nil {
			return Inventory{}, err
		}
		inv.Tombstones = append(inv.Tombstones, removed...)
		u := images.Usage{Job: j}
		for o, err := range v.List(ctx, images.ObjectName(j, "")) {
			if err != nil {
				return Inventory{}, err
			}
			u.Stored += o.Size
		}
		inv.Usage = append(inv.Usage, u)
	}
	for _, k := range keys {
		man, err := images.ManifestIn(ctx, v, k)
		var bad *images.IntegrityError
		switch {
		case errors.As(err, &bad):
			inv.Damage = append(inv.Damage, images.Damage{Job: k.Job, Detail: err.Error()})
			continue
		case errors.Is(err, images.ErrNotFound): // removed meanwhile
			continue
		case err != nil: // also what a newer program put there: that is not damaged
			return Inventory{}, err
		}
		set := images.Set{Key: k, Manifest: man, Committed: exists[images.CutName(k.Job, k.Snapshot)]}
		inv.Sets = append(inv.Sets, set)
		i := slices.IndexFunc(inv.Usage, func(u images.Usage) bool { return u.Job == k.Job })
		inv.Usage[i].Sets++
		inv.Usage[i].Logical += set.Manifest.Bytes
	}
	return inv, nil
}

func cutsIn(ctx context.Context, v blob.Reader, job string) ([]StoredCut, error) {
	var out []StoredCut
	prefix := images.CutName(job, "")
	for o, err := range v.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		b, err := readAll(ctx, v, o.Name, cutMax)
		if errors.Is(err, blob.ErrNotFound) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, StoredCut{job, strings.TrimPrefix(o.Name, prefix), b})
	}
	return out, nil
}

// readAll reads a small object.
func readAll(ctx context.Context, v blob.Reader, name string, limit int64) (b []byte, err error) {
	r, err := v.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if b, err = io.ReadAll(io.LimitReader(r, limit+1)); err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, &images.IntegrityError{Object: name, Detail: fmt.Sprintf("it has more than %d MiB", limit>>20)}
	}
	return b, nil
}

// putCutIn puts a cut's manifest into a vault. What a name has is never written over, so another manifest of the cut (its holders
// have changed) is removed first: a crash between the two leaves it to the next PutCut, and to those who hold it elsewhere.
func (h *Holder) putCutIn(ctx context.Context, vault, job, snapshot string, manifest []byte) error {
	v, err := h.vault(ctx, vault)
	if err != nil {
		return err
	}
	name := images.CutName(job, snapshot)
	old, err := readAll(ctx, v, name, cutMax)
	var bad *images.IntegrityError
	switch {
	case err == nil && bytes.Equal(old, manifest):
		return nil
	case err == nil, errors.As(err, &bad):
		if err := v.Remove(ctx, name); err != nil {
			return err
		}
	case !errors.Is(err, blob.ErrNotFound):
		return err
	}
	return v.Put(ctx, name, bytes.NewReader(manifest), int64(len(manifest)))
}

// Collect removes the objects of a job (empty: of all) that no image set refers to, from this host, or from a vault, where a job
// must be named. With dry it only counts.
func (h *Holder) Collect(ctx context.Context, vault, job string, dry bool) (images.Garbage, error) {
	fail := func(err error) (images.Garbage, error) {
		return images.Garbage{}, h.fault(err)
	}
	if job != "" && !names.Valid(job) || job == "" && vault != "" {
		return fail(fault.New(fault.Usage, fmt.Sprintf("invalid job name %q", job), "objects in a vault are collected job by job"))
	}
	if vault == "" {
		if !dry {
			if err := h.sweep(ctx, job); err != nil {
				return fail(err)
			}
		}
		g, err := h.cfg.Store.Collect(ctx, job, dry)
		if err != nil {
			return fail(err)
		}
		return g, nil
	}
	v, err := h.vault(ctx, vault)
	if err != nil {
		return fail(err)
	}
	if !dry {
		if err := h.sweepIn(ctx, v, job); err != nil {
			return fail(err)
		}
	}
	g, err := images.CollectIn(ctx, v, job, dry)
	if err != nil {
		return fail(err)
	}
	return g, nil
}
