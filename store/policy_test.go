package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSetPolicy(t *testing.T) {
	c := create(t)
	set := func(p Policy) error {
		got, err := c.SetPolicy(t.Context(), "ring", func(old *Policy) error { *old = p; return nil })
		if err == nil {
			if diff := cmp.Diff(p, got); diff != "" {
				t.Error(diff)
			}
		}
		return err
	}
	wantErr(t, set(Policy{}), ErrNotFound)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	for _, p := range []Policy{
		{}, {Copies: 16}, {Vaults: []string{}}, {Vaults: []string{"file:///mnt/a b"}, Keep: Keep{Last: 100_000, Weekly: 1}},
	} {
		check(t, set(p))
		j, err := reopen(t, c).Job(t.Context(), "ring")
		check(t, err)
		if diff := cmp.Diff(p, j.Policy); diff != "" { // nil and empty vaults are told apart
			t.Error(diff)
		}
	}
	for _, p := range []Policy{
		{Copies: -1}, {Copies: 17}, {Keep: Keep{Last: -1}}, {Keep: Keep{Hourly: 100_001}}, {Keep: Keep{Daily: -1}}, {Keep: Keep{Weekly: 1 << 40}},
		{Vaults: []string{"s3://a", ""}}, {Vaults: []string{"s3://a\x00"}}, {Vaults: []string{"s3://\x7f"}}, {Vaults: []string{"\xff"}},
		{Vaults: []string{"s3://a", "s3://a"}},
	} {
		if err := set(p); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	check(t, c.Check(t.Context()))
}

func TestEffective(t *testing.T) {
	cluster := Cluster{Vaults: []string{"file:///v"}}
	if got := (Job{}).EffectiveVaults(cluster); len(got) != 1 || got[0] != "file:///v" {
		t.Errorf("vaults of the cluster: %q", got)
	}
	if got := (Job{Policy: Policy{Vaults: []string{}}}).EffectiveVaults(cluster); len(got) != 0 {
		t.Errorf("no vaults: %q", got)
	}
	if got := (Job{Policy: Policy{Vaults: []string{"s3://b"}}}).EffectiveVaults(cluster); len(got) != 1 || got[0] != "s3://b" {
		t.Errorf("vaults of its own: %q", got)
	}
	for copies, want := range map[int]int{0: 2, 1: 1, 2: 2, 16: 16, -3: 1} {
		if got := (Policy{Copies: copies}).EffectiveCopies(); got != want {
			t.Errorf("%d copies: %d, want %d", copies, got, want)
		}
	}
}

// TestEnsureKey: of many who draw at once, one wins, and all get its key.
func TestEnsureKey(t *testing.T) {
	c := create(t)
	draw := func(wrapped string) func() (string, string, error) {
		return func() (string, string, error) { return wrapped, "id of " + wrapped, nil }
	}
	_, err := c.EnsureKey(t.Context(), "ring", draw("x"))
	wantErr(t, err, ErrNotFound)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	own := errors.New("mine")
	_, err = c.EnsureKey(t.Context(), "ring", func() (string, string, error) { return "", "", own })
	wantErr(t, err, own, "ring")
	_, err = c.EnsureKey(t.Context(), "ring", draw(""))
	wantErr(t, err, ErrInvalid)

	var wg sync.WaitGroup
	got := make([]Job, 8)
	errs := make([]error, len(got))
	for i := range got {
		handle := reopen(t, c)
		wg.Go(func() {
			got[i], errs[i] = handle.EnsureKey(t.Context(), "ring", func() (string, string, error) {
				_, err := handle.Cluster(t.Context()) // draw may use the catalogue
				return fmt.Sprintf("key %d", i), fmt.Sprintf("id %d", i), err
			})
		})
	}
	wg.Wait()
	check(t, errors.Join(errs...))
	for _, j := range got {
		if j.Key == "" || j.Key[4:] != j.KeyID[3:] || j.Key != got[0].Key {
			t.Fatalf("keys %q (%s) and %q", j.Key, j.KeyID, got[0].Key)
		}
	}
	j, err := c.EnsureKey(t.Context(), "ring", func() (string, string, error) { panic("it has one") })
	check(t, err)
	if j.Key != got[0].Key {
		t.Fatalf("%q became %q", got[0].Key, j.Key)
	}
}

// TestCollectExcludes: while a vault is collected no snapshot of the job begins, and the other way round.
func TestCollectExcludes(t *testing.T) {
	c := create(t)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	check(t, c.AddMember(t.Context(), "bank", "hostA", "hostA-1"))
	kinds := []string{KindSnapshot, KindRestore, KindCollect}
	for _, first := range kinds {
		a, err := c.BeginAttempt(t.Context(), Attempt{Kind: first, Job: "ring"})
		check(t, err)
		for _, second := range kinds {
			_, err := reopen(t, c).BeginAttempt(t.Context(), Attempt{Kind: second, Job: "ring"})
			wantErr(t, err, ErrConflict, a.ID, a.noun())
			b, err := c.BeginAttempt(t.Context(), Attempt{Kind: second, Job: "bank"})
			check(t, err)
			check(t, c.EndAttempt(t.Context(), b.ID))
		}
		if first != KindSnapshot {
			wantErr(t, c.CommitCut(t.Context(), sample(a)), ErrConflict)
		}
		check(t, c.EndAttempt(t.Context(), a.ID))
	}
}
