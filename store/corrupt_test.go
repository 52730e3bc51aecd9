package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// filled is a catalogue with enough in it to have branch pages and overflow pages.
func filled(t testing.TB) (dir string, data []byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "ss")
	c, err := Create(dir, Cluster{ID: "abc", Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	do := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40 {
		do(c.AddHost(t.Context(), Host{Name: fmt.Sprintf("host-%d", i), Addr: fmt.Sprintf("10.0.0.%d:7070", i+1)}))
	}
	for _, job := range []string{"ring", "bank"} {
		do(c.AddMember(t.Context(), job, "host-1", "host-1-1"))
		for range 6 {
			a, err := c.BeginAttempt(t.Context(), Attempt{Kind: KindSnapshot, Job: job, Hosts: []string{"host-1"}})
			do(err)
			cut := sample(a)
			for range 20 {
				cut.Channels = append(cut.Channels, cut.Channels[0])
			}
			do(c.CommitCut(t.Context(), cut))
		}
	}
	do(c.Check(t.Context()))
	data, err = os.ReadFile(filepath.Join(dir, FileName))
	do(err)
	return dir, data
}

// rot changes what is in a file as a disk does: nobody has written to it.
func rot(path string, data []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, data, 0o600), os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// use does what a session with ssctl does. It must not panic, whatever is in the file.
func use(ctx context.Context, dir string) error {
	c, err := Open(ctx, dir)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err1 := c.Cluster(ctx)
	_, err2 := c.Hosts(ctx)
	_, err3 := c.Jobs(ctx)
	_, err4 := c.Cuts(ctx, "")
	_, err5 := c.Cut(ctx, "ring", Latest)
	err6 := c.AddHost(ctx, Host{Name: "new", Addr: "10.9.9.9:1"})
	a, err7 := c.BeginAttempt(ctx, Attempt{Kind: KindSnapshot, Job: "ring"})
	if err7 == nil {
		err7 = c.CommitCut(ctx, sample(a))
	}
	return errors.Join(err1, err2, err3, err4, err5, err6, err7, c.Check(ctx))
}

func TestTruncatedFile(t *testing.T) {
	dir, data := filled(t)
	path := filepath.Join(dir, FileName)
	used := len(data)
	for i := range 64 {
		size := i * (used - 1) / 63
		check(t, rot(path, data[:size]))
		if err := use(t.Context(), dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d of %d bytes: %v", size, used, err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != int64(size) {
			t.Errorf("%d bytes became %d: a damaged file was written to", size, info.Size())
		}
	}
	check(t, os.WriteFile(path, []byte("not a database at all, but a text that is longer than nothing"), 0o600))
	wantErr(t, use(t.Context(), dir), ErrCorrupt, path)
}

// TestFlippedBytes: whatever is flipped, the answer is right or an error, and never a panic or a hang.
func TestFlippedBytes(t *testing.T) {
	dir, data := filled(t)
	path := filepath.Join(dir, FileName)
	used := len(data)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	found := 0
	const rounds = 150
	for i := range rounds {
		bad := append([]byte{}, data...)
		for range 1 + rng.IntN(4) {
			at := rng.IntN(used)
			if i%2 == 0 { // where it hurts: headers and elements at the pages' beginnings
				at = at/os.Getpagesize()*os.Getpagesize() + rng.IntN(96)
			}
			bad[at] = byte(rng.Uint32())
		}
		check(t, rot(path, bad))
		err := use(t.Context(), dir)
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownVersion) {
			t.Errorf("seed %d, round %d: %v", seed, i, err)
		}
		if err != nil {
			found++
		}
	}
	t.Logf("%d of %d damages were in use and found", found, rounds)
	if found < rounds/8 {
		t.Errorf("only %d of %d damages were found", found, rounds)
	}
}

// everything is all that can be read of a catalogue.
type everything struct {
	Cluster Cluster
	Hosts   []Host
	Jobs    []Job
	Cuts    []Cut
	One     Cut
	Host    Host
}

func readAll(ctx context.Context, dir string) (all everything, err error) {
	c, err := Open(ctx, dir)
	if err != nil {
		return all, err
	}
	defer c.Close()
	var errs [6]error
	all.Cluster, errs[0] = c.Cluster(ctx)
	all.Hosts, errs[1] = c.Hosts(ctx)
	all.Jobs, errs[2] = c.Jobs(ctx)
	all.Cuts, errs[3] = c.Cuts(ctx, "")
	if len(all.Cuts) > 7 {
		all.One, errs[4] = c.Cut(ctx, "", all.Cuts[7].ID)
	}
	all.Host, errs[5] = c.Host(ctx, "host-21") // by its key: other pages lead there than when all are listed
	return all, errors.Join(errs[:]...)
}

// TestFlippedBits: whichever bit is flipped, it is found, or everything reads as before.
func TestFlippedBits(t *testing.T) {
	dir, data := filled(t)
	path := filepath.Join(dir, FileName)
	want, err := readAll(t.Context(), dir)
	check(t, err)
	used := len(data)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 2))
	bad := append([]byte{}, data...)
	found := 0
	const rounds = 1000
	for i := range rounds {
		at := rng.IntN(used)
		if i%2 == 0 { // headers and elements, at the pages' beginnings
			at = at/os.Getpagesize()*os.Getpagesize() + rng.IntN(96)
		}
		bit := rng.IntN(8)
		bad[at] ^= 1 << bit
		check(t, rot(path, bad))
		bad[at] ^= 1 << bit
		got, err := readAll(t.Context(), dir)
		same := err == nil && reflect.DeepEqual(want, got)
		if !same && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownVersion) {
			t.Errorf("seed %d, round %d, byte %d, bit %d: %v\n%s", seed, i, at, bit, err, cmp.Diff(want, got))
		}
		if !same {
			found++
		}
	}
	t.Logf("%d of %d flipped bits were in use and found", found, rounds)
	if found < rounds/8 {
		t.Errorf("only %d of %d flipped bits were found", found, rounds)
	}
}

// TestEveryRecordByte flips one bit at a time of one record; each is found.
func TestEveryRecordByte(t *testing.T) {
	v := sample(Attempt{ID: "20261122-104501-x7k2", Job: "ring", Epoch: 3})
	data, err := encode("k", v)
	check(t, err)
	for i := range len(data) * 8 {
		bad := append([]byte{}, data...)
		bad[i/8] ^= 1 << (i % 8)
		if err := decode(bucketCuts, "k", bad, new(Cut)); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownVersion) {
			t.Fatalf("bit %d (%q): %v", i, data[i/8], err)
		}
	}
	wantErr(t, decode(bucketCuts, "another key", data, new(Cut)), ErrCorrupt)
}
