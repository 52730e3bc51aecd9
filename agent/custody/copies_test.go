package custody

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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
			err := cp.run(t.Context(), sealed())
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
	err := cp.run(t.Context(), sealed())
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

// TestStoreCopiesWhileItSeals: a host that refuses is asked no more and another one is, a vault gets its copy, and of a set that cannot be sealed nothing is
// to be seen anywhere.
func TestStoreCopiesWhileItSeals(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprintf("sealing fails: %v", fails), func(t *testing.T) {
			h := newHolder(t, "hostB", "hostC")
			h.others.Fails["hostB"] = blob.ErrFull
			vault := "file://" + t.TempDir()
			p, err := h.Begin(aKey)
			if err != nil {
				t.Fatal(err)
			}
			dir, err := p.Dir("hostA-1")
			if err != nil {
				t.Fatal(err)
			}
			memory := make([]byte, 40<<20) // more than one pack
			_, _ = rand.NewChaCha8([32]byte{3}).Read(memory)
			if err := os.WriteFile(filepath.Join(dir, "pages-1.img"), memory, 0o600); err != nil {
				t.Fatal(err)
			}
			info := images.Info{Epoch: 1, Meta: []byte(custodytest.Meta), JobKey: custodytest.NewKey(t)}
			broken := errors.New("the disk breaks")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if fails {
				info.Progress = func(bytes int64) {
					if bytes > 36<<20 {
						cancel(broken)
					}
				}
			}
			cp := h.Copy(aKey, peersOf("hostB", "hostC"), 1, []string{vault})
			sealed, err := cp.Store(ctx, p, info)
			if fails {
				if !errors.Is(err, broken) || sealed.Manifest.Digest != "" {
					t.Fatalf("%+v, %v", sealed, err)
				}
				if err := errors.Join(p.Discard(), cp.Undo(t.Context())); err != nil {
					t.Fatal(err)
				}
				if got := h.others.Holding(aKey); len(got) != 0 {
					t.Errorf("on %v", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := cp.Holders(); !slices.Equal(got, []string{"hostA", "hostC"}) || !slices.Equal(cp.Vaults(), []string{vault}) {
				t.Errorf("on %v, in %v", got, cp.Vaults())
			}
			if got, least := cp.Moved(), 2*sealed.Ingested.Wrote; got < least || got > least+least/100 {
				t.Errorf("moved %d bytes for two copies of %d", got, sealed.Ingested.Wrote)
			}
			v, err := h.vault(t.Context(), vault)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := images.VerifyIn(t.Context(), v, aKey, sealed.Manifest.Digest); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestUndoLeavesACutInAVault: an import that fails must not take what is there of the same cut with it.
func TestUndoLeavesACutInAVault(t *testing.T) {
	h := newHolder(t)
	url := "file://" + t.TempDir()
	custodytest.Seal(t, h.cfg.Store, aKey, custodytest.NewKey(t))
	cp := &Copies{h: h.Holder, key: aKey, vaults: []string{url}}
	if err := cp.run(t.Context(), sealed()); err != nil {
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
