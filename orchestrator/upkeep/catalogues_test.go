package upkeep

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ss/fault"
	"ss/orchestrator"
	"ss/orchestrator/clustertest"
	"ss/store"
	"ss/store/images"
)

// TestOldCatalogue: an older copy of the folder, put back, is recognised, whatever it has drawn meanwhile, and removes nothing; a rebuild from what there
// is makes it the newest, with every cut, and then the copy that was the newest is told.
func TestOldCatalogue(t *testing.T) {
	f := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA", "hostB")
	first := f.AddCut(t, "ring", []string{"hostA"}, "hostB")
	old := f.CopyOf(t)
	f = f.In(t, f.Dir)
	var later []store.Cut
	for range 3 {
		later = append(later, f.AddCut(t, "ring", []string{"hostA"}, "hostB"))
	}
	for range 6 { // refused snapshots draw epochs all the same
		at, err := old.Catalogue.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := old.Catalogue.EndAttempt(t.Context(), at.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := old.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Keep.Last = 1; return nil }); err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"gc":                           func() error { _, err := GC(t.Context(), old.Cluster, false); return err },
		"rm":                           func() error { _, err := old.Remove(t.Context(), first.ID, true); return err },
		"rm of a cut it does not know": func() error { _, err := old.Remove(t.Context(), later[0].ID, true); return err },
		"repair":                       func() error { _, err := Repair(t.Context(), old.Cluster, RepairOptions{}); return err },
		"snapshot": func() error {
			_, err := old.Snapshot(t.Context(), orchestrator.SnapshotOptions{Job: "ring"})
			return err
		},
	} {
		if err := do(); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "not the newest") || !strings.Contains(err.Error(), "catalog rebuild --replace") {
			t.Errorf("%s: %v", what, err)
		}
	}
	statuses, err := old.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if gone := old.Retain(t.Context(), "ring", statuses); len(gone) != 0 {
		t.Errorf("retention removed %v", gone)
	}
	if !slices.ContainsFunc(old.Notices, func(n string) bool { return strings.Contains(n, f.Dir) }) {
		t.Errorf("nobody was told of the other copy: %v", old.Notices)
	}
	f.CheckThere(t, append(later, first)...)

	b := Rebuilder{Place: Folder(old.Dir), Where: "rebuilt", Dial: old.Dial, Verifier: old.Verifier, Statements: old.Statements, Replace: true}
	res, err := b.Rebuild(t.Context())
	if err != nil || len(res.Rebuilt.Cuts) != 4 || res.Aside == "" {
		t.Fatalf("%d cuts, aside %q, %v, %v", len(res.Rebuilt.Cuts), res.Aside, res.Remarks, err)
	}
	rebuilt := f.In(t, old.Dir)
	if _, err := GC(t.Context(), rebuilt.Cluster, false); err != nil {
		t.Error(err)
	}
	f.CheckThere(t, append(later, first)...)
	if _, err := GC(t.Context(), f.Cluster, false); !fault.Is(err, fault.Conflict) {
		t.Errorf("the copy that was the newest is not told: %v", err)
	}
	rebuilt.AddCut(t, "ring", []string{"hostA"}) // and it goes on
}

// TestOneCommandIsEnough: a copy from before the last command is recognised by what that command showed the agents, whatever it was.
func TestOneCommandIsEnough(t *testing.T) {
	f := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA", "hostB")
	cut := f.AddCut(t, "ring", []string{"hostA"})
	for name, do := range map[string]func(c *clustertest.Cluster) error{
		"gc": func(c *clustertest.Cluster) error { _, err := GC(t.Context(), c.Cluster, false); return err },
		"rm": func(c *clustertest.Cluster) error { _, err := c.Remove(t.Context(), cut.ID, false); return err },
		"snapshot": func(c *clustertest.Cluster) error {
			_, _ = c.Snapshot(t.Context(), orchestrator.SnapshotOptions{Job: "ring"})
			return nil
		}, // nothing runs, and it was asked for
	} {
		before := f.CopyOf(t)
		if err := do(f.In(t, f.Dir)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		statuses, err := before.Hosts(t.Context())
		if err != nil || orchestrator.Current(statuses) == nil {
			t.Errorf("%s: the copy from before it is taken for the newest: %v", name, err)
		}
	}
}

// TestTwoAdmins: of two copies that are in use at once, the second is told, and neither removes what is the other's.
func TestTwoAdmins(t *testing.T) {
	f := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA", "hostB")
	f.AddCut(t, "ring", []string{"hostA"})
	one, two := f.CopyOf(t), f.CopyOf(t)
	mine := one.AddCut(t, "ring", []string{"hostA"})
	if _, err := two.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { return nil }); err != nil { // it is at a generation of its own, and no host was asked
		t.Fatal(err)
	}
	if _, err := GC(t.Context(), two.Cluster, false); !fault.Is(err, fault.Conflict) {
		t.Errorf("the second: %v", err)
	}
	if _, err := GC(t.Context(), one.Cluster, false); err != nil {
		t.Errorf("the first: %v", err)
	}
	f.CheckThere(t, mine)
	// Whose hosts have not heard of generations, of an older version say: by the cut that it does not know.
	for _, h := range f.Agents {
		h.Mark = store.Mark{}
	}
	three := f.CopyOf(t)
	if _, err := GC(t.Context(), three.Cluster, false); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), mine.ID) {
		t.Errorf("by its cuts: %v", err)
	}
	f.CheckThere(t, mine)
}

// TestSeveralCommandsAtOnceAreOneCatalogue: commands that run beside each other with one folder are told nothing.
func TestSeveralCommandsAtOnceAreOneCatalogue(t *testing.T) {
	f := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA")
	f.AddCut(t, "ring", []string{"hostA"})
	a, b := f.In(t, f.Dir), f.In(t, f.Dir)
	for range 3 {
		for _, c := range []*clustertest.Cluster{a, b, f} {
			if _, err := c.Catalogue.SetPolicy(t.Context(), "ring", func(*store.Policy) error { return nil }); err != nil {
				t.Fatal(err)
			}
			statuses, err := c.Hosts(t.Context())
			if err != nil || orchestrator.Current(statuses) != nil {
				t.Fatalf("%v, %v", err, orchestrator.Current(statuses))
			}
		}
	}
}

// TestImportedAgain: a cut that was exported, removed and imported again is not the latest, and displaces nothing; the tombstone of the one that was removed
// does not cover it.
func TestImportedAgain(t *testing.T) {
	f := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA", "hostB")
	oldest := f.AddCut(t, "ring", []string{"hostA"}, "hostB")
	path := filepath.Join(t.TempDir(), "cut.tar")
	if _, err := f.Export(t.Context(), orchestrator.ExportOptions{Cut: oldest.ID, File: path}); err != nil {
		t.Fatal(err)
	}
	var newer []store.Cut
	for range 3 {
		newer = append(newer, f.AddCut(t, "ring", []string{"hostA"}, "hostB"))
	}
	if _, err := f.Remove(t.Context(), oldest.ID, false); err != nil {
		t.Fatal(err)
	}
	f.Agents["hostA"].Tag = "imported again: " // an import has digests of its own
	res, err := f.Import(t.Context(), orchestrator.ImportOptions{File: path})
	if err != nil {
		t.Fatal(err)
	}
	if res.Cut.Imported == nil || res.Cut.Imported.From != clustertest.ClusterA || !res.Cut.Time.Equal(oldest.Time) || res.Cut.Epoch <= newer[2].Epoch {
		t.Errorf("%+v, epoch %d", res.Cut.Imported, res.Cut.Epoch)
	}
	if latest, err := f.Catalogue.Cut(t.Context(), "ring", store.Latest); err != nil || latest.ID != newer[2].ID {
		t.Errorf("the latest is %s, %v", latest.ID, err)
	}
	if _, err := f.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Keep = store.Keep{Last: 3}; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := GC(t.Context(), f.Cluster, false); err != nil {
		t.Fatal(err)
	}
	f.CheckThere(t, append(newer, res.Cut)...)
	if cuts, err := f.Catalogue.Cuts(t.Context(), "ring"); err != nil || len(cuts) != 4 {
		t.Errorf("%d cuts, %v", len(cuts), err)
	}
	if _, err := f.Remove(t.Context(), res.Cut.ID, false); err != nil || len(f.HoldersOf(oldest.ID)) != 0 {
		t.Errorf("removed again: %v, held by %v", err, f.HoldersOf(oldest.ID))
	}
}

// exchanging is a catalogue that somebody exchanges right after a cut is committed.
type exchanging struct {
	orchestrator.Catalogue
	begun, committed func()
}

func (e exchanging) BeginAttempt(ctx context.Context, a store.Attempt) (store.Attempt, error) {
	a, err := e.Catalogue.BeginAttempt(ctx, a)
	e.begun()
	return a, err
}

func (e exchanging) CommitCut(ctx context.Context, cut store.Cut) error {
	err := e.Catalogue.CommitCut(ctx, cut)
	e.committed()
	return err
}

// TestOlderCopyAfterTheCommit: an older copy of the catalogue is put in its place, as cp does it, between a cut's commit and the news of it. The cut's holders get its manifest all the same, the command
// removes nothing by what the older copy says, nor does any after it, and a rebuild has the cut.
func TestOlderCopyAfterTheCommit(t *testing.T) {
	for name, same := range map[string]bool{"before the job was": false, "before the command": false, "within the command": true} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA", "hostB")
			file := filepath.Join(f.Dir, store.FileName)
			data, err := os.ReadFile(file)
			put := func(to []byte) {
				if err := os.WriteFile(file, to, 0o600); err != nil {
					t.Error(err)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			first := f.AddCut(t, "ring", []string{"hostA"}, "hostB")
			path := filepath.Join(t.TempDir(), "cut.tar")
			if _, err := f.Export(t.Context(), orchestrator.ExportOptions{Cut: first.ID, File: path}); err != nil {
				t.Fatal(err)
			}
			f.AddCut(t, "ring", []string{"hostA"}, "hostB")
			// What the older copy says would remove all but the last.
			if _, err := f.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Keep.Last = 1; return nil }); err != nil {
				t.Fatal(err)
			}
			if name != "before the job was" {
				if data, err = os.ReadFile(file); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := f.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Keep.Last = 0; return nil }); err != nil {
				t.Fatal(err)
			}
			third := f.AddCut(t, "ring", []string{"hostA"}, "hostB")
			if _, err := f.Remove(t.Context(), first.ID, false); err != nil {
				t.Fatal(err)
			}
			f.Agents["hostA"].Tag = "imported again: "

			g := f.In(t, f.Dir)
			g.Catalogue = exchanging{g.Catalogue, func() {
				if name == "within the command" {
					data, err = os.ReadFile(file)
				}
			}, func() { put(data) }}
			res, ierr := g.Import(t.Context(), orchestrator.ImportOptions{File: path})
			if err != nil || ierr != nil {
				t.Fatal(err, ierr)
			}
			told := slices.ContainsFunc(g.Notices, func(n string) bool {
				return strings.Contains(n, "another copy of the catalogue") && strings.Contains(n, "catalog rebuild --replace")
			})
			if told == same {
				t.Errorf("told: %v: %q", told, g.Notices)
			}
			for _, h := range f.Agents {
				if c, err := store.DecodeCutFile(h.Cuts[res.Cut.ID], f.Verifier); err != nil || c.Cut.ID != res.Cut.ID || c.Cut.Epoch != res.Cut.Epoch {
					t.Errorf("a holder has the manifest of %s, epoch %d, not %d: %v", c.Cut.ID, c.Cut.Epoch, res.Cut.Epoch, err)
				}
			}
			statuses, err := g.Hosts(t.Context())
			if !same && err == nil {
				t.Error("the command goes on with the older copy")
			}
			g.Retain(t.Context(), "ring", statuses)
			next := f.In(t, f.Dir)
			if _, err := GC(t.Context(), next.Cluster, false); !fault.Is(err, fault.Conflict) && !same { // one from within is as new as any that a host has seen
				t.Errorf("gc: %v", err)
			}
			f.CheckThere(t, third, res.Cut)
			b := Rebuilder{Place: Folder(f.Dir), Where: "rebuilt", Dial: f.Dial, Verifier: f.Verifier, Statements: f.Statements, Replace: true, Hosts: []store.Host{{Name: "hostA", Addr: "hostA:1"}}}
			if _, err := b.Rebuild(t.Context()); err != nil {
				t.Fatal(err)
			}
			if cuts, err := f.In(t, f.Dir).Catalogue.Cuts(t.Context(), "ring"); err != nil || !slices.ContainsFunc(cuts, func(c store.Cut) bool { return c.ID == res.Cut.ID }) || len(cuts) != 3 {
				t.Errorf("%d cuts after the rebuild, %v", len(cuts), err)
			}
		})
	}
}

// TestForeignArchiveNeedsAJob: nothing of another cluster gets into a job by its name alone.
func TestForeignArchiveNeedsAJob(t *testing.T) {
	from, to := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA"), clustertest.NewOnDisk(t, clustertest.ClusterB, "hostA", "hostX")
	own := to.AddCut(t, "ring", []string{"hostA"})
	cut := from.AddCut(t, "ring", []string{"hostA"})
	path := filepath.Join(t.TempDir(), "cut.tar")
	if _, err := from.Export(t.Context(), orchestrator.ExportOptions{Cut: cut.ID, File: path}); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Import(t.Context(), orchestrator.ImportOptions{File: path}); !fault.Is(err, fault.Usage) || !strings.Contains(err.Error(), "--job") {
		t.Fatalf("%v", err)
	}
	if _, err := to.Import(t.Context(), orchestrator.ImportOptions{File: path, Job: "ring"}); err != nil {
		t.Fatal(err)
	}
	if latest, err := to.Catalogue.Cut(t.Context(), "ring", store.Latest); err != nil || latest.ID != own.ID {
		t.Errorf("the latest is %s, %v", latest.ID, err)
	}
}

// fast is a catalogue of a cluster whose clock is fast.
type fast struct{ orchestrator.Catalogue }

func (e fast) CommitCut(ctx context.Context, cut store.Cut) error {
	cut.Time = cut.Time.AddDate(70, 0, 0)
	return e.Catalogue.CommitCut(ctx, cut)
}

// TestImportsDisplaceNothing: whatever an archive says of its time, however many of them come, pinned and unpinned, and with a catalogue made again: the latest is a cut that was taken here, and no rule
// removes one for an import. One that is there is not imported again.
func TestImportsDisplaceNothing(t *testing.T) {
	from, to := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA"), clustertest.NewOnDisk(t, clustertest.ClusterB, "hostA", "hostX")
	from.Catalogue = fast{from.Catalogue}
	own := []store.Cut{to.AddCut(t, "ring", []string{"hostA"}), to.AddCut(t, "ring", []string{"hostA"})}
	if _, err := to.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Keep = store.Keep{Last: 2, Hourly: 1, Daily: 1, Weekly: 1}; return nil }); err != nil {
		t.Fatal(err)
	}
	export := func(f *clustertest.Cluster, cut store.Cut) string {
		path := filepath.Join(t.TempDir(), "cut.tar")
		if _, err := f.Export(t.Context(), orchestrator.ExportOptions{Cut: cut.ID, File: path}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	check := func(when string, f *clustertest.Cluster, imports ...store.Cut) {
		t.Helper()
		if latest, err := f.Catalogue.Cut(t.Context(), "ring", store.Latest); err != nil || latest.ID != own[1].ID {
			t.Errorf("%s: the latest is %s, %v", when, latest.ID, err)
		}
		if res, err := GC(t.Context(), f.Cluster, false); err != nil || len(res.Expired) > 0 {
			t.Errorf("%s: gc removes %v, %v", when, res.Expired, err)
		}
		f.CheckThere(t, append(imports, own...)...)
	}
	var imports []store.Cut
	for i := range 4 {
		to.Agents["hostA"].Tag = fmt.Sprintf("import %d: ", i)
		res, err := to.Import(t.Context(), orchestrator.ImportOptions{File: export(from, from.AddCut(t, "ring", []string{"hostA"})), Job: "ring"})
		if err != nil {
			t.Fatal(err)
		}
		imports = append(imports, res.Cut)
		check("an import from the future", to, imports...)
	}
	if res, err := to.Import(t.Context(), orchestrator.ImportOptions{File: export(to, own[0]), Job: "ring"}); err == nil {
		t.Errorf("a cut that is there is imported again, as %s", res.Cut.ID)
	}
	check("one that is there", to, imports...)
	for _, pinned := range []bool{true, false} {
		if _, err := to.Pin(t.Context(), imports[3].ID, pinned); err != nil {
			t.Fatal(err)
		}
		check("pinned and unpinned", to, imports...)
	}
	b := Rebuilder{Place: Folder(to.Dir), Where: "rebuilt", Dial: to.Dial, Verifier: to.Verifier, Statements: to.Statements, Replace: true}
	if _, err := b.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	rebuilt := to.In(t, to.Dir)
	check("made again", rebuilt, imports...)
	own[1] = rebuilt.AddCut(t, "ring", []string{"hostA"})
	if res, err := GC(t.Context(), rebuilt.Cluster, false); err != nil || len(res.Expired) != 1 || res.Expired[0].ID != own[0].ID {
		t.Errorf("a third cut: gc removes %v, %v", res.Expired, err)
	}
	own = own[1:]
	rebuilt.CheckThere(t, append(imports, own...)...)
}

// TestImportBesideImagesInDoubt: an ssctl died after it had committed a cut and before it told anybody; the cut was exported, and its catalogue is put back from an older copy. An import of the
// archive takes nothing away from the images that hosts and vaults hold of the cut.
func TestImportBesideImagesInDoubt(t *testing.T) {
	for _, where := range []string{"hostA", "hostB", "a vault"} {
		t.Run(where, func(t *testing.T) {
			f := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA", "hostB")
			f.AddCut(t, "ring", []string{"hostA"}, "hostB")
			const vault = "file:///vault"
			if where == "a vault" {
				f.Vaults[vault] = f.NewHost(vault)
				if _, err := f.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Vaults = []string{vault}; return nil }); err != nil {
					t.Fatal(err)
				}
			}
			old := f.CopyOf(t)
			cut := f.AddCut(t, "ring", []string{"hostA"}, "hostB")
			path := filepath.Join(t.TempDir(), "cut.tar")
			if _, err := f.Export(t.Context(), orchestrator.ExportOptions{Cut: cut.ID, File: path}); err != nil {
				t.Fatal(err)
			}
			key := images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}
			files := f.Agents["hostA"].Files(key)
			for name, h := range f.Agents {
				delete(h.Cuts, cut.ID) // nobody was told
				h.Committed[key] = false
				h.Mark = store.Mark{}
				if name != where {
					h.Lose("ring", cut.ID)
				}
			}
			holder := f.Agents[where]
			if where == "a vault" {
				holder = f.Vaults[vault]
				holder.Put(key, files)
				holder.Epochs[key] = cut.Epoch
			}
			before := holder.Files(key)
			if _, err := old.Import(t.Context(), orchestrator.ImportOptions{File: path}); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "ssctl rm "+cut.ID+" --force") {
				t.Errorf("the import: %v", err)
			}
			if after := holder.Files(key); len(before) == 0 || len(after) != len(before) {
				t.Errorf("%d files of the cut's were there, and %d are", len(before), len(after))
			}
		})
	}
}

// TestEveryBitOfACutsManifest: whatever bit of a cut's signed manifest is another one, on every copy, verify finds it and repair signs it again.
func TestEveryBitOfACutsManifest(t *testing.T) {
	f := clustertest.NewOnDisk(t, clustertest.ClusterA, "hostA", "hostB")
	cut := f.AddCut(t, "ring", []string{"hostA"}, "hostB")
	whole := slices.Clone(f.Agents["hostA"].Cuts[cut.ID])
	for bit := 0; bit < len(whole)*8; bit += 37 {
		for _, h := range f.Agents {
			h.Cuts[cut.ID] = slices.Clone(whole)
			h.Cuts[cut.ID][bit/8] ^= 1 << (bit % 8)
		}
		if _, err := Verify(t.Context(), f.Cluster, VerifyOptions{Cut: cut.ID}); !fault.Is(err, fault.Integrity) || !strings.Contains(err.Error(), "ssctl repair "+cut.ID) {
			t.Fatalf("bit %d: verify: %v", bit, err)
		}
		parts, err := Repair(t.Context(), f.Cluster, RepairOptions{Of: cut.ID})
		if err != nil || parts[0].State != StateRepaired {
			t.Fatalf("bit %d: repair: %+v, %v", bit, parts, err)
		}
		for name, h := range f.Agents {
			inv := orchestrator.Inventory{Cuts: []orchestrator.HeldCut{{Job: "ring", Snapshot: cut.ID, Manifest: h.Cuts[cut.ID]}}}
			if bad := (orchestrator.Census{Hosts: map[string]orchestrator.Inventory{name: inv}}).BadManifests(cut, f.Verifier); len(bad) > 0 {
				t.Fatalf("bit %d: %v", bit, bad)
			}
		}
	}
	// That of another cut, on one copy only.
	other := f.AddCut(t, "ring", []string{"hostA"}, "hostB")
	f.Agents["hostB"].Cuts[cut.ID] = f.Agents["hostB"].Cuts[other.ID]
	if _, err := Verify(t.Context(), f.Cluster, VerifyOptions{Cut: cut.ID}); !fault.Is(err, fault.Integrity) || !strings.Contains(err.Error(), "hostB") {
		t.Errorf("another's: verify: %v", err)
	}
	if _, err := Repair(t.Context(), f.Cluster, RepairOptions{Of: cut.ID}); err != nil {
		t.Errorf("another's: repair: %v", err)
	}
	// Missing on one: the news of the commit did not reach it, which is said and is not damage.
	delete(f.Agents["hostB"].Cuts, cut.ID)
	var notes []string
	f.Notice = func(text string) { notes = append(notes, text) }
	if _, err := Verify(t.Context(), f.Cluster, VerifyOptions{Cut: cut.ID}); err != nil || len(notes) != 1 || !strings.Contains(notes[0], "hostB; ssctl repair "+cut.ID) {
		t.Errorf("missing: verify: %v, %q", err, notes)
	}
	if _, err := Repair(t.Context(), f.Cluster, RepairOptions{Of: cut.ID}); err != nil || f.Agents["hostB"].Cuts[cut.ID] == nil {
		t.Errorf("missing: repair: %v", err)
	}
	// Nobody holds the images whole any more: that is said.
	for _, h := range f.Agents {
		h.Put(images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}, clustertest.ExampleSet("damaged"))
	}
	if _, err := Repair(t.Context(), f.Cluster, RepairOptions{Of: cut.ID}); !fault.Is(err, fault.Integrity) || !strings.Contains(err.Error(), "nobody holds a whole copy") {
		t.Errorf("lost: %v", err)
	}
}
