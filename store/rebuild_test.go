package store

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// history makes the manifests of a life: two jobs, a policy that changes, a host that goes and one that comes.
func history(t *testing.T) (files []CutFile, want map[string]Cut) {
	t.Helper()
	start := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	host := func(name, addr string) Host { return Host{Name: name, Addr: addr, Added: start} }
	a, b, newA := host("hostA", "10.0.0.1:7070"), host("hostB", "10.0.0.2:7070"), host("hostA", "10.9.9.9:7070")
	want = map[string]Cut{}
	add := func(minute int, job string, epoch uint64, vaults, policy []string, hosts ...Host) *CutFile {
		at := start.Add(time.Duration(minute) * time.Minute)
		cut := sample(Attempt{ID: newID(at, uint16(minute)), Job: job, Epoch: epoch})
		cut.Time, cut.Key, cut.KeyID = at, "key of "+job, "id of "+job
		cut.Hosts[0].Manifest = strings.Repeat("0123456789abcdef"[minute%16:minute%16+1], 64)
		files = append(files, CutFile{
			Schema: 1, Signed: at, Cluster: Cluster{ID: "abc", Created: start, Vaults: vaults}, Epoch: epoch, Hosts: hosts, Cut: cut,
			Job: Job{Name: job, Created: start, Placement: map[string][]Placed{"hostA": Running("hostA-1")}, Policy: Policy{Vaults: policy}, Key: cut.Key, KeyID: cut.KeyID},
		})
		want[cut.ID] = cut
		return &files[len(files)-1]
	}
	add(1, "ring", 1, nil, nil, a, b)
	add(2, "bank", 4, []string{"file:///old"}, nil, a, b)
	add(3, "ring", 5, []string{"file:///new"}, []string{"s3://own"}, newA)
	late := add(4, "ring", 7, []string{"file:///newest"}, []string{"s3://newest"}, newA)
	late.Job.Key, late.Job.KeyID, late.Cut.Key, late.Cut.KeyID = "", "", "", "" // a key that was known is not forgotten
	late.Epoch = 8
	repaired := files[0] // signed again, when it was pinned
	repaired.Signed, repaired.Cut.Pinned = start.Add(210*time.Second), true
	repaired.Epoch = 6
	files = append(files, repaired)
	want[repaired.Cut.ID] = repaired.Cut
	want[late.Cut.ID] = late.Cut
	return files, want
}

func TestReconcile(t *testing.T) {
	files, cuts := history(t)
	held := Held{}
	for _, cut := range cuts {
		set := Set{cut.ID, "hostA", cut.Hosts[0].Manifest}
		held.AddCopy(set, "hostC")
		held.AddCopy(set, "hostB")
		held.AddCopy(set, "hostB")
		held.AddVault(set, "file:///new")
	}
	r, remarks := Reconcile(files, held)
	if len(remarks) != 1 || !strings.Contains(remarks[0], "host hostB is in older manifests only") {
		t.Errorf("remarks: %q", remarks)
	}
	if diff := cmp.Diff([]string{"file:///newest"}, r.Cluster.Vaults); diff != "" {
		t.Error(diff)
	}
	if len(r.Hosts) != 2 || r.Hosts[0].Addr != "10.9.9.9:7070" || r.Hosts[1].Name != "hostB" {
		t.Errorf("hosts: %+v", r.Hosts)
	}
	if len(r.Jobs) != 2 || r.Jobs[0].Name != "bank" || r.Jobs[0].Epoch != 1004 || r.Jobs[1].Epoch != 1008 {
		t.Fatalf("jobs: %+v", r.Jobs)
	}
	if ring := r.Jobs[1]; ring.Key != "key of ring" || ring.KeyID != "id of ring" || ring.Policy.Vaults[0] != "s3://newest" {
		t.Errorf("job: %+v", ring)
	}
	if len(r.Cuts) != len(cuts) {
		t.Fatalf("%d cuts of %d", len(r.Cuts), len(cuts))
	}
	for _, got := range r.Cuts {
		want := cuts[got.ID]
		want.Hosts = slices.Clone(want.Hosts)
		want.Hosts[0].Copies, want.Hosts[0].Vaults = []string{"hostB", "hostC"}, []string{"file:///new"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	for range 50 { // nor does it matter who was asked first
		rand.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
		again, remarksAgain := Reconcile(append(files, files[0]), held)
		if diff := cmp.Diff(r, again); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(remarks, remarksAgain); diff != "" {
			t.Fatal(diff)
		}
	}
	dir := filepath.Join(t.TempDir(), "rebuilt")
	check(t, CreateRebuilt(dir, "here", r))
	c, err := Open(t.Context(), dir)
	check(t, err)
	defer c.Close()
	check(t, c.Check(t.Context()))
	a, err := c.BeginAttempt(t.Context(), Attempt{Kind: KindSnapshot, Job: "ring"})
	check(t, err)
	if a.Epoch != 8+EpochMargin+1 {
		t.Errorf("epoch %d", a.Epoch)
	}
}

// TestReconcileLosses: what is not whole is left out, and said.
func TestReconcileLosses(t *testing.T) {
	files, cuts := history(t)
	gone, other := files[1].Cut, files[2].Cut
	two := &files[3].Cut // of two parts, of which one is held
	part := two.Hosts[0]
	part.Host = "hostB"
	two.Hosts = append(slices.Clone(two.Hosts), part)
	held := Held{}
	for id, cut := range cuts {
		if id != gone.ID && id != other.ID {
			held.AddVault(Set{id, "hostA", cut.Hosts[0].Manifest}, "file:///v")
		}
	}
	held.AddCopy(Set{other.ID, "hostA", strings.Repeat("00", 32)}, "hostB") // another set than the cut's
	held.AddCopy(Set{"20261122-235959-zzzz", "hostA", strings.Repeat("11", 32)}, "hostC")
	alien := files[0]
	alien.Cluster.ID, alien.Signed, alien.Cut.ID = "def", alien.Signed.Add(-time.Hour), "elsewhere"
	r, remarks := Reconcile(append(files, alien), held)
	if len(r.Cuts) != 1 || r.Cuts[0].ID != files[0].Cut.ID || len(r.Jobs) != 2 {
		t.Fatalf("%+v", r)
	}
	text := strings.Join(remarks, "\n")
	for _, want := range []string{
		"elsewhere is left out: it is of cluster def",
		"cut " + gone.ID + " of job bank is left out: nobody who answered holds the images of hostA",
		"cut " + other.ID, "cut " + two.ID + " of job ring is left out: nobody who answered holds the images of hostB",
		"images of hostA in snapshot " + other.ID + ", held by hostB, belong to no cut: the snapshot's manifest names another set",
		"images of hostA in snapshot 20261122-235959-zzzz, held by hostC, belong to no cut: no signed manifest",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no remark says %q:\n%s", want, text)
		}
	}
	if len(remarks) != 7 {
		t.Errorf("%d remarks:\n%s", len(remarks), text)
	}
	r, remarks = Reconcile(nil, held)
	if len(r.Cuts)+len(r.Jobs)+len(r.Hosts) != 0 || len(remarks) != len(held) {
		t.Errorf("%+v, %q", r, remarks)
	}
	far := files[:1]
	far[0].Epoch = maxEpoch
	if r, _ := Reconcile(far, held); r.validate() != nil || r.Jobs[0].Epoch != maxEpoch {
		t.Errorf("the last epoch: %+v", r.Jobs)
	}
}

func TestRebuild(t *testing.T) {
	f := cutFile()
	good := Rebuilt{Cluster: f.Cluster, Hosts: f.Hosts, Jobs: []Job{f.Job}, Cuts: []Cut{f.Cut}}
	dir := filepath.Join(t.TempDir(), "rebuilt")
	for name, change := range map[string]func(*Rebuilt){
		"a host twice":         func(r *Rebuilt) { r.Hosts = append(r.Hosts, r.Hosts[0]) },
		"a job twice":          func(r *Rebuilt) { r.Jobs = append(r.Jobs, r.Jobs[0]) },
		"a cut twice":          func(r *Rebuilt) { r.Cuts = append(r.Cuts, r.Cuts[0]) },
		"a cut without a job":  func(r *Rebuilt) { r.Jobs = nil },
		"a cut of the future":  func(r *Rebuilt) { r.Cuts = []Cut{f.Cut}; r.Cuts[0].Epoch = 10 },
		"a cluster without id": func(r *Rebuilt) { r.Cluster.ID = "" },
	} {
		r := good
		r.Hosts, r.Jobs, r.Cuts = slices.Clone(r.Hosts), slices.Clone(r.Jobs), slices.Clone(r.Cuts)
		change(&r)
		if err := CreateRebuilt(dir, "here", r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check(t, CreateRebuilt(dir, "here", good))
	o, oerr := Open(t.Context(), dir)
	check(t, oerr)
	defer o.Close()
	var got Rebuilt
	var err [4]error
	got.Cluster, err[0] = o.Cluster(t.Context())
	got.Hosts, err[1] = o.Hosts(t.Context())
	got.Jobs, err[2] = o.Jobs(t.Context())
	got.Cuts, err[3] = o.Cuts(t.Context(), "")
	check(t, errors.Join(err[:]...))
	if diff := cmp.Diff(good, got); diff != "" {
		t.Fatal(diff)
	}
	check(t, o.Check(t.Context()))
}

// TestCreateRebuilt: the new catalogue is whole or not there, so that what failed can be done again.
func TestCreateRebuilt(t *testing.T) {
	f := cutFile()
	good := Rebuilt{Cluster: f.Cluster, Hosts: f.Hosts, Jobs: []Job{f.Job}, Cuts: []Cut{f.Cut}}
	bad := good
	bad.Hosts = append(slices.Clone(good.Hosts), good.Hosts[0])
	dir := filepath.Join(t.TempDir(), "new")
	wantErr(t, CreateRebuilt(dir, "here", bad), ErrInvalid)
	_, err := Open(t.Context(), dir)
	wantErr(t, err, ErrNotFound)
	check(t, CreateRebuilt(dir, "here", good))
	wantErr(t, CreateRebuilt(dir, "here", good), ErrConflict, dir)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 { // the catalogue and its sum
		t.Errorf("%v, %v", left, err)
	}
	c, err := Open(t.Context(), dir)
	check(t, err)
	check(t, c.Check(t.Context()))
	if cut, err := c.Cut(t.Context(), "", f.Cut.ID); err != nil || cut.ID != f.Cut.ID {
		t.Errorf("%v, %v", cut.ID, err)
	}
	check(t, c.Close())
}
