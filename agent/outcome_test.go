package agent

import (
	"slices"
	"testing"

	"ss/agent/custody/custodytest"
	"ss/marker"
	"ss/store/images"
)

// TestARollbackLeavesACutsImages: whatever the journal says of an attempt, a set whose cut's manifest is here is not its to remove.
func TestARollbackLeavesACutsImages(t *testing.T) {
	for _, c := range []struct {
		name  string
		exist func(a *testAgent) error
		kept  bool
	}{
		{"told of the commit", func(a *testAgent) error { return a.images.Commit(aKey) }, true},
		{"a manifest, and no mark", func(a *testAgent) error {
			return a.images.PutCut(t.Context(), aKey.Job, aKey.Snapshot, []byte("signed"))
		}, true},
		{"nothing", func(*testAgent) error { return nil }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAgent(t)
			custodytest.Seal(t, a.images, aKey, custodytest.NewKey(t))
			if err := c.exist(a); err != nil {
				t.Fatal(err)
			}
			w := a.newRunner(aKey.Job).newWork(marker.Key{Job: "job", Snapshot: "cut", Epoch: 1})
			if err := w.discard(t.Context()); err != nil {
				t.Fatal(err)
			}
			sets, err := a.images.Sets()
			if err != nil || slices.ContainsFunc(sets, func(s images.Set) bool { return s.Key == aKey }) != c.kept {
				t.Errorf("%v, %v", sets, err)
			}
		})
	}
}
