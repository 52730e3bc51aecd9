package cataloguetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"ss/store/kv"
)

// Database is one empty database under test.
type Database struct {
	// Open makes one more handle, as another process does.
	Open func(t *testing.T) kv.DB
	// Lose has the holder of a lease lose it, while it lives.
	Lose func(t *testing.T, lease string)
}

// Run runs the suite. fresh makes an empty database for each test.
func Run(t *testing.T, fresh func(t *testing.T) Database) {
	for name, test := range map[string]func(*testing.T, Database){
		"records": records, "nothing of a failure": nothingOfAFailure, "own writes are read": ownWrites, "bounds": bounds, "no lost update": noLostUpdate,
		"no write skew": noWriteSkew, "a view is of one instant": oneInstant, "contexts": contexts,
		"lease": lease, "lease of the dead": leaseOfTheDead, "lost lease": lostLease, "lease of a failure": leaseOfAFailure,
		"watch": watch, "watch from the past": watchFromThePast,
		"catalogue: lease on a job": jobLease, "catalogue: an attempt that lost its lease": lostAttempt, "catalogue: names are drawn once": drawnOnce,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want one that is %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func put(t *testing.T, db kv.DB, bucket, key, value string) kv.Revision {
	t.Helper()
	r, err := db.Update(t.Context(), func(tx kv.Tx) error { return tx.Put(bucket, key, []byte(value)) })
	check(t, err)
	return r
}

func get(t *testing.T, db kv.DB, bucket, key string) string {
	t.Helper()
	var value []byte
	_, err := db.View(t.Context(), func(tx kv.Tx) (err error) {
		value, err = tx.Get(bucket, key)
		return err
	})
	check(t, err)
	return string(value)
}

// records: what one handle writes another reads, in order of the keys, bucket by bucket.
func records(t *testing.T, d Database) {
	a, b := d.Open(t), d.Open(t)
	first := put(t, a, "x", "k1", "one")
	for _, key := range []string{"k3", "k2", "l", "k"} {
		put(t, a, "x", key, "v "+key)
	}
	put(t, a, "y", "k2", "elsewhere")
	last, err := b.View(t.Context(), func(tx kv.Tx) error {
		for _, c := range []struct {
			prefix string
			limit  int
			want   string
		}{{"", 0, "k k1 k2 k3 l"}, {"k", 0, "k k1 k2 k3"}, {"k", 2, "k k1"}, {"k", -2, "k2 k3"}, {"", -1, "l"}, {"z", 0, ""}} {
			pairs, err := tx.List("x", c.prefix, c.limit)
			if err != nil {
				return err
			}
			var keys []string
			for _, p := range pairs {
				keys = append(keys, p.Key)
			}
			if got := strings.Join(keys, " "); got != c.want {
				t.Errorf("List(%q, %d): %s, want %s", c.prefix, c.limit, got, c.want)
			}
		}
		n, err := tx.Count("x")
		none, err2 := tx.Count("no such bucket")
		if n != 5 || none != 0 {
			t.Errorf("counted %d and %d", n, none)
		}
		if tx.Put("x", "k", nil) == nil {
			t.Error("a view wrote")
		}
		return errors.Join(err, err2)
	})
	check(t, err)
	if last != first+5 {
		t.Errorf("revision %d after %d and five changes", last, first)
	}
	_, err = a.Update(t.Context(), func(tx kv.Tx) error { return errors.Join(tx.Delete("x", "k1"), tx.Delete("x", "never there")) })
	check(t, err)
	if got := get(t, b, "x", "k1") + get(t, b, "none", "k1"); got != "" {
		t.Errorf("deleted: %q", got)
	}
	check(t, b.Check(t.Context()))
}

var errOwn = errors.New("mine")

// nothingOfAFailure: a function that fails has changed nothing, and its error comes back.
func nothingOfAFailure(t *testing.T, d Database) {
	a := d.Open(t)
	before := put(t, a, "x", "k", "one")
	_, err := a.Update(t.Context(), func(tx kv.Tx) error {
		return errors.Join(tx.Put("x", "k", []byte("two")), tx.Put("x", "new", []byte("v")), errOwn)
	})
	wantErr(t, err, errOwn)
	if get(t, a, "x", "k") != "one" || get(t, a, "x", "new") != "" {
		t.Error("something of it was written")
	}
	after, err := a.Update(t.Context(), func(kv.Tx) error { return nil })
	check(t, err)
	if after != before {
		t.Errorf("revision %d, %d before: nothing was changed", after, before)
	}
}

// ownWrites: a transaction reads what it has written itself.
func ownWrites(t *testing.T, d Database) {
	a := d.Open(t)
	put(t, a, "x", "old", "1")
	_, err := a.Update(t.Context(), func(tx kv.Tx) error {
		if err := errors.Join(tx.Put("x", "new", []byte("2")), tx.Delete("x", "old")); err != nil {
			return err
		}
		old, err := tx.Get("x", "old")
		pairs, err2 := tx.List("x", "", 0)
		if old != nil || len(pairs) != 1 || pairs[0].Key != "new" {
			t.Errorf("old %q, all %v", old, pairs)
		}
		return errors.Join(err, err2)
	})
	check(t, err)
}

// bounds: what etcd would not take no database takes.
func bounds(t *testing.T, d Database) {
	a := d.Open(t)
	try := func(fn func(tx kv.Tx) error) error {
		_, err := a.Update(t.Context(), fn)
		return err
	}
	check(t, try(func(tx kv.Tx) error { return tx.Put("x", "largest", make([]byte, kv.MaxValue)) }))
	wantErr(t, try(func(tx kv.Tx) error { return tx.Put("x", "k", make([]byte, kv.MaxValue+1)) }), kv.ErrTooLarge, "x/k")
	wantErr(t, try(func(tx kv.Tx) error {
		return errors.Join(tx.Put("x", "k", make([]byte, kv.MaxValue)), tx.Put("x", "l", make([]byte, kv.MaxValue)))
	}), kv.ErrTooLarge)
	many := func(n int) func(tx kv.Tx) error {
		return func(tx kv.Tx) error {
			var errs []error
			for i := range n {
				errs = append(errs, tx.Put("x", fmt.Sprint(i), []byte("v")))
			}
			return errors.Join(errs...)
		}
	}
	check(t, try(many(kv.MaxWrites)))
	wantErr(t, try(many(kv.MaxWrites+1)), kv.ErrTooLarge)
}

// noLostUpdate: handles that count at once count right.
func noLostUpdate(t *testing.T, d Database) {
	const handles, rounds = 4, 10
	var wg sync.WaitGroup
	for range handles {
		db := d.Open(t)
		wg.Go(func() {
			for range rounds {
				_, err := db.Update(t.Context(), func(tx kv.Tx) error {
					was, err := tx.Get("x", "n")
					if err != nil {
						return err
					}
					return tx.Put("x", "n", append(was, '.'))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(get(t, d.Open(t), "x", "n")); n != handles*rounds {
		t.Errorf("counted %d of %d", n, handles*rounds)
	}
}

// noWriteSkew: two that each write where the other one has looked, because nothing was there, cannot both.
func noWriteSkew(t *testing.T, d Database) {
	for range 20 {
		var wg sync.WaitGroup
		bucket := fmt.Sprintf("b%p", new(int))
		for _, key := range []string{"a", "b"} {
			db := d.Open(t)
			wg.Go(func() {
				_, err := db.Update(t.Context(), func(tx kv.Tx) error {
					all, err := tx.List(bucket, "", 0)
					if err != nil || len(all) > 0 {
						return err
					}
					return tx.Put(bucket, key, []byte("alone"))
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if a, b := get(t, d.Open(t), bucket, "a"), get(t, d.Open(t), bucket, "b"); (a == "") == (b == "") {
			t.Fatalf("%q and %q: each thought that it was alone", a, b)
		}
	}
}

// oneInstant: a view never sees half of a transaction.
func oneInstant(t *testing.T, d Database) {
	writer, reader := d.Open(t), d.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 30 {
			_, err := writer.Update(t.Context(), func(tx kv.Tx) error {
				return errors.Join(tx.Put("x", "a", fmt.Append(nil, i)), tx.Put("y", "b", fmt.Append(nil, i)))
			})
			if err != nil {
				t.Error(err)
			}
		}
		cancel()
	})
	for ctx.Err() == nil {
		_, err := reader.View(t.Context(), func(tx kv.Tx) error {
			a, err := tx.Get("x", "a")
			b, err2 := tx.Get("y", "b")
			if string(a) != string(b) {
				t.Errorf("a is %s and b is %s", a, b)
			}
			return errors.Join(err, err2)
		})
		check(t, err)
	}
	wg.Wait()
}

// contexts: one that has ended ends a transaction before it has written anything.
func contexts(t *testing.T, d Database) {
	a := d.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Update(ctx, func(tx kv.Tx) error { return tx.Put("x", "k", []byte("v")) }); err == nil {
		t.Error("it was written")
	}
	if get(t, a, "x", "k") != "" {
		t.Error("it is there")
	}
}

func take(ctx context.Context, db kv.DB, lease string) error {
	_, err := db.Update(ctx, func(tx kv.Tx) error {
		return errors.Join(tx.Take(lease), tx.Put("leases", lease, []byte("taken")))
	})
	return err
}

func hold(t *testing.T, db kv.DB, lease string) (h kv.Hold) {
	t.Helper()
	_, err := db.View(t.Context(), func(tx kv.Tx) (err error) {
		h, err = tx.Holder(lease)
		return err
	})
	check(t, err)
	return h
}

func lost(db kv.DB, lease string) bool {
	select {
	case <-db.Lost(lease):
		return true
	default:
		return false
	}
}

// lease: one holder at a time, until it drops the lease.
func lease(t *testing.T, d Database) {
	a, b := d.Open(t), d.Open(t)
	if hold(t, a, "ring") != kv.Free || !lost(a, "ring") {
		t.Error("nobody has taken it")
	}
	check(t, take(t.Context(), a, "ring"))
	if hold(t, a, "ring") != kv.Ours || hold(t, b, "ring") != kv.Others || lost(a, "ring") {
		t.Errorf("a: %v, b: %v", hold(t, a, "ring"), hold(t, b, "ring"))
	}
	wantErr(t, take(t.Context(), b, "ring"), kv.ErrHeld)
	wantErr(t, take(t.Context(), a, "ring"), kv.ErrHeld)
	check(t, take(t.Context(), b, "another"))
	drop := func(db kv.DB) {
		_, err := db.Update(t.Context(), func(tx kv.Tx) error { return errors.Join(tx.Drop("ring"), tx.Put("x", "k", nil)) })
		check(t, err)
	}
	drop(b) // it is none of b's business
	if hold(t, a, "ring") != kv.Ours {
		t.Error("another handle dropped it")
	}
	drop(a)
	if hold(t, b, "ring") != kv.Free {
		t.Error("it was dropped")
	}
	check(t, take(t.Context(), b, "ring"))
	if hold(t, a, "ring") != kv.Others {
		t.Error("b has it")
	}
}

// leaseOfTheDead: a holder that ends without a word holds nothing any more.
func leaseOfTheDead(t *testing.T, d Database) {
	a, b := d.Open(t), d.Open(t)
	check(t, take(t.Context(), a, "ring"))
	check(t, a.Close())
	if hold(t, b, "ring") != kv.Free {
		t.Error("its holder is gone")
	}
	check(t, take(t.Context(), b, "ring"))
}

// lostLease: a holder that has lost a lease is told, and its guard fails; what another holder has taken since is that one's.
func lostLease(t *testing.T, d Database) {
	a, b := d.Open(t), d.Open(t)
	check(t, take(t.Context(), a, "ring"))
	told := a.Lost("ring")
	d.Lose(t, "ring")
	check(t, take(t.Context(), b, "ring"))
	if got := hold(t, a, "ring"); got == kv.Ours {
		t.Error("the guard of the old holder passes")
	}
	select {
	case <-told:
	case <-t.Context().Done():
		t.Fatal("the old holder is not told")
	}
	_, err := a.Update(t.Context(), func(tx kv.Tx) error { return errors.Join(tx.Drop("ring"), tx.Put("x", "k", nil)) })
	check(t, err)
	if hold(t, b, "ring") != kv.Ours {
		t.Error("the old holder has dropped the new one's lease")
	}
}

// leaseOfAFailure: a transaction that fails takes nothing.
func leaseOfAFailure(t *testing.T, d Database) {
	a, b := d.Open(t), d.Open(t)
	_, err := a.Update(t.Context(), func(tx kv.Tx) error { return errors.Join(tx.Take("ring"), errOwn) })
	wantErr(t, err, errOwn)
	check(t, take(t.Context(), b, "ring"))
}

// watch: every change comes, once, in order, whoever makes it.
func watch(t *testing.T, d Database) {
	watcher, a, b := d.Open(t), d.Open(t), d.Open(t)
	put(t, a, "x", "before", "v")
	from, err := watcher.View(t.Context(), func(kv.Tx) error { return nil })
	check(t, err)
	put(t, a, "x", "k0", "v") // between the view and the watch
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := make(chan bool)
	var wg sync.WaitGroup
	wg.Go(func() {
		<-begun
		for i := 1; i < 10; i++ {
			put(t, []kv.DB{a, b}[i%2], "x", fmt.Sprintf("k%d", i), "v")
		}
	})
	n := 0
	for change, err := range watcher.Watch(ctx, from) {
		check(t, err)
		want := kv.Change{Revision: from + kv.Revision(n) + 1, Keys: []kv.Key{{Bucket: "x", Key: fmt.Sprintf("k%d", n)}}}
		if change.Revision != want.Revision || !slices.Equal(change.Keys, want.Keys) {
			t.Errorf("%+v, want %+v", change, want)
		}
		if n == 0 {
			close(begun)
		}
		if n++; n == 10 {
			break
		}
	}
	wg.Wait()
	cancel()
	for change, err := range watcher.Watch(ctx, from+10) {
		t.Errorf("after the end of its context: %+v, %v", change, err)
	}
}

// watchFromThePast: whoever asks for what is forgotten, or was never there, is told so.
func watchFromThePast(t *testing.T, d Database) {
	a := d.Open(t)
	r := put(t, a, "x", "k", "v")
	for _, err := range a.Watch(t.Context(), r+100) {
		wantErr(t, err, kv.ErrCompacted)
	}
}
