package orchestrator_test

import (
	"errors"
	"strings"
	"testing"

	"ss/fault"
	. "ss/orchestrator"
	"ss/orchestrator/clustertest"
	"ss/standing"
	"ss/store"
)

// TestRestoreWithoutItsSsctl: where the members are after a restore whose ssctl has died is what the statement says that its hosts keep. The attempt
// itself is forgotten at once, whoever answers.
func TestRestoreWithoutItsSsctl(t *testing.T) {
	for name, c := range map[string]struct {
		inForce bool
		away    bool   // the target does not answer at first
		want    string // hostA-1's host
	}{
		"it took place": {inForce: true, want: "hostC"},
		"it took place, and the host comes later": {inForce: true, away: true, want: "hostC"},
		"it is not decided":                       {want: "hostA"},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB", "hostC")
			f.Agents["hostA"].Away, f.Agents["hostC"].Away = true, c.away
			err := errors.Join(f.Catalogue.AddMember(t.Context(), "ring", "hostA", "hostA-1"), f.Catalogue.AddMember(t.Context(), "ring", "hostB", "hostB-1"))
			if err != nil {
				t.Fatal(err)
			}
			cluster, err := f.Catalogue.Cluster(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s := standing.Statement{Cluster: cluster.ID, Job: "ring", Epoch: 7, Ended: []string{"hostA-2"}, Hosts: []standing.Host{
				{Name: "hostB", Endpoint: "192.0.2.1:2", Members: []string{"hostB-1"}}, {Name: "hostC", Endpoint: "192.0.2.1:3", Members: []string{"hostA-1"}}}}
			encoded, err := s.Encode(f.Statements)
			if err != nil {
				t.Fatal(err)
			}
			f.Agents["hostC"].Standings = []Standing{{Job: "ring", Epoch: 7, Statement: encoded, InForce: c.inForce}}
			if err := f.EndStale(t.Context(), []store.Attempt{{ID: "x", Kind: store.KindRestore, Job: "ring"}}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time changes nothing more
				if _, err := f.Hosts(t.Context()); err != nil {
					t.Fatal(err)
				}
				f.Agents["hostC"].Away = false
			}
			j, err := f.Catalogue.Job(t.Context(), "ring")
			if err != nil {
				t.Fatal(err)
			}
			if host, _, _ := j.Where("hostA-1"); host != c.want {
				t.Errorf("hostA-1 is on %s, want %s", host, c.want)
			}
			if _, p, ok := j.Where("hostA-2"); c.inForce && (!ok || !p.EndedWell()) {
				t.Errorf("hostA-2, which had done its work before the cut: %+v, %v", p, ok)
			}
		})
	}
}

// TestJobWithOldCopiesStays: a job that was restored without a host cannot be removed before that host has ended its old copies, or is known to be gone for good. What has its
// name afterwards is newer than all that was.
func TestJobWithOldCopiesStays(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB")
	f.Agents["hostA"].Away = true
	cluster, err := f.Catalogue.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := standing.Statement{Cluster: cluster.ID, Job: "ring", Epoch: 7, Hosts: []standing.Host{{Name: "hostB", Endpoint: "192.0.2.1:2", Members: []string{"hostA-1"}}},
		Superseded: []standing.Host{{Name: "hostA", Members: []string{"hostA-1"}}}}
	encoded, err := s.Encode(f.Statements)
	if err != nil {
		t.Fatal(err)
	}
	f.Agents["hostB"].Standings = []Standing{{Job: "ring", Epoch: 7, Statement: encoded, InForce: true}}
	err = f.Catalogue.AddMember(t.Context(), "ring", "hostA", "hostA-1")
	if _, herr := f.Hosts(t.Context()); err != nil || herr != nil {
		t.Fatal(err, herr)
	}
	if err := f.Catalogue.ClearHosts(t.Context(), "ring", 7, "hostB"); err != nil {
		t.Fatal(err)
	}
	if err := f.RemoveJob(t.Context(), "ring"); !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), "hostA-1 on hostA") {
		t.Fatalf("with an old copy that may live: %v", err)
	}
	if _, err := f.LoseHost(t.Context(), "hostA"); err != nil {
		t.Fatal(err)
	}
	if err := f.RemoveJob(t.Context(), "ring"); err != nil {
		t.Fatalf("after its host was given up: %v", err)
	}
	if err := f.Catalogue.AddMember(t.Context(), "ring", "hostB", "hostB-1"); err != nil {
		t.Fatal(err)
	}
	if j, err := f.Catalogue.Job(t.Context(), "ring"); err != nil || j.Restored <= 7 {
		t.Errorf("a job of that name: epoch %d, %v", j.Restored, err)
	}
}
