package images

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestSealGivesRoomBack: the plain files and what is stored of them together take hardly more than the plain files, unless dumps are kept.
func TestSealGivesRoomBack(t *testing.T) {
	const size, lag = 192 << 20, 4 * 34 << 20 // a pack that is filled, one that is made durable, one that is, and names
	content := files{"hostA-1/pages-1.img": random(size, 9), "hostA-1/core-1.img": random(100, 1)}
	for _, keep := range []bool{false, true} {
		s := newStore(t, Options{KeepDumps: keep})
		if s.Frees() == keep {
			t.Fatalf("it frees: %v, with dumps kept: %v", s.Frees(), keep)
		}
		p, err := s.Begin(key1)
		ok(t, err)
		ok(t, fill(p, content))
		var mu sync.Mutex
		var peak int64
		s.objects.Step = func(op, _ string, _ int) error {
			if op != "sync" {
				return nil
			}
			plain, err := usedBelow(s.staging)
			ok(t, err)
			stored, err := usedBelow(s.dir)
			ok(t, err)
			mu.Lock()
			defer mu.Unlock()
			peak = max(peak, plain+stored)
			return nil
		}
		made, err := p.Seal(context.Background(), infoOf(key1))
		ok(t, err)
		t.Logf("dumps kept: %v: %d MiB at most, for %d MiB", keep, peak>>20, size>>20)
		if (peak > size+lag) != keep {
			t.Errorf("dumps kept: %v: %d MiB, for %d MiB", keep, peak>>20, size>>20)
		}
		s.DropKept()
		same(t, s, key1, made.Manifest.Digest, content)
	}
}

// TestSealAfterRoomWasGivenBack: a set of which something is gone cannot be sealed, and leaves nothing.
func TestSealAfterRoomWasGivenBack(t *testing.T) {
	s := newStore(t)
	p, err := s.Begin(key1)
	ok(t, err)
	ok(t, fill(p, files{"hostA-1/pages-1.img": random(110<<20, 9)}))
	released := false
	s.step = func(op, _ string, _ int) error {
		released = released || op == "release"
		return nil
	}
	s.objects.Step = func(op, path string, _ int) error {
		if op == "rename" && filepath.Base(filepath.Dir(path)) == "20261122-104501-x7k2" {
			return errInjected
		}
		return nil
	}
	_, err = p.Seal(context.Background(), infoOf(key1))
	wantErr(t, err, errInjected)
	if !released {
		t.Fatal("nothing was released")
	}
	s.step, s.objects.Step = nil, nil
	_, err = p.Seal(context.Background(), infoOf(key1))
	wantErr(t, err, ErrInvalid)
	ok(t, p.Discard())
	if sets, err := s.Sets(); err != nil || len(sets) != 0 {
		t.Fatal(sets, err)
	}
	if _, err := os.Stat(filepath.Join(s.staging, "ring")); !os.IsNotExist(err) {
		t.Error("something is left in the staging folder")
	}
}
