package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ss/store/kv"
	"ss/store/kv/bolt"
	"ss/store/kv/memory"

	"github.com/google/go-cmp/cmp"
)

// inMemory makes create use the database in memory.
var inMemory = false

func create(t *testing.T) *Catalogue {
	t.Helper()
	cluster := Cluster{ID: "abc", Created: time.Now()}
	var c *Catalogue
	var err error
	if inMemory {
		c, err = Init(t.Context(), memory.NewSpace().Open(), cluster)
	} else {
		c, err = Create(filepath.Join(t.TempDir(), "ss"), cluster)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

// reopen is what another process would see.
func reopen(t *testing.T, c *Catalogue) *Catalogue {
	t.Helper()
	if db, ok := c.db.(*memory.DB); ok {
		o := New(db.Space().Open())
		t.Cleanup(func() { check(t, o.Close()) })
		return o
	}
	o, err := Open(t.Context(), dirOf(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, o.Close()) })
	return o
}

func dirOf(c *Catalogue) string  { return c.db.(*bolt.DB).Dir() }
func pathOf(c *Catalogue) string { return filepath.Join(dirOf(c), FileName) }

// drawn draws an epoch.
func drawn(t *testing.T, c *Catalogue, job string) uint64 {
	t.Helper()
	a := begin(t, c, job)
	check(t, c.EndAttempt(t.Context(), a.ID))
	return a.Epoch
}

// TestInMemory: the rules are the same over another database, whose transactions may run several times.
func TestInMemory(t *testing.T) {
	inMemory = true
	defer func() { inMemory = false }()
	for name, test := range map[string]func(*testing.T){
		"hosts": TestHosts, "jobs": TestJobs, "attempts": TestAttempts, "cuts": TestCuts, "find a cut": TestFindCut,
		"a given id": TestAttemptKeepsAGivenID, "a stale attempt's id": TestStaleAttemptGivesItsIDBack, "collections": TestCollectionIsAConflictThatPasses,
	} {
		t.Run(name, test)
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

func begin(t *testing.T, c *Catalogue, job string) Attempt {
	t.Helper()
	a, err := c.BeginAttempt(t.Context(), Attempt{Kind: KindSnapshot, Job: job, Hosts: []string{"hostB", "hostA"}, Phase: "prepare"})
	check(t, err)
	return a
}

func sample(a Attempt) Cut {
	return Cut{
		ID: a.ID, Job: a.Job, Epoch: a.Epoch, Time: now(), Label: "before the upgrade", Stopped: true,
		Hosts: []CutHost{{
			Host: "hostA", Addrs: []string{"10.0.0.1", "fd00::1"},
			Members: []CutMember{{Name: "hostA-1", Command: []string{"stream", "--to", "x"}, Env: []string{"A=b<c>&d"}, Dir: "/srv", Log: "/log",
				Pid: 4711, InnerPid: 1001, ImageBytes: 1 << 29, FrozenMs: 512.25, StallMs: 530.5}},
			Phases:   []CutPhase{{"freeze", 1.5, 0.25}, {"dump", 1.75, 510}},
			Manifest: strings.Repeat("ab", 32), Copies: []string{"hostA", "hostB"},
		}},
		Channels: []CutChannel{{FromHost: "hostA", FromMember: "hostA-1", FromAddr: "10.0.0.1:4000", ToHost: "hostB", ToMember: "hostB-1",
			ToAddr: "10.0.0.2:5000", InTransit: 4096, SndUna: 1<<32 - 100, RcvNxt: 1<<32 - 10, WriteSeq: 4086}},
		TotalMs: 611.5, CRIUVersion: "4.2.1",
	}
}

func commit(t *testing.T, c *Catalogue, job string) Cut {
	t.Helper()
	cut := sample(begin(t, c, job))
	check(t, c.CommitCut(t.Context(), cut))
	return cut
}

func TestCreateAndOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	_, err := Open(t.Context(), dir)
	wantErr(t, err, ErrNotFound, "ssctl init")
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("Open made a folder")
	}
	want := Cluster{ID: "abc", Created: time.Now().UTC().Round(0)}
	c, err := Create(dir, want)
	check(t, err)
	got, err := c.Cluster(t.Context())
	check(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	_, err = Create(dir, Cluster{ID: "other"})
	wantErr(t, err, ErrConflict)
	got, err = reopen(t, c).Cluster(t.Context())
	check(t, err)
	if got.ID != "abc" {
		t.Fatalf("cluster %q", got.ID)
	}
	entries, err := os.ReadDir(dir)
	check(t, err)
	if len(entries) != 2 { // the file and its sum
		t.Fatalf("left behind: %v", entries)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, pathOf(c): 0o600} {
		info, err := os.Stat(path)
		check(t, err)
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		check(t, os.Chmod(path, mode|0o040))
		if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("%s open to the group: %v", path, err)
		}
		check(t, os.Chmod(path, mode))
	}
	check(t, c.Check(t.Context()))
}

func TestHosts(t *testing.T) {
	c := create(t)
	a := Host{Name: "hostA", Addr: "10.0.0.1:7070", Added: now()}
	b := Host{Name: "hostB", Addr: "10.0.0.2:7070", Added: now()}
	check(t, c.AddHost(t.Context(), b))
	check(t, c.AddHost(t.Context(), a))
	wantErr(t, c.AddHost(t.Context(), a), ErrConflict, "hostA")
	wantErr(t, c.AddHost(t.Context(), Host{Name: "../x", Addr: "y"}), ErrInvalid)
	wantErr(t, c.AddHost(t.Context(), Host{Name: "x"}), ErrInvalid)
	got, err := reopen(t, c).Hosts(t.Context())
	check(t, err)
	if diff := cmp.Diff([]Host{a, b}, got); diff != "" {
		t.Fatal(diff)
	}
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	check(t, c.RemoveHost(t.Context(), "hostA"))
	j, err := c.Job(t.Context(), "ring")
	check(t, err)
	if len(j.Placement["hostA"]) != 0 {
		t.Errorf("a host that is forgotten has members: %+v", j.Placement)
	}
	wantErr(t, c.RemoveHost(t.Context(), "hostA"), ErrNotFound)
	_, err = c.Host(t.Context(), "hostA")
	wantErr(t, err, ErrNotFound, `"hostA"`)
	h, err := c.Host(t.Context(), "hostB")
	check(t, err)
	if diff := cmp.Diff(b, h); diff != "" {
		t.Fatal(diff)
	}
}

func TestJobs(t *testing.T) {
	c := create(t)
	_, err := c.Job(t.Context(), "ring")
	wantErr(t, err, ErrNotFound, "job", "ring")
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-2"))
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	check(t, c.AddMember(t.Context(), "ring", "hostB", "hostB-1"))
	wantErr(t, c.AddMember(t.Context(), "ring", "hostB", "hostA-1"), ErrConflict)
	wantErr(t, c.RemoveMember(t.Context(), "none", "hostB", "m"), ErrNotFound)
	check(t, c.RemoveMember(t.Context(), "ring", "hostB", "hostB-1"))
	j, err := reopen(t, c).Job(t.Context(), "ring")
	check(t, err)
	want := map[string][]Placed{"hostA": Running("hostA-1", "hostA-2"), "hostB": {}}
	if diff := cmp.Diff(want, j.Placement); diff != "" {
		t.Fatal(diff)
	}
	check(t, c.SetPlacement(t.Context(), "ring", map[string][]Placed{"hostC": Running("hostA-1", "hostA-2")}))
	j, err = c.Job(t.Context(), "ring")
	check(t, err)
	want = map[string][]Placed{"hostA": {}, "hostB": {}, "hostC": Running("hostA-1", "hostA-2")}
	if diff := cmp.Diff(want, j.Placement); diff != "" {
		t.Fatal(diff)
	}

	for want := uint64(1); want <= 3; want++ {
		if got := drawn(t, reopen(t, c), "ring"); got != want {
			t.Fatalf("epoch %d, want %d", got, want)
		}
	}
	cut := commit(t, c, "ring")
	wantErr(t, c.RemoveJob(t.Context(), "ring"), ErrConflict)
	check(t, c.DeleteCut(t.Context(), cut.ID, removedOf(cut)))
	check(t, c.RemoveJob(t.Context(), "ring"))
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	jobs, err := c.Jobs(t.Context())
	check(t, err)
	if len(jobs) != 1 || jobs[0].Epoch != 5 || jobs[0].Restored != 5 {
		t.Fatalf("a job that has its name afterwards starts at epoch %+v, want 5: its members are newer than all before", jobs)
	}
	check(t, c.Check(t.Context()))
}

func TestAttempts(t *testing.T) {
	c := create(t)
	_, err := c.BeginAttempt(t.Context(), Attempt{Kind: KindSnapshot, Job: "ring"})
	wantErr(t, err, ErrNotFound)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	check(t, c.AddMember(t.Context(), "other", "hostA", "hostA-1"))
	_, err = c.BeginAttempt(t.Context(), Attempt{Job: "ring"})
	wantErr(t, err, ErrInvalid)

	first := begin(t, c, "ring")
	if diff := cmp.Diff([]string{"hostA", "hostB"}, first.Hosts); diff != "" {
		t.Fatal(diff)
	}
	second := reopen(t, c)
	_, err = second.BeginAttempt(t.Context(), Attempt{Kind: KindRestore, Job: "ring"})
	wantErr(t, err, ErrConflict, first.ID, "ring")
	wantErr(t, second.EndAttempt(t.Context(), first.ID), ErrConflict)
	begin(t, second, "other") // another job is none of its business

	got, err := second.Attempts(t.Context())
	check(t, err)
	got = slices.DeleteFunc(got, func(a Attempt) bool { return a.Job != "ring" })
	if diff := cmp.Diff([]Attempt{first}, got); diff != "" {
		t.Fatal(diff)
	}

	// The first ssctl ends without a word: its attempt is stale, stays listed, and blocks nothing.
	check(t, c.Close())
	third := begin(t, second, "ring")
	if third.Epoch != first.Epoch+1 {
		t.Fatalf("epoch %d after %d", third.Epoch, first.Epoch)
	}
	live := map[string]bool{}
	got, err = second.Attempts(t.Context())
	check(t, err)
	for _, a := range got {
		live[a.ID] = a.Live
	}
	if live[first.ID] || !live[third.ID] || len(live) != 3 {
		t.Fatalf("live: %v", live)
	}
	check(t, second.EndAttempt(t.Context(), first.ID))
	check(t, second.EndAttempt(t.Context(), first.ID))
	wantErr(t, c.CommitCut(t.Context(), sample(first)), ErrConflict) // it was ended: it must not come back to life
	check(t, second.EndAttempt(t.Context(), third.ID))
	begin(t, c, "ring")
	check(t, c.Check(t.Context()))
}

func TestCuts(t *testing.T) {
	c := create(t)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	_, err := c.Cut(t.Context(), "", Latest)
	wantErr(t, err, ErrNotFound)

	a := begin(t, c, "ring")
	cut := sample(a)
	wrong := cut
	wrong.Epoch++
	wantErr(t, c.CommitCut(t.Context(), wrong), ErrConflict)
	_, err = c.Cut(t.Context(), "", a.ID)
	wantErr(t, err, ErrNotFound)
	check(t, c.CommitCut(t.Context(), cut))
	wantErr(t, c.CommitCut(t.Context(), cut), ErrConflict)
	got, err := reopen(t, c).Cut(t.Context(), "", a.ID)
	check(t, err)
	if diff := cmp.Diff(cut, got); diff != "" {
		t.Fatal(diff)
	}
	if attempts, err := c.Attempts(t.Context()); err != nil || len(attempts) != 0 {
		t.Fatalf("attempts after commit: %v, %v", attempts, err)
	}
	select {
	case <-c.Lost("ring"):
	default:
		t.Fatal("the lease is held after the commit")
	}

	check(t, c.DeleteCut(t.Context(), cut.ID, removedOf(cut)))
	wantErr(t, c.DeleteCut(t.Context(), cut.ID, removedOf(cut)), ErrNotFound)
	if cut.Bytes() != 1<<29 || cut.InTransit() != 4096 {
		t.Errorf("sums: %d, %d", cut.Bytes(), cut.InTransit())
	}
	check(t, c.Check(t.Context()))
}

func TestFindCut(t *testing.T) {
	c := create(t)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	check(t, c.AddMember(t.Context(), "bank", "hostA", "hostA-1"))
	cut, cut2 := commit(t, c, "ring"), commit(t, c, "ring")
	cut3 := commit(t, c, "bank")
	for _, tt := range []struct {
		job, ref string
		want     string
		err      error
	}{
		{"ring", Latest, cut2.ID, nil},
		{"bank", Latest, cut3.ID, nil},
		{"", Latest, "", ErrAmbiguous},
		{"none", Latest, "", ErrNotFound},
		{"", cut.ID, cut.ID, nil},
		{"", "2", "", ErrAmbiguous},
		{"bank", "2", cut3.ID, nil},
		{"bank", cut.ID, "", ErrNotFound},
		{"", "zz", "", ErrNotFound},
		{"", "", "", ErrNotFound},
	} {
		got, err := c.Cut(t.Context(), tt.job, tt.ref)
		if tt.err != nil {
			wantErr(t, err, tt.err)
		} else if err != nil || got.ID != tt.want {
			t.Errorf("Cut(%q, %q) = %q, %v, want %q", tt.job, tt.ref, got.ID, err, tt.want)
		}
	}
	ids := func(job string) (ids []string) {
		cuts, err := c.Cuts(t.Context(), job)
		check(t, err)
		for _, c := range cuts {
			ids = append(ids, c.ID)
		}
		return ids
	}
	if diff := cmp.Diff([]string{cut.ID, cut2.ID}, ids("ring")); diff != "" {
		t.Error(diff)
	}
	if len(ids("")) != 3 {
		t.Errorf("all: %v", ids(""))
	}
}

func TestIDsSort(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 45, 1, 0, time.UTC)
	var ids []string
	for i := range 2000 {
		ids = append(ids, newID(at.Add(time.Duration(i)*time.Millisecond), uint16(i*7919)))
	}
	if !slices.IsSorted(ids) {
		t.Fatal("ids do not sort as their times do")
	}
	if len(ids[0]) != len("20261122-104501-x7k2") || !strings.HasPrefix(ids[0], "20261122-104501-00") {
		t.Fatal(ids[0])
	}
}

func TestUnknownVersions(t *testing.T) {
	c := create(t)
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	raw := func(bucket, key, value string) {
		check(t, c.update(t.Context(), func(tx kv.Tx) error { return tx.Put(bucket, key, []byte(value)) }))
	}
	untouched := func(f func() error, words ...string) {
		t.Helper()
		before, err := os.ReadFile(pathOf(c))
		check(t, err)
		if len(words) == 0 {
			words = []string{"newer ssctl"}
		}
		wantErr(t, f(), ErrUnknownVersion, words...)
		after, err := os.ReadFile(pathOf(c))
		check(t, err)
		if !slices.Equal(before, after) {
			t.Fatal("the file was changed")
		}
	}
	raw(bucketJobs, "ring", `{"schema":2,"new":"shape"}`)
	untouched(func() error { return c.AddMember(t.Context(), "ring", "hostB", "x") })
	untouched(func() error { _, err := c.Jobs(t.Context()); return err })
	untouched(func() error { return c.Check(t.Context()) })
	check(t, c.update(t.Context(), func(tx kv.Tx) error {
		return errors.Join(put(tx, bucketMeta, keySealed, layout+1), tx.Put(bucketMeta, keyLayout, strconv.AppendInt(nil, layout+1, 10)))
	}))
	untouched(func() error { _, err := Open(t.Context(), dirOf(c)); return err })
	untouched(func() error { return c.AddHost(t.Context(), Host{Name: "a", Addr: "10.0.0.9:7070"}) })
}

// TestLayoutBeforeTheFirst: what was never released is refused, with a way on.
func TestLayoutBeforeTheFirst(t *testing.T) {
	c := create(t)
	check(t, c.update(t.Context(), func(tx kv.Tx) error {
		return errors.Join(tx.Put(bucketMeta, keyLayout, []byte("1")), tx.Delete(bucketMeta, keySealed))
	}))
	_, err := Open(t.Context(), dirOf(c))
	wantErr(t, err, ErrUnknownVersion, "layout version 1", "cannot read", "ssctl init", "another folder")
	wantErr(t, c.AddHost(t.Context(), Host{Name: "a", Addr: "10.0.0.9:7070"}), ErrUnknownVersion)
}

// removedOf is a tombstone, as far as the catalogue looks at it.
func removedOf(cut Cut) Removed {
	return Removed{Cut: cut.ID, Job: cut.Job, ID: "0123456789abcdef", Statement: []byte("signed"), Holders: []string{"hostA"}, Pending: []string{"hostA"}}
}

func count(t *testing.T, c *Catalogue, bucket string) (n int) {
	t.Helper()
	check(t, c.view(t.Context(), func(tx kv.Tx) (err error) {
		n, err = tx.Count(bucket)
		return err
	}))
	return n
}

func TestMarksNewestFirst(t *testing.T) {
	c := create(t)
	for range 5 { // a generation for each program that changes something
		check(t, c.Advance(t.Context()))
		c = reopen(t, c)
	}
	all, err := c.Marks(t.Context(), 100)
	check(t, err)
	newest, err := c.Mark(t.Context())
	check(t, err)
	if len(all) < 5 || !all[0].Same(newest) || !slices.IsSortedFunc(all, func(a, b Mark) int { return int(b.Generation) - int(a.Generation) }) {
		t.Fatalf("generations %v, the newest %v", all, newest)
	}
	few, err := c.Marks(t.Context(), 3)
	check(t, err)
	if len(few) != 3 || !few[0].Same(all[0]) || !few[2].Same(all[2]) {
		t.Errorf("the newest three are %v of %v", few, all)
	}
}
