package orchestrator

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ss/fault"
	"ss/store"
	"ss/store/images"
)

const (
	clusterA = "0123456789abcdef0123456789abcdef"
	clusterB = "fedcba9876543210fedcba9876543210"
)

// TestRetainRemovesWhatThePolicyDoesNotKeep: the cuts go, then their images, then the objects; pinned ones and the newest stay.
func TestRetainRemovesWhatThePolicyDoesNotKeep(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB")
	var cuts []store.Cut
	for range 5 {
		cuts = append(cuts, f.addCut(t, "ring", []string{"hostA"}, "hostB"))
	}
	if _, err := f.Pin(t.Context(), cuts[1].ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Catalogue.SetPolicy("ring", func(p *store.Policy) error { p.Keep.Last = 2; return nil }); err != nil {
		t.Fatal(err)
	}
	statuses, err := f.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gone := f.retain(t.Context(), "ring", statuses)
	if len(gone) != 2 || gone[0].ID != cuts[0].ID || gone[1].ID != cuts[2].ID {
		t.Fatalf("removed %v", gone)
	}
	for i, want := range []bool{false, true, false, true, true} {
		_, err := f.Catalogue.Cut("", cuts[i].ID)
		if there := err == nil; there != want || (len(f.holdersOf(cuts[i].ID)) > 0) != want {
			t.Errorf("cut %d: in the catalogue %v, held by %v, want %v", i, there, f.holdersOf(cuts[i].ID), want)
		}
	}
	for name, h := range f.hosts {
		if last := h.calls[len(h.calls)-1]; last != "collect ring false" {
			t.Errorf("%s: last %s, want collect", name, last)
		}
	}
	if !slices.ContainsFunc(f.notices, func(n string) bool { return strings.Contains(n, "removed 2 cut(s)") }) {
		t.Errorf("nobody was told: %v", f.notices)
	}
}

// TestRemove: a pinned cut needs force, and one that a restore may be reading stays.
func TestRemove(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA")
	cut := f.addCut(t, "ring", []string{"hostA"})
	if _, err := f.Pin(t.Context(), cut.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context(), cut.ID, false); !fault.Is(err, fault.Refused) {
		t.Fatalf("pinned: %v", err)
	}
	at, err := f.Catalogue.BeginAttempt(store.Attempt{Kind: store.KindRestore, Job: "ring", Hosts: []string{"hostA"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context(), cut.ID, true); !fault.Is(err, fault.Conflict) {
		t.Fatalf("a restore is on: %v", err)
	}
	if err := f.Catalogue.EndAttempt(at.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context(), cut.ID, true); err != nil || len(f.holdersOf(cut.ID)) > 0 {
		t.Fatalf("%v, held by %v", err, f.holdersOf(cut.ID))
	}
}

// TestGCLeavesWhatItIsNotSureOf: what a tombstone covers goes, and what the catalogue itself began and did not commit. All else stays: what a live
// attempt may be making, what is of an unknown job or of a snapshot that this catalogue did not begin, and whatever is committed.
func TestGCLeavesWhatItIsNotSureOf(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA")
	kept := f.addCut(t, "ring", []string{"hostA"})
	gone := f.addCut(t, "ring", []string{"hostA"})
	h := f.hosts["hostA"]
	set := func(job, id string, epoch uint64, committed bool) images.Key {
		k := images.Key{Job: job, Snapshot: id, Host: "hostA"}
		h.put(k, exampleSet("hostA"+id))
		h.committed[k], h.epochs[k] = committed, epoch
		return k
	}
	failed, err := f.Catalogue.BeginAttempt(store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Catalogue.EndAttempt(failed.ID); err != nil {
		t.Fatal(err)
	}
	// A cut that was removed while the host was away.
	lost := images.Key{Job: "ring", Snapshot: gone.ID, Host: "hostA"}
	h.away = true
	if _, err := f.Remove(t.Context(), gone.ID, false); err != nil {
		t.Fatal(err)
	}
	h.away = false
	aborted := set("ring", failed.ID, failed.Epoch, false)
	anothers := set("ring", "20250101-000000-0000", 1, true)
	unsaid := set("ring", "20250101-000000-0002", 2, false) // of an attempt that this catalogue knows nothing of
	stranger := set("other", "20250101-000000-0000", 7, true)
	newer := set("ring", "20990101-000000-0000", 99, true)
	busy := f.addCut(t, "busy", []string{"hostA"})
	making := set("busy", "20250101-000000-0001", 1, false)
	at, err := f.Catalogue.BeginAttempt(store.Attempt{Kind: store.KindSnapshot, Job: "busy", Hosts: []string{"hostA"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		res, err := f.GC(t.Context(), dry)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(res.Places[0].Sets)
		if want := []string{lost.String(), aborted.String()}; len(res.Places) != 1 || !slices.Equal(res.Places[0].Sets, want) {
			t.Fatalf("dry %v: %+v, want %s only", dry, res.Places, want)
		}
		for _, k := range []images.Key{lost, aborted} {
			if got := h.files(k) != nil; got != dry {
				t.Errorf("dry %v: %s is there: %v", dry, k, got)
			}
		}
	}
	for _, k := range []images.Key{anothers, unsaid, stranger, newer, making, {Job: "ring", Snapshot: kept.ID, Host: "hostA"}, {Job: "busy", Snapshot: busy.ID, Host: "hostA"}} {
		if h.files(k) == nil {
			t.Errorf("%s is gone", k)
		}
	}
	if err := f.Catalogue.EndAttempt(at.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.GC(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if stones, err := f.Catalogue.Tombstones(); err != nil || len(stones) != 0 || len(h.graves) != 0 {
		t.Errorf("everyone has seen the tombstone, and it is not forgotten: %v, %v on the host, %v", stones, h.graves, err)
	}
	// What nobody knows goes on an admin's word.
	if _, err := f.Remove(t.Context(), anothers.Snapshot, false); !fault.Is(err, fault.Refused) && !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removed without force: %v", err)
	}
	if _, err := f.Remove(t.Context(), newer.Snapshot, true); err != nil || h.files(newer) != nil {
		t.Errorf("on an admin's word: %v", err)
	}
}

// TestRepairMakesCopiesAfterALoss: what a lost host held comes onto another, and the catalogue and the manifests say so.
func TestRepairMakesCopiesAfterALoss(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB", "hostC")
	cut := f.addCut(t, "ring", []string{"hostA", "hostB"})
	for _, h := range []string{"hostA", "hostB"} { // each holds the other's, too
		for _, o := range []string{"hostA", "hostB"} {
			f.hosts[h].put(images.Key{Job: "ring", Snapshot: cut.ID, Host: o}, exampleSet(o))
		}
		if err := f.Catalogue.SetHolders(cut.ID, h, []string{"hostA", "hostB"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	delete(f.hosts, "hostA")
	if err := f.RemoveHost(t.Context(), "hostA"); !fault.Is(err, fault.Conflict) {
		t.Fatalf("it has members: %v", err)
	}
	if ids, err := f.LoseHost("hostA"); err != nil || !slices.Equal(ids, []string{cut.ID}) {
		t.Fatalf("%v, %v", ids, err)
	}
	if _, err := f.Repair(t.Context(), RepairOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if got := f.holdersOf(cut.ID); !slices.Equal(got, []string{"hostB"}) {
		t.Fatalf("after a dry run: %v", got)
	}
	parts, err := f.Repair(t.Context(), RepairOptions{Of: "ring"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if p.State != StateRepaired || !slices.Equal(p.Copies, []string{"hostB", "hostC"}) {
			t.Errorf("%+v", p)
		}
	}
	now, err := f.Catalogue.Cut("", cut.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range now.Hosts {
		if !slices.Equal(h.Copies, []string{"hostB", "hostC"}) {
			t.Errorf("catalogue: images of %s on %v", h.Host, h.Copies)
		}
	}
	if f.hosts["hostC"].cuts[cut.ID] == nil {
		t.Error("hostC has no manifest of the cut")
	}
	if parts, err := f.Repair(t.Context(), RepairOptions{Of: cut.ID}); err != nil || parts[0].State != StateWhole {
		t.Errorf("again: %+v, %v", parts, err)
	}
	delete(f.hosts, "hostB")
	delete(f.hosts, "hostC")
	if _, err := f.Repair(t.Context(), RepairOptions{}); !fault.Is(err, fault.Unreachable) {
		t.Errorf("nobody answers: %v", err)
	}
	f.hosts["hostB"], f.hosts["hostC"] = f.newHost("hostB"), f.newHost("hostC")
	if _, err := f.Repair(t.Context(), RepairOptions{}); !fault.Is(err, fault.Integrity) {
		t.Errorf("nobody holds it: %v", err)
	}
}

// TestRepairOfAVault: what it lacks is put there, what is damaged there is replaced, and what only it holds comes back to a host.
func TestRepairOfAVault(t *testing.T) {
	const url = "file:///mnt/v"
	f := newFakeCluster(t, clusterA, "hostA")
	f.vaults[url] = f.newHost(url)
	v := f.vaults[url]
	cut := f.addCut(t, "ring", []string{"hostA"})
	other := f.addCut(t, "ring", []string{"hostA"})
	key := images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}
	if _, err := f.Catalogue.SetPolicy("ring", func(p *store.Policy) error { p.Vaults = []string{url}; return nil }); err != nil {
		t.Fatal(err)
	}
	repair := func(what string, want RepairState) {
		t.Helper()
		parts, err := f.Repair(t.Context(), RepairOptions{})
		if err != nil || len(parts) != 2 || parts[0].State != want || len(parts[0].Faults) > 0 {
			t.Errorf("%s: %+v, %v; want %s", what, parts, err, want)
		}
		if files := v.files(key); files == nil || digestOf(files) != cut.Hosts[0].Manifest || v.cuts[cut.ID] == nil {
			t.Errorf("%s: the vault holds no whole copy with its manifest", what)
		}
		if now, err := f.Catalogue.Cut("", cut.ID); err != nil || !slices.Equal(now.Hosts[0].Vaults, []string{url}) {
			t.Errorf("%s: the catalogue has it in %v, %v", what, now.Hosts[0].Vaults, err)
		}
	}
	repair("the vault is new", StateRepaired)
	repair("again", StateWhole)
	v.put(key, exampleSet("damaged"))
	repair("damaged", StateRepaired)
	if !slices.Contains(v.calls, "collect ring false") {
		t.Error("a damaged object goes only if its room is freed")
	}
	v.lose("ring", cut.ID)
	repair("the vault lost it", StateRepaired)
	f.hosts["hostA"].lose("ring", cut.ID)
	f.hosts["hostA"].peers = map[string]*fakeHost{}
	repair("the host lost it", StateRepaired)
	if !f.hosts["hostA"].has(key, cut.Hosts[0].Manifest) {
		t.Error("it did not come back from the vault")
	}
	// While it is the only copy, a damaged vault is left as it is.
	v.put(images.Key{Job: "ring", Snapshot: other.ID, Host: "hostA"}, exampleSet("damaged"))
	f.hosts["hostA"].lose("ring", other.ID)
	if _, err := f.Repair(t.Context(), RepairOptions{Of: other.ID}); !fault.Is(err, fault.Integrity) {
		t.Errorf("nobody holds it whole: %v", err)
	}
	if v.files(images.Key{Job: "ring", Snapshot: other.ID, Host: "hostA"}) == nil {
		t.Error("the only copy was removed, damaged as it was")
	}
}

// TestVerifyNamesEachFault: all copies are read, damage outweighs silence, and the error says what heals it.
func TestVerifyNamesEachFault(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB", "hostC")
	cut := f.addCut(t, "ring", []string{"hostA"}, "hostB", "hostC")
	if _, err := f.Verify(t.Context(), VerifyOptions{Cut: cut.ID}); err != nil {
		t.Fatal(err)
	}
	f.hosts["hostB"].put(images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}, exampleSet("damaged"))
	delete(f.hosts, "hostC")
	res, err := f.Verify(t.Context(), VerifyOptions{Cut: cut.ID, ReadData: true})
	if !fault.Is(err, fault.Integrity) || len(res.Copies) != 3 || res.Copies[0].Err != nil {
		t.Fatalf("%+v, %v", res.Copies, err)
	}
	for _, want := range []string{"on hostB", "ring/objects/0", "on hostC", "ssctl repair " + cut.ID} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// TestRebuildFindsTheSameCuts: from one host's address the others are found, and the new catalogue lists what the lost one did.
func TestRebuildFindsTheSameCuts(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB", "hostC")
	var want []string
	for _, h := range []string{"hostA", "hostB", "hostC"} {
		want = append(want, f.addCut(t, "ring", []string{h}, "hostA").ID)
	}
	f.hosts["hostB"].cuts["20260101-000000-evil"] = []byte("{}")
	dir := filepath.Join(t.TempDir(), "new")
	b := Rebuilder{Dir: dir, Dial: f.Dial, Verifier: f.Verifier, Hosts: []store.Host{{Name: "hostA", Addr: "192.0.2.9:7070"}}}
	res, err := b.Rebuild(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Asked) != 3 || len(res.Rebuilt.Hosts) != 3 {
		t.Errorf("asked %v, hosts %v", res.Asked, res.Rebuilt.Hosts)
	}
	cat, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	cuts, err := cat.Cuts("ring")
	if err != nil || len(cuts) != 3 {
		t.Fatalf("%d cuts, %v", len(cuts), err)
	}
	for i, c := range cuts {
		if c.ID != want[i] || !slices.Contains(c.Hosts[0].Copies, "hostA") {
			t.Errorf("cut %d: %s on %v", i, c.ID, c.Hosts[0].Copies)
		}
	}
	if h, err := cat.Host("hostA"); err != nil || h.Addr != "192.0.2.9:7070" {
		t.Errorf("hostA is at %s, %v", h.Addr, err)
	}
	if _, err := b.Rebuild(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second time: %v", err)
	}
}

// TestGCHandsOutManifests: an ssctl that dies right after a commit has given nobody the cut's manifest; and what it leaves in the catalogue goes.
func TestGCHandsOutManifests(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB")
	cut := f.addCut(t, "ring", []string{"hostA"}, "hostB")
	for _, h := range f.hosts {
		clear(h.cuts)
	}
	dead, err := store.Open(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dead.BeginAttempt(store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}}); err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil { // as the end of its process does
		t.Fatal(err)
	}
	if _, err := f.GC(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	for name, h := range f.hosts {
		if h.cuts[cut.ID] == nil {
			t.Errorf("%s has no manifest", name)
		}
	}
	if attempts, err := f.Catalogue.Attempts(); err != nil || len(attempts) > 0 {
		t.Errorf("attempts of nobody: %v, %v", attempts, err)
	}
}

// TestRemoveReachesWhatRestoresLeft: a host that has images only because a restore needed them there gives them up with the cut.
func TestRemoveReachesWhatRestoresLeft(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB")
	cut := f.addCut(t, "ring", []string{"hostA"})
	key := images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}
	f.hosts["hostB"].put(key, exampleSet("hostA"))
	f.hosts["hostB"].committed[key] = true
	if _, err := f.Remove(t.Context(), cut.ID, false); err != nil {
		t.Fatal(err)
	}
	if held := f.holdersOf(cut.ID); len(held) > 0 {
		t.Errorf("held by %v", held)
	}
	if calls := f.hosts["hostB"].calls; !slices.Contains(calls, "collect ring false") {
		t.Errorf("hostB was asked for %v", calls)
	}
}

// TestManifestsHoldNoEnvironment: they lie unencrypted wherever images do.
func TestManifestsHoldNoEnvironment(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA")
	cut := f.addCut(t, "ring", []string{"hostA"})
	cut.Hosts[0].Members[0].Env = []string{"PASSWORD=hunter2"}
	data, err := f.cutFile(cut)
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
	f := newFakeCluster(t, clusterA, "hostA")
	f.addCut(t, "ring", []string{"hostA"})
	other, err := store.Open(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	at, err := other.BeginAttempt(store.Attempt{Kind: store.KindCollect, Job: "ring"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	told := f.Notice
	f.Notice = func(text string) {
		told(text)
		ended <- other.EndAttempt(at.ID)
	}
	if _, err := f.begin(t.Context(), store.Attempt{Kind: store.KindRestore, Job: "ring", Hosts: []string{"hostA"}}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(f.notices) != 1 || !strings.Contains(f.notices[0], "collection of job") {
		t.Errorf("%q", f.notices)
	}
}
