package images

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ss/store/keys"
	"ss/store/pack"
)

// TestCollectKeepsWhatIsBuiltOn: the set that an ingest builds on is removed, and collected, while the ingest is under way.
func TestCollectKeepsWhatIsBuiltOn(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	sealed(t, s, key1, sample())
	p, err := s.Begin(key2)
	ok(t, err)
	ok(t, fill(p, changed(5)))
	var once sync.Once
	info := infoOf(key2)
	info.Progress = func(int64) {
		once.Do(func() { // what is known was pinned before anything is read
			if err := s.Remove(key1); err != nil {
				t.Error(err)
			}
			if _, err := s.Collect(ctx, "", false); err != nil {
				t.Error(err)
			}
		})
	}
	made, err := p.Seal(ctx, info)
	ok(t, err)
	if made.Ingested.New != 3<<12 {
		t.Fatalf("it did not build on the first: %+v", made.Ingested)
	}
	same(t, s, key2, "", changed(5))
}

// TestCollectKeepsWhatIsRead: a set goes while it is unpacked.
func TestCollectKeepsWhatIsRead(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	sealed(t, s, key1, sample())
	gone := false
	_, err := s.Unpack(ctx, key1, "", jobKey, filepath.Join(t.TempDir(), "out"), func(string) bool {
		if !gone {
			gone = true
			ok(t, s.Remove(key1))
			_, err := s.Collect(ctx, "", false)
			ok(t, err)
		}
		return true
	})
	ok(t, err)
	g, err := s.Collect(ctx, "", false)
	if err != nil || g.Objects == 0 {
		t.Fatal(g, err)
	}
}

// TestCollectKeepsWhatComes: a set that becomes visible between a Collect's look at the sets and its removing.
func TestCollectKeepsWhatComes(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	sealed(t, s, key1, sample())
	ok(t, s.Remove(key1)) // garbage, so that Collect has something to do
	w := s.pins.watch()
	defer s.pins.unwatch(w)
	name := ObjectName("ring", "x")
	held := s.pins.pin(name)
	held.release()
	if gone, err := s.pins.unlessKept(w, name, func() error { return nil }); gone || err != nil {
		t.Fatal(gone, err)
	}
	if gone, err := s.pins.unlessKept(nil, name, func() error { return nil }); !gone || err != nil {
		t.Fatal(gone, err)
	}
	// The whole of it: a set is made again while a Collect goes through its list.
	var begun atomic.Bool
	s.opt.Pause = func(context.Context) error {
		if !begun.CompareAndSwap(false, true) {
			return nil // also for the ingest
		}
		_, err := store(s, key2, sample())
		return err
	}
	_, err := s.Collect(ctx, "", false)
	ok(t, err)
	same(t, s, key2, "", sample())
}

func TestCollectWithABadManifestLeavesTheJobAlone(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	bank := Key{"bank", "s1", "hostA"}
	for _, key := range []Key{key1, key2, bank} {
		sealed(t, s, key, sample())
	}
	ok(t, s.Remove(key2))
	ok(t, s.Remove(bank))
	flip(t, s.objects.Path(SetName(key1)), 3)
	before := objectsOf(t, s, "ring")
	_, err := s.Collect(ctx, "", false)
	wantDamage(t, err, SetName(key1))
	wantErr(t, err, err, "job ring", "fetch it again or remove it")
	if len(objectsOf(t, s, "ring")) != len(before) || len(objectsOf(t, s, "bank")) != 0 {
		t.Fatal("not what should be there")
	}
	flip(t, s.objects.Path(SetName(key1)), 3)
}

// TestEverythingAtOnce has two hosts that make, send, fetch, heal and remove sets all at the same time.
func TestEverythingAtOnce(t *testing.T) {
	const cuts, kept = 12, 3
	ctx := context.Background()
	hosts := []string{"hostA", "hostB"}
	stores := []*Store{newStore(t), newStore(t)}
	keyOf := func(cut int, host string) Key { return Key{"ring", fmt.Sprintf("20261122-1045%02d-aaaa", cut), host} }
	contentOf := func(cut int) files { return changed(byte(cut)) }
	var background, makers sync.WaitGroup
	done := make(chan struct{})
	forever := func(f func() error) {
		background.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := f(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i, s := range stores {
		host, other := hosts[i], stores[1-i]
		makers.Go(func() {
			for cut := range cuts {
				key := keyOf(cut, host)
				if _, err := store(s, key, contentOf(cut)); err != nil {
					t.Error(err)
					return
				}
				if _, err := s.Push(ctx, key, asPeer(other)); err != nil {
					t.Error(err)
				}
				if err := errors.Join(s.Commit(key), other.Commit(key)); err != nil {
					t.Error(err)
				}
				if old := keyOf(cut-kept, host); cut >= kept {
					if err := errors.Join(s.Remove(old), other.Remove(old)); err != nil {
						t.Error(err)
					}
				}
			}
		})
		forever(func() error { _, err := s.Collect(ctx, "", false); return err })
		forever(func() error {
			return s.Scrub(ctx, 0, func(context.Context, Set) []Source { return nil }, func(d Damage) { t.Errorf("damage: %+v", d) })
		})
		forever(func() error {
			sets, err := s.Sets()
			for _, set := range sets {
				_, err := s.Fetch(ctx, set.Key, "", true, []Source{asSource("other", other)})
				if err != nil && !gone(s, set.Key) && !gone(other, set.Key) {
					return err
				}
				_, err = s.VerifyData(ctx, set.Key, "", jobKey)
				if err != nil && !errors.Is(err, ErrNotFound) {
					return err
				}
			}
			return err
		})
	}
	makers.Wait()
	close(done)
	background.Wait()
	for _, s := range stores {
		s.pins.until = map[string]time.Time{} // as an agent starts
		ok(t, errors.Join(s.RemovePartials(ctx), s.Check(ctx)))
		for cut := cuts - kept; cut < cuts; cut++ {
			for _, host := range hosts {
				same(t, s, keyOf(cut, host), "", contentOf(cut))
			}
		}
		if damaged, err := s.Damaged(); err != nil || len(damaged) != 0 {
			t.Errorf("%+v, %v", damaged, err)
		}
	}
}

func gone(s *Store, key Key) bool {
	there, err := s.has(key)
	return err == nil && !there
}

func TestScrub(t *testing.T) {
	ctx := context.Background()
	s, m, others := pushed(t, 1)
	ok(t, s.Scrub(ctx, 1<<30, nil, func(d Damage) { t.Errorf("%+v", d) }))

	flipped, lost := m.Packs[1].Digest, m.Index.Digest
	flip(t, s.objects.Path(ObjectName("ring", flipped)), 12345)
	ok(t, s.objects.Remove(ctx, ObjectName("ring", lost)))
	flip(t, s.objects.Path(SetName(key1)), 500)
	want := map[string]bool{flipped: true, lost: true, key1.Snapshot + "/" + key1.Host: true}
	round := func(heal func(context.Context, Set) []Source) map[string]Damage {
		found := map[string]Damage{}
		ok(t, s.Scrub(ctx, 0, heal, func(d Damage) { found[d.Digest] = d }))
		return found
	}
	for i := range 2 { // not healed, it is found again
		found := round(nil)
		if len(found) != len(want) {
			t.Fatalf("round %d: %+v", i, found)
		}
		for what, d := range found {
			if !want[what] || d.Healed || d.Detail == "" || d.Job != "ring" {
				t.Fatalf("round %d: %+v", i, d)
			}
		}
	}
	found := round(func(_ context.Context, set Set) []Source { return []Source{asSource("hostB", others[0])} })
	if len(found) == 0 {
		t.Fatal("nothing found")
	}
	for _, d := range found { // one Fetch may have healed more than one object
		if !d.Healed {
			t.Fatalf("%+v", d)
		}
	}
	if found := round(nil); len(found) != 0 {
		t.Fatalf("healed, and yet %+v", found)
	}
	damaged, err := s.Damaged()
	if err != nil || len(damaged) != len(want) {
		t.Fatalf("%+v, %v", damaged, err)
	}
	for _, d := range damaged {
		if !d.Healed {
			t.Fatalf("%+v", d)
		}
	}
	same(t, s, key1, "", sample())
	same(t, s, key2, m.Digest, changed(5))
}

// TestIndexMustAgreeWithManifest: whoever can write a manifest cannot make an index say something else.
func TestIndexMustAgreeWithManifest(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	m := sealed(t, s, key1, sample()).Manifest
	_, x, err := s.Index(ctx, key1, "", jobKey)
	ok(t, err)
	x.Files = x.Files[1:]
	form, err := x.Encode(jobKey)
	ok(t, err)
	made := &sink{s: s, job: "ring", held: s.pins.pin()}
	m.Index, err = made.put(ctx, form)
	ok(t, err)
	made.held.release()
	data, err := m.encode()
	ok(t, err)
	ok(t, s.putManifest(ctx, key1, data, true))
	_, err = s.Unpack(ctx, key1, "", jobKey, filepath.Join(t.TempDir(), "out"), nil)
	wantDamage(t, err, ObjectName("ring", m.Index.Digest))
	_, _, err = s.Index(ctx, key1, "", keys.Open)
	wantErr(t, err, pack.ErrKey)
}
