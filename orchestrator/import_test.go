package orchestrator_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ss/fault"
	. "ss/orchestrator"
	"ss/orchestrator/clustertest"
	"ss/store"
	"ss/store/images"
	"ss/store/keys"
)

// TestImportElsewhere: a cut that goes out of one cluster comes into another, whole, under its own id, and only once.
func TestImportElsewhere(t *testing.T) {
	from, to := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB"), clustertest.New(t, clustertest.ClusterB, "hostA", "hostX")
	cut := from.AddCut(t, "ring", []string{"hostA", "hostB"})
	identity, recipient, err := keys.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, recipients := range map[string][]string{"plain": nil, "encrypted": {recipient}} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cut.tar")
			if _, err := from.Export(t.Context(), ExportOptions{Cut: cut.ID, File: path, Recipients: recipients}); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
			if _, err := from.Export(t.Context(), ExportOptions{Cut: cut.ID, File: path}); !fault.Is(err, fault.Conflict) {
				t.Errorf("over a file: %v", err)
			}
			if recipients != nil {
				if _, err := to.Import(t.Context(), ImportOptions{File: path, Job: "ring"}); !fault.Is(err, fault.Denied) {
					t.Errorf("without the identity: %v", err)
				}
				own := to.Identities
				to.Identities = func() ([]string, error) {
					ids, err := own()
					return append(ids, identity), err
				}
			}
			res, err := to.Import(t.Context(), ImportOptions{File: path, Job: "ring-" + name, Hosts: map[string]string{"hostB": "hostX"}})
			if err != nil {
				t.Fatal(err)
			}
			checkImported(t, from, to, cut, res)
			if _, err := to.Import(t.Context(), ImportOptions{File: path, Job: "ring"}); !errors.Is(err, store.ErrConflict) {
				t.Errorf("a second time: %v", err)
			}
			if _, err := to.Remove(t.Context(), res.Cut.ID, false); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func checkImported(t *testing.T, from, to *clustertest.Cluster, was store.Cut, res ImportResult) {
	t.Helper()
	if res.From != clustertest.ClusterA || res.Targets["hostA"] != "hostA" || res.Targets["hostB"] != "hostX" {
		t.Errorf("%+v", res)
	}
	is, err := to.Catalogue.Cut(t.Context(), "", was.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range is.Hosts {
		if len(h.Copies) != 2 {
			t.Errorf("images of %s on %v", h.Host, h.Copies)
		}
		want := from.Agents[h.Host].Files(images.Key{Job: was.Job, Snapshot: was.ID, Host: h.Host})
		for _, holder := range h.Copies {
			got := to.Agents[holder].Files(images.Key{Job: is.Job, Snapshot: is.ID, Host: h.Host})
			if !slices.EqualFunc(got, want, func(a, b clustertest.File) bool { return a.Path == b.Path && bytes.Equal(a.Data, b.Data) }) {
				t.Errorf("images of %s on %s: %v, want %v", h.Host, holder, got, want)
			}
		}
	}
	if is.KeyID == was.KeyID || is.KeyID == "" {
		t.Errorf("key %q, it was %q", is.KeyID, was.KeyID)
	}
	if _, err := to.CutKey(is); err != nil {
		t.Errorf("the new cluster cannot open it: %v", err)
	}
}

// TestImportOfDamageLeavesNothing: the last byte decides, and until it has been seen there is no cut, and no image, and no job.
func TestImportOfDamageLeavesNothing(t *testing.T) {
	from, to := clustertest.New(t, clustertest.ClusterA, "hostA"), clustertest.New(t, clustertest.ClusterB, "hostA", "hostX")
	from.AddCut(t, "ring", []string{"hostA"})
	if _, err := from.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Copies = 1; return nil }); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "cut.tar")
	if _, err := from.Export(t.Context(), ExportOptions{Cut: "latest", File: path}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int{"a page": bytes.Index(whole, []byte("hostAhostAhostA")), "a digest": len(whole) - 2048, "the end": len(whole) - 1} {
		bad := slices.Clone(whole)
		bad[at] ^= 1
		file := filepath.Join(dir, "bad.tar")
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Import(t.Context(), ImportOptions{File: file, Job: "ring"}); !fault.Is(err, fault.Integrity) {
			t.Errorf("%s: %v, want damage", name, err)
		}
	}
	cuts, err := to.Catalogue.Cuts(t.Context(), "")
	jobs, jerr := to.Catalogue.Jobs(t.Context())
	attempts, aerr := to.Catalogue.Attempts(t.Context())
	if err := errors.Join(err, jerr, aerr); err != nil || len(cuts)+len(jobs)+len(attempts) > 0 {
		t.Errorf("%v, %v, %v are left, %v", cuts, jobs, attempts, err)
	}
	for name, h := range to.Agents {
		if len(h.Sets) > 0 {
			t.Errorf("%s holds %d sets", name, len(h.Sets))
		}
	}
	if _, err := to.Import(t.Context(), ImportOptions{File: path, Job: "ring"}); err != nil {
		t.Errorf("the whole one: %v", err)
	}
}

// TestImportChecksItsOwnCluster: whoever says that a cut is of this cluster must have an admin's signature of it.
func TestImportChecksItsOwnCluster(t *testing.T) {
	from, to := clustertest.New(t, clustertest.ClusterA, "hostA"), clustertest.New(t, clustertest.ClusterA, "hostA")
	cut := from.AddCut(t, "ring", []string{"hostA"})
	if _, err := to.Catalogue.Cut(t.Context(), "", cut.ID); !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	if err := to.Catalogue.AddMember(t.Context(), "ring", "hostA", "hostA-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Copies = 1; return nil }); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cut.tar")
	if _, err := from.Export(t.Context(), ExportOptions{Cut: cut.ID, File: path}); err != nil {
		t.Fatal(err)
	}
	own := to.Verifier
	to.Verifier = clustertest.Signer{ID: clustertest.ClusterB}
	if _, err := to.Import(t.Context(), ImportOptions{File: path, Job: "ring"}); !fault.Is(err, fault.Integrity) {
		t.Errorf("signed by nobody of the cluster: %v", err)
	}
	to.Verifier = own
	if _, err := to.Import(t.Context(), ImportOptions{File: path, Job: "ring"}); err != nil {
		t.Error(err)
	}
}

// TestKeysNeedAnIdentity: without the cluster's identity, or with another's, the error says what to do; open images need none.
func TestKeysNeedAnIdentity(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA")
	cut := f.AddCut(t, "ring", []string{"hostA"})
	other, _, err := keys.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, ids := range map[string]func() ([]string, error){
		"none":    nil,
		"no file": func() ([]string, error) { return nil, os.ErrNotExist },
		"another": func() ([]string, error) { return []string{other}, nil },
	} {
		f.Identities = ids
		if _, err := f.CutKey(cut); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cut.KeyID = keys.Open.ID()
	if k, err := f.CutKey(cut); err != nil || k != keys.Open {
		t.Errorf("open: %v, %v", k, err)
	}
}

// TestImportThatFailsLeavesAnothersVaultAlone: two clusters may have one vault, and a cut of one of them in it.
func TestImportThatFailsLeavesAnothersVaultAlone(t *testing.T) {
	const url = "file:///both"
	from, to := clustertest.New(t, clustertest.ClusterA, "hostA"), clustertest.New(t, clustertest.ClusterB, "hostA")
	both := from.NewHost(url)
	from.Vaults[url], to.Vaults[url] = both, both
	cut := from.AddCut(t, "ring", []string{"hostA"})
	key := images.Key{Job: "ring", Snapshot: cut.ID, Host: "hostA"}
	both.Put(key, clustertest.ExampleSet("hostA"))
	both.Cuts[cut.ID] = from.Agents["hostA"].Cuts[cut.ID]
	path := filepath.Join(t.TempDir(), "cut.tar")
	if _, err := from.Export(t.Context(), ExportOptions{Cut: cut.ID, File: path}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)-1] ^= 1
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := to.Catalogue.SetPlacement(t.Context(), "ring", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Catalogue.SetPolicy(t.Context(), "ring", func(p *store.Policy) error { p.Vaults = []string{url}; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Import(t.Context(), ImportOptions{File: path, Job: "ring"}); !fault.Is(err, fault.Integrity) {
		t.Fatalf("%v, want damage", err)
	}
	if both.Files(key) == nil || both.Cuts[cut.ID] == nil {
		t.Error("the other cluster's copy is gone")
	}
}
