package store

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPinAndHolders(t *testing.T) {
	c := create(t)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	cut := commit(t, c, "ring")
	_, err := c.Pin(t.Context(), "none", true)
	wantErr(t, err, ErrNotFound)
	for _, pinned := range []bool{true, true, false} {
		got, err := c.Pin(t.Context(), cut.ID, pinned)
		check(t, err)
		want := cut
		want.Pinned = pinned
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
	check(t, c.SetHolders(t.Context(), cut.ID, "hostA", []string{"hostC", "hostB", "hostC"}, []string{"s3://b", "file:///a"}))
	got, err := reopen(t, c).Cut(t.Context(), "", cut.ID)
	check(t, err)
	cut.Hosts[0].Copies, cut.Hosts[0].Vaults = []string{"hostB", "hostC"}, []string{"file:///a", "s3://b"}
	if diff := cmp.Diff(cut, got); diff != "" {
		t.Fatal(diff)
	}
	wantErr(t, c.SetHolders(t.Context(), cut.ID, "hostZ", nil, nil), ErrNotFound, "hostZ")
	wantErr(t, c.SetHolders(t.Context(), "none", "hostA", nil, nil), ErrNotFound)
	wantErr(t, c.SetHolders(t.Context(), cut.ID, "hostA", []string{"../x"}, nil), ErrInvalid)
	wantErr(t, c.SetHolders(t.Context(), cut.ID, "hostA", nil, []string{""}), ErrInvalid)
	got, err = c.Cut(t.Context(), "", cut.ID)
	check(t, err)
	if diff := cmp.Diff(cut, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestLoseHost(t *testing.T) {
	c := create(t)
	_, err := c.LoseHost(t.Context(), "hostA")
	wantErr(t, err, ErrNotFound, "hostA")
	for i, name := range []string{"hostA", "hostB"} {
		check(t, c.AddHost(t.Context(), Host{Name: name, Addr: fmt.Sprintf("10.0.0.%d:7070", i+1)}))
	}
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	check(t, c.AddMember(t.Context(), "ring", "hostB", "hostB-1"))
	check(t, c.AddMember(t.Context(), "bank", "hostB", "hostB-1"))
	first, second, other := commit(t, c, "ring"), commit(t, c, "ring"), commit(t, c, "bank")
	check(t, c.SetHolders(t.Context(), other.ID, "hostA", []string{"hostB"}, nil))

	a := begin(t, c, "ring")
	_, err = c.LoseHost(t.Context(), "hostA")
	wantErr(t, err, ErrConflict, a.ID)
	check(t, c.EndAttempt(t.Context(), a.ID))

	ids, err := c.LoseHost(t.Context(), "hostA")
	check(t, err)
	if diff := cmp.Diff([]string{first.ID, second.ID}, ids); diff != "" {
		t.Fatal(diff)
	}
	_, err = c.Host(t.Context(), "hostA")
	wantErr(t, err, ErrNotFound)
	jobs, err := reopen(t, c).Jobs(t.Context())
	check(t, err)
	want := []map[string][]Placed{{"hostB": Running("hostB-1")}, {"hostA": {}, "hostB": Running("hostB-1")}}
	for i, j := range jobs {
		if diff := cmp.Diff(want[i], j.Placement); diff != "" {
			t.Error(j.Name, diff)
		}
	}
	cuts, err := c.Cuts(t.Context(), "")
	check(t, err)
	for _, cut := range cuts {
		if got := strings.Join(cut.Hosts[0].Copies, " "); got != "hostB" {
			t.Errorf("cut %s is held by %s", cut.ID, got)
		}
		if cut.Hosts[0].Host != "hostA" {
			t.Errorf("cut %s forgot whose part it was", cut.ID)
		}
	}
	check(t, c.Check(t.Context()))
}
