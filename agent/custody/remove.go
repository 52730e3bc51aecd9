package custody

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"ss/fault"
	"ss/store/blob"
	"ss/store/images"
	"ss/store/tombstone"
)

// Removal says what is to be removed of a snapshot, and on whose word.
type Removal struct {
	Vault         string // URL; "": this host
	Job, Snapshot string
	// Tombstone is an admin's signed word that a cut of that id was removed. Without one, only what belongs to no cut is removed.
	Tombstone []byte
	// Forget removes the tombstone itself: every holder has seen it.
	Forget bool
	// Replace, in a vault only, removes what is about to be put there again from hosts that have it whole.
	Replace bool
}

// RemoveCut removes image sets of a snapshot, and its manifest, and returns how many sets there were. Objects go with the next Collect.
// A set that is committed, or whose cut has a signed manifest here, goes only with a tombstone that names it: fault.Refused otherwise.
func (h *Holder) RemoveCut(ctx context.Context, r Removal) (int, error) {
	n, err := h.removeCut(ctx, r)
	return n, h.fault(err)
}

func (h *Holder) removeCut(ctx context.Context, r Removal) (int, error) {
	if err := checkKey(images.Key{Job: r.Job, Snapshot: r.Snapshot, Host: h.cfg.Host}); err != nil {
		return 0, err
	}
	if r.Tombstone == nil {
		if r.Vault != "" {
			return h.removeOrphansIn(ctx, r)
		}
		return h.removeOrphans(ctx, r)
	}
	t, err := tombstone.Decode(r.Tombstone, h.cfg.Verifier)
	if err == nil && (t.Job != r.Job || t.Cut != r.Snapshot) {
		err = fmt.Errorf("it is that of %s/%s", t.Job, t.Cut)
	}
	if err != nil {
		return 0, &fault.Error{Kind: fault.Denied, Err: fmt.Errorf("tombstone of %s/%s: %w", r.Job, r.Snapshot, err), Next: "nothing was removed"}
	}
	if r.Vault != "" {
		return h.removeWithIn(ctx, r, t)
	}
	if r.Forget {
		return 0, h.cfg.Store.ForgetTombstone(ctx, t.Job, t.Cut, t.ID())
	}
	// The tombstone is written before anything is removed: an agent that is stopped in between goes on with the next Collect.
	if err := h.cfg.Store.PutTombstone(ctx, images.StoredTombstone{Job: t.Job, Snapshot: t.Cut, ID: t.ID(), Data: r.Tombstone}); err != nil {
		return 0, err
	}
	return h.bury(ctx, t)
}

// removeOrphans removes what belongs to no cut.
func (h *Holder) removeOrphans(ctx context.Context, r Removal) (int, error) {
	sets, err := h.cfg.Store.Sets()
	if err != nil {
		return 0, err
	}
	n, kept := 0, false
	for _, set := range sets {
		if set.Key.Job != r.Job || set.Key.Snapshot != r.Snapshot {
			continue
		}
		k, err := h.cfg.Store.RemoveUncommitted(set.Key)
		if err != nil {
			return n, err
		}
		if kept = kept || k; !k {
			n++
		}
	}
	if kept {
		return n, existsHere(r)
	}
	return n, nil
}

func existsHere(r Removal) error {
	return fault.New(fault.Refused, fmt.Sprintf("the images of %s/%s belong to a cut that exists, and no tombstone says that it was removed", r.Job, r.Snapshot),
		"ssctl rm "+r.Snapshot+" removes the cut")
}

func (h *Holder) removeOrphansIn(ctx context.Context, r Removal) (int, error) {
	v, err := h.vault(ctx, r.Vault)
	if err != nil {
		return 0, err
	}
	_, err = v.Stat(ctx, images.CutName(r.Job, r.Snapshot))
	if err == nil && !r.Replace {
		return 0, existsHere(r)
	}
	if err != nil && !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, blob.ErrDamaged) {
		return 0, err
	}
	return images.RemoveIn(ctx, v, r.Job, r.Snapshot)
}

// bury removes from this host what a tombstone covers.
func (h *Holder) bury(ctx context.Context, t tombstone.Tombstone) (int, error) {
	cuts, err := h.cfg.Store.Cuts(ctx)
	if err != nil {
		return 0, err
	}
	manifest, there := cuts[t.Job][t.Cut]
	mine := !there || isOf(t, manifest)
	sets, err := h.cfg.Store.Sets()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, set := range sets {
		if set.Key.Job != t.Job || set.Key.Snapshot != t.Cut || !covers(t, set.Key.Host, set.Manifest.Digest, mine) {
			continue
		}
		if err := h.cfg.Store.Remove(set.Key); err != nil {
			return n, err
		}
		n++
	}
	if there && mine {
		return n, h.cfg.Store.RemoveCut(ctx, t.Job, t.Cut)
	}
	return n, nil
}

// removeWithIn does with a vault what removeCut and bury do here.
func (h *Holder) removeWithIn(ctx context.Context, r Removal, t tombstone.Tombstone) (int, error) {
	v, err := h.vault(ctx, r.Vault)
	if err != nil {
		return 0, err
	}
	if r.Forget {
		return 0, images.ForgetTombstoneIn(ctx, v, t.Job, t.Cut, t.ID())
	}
	if err := images.PutTombstoneIn(ctx, v, images.StoredTombstone{Job: t.Job, Snapshot: t.Cut, ID: t.ID(), Data: r.Tombstone}); err != nil {
		return 0, err
	}
	return buryIn(ctx, v, t)
}

func buryIn(ctx context.Context, v blob.Store, t tombstone.Tombstone) (int, error) {
	name := images.CutName(t.Job, t.Cut)
	manifest, err := readAll(ctx, v, name, cutMax)
	there := err == nil || errors.Is(err, blob.ErrDamaged)
	if !there && !errors.Is(err, blob.ErrNotFound) {
		return 0, err
	}
	mine := !there || isOf(t, manifest)
	n, err := images.RemoveSetsIn(ctx, v, t.Job, t.Cut, func(host, digest string) bool { return covers(t, host, digest, mine) })
	if err == nil && there && mine {
		err = v.Remove(ctx, name)
	}
	return n, err
}

// covers says whether a set goes with a tombstone. A damaged one, of which nobody can say which set it is, goes if no other cut of the id
// is known here (mine).
func covers(t tombstone.Tombstone, host, digest string, mine bool) bool {
	if digest != "" {
		return t.Covers(t.Job, t.Cut, host, digest)
	}
	return mine && slices.ContainsFunc(t.Sets, func(s tombstone.Set) bool { return s.Host == host })
}

// isOf says whether a cut's manifest is that of the cut which a tombstone covers, and not of one that was imported again under its id. One that
// is damaged is of no use, and counts as its own.
func isOf(t tombstone.Tombstone, manifest []byte) bool {
	var file struct {
		Signed struct {
			Cut struct {
				Hosts []struct {
					Host     string `json:"host"`
					Manifest string `json:"manifest"`
				} `json:"hosts"`
			} `json:"cut"`
		} `json:"cut"`
	}
	if json.Unmarshal(manifest, &file) != nil {
		return true
	}
	for _, h := range file.Signed.Cut.Hosts {
		if !t.Covers(t.Job, t.Cut, h.Host, h.Manifest) {
			return false
		}
	}
	return true
}

// sweep removes what tombstones here cover and has turned up since.
func (h *Holder) sweep(ctx context.Context, job string) error {
	stored, err := h.cfg.Store.Tombstones(ctx, job)
	if err != nil {
		return err
	}
	for _, s := range stored {
		if t := h.openTombstone(s); t != nil {
			if _, err := h.bury(ctx, *t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *Holder) sweepIn(ctx context.Context, v blob.Store, job string) error {
	stored, err := images.TombstonesIn(ctx, v, job)
	if err != nil {
		return err
	}
	for _, s := range stored {
		if t := h.openTombstone(s); t != nil {
			if _, err := buryIn(ctx, v, *t); err != nil {
				return err
			}
		}
	}
	return nil
}

// openTombstone is nil for one that no admin signed, or that stands under a name that is not its own: it says nothing.
func (h *Holder) openTombstone(s images.StoredTombstone) *tombstone.Tombstone {
	t, err := tombstone.Decode(s.Data, h.cfg.Verifier)
	if err != nil || t.Job != s.Job || t.Cut != s.Snapshot || t.ID() != s.ID {
		h.cfg.Log.Warn("tombstone does not count", "job", s.Job, "snapshot", s.Snapshot, "error", err)
		return nil
	}
	return &t
}
