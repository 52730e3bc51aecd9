package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
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
		do(c.AddHost(Host{Name: fmt.Sprintf("host-%d", i), Addr: fmt.Sprintf("10.0.0.%d:7070", i+1)}))
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
	err6 := c.AddHost(Host{Name: "new", Addr: "10.9.9.9:1"})
	a, err7 := c.BeginAttempt(Attempt{Kind: KindSnapshot, Job: "ring"})
	if err7 == nil {
		err7 = c.CommitCut(sample(a))
	}
	return errors.Join(err1, err2, err3, err4, err5, err6, err7, c.Check())
}

func TestTruncatedFile(t *testing.T) {
	dir, data := filled(t)
	path := filepath.Join(dir, FileName)
	meta, err := newerMeta(data)
	check(t, err)
	used := int(meta.pages * meta.pageSize) // the file is longer: bbolt makes room ahead
	for i := range 64 {
		size := i * (used - 1) / 63
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
	path := filepath.Join(dir, FileName)
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

// everything is all that can be read of a catalogue.
type everything struct {
	Cluster Cluster
	Hosts   []Host
	Jobs    []Job
	Cuts    []Cut
	One     Cut
	Host    Host
}

func readAll(dir string) (all everything, err error) {
	c, err := Open(dir)
	if err != nil {
		return all, err
	}
	defer c.Close()
	var errs [6]error
	all.Cluster, errs[0] = c.Cluster()
	all.Hosts, errs[1] = c.Hosts()
	all.Jobs, errs[2] = c.Jobs()
	all.Cuts, errs[3] = c.Cuts("")
	if len(all.Cuts) > 7 {
		all.One, errs[4] = c.Cut("", all.Cuts[7].ID)
	}
	all.Host, errs[5] = c.Host("host-21") // by its key: other pages lead there than when all are listed
	return all, errors.Join(errs[:]...)
}

// TestFlippedBits: whichever bit is flipped, it is found, or everything reads as before.
func TestFlippedBits(t *testing.T) {
	dir, data := filled(t)
	path := filepath.Join(dir, FileName)
	meta, err := newerMeta(data)
	check(t, err)
	want, err := readAll(dir)
	check(t, err)
	used := int(meta.pages * meta.pageSize)
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
		err := checkData(bad)
		refused := err != nil
		if refused && i%10 != 0 { // Open does no more than that: now and then see that it does
			bad[at] ^= 1 << bit
			found++
			continue
		}
		check(t, os.WriteFile(path, bad, 0o600))
		bad[at] ^= 1 << bit
		got, err := readAll(dir)
		if refused && err == nil {
			t.Errorf("seed %d, round %d: Open took what the check refuses", seed, i)
		}
		same := err == nil && reflect.DeepEqual(want, got)
		if !same && err == nil { // a damaged root page hides the last change; reads go on with the one before it
			c, openErr := Open(dir)
			check(t, openErr)
			err = c.Check()
		}
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

// TestEveryHeaderBit flips each bit of every page's header and first elements: none hides a record, or leads to another.
func TestEveryHeaderBit(t *testing.T) {
	dir, data := filled(t)
	meta, err := newerMeta(data)
	check(t, err)
	c := &pageCheck{data: data, meta: meta, seen: make([]bool, meta.pages)}
	check(t, c.tree(meta.root, 0, nil, nil))
	for page, used := range c.seen {
		if !used || order.Uint64(data[uint64(page)*meta.pageSize:]) != uint64(page) { // the rest of a longer page
			continue
		}
		for bit := 8 * 8; bit < (pageHeader+elementSize)*8; bit++ { // after the page's own number
			bad := append([]byte{}, data...)
			bad[page*int(meta.pageSize)+bit/8] ^= 1 << (bit % 8)
			if checkData(bad) != nil {
				continue
			}
			check(t, os.WriteFile(filepath.Join(dir, FileName), bad, 0o600)) // a bucket that calls itself a record
			if _, err := Open(dir); !errors.Is(err, ErrCorrupt) {
				t.Errorf("page %d, bit %d of byte %d: %v", page, bit%8, bit/8, err)
			}
		}
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
	check(t, c.AddHost(Host{Name: "after", Addr: "10.9.9.9:1"}))
}

// TestPagesOfAnyCatalogue: whatever order records of whatever sizes come and go in, what bbolt writes passes the check.
func TestPagesOfAnyCatalogue(t *testing.T) {
	c := create(t)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 3))
	for i := range 60 {
		err := c.update(func(tx *bbolt.Tx) error {
			for range rng.IntN(80) {
				key := fmt.Sprintf("host-%d", rng.IntN(300))
				if i/20%2 == 1 || rng.IntN(3) == 0 { // for a while, only removals
					if err := remove(tx, bucketHosts, key); err != nil {
						return err
					}
					continue
				}
				h := Host{Name: key, Addr: strings.Repeat("a", 1+rng.IntN(1<<rng.IntN(14)))}
				if err := put(tx, bucketHosts, key, h); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = c.Check()
		}
		if err != nil {
			t.Fatalf("seed %d, round %d: %v", seed, i, err)
		}
	}
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
