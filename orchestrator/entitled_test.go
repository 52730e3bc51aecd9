package orchestrator

import (
	"strings"
	"testing"

	"ss/fault"
	"ss/store"
)

// TestMembersOfALaterRestore: a member of a restore that this catalogue has not noted yet. While that restore is under way, the catalogue is not older than the job.
func TestMembersOfALaterRestore(t *testing.T) {
	first, second, _ := twoHandles(t, "memory")
	c := &Cluster{Catalogue: second}
	job, err := second.Job(t.Context(), "ring")
	if err != nil {
		t.Fatal(err)
	}
	says := func(want string) {
		t.Helper()
		_, err := c.entitled(t.Context(), job, []Member{{Job: "ring", Name: "hostA-1", Host: "hostA", State: StateRunning, Epoch: 7}})
		if fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	says("older than the job")
	at, err := first.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindRestore, Job: "ring", Hosts: []string{"hostA"}})
	if err != nil {
		t.Fatal(err)
	}
	says("wait until that restore is over")
	if err := first.EndAttempt(t.Context(), at.ID); err != nil {
		t.Fatal(err)
	}
	says("older than the job")
}
