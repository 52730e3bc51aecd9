package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestCatalogueOf94ec08b: the catalogue that ssctl of that version has left (testdata/94ec08b/catalogue.db) is taken over, and
// loses nothing. The old file stays beside it.
func TestCatalogueOf94ec08b(t *testing.T) {
	data, err := os.ReadFile("testdata/94ec08b/catalogue.db")
	check(t, err)
	dir := filepath.Join(t.TempDir(), "ss")
	check(t, os.Mkdir(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, FileName), data, 0o600))
	c, err := Open(t.Context(), dir)
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	whole := func(when string) {
		t.Helper()
		check(t, c.Check(t.Context()))
		hosts, err := c.Hosts(t.Context())
		check(t, err)
		if len(hosts) != 2 || hosts[0].Name != "hostA" || hosts[0].Addr != "10.77.0.1:7070" {
			t.Errorf("%s: hosts %+v", when, hosts)
		}
		cuts, err := c.Cuts(t.Context(), "naps")
		check(t, err)
		if len(cuts) != 3 || cuts[0].Label != "first" || !cuts[0].Pinned || len(cuts[2].Hosts) != 2 || cuts[2].Hosts[0].Manifest == "" {
			t.Errorf("%s: cuts %+v", when, cuts)
		}
		j, err := c.Job(t.Context(), "naps")
		check(t, err)
		if len(Names(j.Placement["hostA"])) != 1 || len(Names(j.Placement["hostB"])) != 1 || j.Policy.Copies != 1 || j.Policy.Keep.Last != 5 || j.Key == "" {
			t.Errorf("%s: job %+v", when, j)
		}
	}
	whole("as it was")
	kept, err := os.ReadFile(filepath.Join(dir, FileName+".layout-2"))
	check(t, err)
	if !bytes.Equal(kept, data) {
		t.Error("the old catalogue is not kept as it was")
	}
	a, err := c.BeginAttempt(t.Context(), Attempt{Kind: KindSnapshot, Job: "naps", Hosts: []string{"hostA", "hostB"}})
	check(t, err)
	if cuts, err := c.Cuts(t.Context(), "naps"); err != nil || a.Epoch <= cuts[len(cuts)-1].Epoch {
		t.Errorf("a new attempt has the epoch %d, after %+v (%v)", a.Epoch, cuts, err)
	}
	check(t, c.EndAttempt(t.Context(), a.ID))
	whole("after a change")
	m, err := c.Mark(t.Context())
	check(t, err)
	if m.Generation == 0 {
		t.Error("a change has made no generation")
	}
	check(t, c.AddMember(t.Context(), "naps", "hostA", "hostA-7"))
	check(t, c.RemoveMember(t.Context(), "naps", "hostA", "hostA-7"))
	whole("after more changes")
}
