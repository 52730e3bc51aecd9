package orchestrator_test

import (
	"slices"
	"strings"
	"testing"

	"ss/fault"
	"ss/orchestrator/clustertest"
	"ss/store"
	"ss/store/images"
)

// TestRetainRemovesWhatThePolicyDoesNotKeep: the cuts go, then their images, then the objects; pinned ones and the newest stay.
func TestRetainRemovesWhatThePolicyDoesNotKeep(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB")
	var cuts []store.Cut
	for range 5 {
		cuts = append(cuts, f.AddCut(t, "ring", []string{"hostA"}, "hostB"))
	}
	if _, err := f.Pin(t.Context(), cuts[1].ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Keep.Last = 2; return nil }); err != nil {
		t.Fatal(err)
	}
	statuses, err := f.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gone := f.Retain(t.Context(), "ring", statuses)
	if len(gone) != 2 || gone[0].ID != cuts[0].ID || gone[1].ID != cuts[2].ID {
		t.Fatalf("removed %v", gone)
	}
	for i, want := range []bool{false, true, false, true, true} {
		_, err := f.Catalogue.Cut(t.Context(), "", cuts[i].ID)
		if there := err == nil; there != want || (len(f.HoldersOf(cuts[i].ID)) > 0) != want {
			t.Errorf("cut %d: in the catalogue %v, held by %v, want %v", i, there, f.HoldersOf(cuts[i].ID), want)
		}
	}
	for name, h := range f.Agents {
		if last := h.Calls[len(h.Calls)-1]; last != "collect ring false" {
			t.Errorf("%s: last %s, want collect", name, last)
		}
	}
	if !slices.ContainsFunc(f.Notices, func(n string) bool { return strings.Contains(n, "removed 2 cuts") }) {
		t.Errorf("nobody was told: %v", f.Notices)
	}
}

// TestRemove: a pinned cut needs force, and one that a restore may be reading stays.
func TestRemove(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA")
	cut := f.AddCut(t, "ring", []string{"hostA"})
	if _, err := f.Pin(t.Context(), cut.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context(), cut.ID, false); !fault.Is(err, fault.Refused) {
		t.Fatalf("pinned: %v", err)
	}
	at, err := f.Catalogue.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindRestore, Job: "ring", Hosts: []string{"hostA"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context(), cut.ID, true); !fault.Is(err, fault.Conflict) {
		t.Fatalf("a restore is on: %v", err)
	}
	if err := f.Catalogue.EndAttempt(t.Context(), at.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context(), cut.ID, true); err != nil || len(f.HoldersOf(cut.ID)) > 0 {
		t.Fatalf("%v, held by %v", err, f.HoldersOf(cut.ID))
	}
}

// TestRemoveReachesWhatRestoresLeft: a host that has images only because a restore needed them there gives them up with the cut.
func TestRemoveReachesWhatRestoresLeft(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB")
	cut := f.AddCut(t, "ring", []string{"hostA"})
	key := images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}
	f.Agents["hostB"].Put(key, clustertest.ExampleSet("hostA"))
	f.Agents["hostB"].Committed[key] = true
	if _, err := f.Remove(t.Context(), cut.ID, false); err != nil {
		t.Fatal(err)
	}
	if held := f.HoldersOf(cut.ID); len(held) > 0 {
		t.Errorf("held by %v", held)
	}
	if calls := f.Agents["hostB"].Calls; !slices.Contains(calls, "collect ring false") {
		t.Errorf("hostB was asked for %v", calls)
	}
}

// TestManifestsHoldNoEnvironment: they lie unencrypted wherever images do.
func TestManifestsHoldNoEnvironment(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA")
	cut := f.AddCut(t, "ring", []string{"hostA"})
	cut.Hosts[0].Members[0].Env = []string{"PASSWORD=hunter2"}
	data, err := f.CutFile(t.Context(), cut)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "hunter2") {
		t.Errorf("%s", data)
	}
	if len(cut.Hosts[0].Members[0].Env) != 1 {
		t.Error("the cut itself has lost it")
	}
}

// TestCollectionIsWaitedFor: a snapshot or restore that comes while another ssctl collects in a vault begins after it.
func TestCollectionIsWaitedFor(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA")
	f.AddCut(t, "ring", []string{"hostA"})
	other := f.Open(t)
	at, err := other.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindCollect, Job: "ring"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	told := f.Notice
	f.Notice = func(text string) {
		told(text)
		ended <- other.EndAttempt(t.Context(), at.ID)
	}
	if _, err := f.Begin(t.Context(), store.Attempt{Kind: store.KindRestore, Job: "ring", Hosts: []string{"hostA"}}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(f.Notices) != 1 || !strings.Contains(f.Notices[0], "collection of job") {
		t.Errorf("%q", f.Notices)
	}
}
