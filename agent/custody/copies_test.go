package custody

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ss/agent/custody/custodytest"
	"ss/store/blob"
	"ss/store/images"
)

func TestCopiesFallOverToTheNextHost(t *testing.T) {
	for name, c := range map[string]struct {
		hosts  []string
		fail   []string
		wanted int
		want   []string // nil: it fails
	}{
		"none is wanted":        {[]string{"hostB", "hostC"}, nil, 0, []string{}},
		"none is offered":       {nil, nil, 0, []string{}},
		"the first ones":        {[]string{"hostD", "hostC", "hostB"}, nil, 2, []string{"hostD", "hostC"}},
		"one refuses":           {[]string{"hostB", "hostC", "hostD"}, []string{"hostB"}, 1, []string{"hostC"}},
		"one of two refuses":    {[]string{"hostB", "hostC", "hostD"}, []string{"hostC"}, 2, []string{"hostB", "hostD"}},
		"too many refuse":       {[]string{"hostB", "hostC", "hostD"}, []string{"hostB", "hostD"}, 2, nil},
		"too few are offered":   {[]string{"hostB"}, nil, 2, nil},
		"all that there are do": {[]string{"hostB", "hostC", "hostD"}, nil, 3, []string{"hostB", "hostC", "hostD"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHolder(t, "hostB", "hostC", "hostD")
			others := h.others
			for _, h := range c.fail {
				others.Fails[h] = blob.ErrFull
			}
			custodytest.Seal(t, h.cfg.Store, aKey, custodytest.NewKey(t))
			cp := &Copies{h: h.Holder, key: aKey, hosts: peersOf(c.hosts...), wanted: c.wanted}
			err := cp.Run(t.Context())
			if (err == nil) != (c.want != nil) {
				t.Fatalf("error %v, want copies on %v", err, c.want)
			}
			if err == nil {
				if got := cp.Holders(); !slices.Equal(got, append([]string{"hostA"}, c.want...)) {
					t.Errorf("holders %v, want %v and hostA", got, c.want)
				}
				if len(c.want) > 0 != (cp.moved > 0) {
					t.Errorf("moved %d bytes to %v", cp.moved, c.want)
				}
				cp.Settle(t.Context())
				return
			}
			for _, h := range c.fail {
				if !strings.Contains(err.Error(), h+": ") || !errors.Is(err, blob.ErrFull) {
					t.Errorf("it does not say what %s said: %v", h, err)
				}
			}
			if err := cp.Undo(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := others.Holding(aKey); len(got) != 0 {
				t.Errorf("still on %v", got)
			}
			for to, said := range others.Settled() {
				if !slices.Equal(said, []bool{false}) {
					t.Errorf("%s was told %v", to, said)
				}
			}
		})
	}
}

func TestCopiesInVaults(t *testing.T) {
	h := newHolder(t, "hostB")
	others := h.others
	there, gone := "file://"+t.TempDir(), "file:///nowhere/at/all"
	k := custodytest.NewKey(t)
	man := custodytest.Seal(t, h.cfg.Store, aKey, k)
	cp := &Copies{h: h.Holder, key: aKey, hosts: peersOf("hostB"), wanted: 1, vaults: []string{there, gone}}
	err := cp.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), gone) {
		t.Fatalf("a vault is not there: %v", err)
	}
	if !slices.Equal(cp.stored, []string{there}) || !slices.Equal(others.Holding(aKey), []string{"hostB"}) {
		t.Errorf("stored %v, on %v", cp.stored, others.Holding(aKey))
	}
	v, err := h.vault(t.Context(), there)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.VerifyIn(t.Context(), v, aKey, man.Digest); err != nil {
		t.Fatal(err)
	}
	if err := cp.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sets, err := images.SetsIn(t.Context(), v, ""); err != nil || len(sets) != 0 || len(others.Holding(aKey)) != 0 {
		t.Errorf("undone, and there are %v, %v", sets, err)
	}
}

// TestUndoLeavesACutInAVault: an import that fails must not take what is there of the same cut with it.
func TestUndoLeavesACutInAVault(t *testing.T) {
	h := newHolder(t)
	url := "file://" + t.TempDir()
	custodytest.Seal(t, h.cfg.Store, aKey, custodytest.NewKey(t))
	cp := &Copies{h: h.Holder, key: aKey, vaults: []string{url}}
	if err := cp.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.PutCut(t.Context(), url, aKey.Job, aKey.Snapshot, []byte("signed")); err != nil {
		t.Fatal(err)
	}
	if err := cp.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	inv, err := h.Inventory(t.Context(), url, "")
	if err != nil || len(inv.Sets) != 1 || !inv.Sets[0].Committed {
		t.Fatalf("%+v, %v", inv, err)
	}
}

// TestRefusalsAreShort: who did not take a copy and why, one a line; a full disk is only that.
func TestRefusalsAreShort(t *testing.T) {
	full := fmt.Errorf("push: put x in /y: %w: no space left on device", blob.ErrFull)
	err := &listed{"1 of 2 other hosts took a copy", []error{refusal("hostC", full), refusal("hostD", errors.New("it is gone"))}}
	if got, want := err.Error(), "1 of 2 other hosts took a copy:\n  hostC: its disk is full\n  hostD: it is gone"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !errors.Is(err, blob.ErrFull) {
		t.Error("the reason is lost")
	}
}
