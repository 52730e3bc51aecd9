package custody

import (
	"bytes"
	"testing"

	"ss/agent/custody/custodytest"
	"ss/fault"
	"ss/store/images"
)

// TestCommittedGoesWithATombstoneOnly: whoever asks, and however, what belongs to a cut stays without an admin's signed word that it was
// removed; and with that it goes, also if it turns up later.
func TestCommittedGoesWithATombstoneOnly(t *testing.T) {
	h := newHolder(t)
	ctx := t.Context()
	url := "file://" + t.TempDir()
	man := custodytest.Seal(t, h.cfg.Store, aKey, custodytest.NewKey(t))
	if _, err := h.Push(ctx, aKey, man.Digest, url); err != nil {
		t.Fatal(err)
	}
	for _, vault := range []string{"", url} {
		if err := h.PutCut(ctx, vault, aKey.Job, aKey.Snapshot, []byte(`{"cut":{"cut":{"hosts":[{"host":"hostA","manifest":"`+man.Digest+`"}]}}}`)); err != nil {
			t.Fatal(err)
		}
	}
	there := func(what string) {
		t.Helper()
		for _, vault := range []string{"", url} {
			inv, err := h.Inventory(ctx, vault, aKey.Job)
			if err != nil || len(inv.Sets) != 1 || len(inv.Cuts) != 1 {
				t.Fatalf("after %s: %q holds %+v, %v", what, vault, inv, err)
			}
		}
	}
	for _, vault := range []string{"", url} {
		if _, err := h.RemoveCut(ctx, Removal{Vault: vault, Job: aKey.Job, Snapshot: aKey.Snapshot}); !fault.Is(err, fault.Refused) {
			t.Errorf("removed from %q without a tombstone: %v", vault, err)
		}
		forged := buried(vault, man)
		forged.Tombstone = bytes.Replace(forged.Tombstone, []byte("admin"), []byte("agent"), 1)
		if _, err := h.RemoveCut(ctx, forged); !fault.Is(err, fault.Denied) {
			t.Errorf("removed from %q with a forged tombstone: %v", vault, err)
		}
		other := man
		other.Snapshot = "another"
		of := buried(vault, other)
		of.Snapshot = aKey.Snapshot
		if _, err := h.RemoveCut(ctx, of); !fault.Is(err, fault.Denied) {
			t.Errorf("removed from %q with another cut's tombstone: %v", vault, err)
		}
		earlier := man // the cut was removed, and imported again under its id
		earlier.Digest = digestOf("earlier")
		if n, err := h.RemoveCut(ctx, buried(vault, earlier)); err != nil || n != 0 {
			t.Errorf("an earlier cut's tombstone removed %d from %q, %v", n, vault, err)
		}
		if _, err := h.Collect(ctx, vault, aKey.Job, false); err != nil {
			t.Error(err)
		}
	}
	there("removals without a right")
	if err := h.SettleCopy(aKey, false); err != nil {
		t.Error(err)
	}
	if err := h.Resolve(ctx, nil, []images.Key{aKey}); err != nil {
		t.Error(err)
	}
	if err := h.Discard(aKey); err != nil {
		t.Error(err)
	}
	if err := h.withdraw(ctx, url, aKey); err != nil {
		t.Error(err)
	}
	there("rollbacks and what ends attempts")
	for _, vault := range []string{"", url} {
		if n, err := h.RemoveCut(ctx, buried(vault, man)); err != nil || n != 1 {
			t.Fatalf("from %q: %d, %v", vault, n, err)
		}
		inv, err := h.Inventory(ctx, vault, aKey.Job)
		if err != nil || len(inv.Sets)+len(inv.Cuts) != 0 {
			t.Fatalf("%q holds %+v, %v", vault, inv, err)
		}
	}
}

// TestBuriedDoesNotComeBack: a copy that turns up after its cut was removed goes with the next collection, and the objects with it; a tombstone that is
// forgotten buries nothing.
func TestBuriedDoesNotComeBack(t *testing.T) {
	h := newHolder(t, "hostB")
	c := h.others
	ctx := t.Context()
	man := custodytest.Seal(t, h.cfg.Store, aKey, custodytest.NewKey(t))
	if _, err := h.cfg.Store.Push(ctx, aKey, keeping{c.Stores["hostB"].ForPeers()}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.RemoveCut(ctx, buried("", man)); err != nil {
		t.Fatal(err)
	}
	back := func() {
		t.Helper()
		if _, err := h.Fetch(ctx, aKey, man.Digest, peersOf("hostB"), nil); err != nil {
			t.Fatal(err)
		}
		if err := h.cfg.Store.Commit(aKey); err != nil {
			t.Fatal(err)
		}
	}
	back()
	if g, err := h.Collect(ctx, "", "", true); err != nil || g.Objects != 0 {
		t.Fatalf("dry: %+v, %v", g, err)
	}
	if g, err := h.Collect(ctx, "", "", false); err != nil || g.Objects != len(man.Objects()) {
		t.Fatalf("%+v, %v", g, err)
	}
	forget := buried("", man)
	forget.Forget = true
	if _, err := h.RemoveCut(ctx, forget); err != nil {
		t.Fatal(err)
	}
	if inv, err := h.Inventory(ctx, "", ""); err != nil || len(inv.Tombstones) != 0 {
		t.Fatalf("%+v, %v", inv.Tombstones, err)
	}
	back()
	if g, err := h.Collect(ctx, "", "", false); err != nil || g.Objects != 0 {
		t.Fatalf("without a tombstone: %+v, %v", g, err)
	}
}
