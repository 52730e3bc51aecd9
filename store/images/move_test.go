package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ss/store/blob"
)

// pushed makes a set and copies of it in so many other stores.
func pushed(t *testing.T, copies int) (s *Store, m Manifest, others []*Store) {
	t.Helper()
	s = newStore(t)
	sealed(t, s, key1, sample())
	m = sealed(t, s, key2, changed(5)).Manifest // has two packs
	if len(m.Packs) != 2 {
		t.Fatalf("%d packs", len(m.Packs))
	}
	for range copies {
		other := newStore(t)
		for _, key := range []Key{key1, key2} {
			_, err := s.Push(context.Background(), key, asPeer(other))
			ok(t, err)
		}
		others = append(others, other)
	}
	return s, m, others
}

func TestPush(t *testing.T) {
	ctx := context.Background()
	s, m, others := pushed(t, 1)
	other := others[0]
	same(t, other, key1, "", sample())
	same(t, other, key2, m.Digest, changed(5))
	if keys, err := other.InDoubt(); err != nil || len(keys) != 2 {
		t.Fatal(keys, err)
	}
	moved, err := s.Push(ctx, key2, asPeer(other))
	if err != nil || moved != (Moved{Skipped: len(m.Objects())}) {
		t.Fatalf("again: %+v, %v", moved, err)
	}
	_, err = s.Push(ctx, key3, asPeer(other))
	wantErr(t, err, ErrNotFound)
}

func TestPushGoesOn(t *testing.T) {
	ctx := context.Background()
	s, m, _ := pushed(t, 0)
	other := newStore(t)
	broken := asPeer(other)
	var mu sync.Mutex
	puts := 0
	broken.Writer = putting(func(ctx context.Context, name string, r io.Reader, size int64) error {
		mu.Lock()
		defer mu.Unlock()
		if puts++; puts > 2 {
			return errInjected
		}
		return other.ForPeers().Put(ctx, name, r, size)
	})
	first, err := s.Push(ctx, key2, broken)
	wantErr(t, err, errInjected)
	if first.Objects != 2 {
		t.Fatalf("%+v", first)
	}
	moved, err := s.Push(ctx, key2, asPeer(other))
	ok(t, err)
	if moved.Skipped != 2 || moved.Objects != len(m.Objects())-2 {
		t.Fatalf("%+v", moved)
	}
	same(t, other, key2, m.Digest, changed(5))
}

type putting func(ctx context.Context, name string, r io.Reader, size int64) error

func (p putting) Put(ctx context.Context, name string, r io.Reader, size int64) error {
	return p(ctx, name, r, size)
}

// TestPushAfterARestart: the other end forgot what it has promised to keep.
func TestPushAfterARestart(t *testing.T) {
	ctx := context.Background()
	s, m, _ := pushed(t, 0)
	other := newStore(t)
	restarting := asPeer(other)
	once := sync.OnceValue(func() error {
		other.pins.until = map[string]time.Time{}
		return other.RemovePartials(ctx)
	})
	restarting.Writer = putting(func(ctx context.Context, name string, r io.Reader, size int64) error {
		if _, isSet := parseSetName(name); isSet {
			if err := once(); err != nil {
				return err
			}
		}
		return other.ForPeers().Put(ctx, name, r, size)
	})
	_, err := s.Push(ctx, key2, restarting)
	ok(t, err)
	same(t, other, key2, m.Digest, changed(5))
}

func TestPushSendsNothingDamaged(t *testing.T) {
	ctx := context.Background()
	for _, to := range []string{"another agent, which compares what it gets", "a folder, which does not"} {
		t.Run(to, func(t *testing.T) {
			s, m, _ := pushed(t, 0)
			other := newStore(t)
			var target blob.Store = asPeer(other)
			if strings.HasPrefix(to, "a folder") {
				target = other.objects
			}
			name := ObjectName("ring", m.Packs[1].Digest)
			form, err := os.ReadFile(s.objects.Path(name))
			ok(t, err)
			flip(t, s.objects.Path(name), 99)
			_, err = s.Push(ctx, key2, target)
			wantDamage(t, err, name)
			if sets, err := other.Sets(); err != nil || len(sets) != 0 {
				t.Fatal(sets, err)
			}
			if _, err := other.objects.Stat(ctx, name); !errors.Is(err, blob.ErrNotFound) {
				t.Fatal("it arrived")
			}
			if damaged, err := s.Damaged(); err != nil || len(damaged) != 1 {
				t.Fatalf("%+v, %v", damaged, err)
			}
			ok(t, os.WriteFile(s.objects.Path(name), form, 0o600))
		})
	}
}

// TestPushDoesNotBlameItself: an object is damaged on its way, and not here.
func TestPushDoesNotBlameItself(t *testing.T) {
	s, _, _ := pushed(t, 0)
	other := newStore(t)
	bad := asPeer(other)
	bad.Writer = putting(func(ctx context.Context, name string, r io.Reader, size int64) error {
		data, err := io.ReadAll(r)
		ok(t, err)
		data[len(data)/2] ^= 1
		return other.ForPeers().Put(ctx, name, bytes.NewReader(data), size)
	})
	_, err := s.Push(context.Background(), key2, bad)
	wantErr(t, err, blob.ErrDamaged)
	if damaged, err := s.Damaged(); err != nil || len(damaged) != 0 {
		t.Fatalf("%+v, %v", damaged, err)
	}
}

// TestAhead: what is sealed is elsewhere before it is sealed here, and a Push then moves no more than the rest.
func TestAhead(t *testing.T) {
	ctx := context.Background()
	s, other := newStore(t), newStore(t)
	content := files{"hostA-1/pages-1.img": random(40<<20, 7)} // more than one pack
	p, err := s.Begin(key1)
	ok(t, err)
	ok(t, fill(p, content))
	refs, went := make(chan ObjectRef), make(chan Moved)
	go func() {
		went <- s.Ahead(ctx, "ring", asPeer(other), func(context.Context) (ObjectRef, bool) {
			ref, more := <-refs
			return ref, more
		})
	}()
	info := infoOf(key1)
	var last ObjectRef
	info.Stored = func(ref ObjectRef) {
		refs <- ref
		if last.Digest != "" { // Ahead asks for the next one when it has put this
			if _, err := other.objects.Stat(ctx, ObjectName("ring", last.Digest)); err != nil {
				t.Errorf("not put while others were stored: %v", err)
			}
		}
		last = ref
	}
	made, err := p.Seal(ctx, info)
	ok(t, err)
	close(refs)
	m := made.Manifest
	if moved := <-went; moved.Objects != len(m.Packs) || len(m.Packs) != 2 {
		t.Fatalf("ahead: %+v of %d packs", moved, len(m.Packs))
	}
	moved, err := s.Push(ctx, key1, asPeer(other))
	if err != nil || moved.Skipped != len(m.Packs) || moved.Objects != 1 {
		t.Fatalf("%+v, %v", moved, err)
	}
	same(t, other, key1, m.Digest, content)
}

// TestAheadStopsQuietly: what fails before a set is sealed is nobody's fault yet.
func TestAheadStopsQuietly(t *testing.T) {
	s, m, _ := pushed(t, 0)
	other := newStore(t)
	once := func(ref ObjectRef) func(context.Context) (ObjectRef, bool) {
		asked := false
		return func(context.Context) (ObjectRef, bool) {
			if asked {
				t.Error("it went on")
			}
			asked = true
			return ref, true
		}
	}
	full := asPeer(other)
	full.Writer = putting(func(context.Context, string, io.Reader, int64) error { return blob.ErrFull })
	gone := ObjectRef{Digest: strings.Repeat("0", 64), Size: 5}
	for name, moved := range map[string]Moved{
		"the other end is full":       s.Ahead(t.Context(), "ring", full, once(m.Packs[0])),
		"the ingest has failed":       s.Ahead(t.Context(), "ring", asPeer(other), once(gone)),
		"the object has another size": s.Ahead(t.Context(), "ring", asPeer(other), once(ObjectRef{Digest: m.Packs[0].Digest, Size: 5})),
	} {
		if moved != (Moved{}) {
			t.Errorf("%s: %+v", name, moved)
		}
	}
	if damaged, err := s.Damaged(); err != nil || len(damaged) != 0 {
		t.Fatalf("%+v, %v", damaged, err)
	}
}

func TestAnotherSetOfThatName(t *testing.T) {
	ctx := context.Background()
	s, other := newStore(t), newStore(t)
	sealed(t, s, key1, sample())
	m := sealed(t, other, key1, changed(4)).Manifest
	_, err := s.Push(ctx, key1, asPeer(other))
	wantErr(t, err, ErrExists)
	// A Fetch is told which one is right.
	_, err = s.Fetch(ctx, key1, m.Digest, false, []Source{asSource("hostB", other)})
	ok(t, err)
	same(t, s, key1, m.Digest, changed(4))
}

func TestFetchFromAll(t *testing.T) {
	ctx := context.Background()
	_, m, others := pushed(t, 2)
	s := newStore(t)
	var gets [2]atomic.Int64
	var sources []Source
	for i, other := range others {
		src := asSource(fmt.Sprint("host", i), other)
		src.Reader = bent{src.Reader, func(name string, r io.ReadCloser) (io.ReadCloser, error) {
			if _, _, isObject := parseObjectName(name); isObject {
				gets[i].Add(1)
			}
			return r, nil
		}}
		sources = append(sources, src)
	}
	moved, err := s.Fetch(ctx, key2, m.Digest, false, sources)
	ok(t, err)
	if moved.Objects != len(m.Objects()) || int(gets[0].Load()+gets[1].Load()) != moved.Objects {
		t.Fatalf("%+v, %d and %d", moved, gets[0].Load(), gets[1].Load())
	}
	same(t, s, key2, m.Digest, changed(5))
	moved, err = s.Fetch(ctx, key2, m.Digest, false, sources)
	if err != nil || moved != (Moved{Skipped: len(m.Objects())}) {
		t.Fatalf("again: %+v, %v", moved, err)
	}
	if keys, err := s.InDoubt(); err != nil || !cmp.Equal(keys, []Key{key2}) {
		t.Fatal(keys, err)
	}
}

// TestFetchFallsOver has sources that fail in different ways, and one that does not.
func TestFetchFallsOver(t *testing.T) {
	ctx := context.Background()
	ways := map[string]func(name string, r io.ReadCloser) (io.ReadCloser, error){
		"dies midway": func(_ string, r io.ReadCloser) (io.ReadCloser, error) {
			return reading{io.MultiReader(io.LimitReader(r, 100), broken{}), r}, nil
		},
		"ends early": func(_ string, r io.ReadCloser) (io.ReadCloser, error) { return reading{io.LimitReader(r, 100), r}, nil },
		"lies": func(name string, r io.ReadCloser) (io.ReadCloser, error) {
			data, err := io.ReadAll(r)
			data[len(data)-1] ^= 1
			return reading{bytes.NewReader(data), r}, err
		},
		"has more": func(_ string, r io.ReadCloser) (io.ReadCloser, error) {
			return reading{io.MultiReader(r, strings.NewReader("more")), r}, nil
		},
		"refuses": func(_ string, r io.ReadCloser) (io.ReadCloser, error) {
			return nil, errors.Join(errInjected, r.Close())
		},
		"has lost": func(name string, r io.ReadCloser) (io.ReadCloser, error) {
			return nil, errors.Join(fmt.Errorf("%s: %w", name, blob.ErrNotFound), r.Close())
		},
	}
	_, m, others := pushed(t, 1)
	for way, get := range ways {
		t.Run(way, func(t *testing.T) {
			bad := Source{"hostBad", bent{others[0].ForPeers(), get}}
			s := newStore(t)
			_, err := s.Fetch(ctx, key2, m.Digest, false, []Source{bad})
			if err == nil || !strings.Contains(err.Error(), "hostBad") {
				t.Fatalf("the bad source alone: %v", err)
			}
			if sets, err := s.Sets(); err != nil || len(sets) != 0 {
				t.Fatal(sets, err)
			}
			_, err = s.Fetch(ctx, key2, m.Digest, false, []Source{bad, asSource("hostB", others[0])})
			ok(t, err)
			same(t, s, key2, m.Digest, changed(5))
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errInjected }

func TestFetchNamesWhatIsMissing(t *testing.T) {
	ctx := context.Background()
	_, m, others := pushed(t, 2)
	s := newStore(t)
	_, err := s.Fetch(ctx, key3, "", false, []Source{asSource("hostB", others[0])})
	wantErr(t, err, ErrNotFound, "hostB", "here")
	name := ObjectName("ring", m.Packs[1].Digest)
	for _, other := range others {
		ok(t, other.objects.Remove(ctx, name))
	}
	_, err = s.Fetch(ctx, key2, m.Digest, false, []Source{asSource("hostB", others[0]), asSource("hostC", others[1])})
	wantDamage(t, err, name)
	wantErr(t, err, err, "hostB", "hostC")
	if sets, err := s.Sets(); err != nil || len(sets) != 0 {
		t.Fatal(sets, err)
	}
	for _, other := range others {
		ok(t, other.Remove(key2))
	}
}

func TestFetchIndex(t *testing.T) {
	ctx := context.Background()
	_, m, others := pushed(t, 1)
	s := newStore(t)
	got, x, err := s.FetchIndex(ctx, key2, m.Digest, jobKey, []Source{asSource("hostC", newStore(t)), asSource("hostB", others[0])})
	ok(t, err)
	if diff := cmp.Diff(m, got); diff != "" || len(x.Files) != m.Files {
		t.Fatal(diff)
	}
	if left := objectsOf(t, s, "ring"); len(left) != 0 {
		t.Fatalf("stored: %q", left)
	}
	_, _, err = s.FetchIndex(ctx, key3, "", jobKey, []Source{asSource("hostB", others[0])})
	wantErr(t, err, ErrNotFound, "hostB")
}

// TestRateLimit lets no time pass: the limiter refuses what the deadline would not allow.
func TestRateLimit(t *testing.T) {
	_, m, others := pushed(t, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	s, err := Open(filepath.Join(t.TempDir(), "images"), Options{RateLimit: 1})
	ok(t, err)
	_, err = s.Fetch(ctx, key2, m.Digest, false, []Source{asSource("hostB", others[0])})
	if err == nil || !strings.Contains(err.Error(), "would exceed context deadline") {
		t.Fatalf("%d bytes at 1 byte a second: %v", m.Bytes, err)
	}
}

func TestPause(t *testing.T) {
	_, m, others := pushed(t, 1)
	paused := false
	s := newStore(t, Options{Pause: func(ctx context.Context) error {
		if paused {
			return errInjected
		}
		return ctx.Err()
	}})
	sealed(t, s, key3, sample())
	paused = true
	_, err := s.Fetch(context.Background(), key2, m.Digest, false, []Source{asSource("hostB", others[0])})
	if err == nil || !strings.Contains(err.Error(), errInjected.Error()) {
		t.Fatal(err)
	}
	_, err = s.Push(context.Background(), key3, asPeer(others[0]))
	wantErr(t, err, errInjected)
	_, err = store(s, Key{"ring", "20261122-104801-x7k2", "hostA"}, sample())
	wantErr(t, err, errInjected)
	paused = false
}
