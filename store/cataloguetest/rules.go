package cataloguetest

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"ss/store"
)

// catalogues are handles on one new catalogue that knows a job.
func catalogues(t *testing.T, d Database, n int) []*store.Catalogue {
	t.Helper()
	first, err := store.Init(t.Context(), d.Open(t), store.Cluster{ID: "abc", Recipients: []string{"age1"}})
	check(t, err)
	all := []*store.Catalogue{first}
	for len(all) < n {
		all = append(all, store.New(d.Open(t)))
	}
	for i, c := range all {
		c.Where = fmt.Sprintf("machine%d", i)
	}
	check(t, first.AddHost(t.Context(), store.Host{Name: "hostA", Addr: "192.0.2.1:7070"}))
	check(t, first.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	return all
}

var snapshot = store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}}

func cutOf(a store.Attempt) store.Cut {
	return store.Cut{ID: a.ID, Job: a.Job, Epoch: a.Epoch, Hosts: []store.CutHost{{Host: "hostA", Members: []store.CutMember{{Name: "hostA-1"}},
		Manifest: "0000000000000000000000000000000000000000000000000000000000000000", Copies: []string{"hostA"}}}}
}

// jobLease: one attempt of a job at a time, and who is at it is named.
func jobLease(t *testing.T, d Database) {
	cs := catalogues(t, d, 2)
	at, err := cs[0].BeginAttempt(t.Context(), snapshot)
	check(t, err)
	_, err = cs[1].BeginAttempt(t.Context(), snapshot)
	wantErr(t, err, store.ErrConflict, at.ID, "machine0", fmt.Sprint(os.Getpid()), `"ring"`)
	wantErr(t, cs[1].EndAttempt(t.Context(), at.ID), store.ErrConflict, "machine0")
	check(t, cs[0].CommitCut(t.Context(), cutOf(at)))
	next, err := cs[1].BeginAttempt(t.Context(), snapshot)
	check(t, err)
	if next.Epoch != at.Epoch+1 {
		t.Errorf("epoch %d after %d", next.Epoch, at.Epoch)
	}
	check(t, cs[1].EndAttempt(t.Context(), next.ID))
	cut, err := cs[1].Cut(t.Context(), "ring", store.Latest)
	check(t, err)
	if cut.ID != at.ID {
		t.Errorf("the latest is %s", cut.ID)
	}
}

// lostAttempt: an attempt that lives on after it has lost its lease commits nothing, and ends nobody else's.
func lostAttempt(t *testing.T, d Database) {
	cs := catalogues(t, d, 2)
	old, err := cs[0].BeginAttempt(t.Context(), snapshot)
	check(t, err)
	d.Lose(t, "ring")
	wantErr(t, cs[0].CommitCut(t.Context(), cutOf(old)), store.ErrConflict, "lost")
	now, err := cs[1].BeginAttempt(t.Context(), snapshot)
	check(t, err)
	wantErr(t, cs[0].CommitCut(t.Context(), cutOf(old)), store.ErrConflict, "lost", "machine1")
	check(t, cs[0].EndAttempt(t.Context(), old.ID))
	attempts, err := cs[0].Attempts(t.Context())
	check(t, err)
	if len(attempts) != 1 || attempts[0].ID != now.ID || !attempts[0].Live {
		t.Errorf("%+v", attempts)
	}
	check(t, cs[1].CommitCut(t.Context(), cutOf(now)))
	cuts, err := cs[0].Cuts(t.Context(), "ring")
	check(t, err)
	if len(cuts) != 1 || cuts[0].ID != now.ID {
		t.Errorf("%d cuts", len(cuts))
	}
}

// drawnOnce: however many draw at once, no name is given twice.
func drawnOnce(t *testing.T, d Database) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[string]bool{}
	for _, c := range catalogues(t, d, 4) {
		wg.Go(func() {
			for range 5 {
				name, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[name] {
					t.Errorf("%s twice", name)
				}
				seen[name] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 20 {
		t.Errorf("%d names", len(seen))
	}
}
