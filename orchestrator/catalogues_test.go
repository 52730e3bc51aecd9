package orchestrator

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ss/fault"
	"ss/store"
	"ss/store/images"
)

// copyOf is a second copy of a cluster's folder, as an admin keeps one, with the same hosts.
func (f *fakeCluster) copyOf(t *testing.T) *fakeCluster {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, store.FileName))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, store.FileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return f.in(t, dir)
}

// in is the cluster with the catalogue of another folder, or of this one as the next command opens it.
func (f *fakeCluster) in(t *testing.T, dir string) *fakeCluster {
	t.Helper()
	cat, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	cat.Where = dir
	g := &fakeCluster{dir: dir, id: f.id, hosts: f.hosts, vaults: f.vaults}
	g.Cluster = &Cluster{Catalogue: cat, Signer: f.Signer, Verifier: f.Verifier, Statements: f.Statements, Identities: f.Identities, Dial: f.Dial,
		Notice: func(text string) { g.notices = append(g.notices, text) }}
	return g
}

// checkThere complains of cuts that nobody holds images of.
func (f *fakeCluster) checkThere(t *testing.T, cuts ...store.Cut) {
	t.Helper()
	for _, cut := range cuts {
		if len(f.holdersOf(cut.ID)) == 0 {
			t.Errorf("cut %s is gone", cut.ID)
		}
	}
}

// TestOldCatalogue: an older copy of the folder, put back, is recognised, whatever it has drawn meanwhile, and removes nothing; a rebuild from what there
// is makes it the newest, with every cut, and then the copy that was the newest is told.
func TestOldCatalogue(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB")
	first := f.addCut(t, "ring", []string{"hostA"}, "hostB")
	old := f.copyOf(t)
	f = f.in(t, f.dir)
	var later []store.Cut
	for range 3 {
		later = append(later, f.addCut(t, "ring", []string{"hostA"}, "hostB"))
	}
	for range 6 { // refused snapshots draw epochs all the same
		at, err := old.Catalogue.BeginAttempt(store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := old.Catalogue.EndAttempt(at.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := old.Catalogue.SetPolicy("ring", func(p *store.Policy) error { p.Keep.Last = 1; return nil }); err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"gc":                           func() error { _, err := old.GC(t.Context(), false); return err },
		"rm":                           func() error { _, err := old.Remove(t.Context(), first.ID, true); return err },
		"rm of a cut it does not know": func() error { _, err := old.Remove(t.Context(), later[0].ID, true); return err },
		"repair":                       func() error { _, err := old.Repair(t.Context(), RepairOptions{}); return err },
		"snapshot":                     func() error { _, err := old.Snapshot(t.Context(), SnapshotOptions{Job: "ring"}); return err },
	} {
		if err := do(); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "not the newest") || !strings.Contains(err.Error(), "catalog rebuild --replace") {
			t.Errorf("%s: %v", what, err)
		}
	}
	statuses, err := old.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if gone := old.retain(t.Context(), "ring", statuses); len(gone) != 0 {
		t.Errorf("retention removed %v", gone)
	}
	if !slices.ContainsFunc(old.notices, func(n string) bool { return strings.Contains(n, f.dir) }) {
		t.Errorf("nobody was told of the other copy: %v", old.notices)
	}
	f.checkThere(t, append(later, first)...)

	b := Rebuilder{Dir: old.dir, Where: "rebuilt", Dial: old.Dial, Verifier: old.Verifier, Statements: old.Statements, Replace: true}
	res, err := b.Rebuild(t.Context())
	if err != nil || len(res.Rebuilt.Cuts) != 4 || res.Aside == "" {
		t.Fatalf("%d cuts, aside %q, %v, %v", len(res.Rebuilt.Cuts), res.Aside, res.Remarks, err)
	}
	rebuilt := f.in(t, old.dir)
	if _, err := rebuilt.GC(t.Context(), false); err != nil {
		t.Error(err)
	}
	f.checkThere(t, append(later, first)...)
	if _, err := f.GC(t.Context(), false); !fault.Is(err, fault.Conflict) {
		t.Errorf("the copy that was the newest is not told: %v", err)
	}
	rebuilt.addCut(t, "ring", []string{"hostA"}) // and it goes on
}

// TestOneCommandIsEnough: a copy from before the last command is recognised by what that command showed the agents, whatever it was.
func TestOneCommandIsEnough(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB")
	cut := f.addCut(t, "ring", []string{"hostA"})
	for name, do := range map[string]func(c *fakeCluster) error{
		"gc":       func(c *fakeCluster) error { _, err := c.GC(t.Context(), false); return err },
		"rm":       func(c *fakeCluster) error { _, err := c.Remove(t.Context(), cut.ID, false); return err },
		"snapshot": func(c *fakeCluster) error { _, _ = c.Snapshot(t.Context(), SnapshotOptions{Job: "ring"}); return nil }, // nothing runs, and it was asked for
	} {
		before := f.copyOf(t)
		if err := do(f.in(t, f.dir)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		statuses, err := before.Hosts(t.Context())
		if err != nil || current(statuses) == nil {
			t.Errorf("%s: the copy from before it is taken for the newest: %v", name, err)
		}
	}
}

// TestTwoAdmins: of two copies that are in use at once, the second is told, and neither removes what is the other's.
func TestTwoAdmins(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB")
	f.addCut(t, "ring", []string{"hostA"})
	one, two := f.copyOf(t), f.copyOf(t)
	mine := one.addCut(t, "ring", []string{"hostA"})
	if _, err := two.Catalogue.SetPolicy("ring", func(p *store.Policy) error { return nil }); err != nil { // it is at a generation of its own, and no host was asked
		t.Fatal(err)
	}
	if _, err := two.GC(t.Context(), false); !fault.Is(err, fault.Conflict) {
		t.Errorf("the second: %v", err)
	}
	if _, err := one.GC(t.Context(), false); err != nil {
		t.Errorf("the first: %v", err)
	}
	f.checkThere(t, mine)
	// Whose hosts have not heard of generations, of an older version say: by the cut that it does not know.
	for _, h := range f.hosts {
		h.mark = store.Mark{}
	}
	three := f.copyOf(t)
	if _, err := three.GC(t.Context(), false); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), mine.ID) {
		t.Errorf("by its cuts: %v", err)
	}
	f.checkThere(t, mine)
}

// TestSeveralCommandsAtOnceAreOneCatalogue: commands that run beside each other with one folder are told nothing.
func TestSeveralCommandsAtOnceAreOneCatalogue(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA")
	f.addCut(t, "ring", []string{"hostA"})
	a, b := f.in(t, f.dir), f.in(t, f.dir)
	for range 3 {
		for _, c := range []*fakeCluster{a, b, f} {
			if _, err := c.Catalogue.SetPolicy("ring", func(*store.Policy) error { return nil }); err != nil {
				t.Fatal(err)
			}
			statuses, err := c.Hosts(t.Context())
			if err != nil || current(statuses) != nil {
				t.Fatalf("%v, %v", err, current(statuses))
			}
		}
	}
}

// TestImportedAgain: a cut that was exported, removed and imported again is not the latest, and displaces nothing; the tombstone of the one that was removed
// does not cover it.
func TestImportedAgain(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB")
	oldest := f.addCut(t, "ring", []string{"hostA"}, "hostB")
	path := filepath.Join(t.TempDir(), "cut.tar")
	if _, err := f.Export(t.Context(), ExportOptions{Cut: oldest.ID, File: path}); err != nil {
		t.Fatal(err)
	}
	var newer []store.Cut
	for range 3 {
		newer = append(newer, f.addCut(t, "ring", []string{"hostA"}, "hostB"))
	}
	if _, err := f.Remove(t.Context(), oldest.ID, false); err != nil {
		t.Fatal(err)
	}
	f.hosts["hostA"].tag = "imported again: " // an import has digests of its own
	res, err := f.Import(t.Context(), ImportOptions{File: path})
	if err != nil {
		t.Fatal(err)
	}
	if res.Cut.Imported == nil || res.Cut.Imported.From != clusterA || !res.Cut.Time.Equal(oldest.Time) || res.Cut.Epoch <= newer[2].Epoch {
		t.Errorf("%+v, epoch %d", res.Cut.Imported, res.Cut.Epoch)
	}
	if latest, err := f.Catalogue.Cut("ring", store.Latest); err != nil || latest.ID != newer[2].ID {
		t.Errorf("the latest is %s, %v", latest.ID, err)
	}
	if _, err := f.Catalogue.SetPolicy("ring", func(p *store.Policy) error { p.Keep = store.Keep{Last: 3}; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := f.GC(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	f.checkThere(t, append(newer, res.Cut)...)
	if cuts, err := f.Catalogue.Cuts("ring"); err != nil || len(cuts) != 4 {
		t.Errorf("%d cuts, %v", len(cuts), err)
	}
	if _, err := f.Remove(t.Context(), res.Cut.ID, false); err != nil || len(f.holdersOf(oldest.ID)) != 0 {
		t.Errorf("removed again: %v, held by %v", err, f.holdersOf(oldest.ID))
	}
}

// TestForeignArchiveNeedsAJob: nothing of another cluster gets into a job by its name alone.
func TestForeignArchiveNeedsAJob(t *testing.T) {
	from, to := newFakeCluster(t, clusterA, "hostA"), newFakeCluster(t, clusterB, "hostA", "hostX")
	own := to.addCut(t, "ring", []string{"hostA"})
	cut := from.addCut(t, "ring", []string{"hostA"})
	path := filepath.Join(t.TempDir(), "cut.tar")
	if _, err := from.Export(t.Context(), ExportOptions{Cut: cut.ID, File: path}); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Import(t.Context(), ImportOptions{File: path}); !fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), "--job") {
		t.Fatalf("%v", err)
	}
	if _, err := to.Import(t.Context(), ImportOptions{File: path, Job: "ring"}); err != nil {
		t.Fatal(err)
	}
	if latest, err := to.Catalogue.Cut("ring", store.Latest); err != nil || latest.ID != own.ID {
		t.Errorf("the latest is %s, %v", latest.ID, err)
	}
}

// TestEveryBitOfACutsManifest: whatever bit of a cut's signed manifest is another one, on every copy, verify finds it and repair signs it again.
func TestEveryBitOfACutsManifest(t *testing.T) {
	f := newFakeCluster(t, clusterA, "hostA", "hostB")
	cut := f.addCut(t, "ring", []string{"hostA"}, "hostB")
	whole := slices.Clone(f.hosts["hostA"].cuts[cut.ID])
	for bit := 0; bit < len(whole)*8; bit += 37 {
		for _, h := range f.hosts {
			h.cuts[cut.ID] = slices.Clone(whole)
			h.cuts[cut.ID][bit/8] ^= 1 << (bit % 8)
		}
		if _, err := f.Verify(t.Context(), VerifyOptions{Cut: cut.ID}); !fault.Is(err, fault.Integrity) || !strings.Contains(err.Error(), "ssctl repair "+cut.ID) {
			t.Fatalf("bit %d: verify: %v", bit, err)
		}
		parts, err := f.Repair(t.Context(), RepairOptions{Of: cut.ID})
		if err != nil || parts[0].State != StateRepaired {
			t.Fatalf("bit %d: repair: %+v, %v", bit, parts, err)
		}
		for name, h := range f.hosts {
			if err := (Inventory{Cuts: []HeldCut{{"ring", cut.ID, h.cuts[cut.ID]}}}).checkManifest(cut, f.Verifier); err != nil {
				t.Fatalf("bit %d: on %s: %v", bit, name, err)
			}
		}
	}
	// That of another cut, on one copy only.
	other := f.addCut(t, "ring", []string{"hostA"}, "hostB")
	f.hosts["hostB"].cuts[cut.ID] = f.hosts["hostB"].cuts[other.ID]
	if _, err := f.Verify(t.Context(), VerifyOptions{Cut: cut.ID}); !fault.Is(err, fault.Integrity) || !strings.Contains(err.Error(), "hostB") {
		t.Errorf("another's: verify: %v", err)
	}
	if _, err := f.Repair(t.Context(), RepairOptions{Of: cut.ID}); err != nil {
		t.Errorf("another's: repair: %v", err)
	}
	// Missing on one: the news of the commit did not reach it, which is said and is no damage.
	delete(f.hosts["hostB"].cuts, cut.ID)
	var notes []string
	f.Notice = func(text string) { notes = append(notes, text) }
	if _, err := f.Verify(t.Context(), VerifyOptions{Cut: cut.ID}); err != nil || len(notes) != 1 || !strings.Contains(notes[0], "hostB; ssctl repair "+cut.ID) {
		t.Errorf("missing: verify: %v, %q", err, notes)
	}
	if _, err := f.Repair(t.Context(), RepairOptions{Of: cut.ID}); err != nil || f.hosts["hostB"].cuts[cut.ID] == nil {
		t.Errorf("missing: repair: %v", err)
	}
	// Nobody holds the images whole any more: that is said.
	for _, h := range f.hosts {
		h.put(images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}, exampleSet("damaged"))
	}
	if _, err := f.Repair(t.Context(), RepairOptions{Of: cut.ID}); !fault.Is(err, fault.Integrity) || !strings.Contains(err.Error(), "nobody holds a whole copy") {
		t.Errorf("lost: %v", err)
	}
}
