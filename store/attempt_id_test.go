package store

import (
	"errors"
	"testing"
)

// TestAttemptKeepsAGivenID: a cut that comes from elsewhere keeps its id, unless it is not a name or somebody has it already.
func TestAttemptKeepsAGivenID(t *testing.T) {
	c := create(t)
	for _, job := range []string{"ring", "other"} {
		if err := c.AddMember(t.Context(), job, "hostA", "hostA-1"); err != nil {
			t.Fatal(err)
		}
	}
	const id = "20261122-104501-x7k2"
	begin := func(job, id string) (Attempt, error) {
		return c.BeginAttempt(t.Context(), Attempt{ID: id, Kind: KindSnapshot, Job: job, Hosts: []string{"hostA"}})
	}
	a, err := begin("ring", id)
	if err != nil || a.ID != id {
		t.Fatalf("%s, %v", a.ID, err)
	}
	if _, err := begin("other", id); !errors.Is(err, ErrConflict) {
		t.Errorf("an attempt has it: %v", err)
	}
	if err := c.CommitCut(t.Context(), Cut{ID: id, Job: "ring", Epoch: a.Epoch}); err != nil {
		t.Fatal(err)
	}
	if _, err := begin("other", id); !errors.Is(err, ErrConflict) {
		t.Errorf("a cut has it: %v", err)
	}
	if _, err := begin("other", "../x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("no name: %v", err)
	}
	if a, err := begin("other", ""); err != nil || a.ID == "" {
		t.Errorf("none given: %q, %v", a.ID, err)
	}
}

// TestStaleAttemptGivesItsIDBack: an import whose ssctl was killed can be done again, and not while that one lives.
func TestStaleAttemptGivesItsIDBack(t *testing.T) {
	c := create(t)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	const id = "20261122-104501-x7k2"
	want := Attempt{ID: id, Kind: KindSnapshot, Job: "ring", Hosts: []string{"hostA"}, Phase: "import"}
	first, err := c.BeginAttempt(t.Context(), want)
	check(t, err)
	other := reopen(t, c)
	_, err = other.BeginAttempt(t.Context(), want)
	wantErr(t, err, ErrConflict, id)
	check(t, c.Close()) // as the end of its process does
	second, err := other.BeginAttempt(t.Context(), want)
	check(t, err)
	if second.ID != id || second.Epoch != first.Epoch+1 {
		t.Errorf("%+v after %+v", second, first)
	}
	wantErr(t, c.CommitCut(t.Context(), sample(first)), ErrConflict)
	check(t, other.CommitCut(t.Context(), sample(second)))
	check(t, other.Check(t.Context()))
}

// TestCollectionIsAConflictThatPasses: who meets one may wait for its end.
func TestCollectionIsAConflictThatPasses(t *testing.T) {
	c := create(t)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	at, err := c.BeginAttempt(t.Context(), Attempt{Kind: KindCollect, Job: "ring"})
	check(t, err)
	_, err = reopen(t, c).BeginAttempt(t.Context(), Attempt{Kind: KindRestore, Job: "ring"})
	wantErr(t, err, ErrCollecting, "collection", at.ID)
	wantErr(t, err, ErrConflict)
	check(t, c.EndAttempt(t.Context(), at.ID))
	begin(t, c, "ring")
	_, err = reopen(t, c).BeginAttempt(t.Context(), Attempt{Kind: KindRestore, Job: "ring"})
	if wantErr(t, err, ErrConflict); errors.Is(err, ErrCollecting) {
		t.Error("a snapshot passes for a collection")
	}
}
