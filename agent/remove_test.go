package agent

import (
	"bytes"
	"slices"
	"testing"

	"ss/fault"
	"ss/marker"
	"ss/store/images"
)

// TestCommittedGoesWithATombstoneOnly: whoever asks, and however, what belongs to a cut stays without an admin's signed word that it was
// removed; and with that it goes, also if it turns up later.
func TestCommittedGoesWithATombstoneOnly(t *testing.T) {
	a, _ := newAgent(t)
	ctx := t.Context()
	url := "file://" + t.TempDir()
	man := seal(t, a.cfg.Images, aKey, newKey(t))
	if _, err := a.PushImages(ctx, aKey, man.Digest, url); err != nil {
		t.Fatal(err)
	}
	for _, vault := range []string{"", url} {
		if err := a.PutCut(ctx, vault, aKey.Job, aKey.Snapshot, []byte(`{"cut":{"cut":{"hosts":[{"host":"hostA","manifest":"`+man.Digest+`"}]}}}`)); err != nil {
			t.Fatal(err)
		}
	}
	there := func(what string) {
		t.Helper()
		for _, vault := range []string{"", url} {
			inv, err := a.Inventory(ctx, vault, aKey.Job)
			if err != nil || len(inv.Sets) != 1 || len(inv.Cuts) != 1 {
				t.Fatalf("after %s: %q holds %+v, %v", what, vault, inv, err)
			}
		}
	}
	for _, vault := range []string{"", url} {
		if _, err := a.RemoveCut(ctx, Removal{Vault: vault, Job: aKey.Job, Snapshot: aKey.Snapshot}); !fault.Is(err, fault.Refused) {
			t.Errorf("removed from %q without a tombstone: %v", vault, err)
		}
		forged := buried(vault, man)
		forged.Tombstone = bytes.Replace(forged.Tombstone, []byte("admin"), []byte("agent"), 1)
		if _, err := a.RemoveCut(ctx, forged); !fault.Is(err, fault.Denied) {
			t.Errorf("removed from %q with a forged tombstone: %v", vault, err)
		}
		other := man
		other.Snapshot = "another"
		of := buried(vault, other)
		of.Snapshot = aKey.Snapshot
		if _, err := a.RemoveCut(ctx, of); !fault.Is(err, fault.Denied) {
			t.Errorf("removed from %q with another cut's tombstone: %v", vault, err)
		}
		earlier := man // the cut was removed, and imported again under its id
		earlier.Digest = digestOf("earlier")
		if n, err := a.RemoveCut(ctx, buried(vault, earlier)); err != nil || n != 0 {
			t.Errorf("an earlier cut's tombstone removed %d from %q, %v", n, vault, err)
		}
		if _, err := a.Collect(ctx, vault, aKey.Job, false); err != nil {
			t.Error(err)
		}
	}
	there("removals without a right")
	if err := a.SettleCopy(aKey, false); err != nil {
		t.Error(err)
	}
	if err := a.Resolve(ctx, nil, []images.Key{aKey}); err != nil {
		t.Error(err)
	}
	if err := a.discard(aKey); err != nil {
		t.Error(err)
	}
	if err := a.withdraw(ctx, url, aKey); err != nil {
		t.Error(err)
	}
	there("rollbacks and what ends attempts")
	for _, vault := range []string{"", url} {
		if n, err := a.RemoveCut(ctx, buried(vault, man)); err != nil || n != 1 {
			t.Fatalf("from %q: %d, %v", vault, n, err)
		}
		inv, err := a.Inventory(ctx, vault, aKey.Job)
		if err != nil || len(inv.Sets)+len(inv.Cuts) != 0 {
			t.Fatalf("%q holds %+v, %v", vault, inv, err)
		}
	}
}

// TestBuriedDoesNotComeBack: a copy that turns up after its cut was removed goes with the next collection, and the objects with it; a tombstone that is
// forgotten buries nothing.
func TestBuriedDoesNotComeBack(t *testing.T) {
	a, c := newAgent(t, "hostB")
	ctx := t.Context()
	man := seal(t, a.cfg.Images, aKey, newKey(t))
	if _, err := a.cfg.Images.Push(ctx, aKey, keeping{c.hosts["hostB"].ForPeers()}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.RemoveCut(ctx, buried("", man)); err != nil {
		t.Fatal(err)
	}
	back := func() {
		t.Helper()
		if _, err := a.FetchImages(ctx, aKey, man.Digest, participants("hostB"), nil); err != nil {
			t.Fatal(err)
		}
		if err := a.cfg.Images.Commit(aKey); err != nil {
			t.Fatal(err)
		}
	}
	back()
	if g, err := a.Collect(ctx, "", "", true); err != nil || g.Objects != 0 {
		t.Fatalf("dry: %+v, %v", g, err)
	}
	if g, err := a.Collect(ctx, "", "", false); err != nil || g.Objects != len(man.Objects()) {
		t.Fatalf("%+v, %v", g, err)
	}
	forget := buried("", man)
	forget.Forget = true
	if _, err := a.RemoveCut(ctx, forget); err != nil {
		t.Fatal(err)
	}
	if inv, err := a.Inventory(ctx, "", ""); err != nil || len(inv.Tombstones) != 0 {
		t.Fatalf("%+v, %v", inv.Tombstones, err)
	}
	back()
	if g, err := a.Collect(ctx, "", "", false); err != nil || g.Objects != 0 {
		t.Fatalf("without a tombstone: %+v, %v", g, err)
	}
}

// TestARollbackLeavesACutsImages: whatever the journal says of an attempt, a set whose cut's manifest is here is not its to remove.
func TestARollbackLeavesACutsImages(t *testing.T) {
	for _, c := range []struct {
		name  string
		exist func(a *Agent) error
		kept  bool
	}{
		{"told of the commit", func(a *Agent) error { return a.cfg.Images.Commit(aKey) }, true},
		{"a manifest, and no mark", func(a *Agent) error {
			return a.cfg.Images.PutCut(t.Context(), aKey.Job, aKey.Snapshot, []byte("signed"))
		}, true},
		{"nothing", func(*Agent) error { return nil }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _ := newAgent(t)
			seal(t, a.cfg.Images, aKey, newKey(t))
			if err := c.exist(a); err != nil {
				t.Fatal(err)
			}
			w := a.newRunner(aKey.Job).newWork(marker.Key{Job: "job", Snapshot: "cut", Epoch: 1})
			if err := w.discard(t.Context()); err != nil {
				t.Fatal(err)
			}
			sets, err := a.cfg.Images.Sets()
			if err != nil || slices.ContainsFunc(sets, func(s images.Set) bool { return s.Key == aKey }) != c.kept {
				t.Errorf("%v, %v", sets, err)
			}
		})
	}
}

// TestHear: an agent believes who has had the generation that it knows, and nobody else; also after it was started again.
func TestHear(t *testing.T) {
	a, _ := newAgent(t)
	one, two, fork := Mark{Generation: 1, Nonce: "a"}, Mark{Generation: 2, Nonce: "b", Where: "there"}, Mark{Generation: 9, Nonce: "x"}
	for i, step := range []struct {
		word Word
		want Mark
	}{
		{Word{}, Mark{}},
		{Word{Mark: one}, one},
		{Word{Mark: two}, one}, // of another copy, for all that it says
		{Word{Mark: two, History: []Mark{{2, "b", "", one.Time}}}, one}, // likewise
		{Word{Mark: two, History: []Mark{one}}, two},
		{Word{Mark: one}, two},
		{Word{Mark: fork, History: []Mark{one}}, two},
		{Word{Mark: Mark{Generation: 2, Nonce: "c"}, History: []Mark{one}}, two},
	} {
		if got := a.Hear(step.word); got != step.want {
			t.Fatalf("step %d: %+v, want %+v", i, got, step.want)
		}
	}
	a.heard.mark = Mark{}
	if a.recall(); a.Heard() != two {
		t.Errorf("remembered %+v", a.Heard())
	}
}
