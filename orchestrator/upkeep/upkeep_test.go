package upkeep

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ss/fault"
	"ss/orchestrator/clustertest"
	"ss/store"
	"ss/store/images"
)

// TestGCLeavesWhatItIsNotSureOf: what a tombstone covers goes, and what the catalogue itself began and did not commit. All else stays: what a live
// attempt may be making, what is of an unknown job or of a snapshot that this catalogue did not begin, and whatever is committed.
func TestGCLeavesWhatItIsNotSureOf(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA")
	kept := f.AddCut(t, "ring", []string{"hostA"})
	gone := f.AddCut(t, "ring", []string{"hostA"})
	h := f.Agents["hostA"]
	set := func(job, id string, epoch uint64, committed bool) images.Key {
		k := images.Key{Job: job, Snapshot: id, Host: "hostA"}
		h.Put(k, clustertest.ExampleSet("hostA"+id))
		h.Committed[k], h.Epochs[k] = committed, epoch
		return k
	}
	failed, err := f.Catalogue.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Catalogue.EndAttempt(t.Context(), failed.ID); err != nil {
		t.Fatal(err)
	}
	// A cut that was removed while the host was away.
	lost := images.Key{Job: "ring", Snapshot: gone.ID, Host: "hostA"}
	h.Away = true
	if _, err := f.Remove(t.Context(), gone.ID, false); err != nil {
		t.Fatal(err)
	}
	h.Away = false
	aborted := set("ring", failed.ID, failed.Epoch, false)
	anothers := set("ring", "20250101-000000-0000", 1, true)
	unsaid := set("ring", "20250101-000000-0002", 2, false) // of an attempt that this catalogue knows nothing of
	stranger := set("other", "20250101-000000-0000", 7, true)
	newer := set("ring", "20990101-000000-0000", 99, true)
	busy := f.AddCut(t, "busy", []string{"hostA"})
	making := set("busy", "20250101-000000-0001", 1, false)
	at, err := f.Catalogue.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: "busy", Hosts: []string{"hostA"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		res, err := GC(t.Context(), f.Cluster, dry)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(res.Places[0].Sets)
		want := []string{lost.String(), aborted.String()} // both were drawn in one second
		slices.Sort(want)
		if len(res.Places) != 1 || !slices.Equal(res.Places[0].Sets, want) {
			t.Fatalf("dry %v: %+v, want %s only", dry, res.Places, want)
		}
		for _, k := range []images.Key{lost, aborted} {
			if got := h.Files(k) != nil; got != dry {
				t.Errorf("dry %v: %s is there: %v", dry, k, got)
			}
		}
	}
	for _, k := range []images.Key{anothers, unsaid, stranger, newer, making, {Job: "ring", Snapshot: kept.ID, Host: "hostA"}, {Job: "busy", Snapshot: busy.ID, Host: "hostA"}} {
		if h.Files(k) == nil {
			t.Errorf("%s is gone", k)
		}
	}
	if err := f.Catalogue.EndAttempt(t.Context(), at.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := GC(t.Context(), f.Cluster, false); err != nil {
		t.Fatal(err)
	}
	if stones, err := f.Catalogue.Tombstones(t.Context()); err != nil || len(stones) != 0 || len(h.Graves) != 0 {
		t.Errorf("everyone has seen the tombstone, and it is not forgotten: %v, %v on the host, %v", stones, h.Graves, err)
	}
	// What nobody knows goes on an admin's word.
	if _, err := f.Remove(t.Context(), anothers.Snapshot, false); !fault.Is(err, fault.Refused) && !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removed without force: %v", err)
	}
	if _, err := f.Remove(t.Context(), newer.Snapshot, true); err != nil || h.Files(newer) != nil {
		t.Errorf("on an admin's word: %v", err)
	}
}

// TestRepairMakesCopiesAfterALoss: what a lost host held comes onto another, and the catalogue and the manifests say so.
func TestRepairMakesCopiesAfterALoss(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB", "hostC")
	cut := f.AddCut(t, "ring", []string{"hostA", "hostB"})
	for _, h := range []string{"hostA", "hostB"} { // each holds the other's, too
		for _, o := range []string{"hostA", "hostB"} {
			f.Agents[h].Put(images.Key{Job: "ring", Snapshot: cut.ID, Host: o}, clustertest.ExampleSet(o))
		}
		if err := f.Catalogue.SetHolders(t.Context(), cut.ID, h, []string{"hostA", "hostB"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	delete(f.Agents, "hostA")
	if err := f.RemoveHost(t.Context(), "hostA"); !fault.Is(err, fault.Conflict) {
		t.Fatalf("it has members: %v", err)
	}
	if ids, err := f.LoseHost(t.Context(), "hostA"); err != nil || !slices.Equal(ids, []string{cut.ID}) {
		t.Fatalf("%v, %v", ids, err)
	}
	if _, err := Repair(t.Context(), f.Cluster, RepairOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if got := f.HoldersOf(cut.ID); !slices.Equal(got, []string{"hostB"}) {
		t.Fatalf("after a dry run: %v", got)
	}
	parts, err := Repair(t.Context(), f.Cluster, RepairOptions{Of: "ring"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if p.State != StateRepaired || !slices.Equal(p.Copies, []string{"hostB", "hostC"}) {
			t.Errorf("%+v", p)
		}
	}
	now, err := f.Catalogue.Cut(t.Context(), "", cut.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range now.Hosts {
		if !slices.Equal(h.Copies, []string{"hostB", "hostC"}) {
			t.Errorf("catalogue: images of %s on %v", h.Host, h.Copies)
		}
	}
	if f.Agents["hostC"].Cuts[cut.ID] == nil {
		t.Error("hostC has no manifest of the cut")
	}
	if parts, err := Repair(t.Context(), f.Cluster, RepairOptions{Of: cut.ID}); err != nil || parts[0].State != StateWhole {
		t.Errorf("again: %+v, %v", parts, err)
	}
	delete(f.Agents, "hostB")
	delete(f.Agents, "hostC")
	if _, err := Repair(t.Context(), f.Cluster, RepairOptions{}); !fault.Is(err, fault.Unreachable) {
		t.Errorf("nobody answers: %v", err)
	}
	f.Agents["hostB"], f.Agents["hostC"] = f.NewHost("hostB"), f.NewHost("hostC")
	if _, err := Repair(t.Context(), f.Cluster, RepairOptions{}); !fault.Is(err, fault.Integrity) {
		t.Errorf("nobody holds it: %v", err)
	}
}

// TestRepairOfAVault: what it lacks is put there, what is damaged there is replaced, and what only it holds comes back to a host.
func TestRepairOfAVault(t *testing.T) {
	const url = "file:///mnt/v"
	f := clustertest.New(t, clustertest.ClusterA, "hostA")
	f.Vaults[url] = f.NewHost(url)
	v := f.Vaults[url]
	cut := f.AddCut(t, "ring", []string{"hostA"})
	other := f.AddCut(t, "ring", []string{"hostA"})
	key := images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}
	if _, err := f.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Vaults = []string{url}; return nil }); err != nil {
		t.Fatal(err)
	}
	repair := func(what string, want RepairState) {
		t.Helper()
		parts, err := Repair(t.Context(), f.Cluster, RepairOptions{})
		if err != nil || len(parts) != 2 || parts[0].State != want || len(parts[0].Problems) > 0 {
			t.Errorf("%s: %+v, %v; want %s", what, parts, err, want)
		}
		if files := v.Files(key); files == nil || clustertest.DigestOf(files) != cut.Hosts[0].Manifest || v.Cuts[cut.ID] == nil {
			t.Errorf("%s: the vault holds no whole copy with its manifest", what)
		}
		if now, err := f.Catalogue.Cut(t.Context(), "", cut.ID); err != nil || !slices.Equal(now.Hosts[0].Vaults, []string{url}) {
			t.Errorf("%s: the catalogue has it in %v, %v", what, now.Hosts[0].Vaults, err)
		}
	}
	repair("the vault is new", StateRepaired)
	repair("again", StateWhole)
	v.Put(key, clustertest.ExampleSet("damaged"))
	repair("damaged", StateRepaired)
	if !slices.Contains(v.Calls, "collect ring false") {
		t.Error("a damaged object goes only if its room is freed")
	}
	v.Lose("ring", cut.ID)
	repair("the vault lost it", StateRepaired)
	f.Agents["hostA"].Lose("ring", cut.ID)
	f.Agents["hostA"].Peers = map[string]*clustertest.Host{}
	repair("the host lost it", StateRepaired)
	if !f.Agents["hostA"].Has(key, cut.Hosts[0].Manifest) {
		t.Error("it did not come back from the vault")
	}
	// While it is the only copy, a damaged vault is left as it is.
	v.Put(images.Key{Job: "ring", Snapshot: other.ID, Host: "hostA"}, clustertest.ExampleSet("damaged"))
	f.Agents["hostA"].Lose("ring", other.ID)
	if _, err := Repair(t.Context(), f.Cluster, RepairOptions{Of: other.ID}); !fault.Is(err, fault.Integrity) {
		t.Errorf("nobody holds it whole: %v", err)
	}
	if v.Files(images.Key{Job: "ring", Snapshot: other.ID, Host: "hostA"}) == nil {
		t.Error("the only copy was removed, damaged as it was")
	}
}

// TestVerifyNamesEachFault: all copies are read, damage outweighs silence, and the error says what heals it.
func TestVerifyNamesEachFault(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB", "hostC")
	cut := f.AddCut(t, "ring", []string{"hostA"}, "hostB", "hostC")
	if _, err := Verify(t.Context(), f.Cluster, VerifyOptions{Cut: cut.ID}); err != nil {
		t.Fatal(err)
	}
	f.Agents["hostB"].Put(images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}, clustertest.ExampleSet("damaged"))
	delete(f.Agents, "hostC")
	res, err := Verify(t.Context(), f.Cluster, VerifyOptions{Cut: cut.ID, ReadData: true})
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
	f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB", "hostC")
	var want []string
	for _, h := range []string{"hostA", "hostB", "hostC"} {
		want = append(want, f.AddCut(t, "ring", []string{h}, "hostA").ID)
	}
	f.Agents["hostB"].Cuts["20260101-000000-evil"] = []byte("{}")
	dir := filepath.Join(t.TempDir(), "new")
	b := Rebuilder{Place: Folder(dir), Dial: f.Dial, Verifier: f.Verifier, Hosts: []store.Host{{Name: "hostA", Addr: "192.0.2.9:7070"}}}
	res, err := b.Rebuild(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Asked) != 3 || len(res.Rebuilt.Hosts) != 3 {
		t.Errorf("asked %v, hosts %v", res.Asked, res.Rebuilt.Hosts)
	}
	cat, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	cuts, err := cat.Cuts(t.Context(), "ring")
	if err != nil || len(cuts) != 3 {
		t.Fatalf("%d cuts, %v", len(cuts), err)
	}
	for i, c := range cuts {
		if c.ID != want[i] || !slices.Contains(c.Hosts[0].Copies, "hostA") {
			t.Errorf("cut %d: %s on %v", i, c.ID, c.Hosts[0].Copies)
		}
	}
	if h, err := cat.Host(t.Context(), "hostA"); err != nil || h.Addr != "192.0.2.9:7070" {
		t.Errorf("hostA is at %s, %v", h.Addr, err)
	}
	if _, err := b.Rebuild(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second time: %v", err)
	}
}

// TestGCHandsOutManifests: an ssctl that dies right after a commit has given nobody the cut's manifest; and what it leaves in the catalogue goes.
func TestGCHandsOutManifests(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB")
	cut := f.AddCut(t, "ring", []string{"hostA"}, "hostB")
	for _, h := range f.Agents {
		clear(h.Cuts)
	}
	dead := f.Open(t)
	if _, err := dead.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}}); err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil { // as the end of its process does
		t.Fatal(err)
	}
	if _, err := GC(t.Context(), f.Cluster, false); err != nil {
		t.Fatal(err)
	}
	for name, h := range f.Agents {
		if h.Cuts[cut.ID] == nil {
			t.Errorf("%s has no manifest", name)
		}
	}
	if attempts, err := f.Catalogue.Attempts(t.Context()); err != nil || len(attempts) > 0 {
		t.Errorf("attempts of nobody: %v, %v", attempts, err)
	}
}

// TestRebuildDrawsNoEpochTwice: two catalogues are made of the same cuts, one after the other, and attempts came to nothing in between. Hosts refuse an epoch that they
// have seen, so the second catalogue does not draw one of those again.
func TestRebuildDrawsNoEpochTwice(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA")
	f.AddCut(t, "ring", []string{"hostA"})
	var last uint64
	for range 3 {
		dir := filepath.Join(t.TempDir(), "new")
		b := Rebuilder{Place: Folder(dir), Where: "rebuilt", Dial: f.Dial, Verifier: f.Verifier, Statements: f.Statements, Hosts: []store.Host{{Name: "hostA", Addr: "192.0.2.9:7070"}}}
		if _, err := b.Rebuild(t.Context()); err != nil {
			t.Fatal(err)
		}
		cat, err := store.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			at, err := cat.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}})
			if err == nil {
				err = cat.EndAttempt(t.Context(), at.ID)
			}
			if err != nil || at.Epoch <= last {
				t.Errorf("epoch %d after %d, %v", at.Epoch, last, err)
			}
			last = at.Epoch
		}
		if err := cat.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
