package custody

import (
	"context"
	"errors"

	"ss/fault"
	"ss/store/images"
)

// SettleCopy does what the host that the images come from says of the copy that this host holds.
func (h *Holder) SettleCopy(key images.Key, committed bool) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if committed {
		return h.cfg.Store.Commit(key)
	}
	_, err := h.cfg.Store.RemoveUncommitted(key) // a committed one is somebody's cut, whatever the caller believes
	return err
}

// Resolve settles image sets in doubt: some belong to a cut, some to nothing.
func (h *Holder) Resolve(ctx context.Context, committed, aborted []images.Key) error {
	var errs []error
	for _, k := range committed {
		if err := h.cfg.Store.Commit(k); err != nil && !errors.Is(err, images.ErrNotFound) {
			errs = append(errs, err)
		}
		h.jobs.Resolved(ctx, k, true)
	}
	doubt, err := h.inDoubt()
	if err != nil {
		return err
	}
	for _, k := range aborted {
		for _, d := range doubt { // never remove what is not in doubt, whatever the caller believes
			if d == k {
				_, err := h.cfg.Store.RemoveUncommitted(k)
				errs = append(errs, err)
				h.jobs.Resolved(ctx, k, false)
			}
		}
	}
	return errors.Join(errs...)
}

// cutMax bounds the manifest of a cut, in bytes. One of ten thousand channels has 4 MiB.
const cutMax = 16 << 20

// PutCut keeps the signed manifest of a cut that exists, and marks what this host holds of the cut as committed. Where vault is not
// empty, the manifest is put into that vault instead, in the place of one that says something else.
func (h *Holder) PutCut(ctx context.Context, vault, job, snapshot string, manifest []byte) error {
	key := images.Key{Job: job, Snapshot: snapshot, Host: h.cfg.Host}
	if err := checkKey(key); err != nil {
		return h.fault(err)
	}
	if len(manifest) == 0 || len(manifest) > cutMax {
		return h.fault(fault.New(fault.Usage, "a cut's manifest has between 1 B and 16 MiB", "use an ssctl of the agent's version"))
	}
	if vault != "" {
		return h.fault(h.putCutIn(ctx, vault, job, snapshot, manifest))
	}
	if err := h.cfg.Store.PutCut(ctx, job, snapshot, manifest); err != nil {
		return h.fault(err)
	}
	sets, err := h.cfg.Store.Sets()
	if err != nil {
		return h.fault(err)
	}
	var errs []error
	for _, set := range sets {
		if set.Key.Job != job || set.Key.Snapshot != snapshot {
			continue
		}
		if !set.Committed {
			errs = append(errs, h.cfg.Store.Commit(set.Key))
		}
		h.jobs.Resolved(ctx, set.Key, true)
	}
	return h.fault(errors.Join(errs...))
}
