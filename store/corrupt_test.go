package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
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
		do(c.AddHost(Host{Name: fmt.Sprintf("host-%d", i), Addr: "10.0.0.1:7070"}))
	}
	for _, job := range []string{"ring", "bank"} {
		do(c.AddMember(job, "host-1", "host-1-1"))
		for range 6 {
			a, err := c.BeginAttempt(Attempt{Kind: KindSnapshot, Job: job, Hosts: []string{"host-1"}})
			do(err)
			cut := sample(a)
			for range 20 {
				cut.Channels = append(cut.Channels, cut.Channels[0])
			}
			do(c.CommitCut(cut))
		}
	}
	do(c.Check())
	data, err = os.ReadFile(c.path())
	do(err)
	return dir, data
}

// use does what a session with ssctl does. It must not panic, whatever is in the file.
func use(dir string) error {
	c, err := Open(dir)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err1 := c.Cluster()
	_, err2 := c.Hosts()
	_, err3 := c.Jobs()
	_, err4 := c.Cuts("")
	_, err5 := c.Cut("ring", Latest)
	err6 := c.AddHost(Host{Name: "new", Addr: "a:1"})
	a, err7 := c.BeginAttempt(Attempt{Kind: KindSnapshot, Job: "ring"})
	if err7 == nil {
		err7 = c.CommitCut(sample(a))
	}
	return errors.Join(err1, err2, err3, err4, err5, err6, err7, c.Check())
}

func TestTruncatedFile(t *testing.T) {
	dir, data := filled(t)
	path := filepath.Join(dir, fileName)
	meta, err := newerMeta(data)
	check(t, err)
	used := int(meta.pages * meta.pageSize) // the file is longer: bbolt makes room ahead
	for size := 0; size < used; size += max(1, used/37) {
		check(t, os.WriteFile(path, data[:size], 0o600))
		if err := use(dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d of %d bytes: %v", size, used, err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != int64(size) {
			t.Errorf("%d bytes became %d: a damaged file was written to", size, info.Size())
		}
	}
	check(t, os.WriteFile(path, []byte("not a database at all, but a text that is longer than nothing"), 0o600))
	wantErr(t, use(dir), ErrCorrupt, path)
}

// TestFlippedBytes: whatever is flipped, the answer is right or an error, and never a panic or a hang.
func TestFlippedBytes(t *testing.T) {
	dir, data := filled(t)
	path := filepath.Join(dir, fileName)
	meta, err := newerMeta(data)
	check(t, err)
	used := int(meta.pages * meta.pageSize)
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
		check(t, os.WriteFile(path, bad, 0o600))
		err := use(dir)
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

// TestPanicBecomesError: what bbolt may throw nevertheless ends the transaction and gives the lock back.
func TestPanicBecomesError(t *testing.T) {
	dir, _ := filled(t)
	c, err := Open(dir)
	check(t, err)
	wantErr(t, c.transact(true, nil), ErrCorrupt)
	c.LockTimeout = time.Second
	check(t, c.AddHost(Host{Name: "after", Addr: "a:1"}))
}

func FuzzPages(f *testing.F) {
	_, data := filled(f)
	f.Add(uint32(0), uint64(0), data[:64])
	f.Fuzz(func(t *testing.T, at uint32, value uint64, tail []byte) {
		bad := append([]byte{}, data...)
		if int(at)+8 < len(bad) {
			order.PutUint64(bad[at:], value)
			copy(bad[at+8:], tail)
		}
		_ = checkData(bad)
		_ = checkData(tail)
	})
}
