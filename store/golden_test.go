package store

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden puts a catalogue that an older program made into a folder, and returns what that program itself read in it.
func golden(t *testing.T, commit string) (dir string, want map[string]any) {
	t.Helper()
	f, err := os.Open("testdata/catalogue-" + commit + ".db.gz")
	check(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	check(t, err)
	data, err := io.ReadAll(z)
	check(t, err)
	dir = filepath.Join(t.TempDir(), "ss")
	check(t, os.Mkdir(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, FileName), data, 0o600))
	said, err := os.ReadFile("testdata/catalogue-" + commit + ".json")
	check(t, err)
	check(t, json.Unmarshal(said, &want))
	return dir, want
}

// TestOlderCatalogues: what catalogues of layouts 2 (94ec08b) and 3 (6a13c9d) say, this program says as well, after it has taken them over; and the older
// program's file is still there, byte for byte.
func TestOlderCatalogues(t *testing.T) {
	for commit, version := range map[string]string{"94ec08b": "2", "6a13c9d": "3"} {
		t.Run(commit, func(t *testing.T) {
			dir, want := golden(t, commit)
			before, err := os.ReadFile(filepath.Join(dir, FileName))
			check(t, err)
			for range 2 { // the second time there is nothing to take over
				c, err := Open(t.Context(), dir)
				check(t, err)
				got := map[string]any{}
				for name, read := range map[string]func() (any, error){
					"cluster":  func() (any, error) { return c.Cluster(t.Context()) },
					"hosts":    func() (any, error) { return c.Hosts(t.Context()) },
					"jobs":     func() (any, error) { return c.Jobs(t.Context()) },
					"attempts": func() (any, error) { return c.Attempts(t.Context()) },
					"cuts":     func() (any, error) { return c.Cuts(t.Context(), "") },
				} {
					v, err := read()
					check(t, err)
					data, err := json.Marshal(v)
					check(t, err)
					var plain any
					check(t, json.Unmarshal(data, &plain))
					got[name] = plain
				}
				if !reflect.DeepEqual(want, got) {
					t.Fatal(cmp.Diff(want, got))
				}
				check(t, c.Check(t.Context()))
				check(t, c.Close())
			}
			aside, err := os.ReadFile(filepath.Join(dir, FileName+".layout-"+version))
			check(t, err)
			if string(aside) != string(before) {
				t.Error("the old catalogue is not as it was")
			}
			c, err := Open(t.Context(), dir)
			check(t, err)
			defer c.Close()
			a, err := c.BeginAttempt(t.Context(), Attempt{Kind: KindSnapshot, Job: "bank", Hosts: []string{"hostA"}})
			check(t, err) // the older ssctl has died
			if a.Epoch != 5 {
				t.Errorf("epoch %d after 4", a.Epoch)
			}
			check(t, c.CommitCut(t.Context(), sample(a)))
		})
	}
}

// TestOlderCatalogueInUse: while the older ssctl is at work, its catalogue stays as it is.
func TestOlderCatalogueInUse(t *testing.T) {
	dir, _ := golden(t, "6a13c9d")
	check(t, os.Mkdir(filepath.Join(dir, "attempts"), 0o700))
	lock, err := os.Create(filepath.Join(dir, "attempts", "x.lock"))
	check(t, err)
	defer lock.Close()
	check(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	_, err = Open(t.Context(), dir)
	wantErr(t, err, ErrLocked, "older ssctl", "x.lock")
	if left, err := filepath.Glob(filepath.Join(dir, FileName+".*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	check(t, lock.Close())
	c, err := Open(t.Context(), dir)
	check(t, err)
	check(t, c.Close())
}

// TestLargeCut: a cut of ten thousand channels and 300 hosts comes back as it went in, no record is larger than etcd takes, and when it is removed nothing of
// it is left. What was staged of a cut that was not committed goes with its attempt.
func TestLargeCut(t *testing.T) {
	for name, memory := range map[string]bool{"bolt": false, "memory": true} {
		t.Run(name, func(t *testing.T) {
			inMemory = memory
			defer func() { inMemory = false }()
			c := create(t)
			check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
			large := func(a Attempt) Cut {
				cut := sample(a)
				for i := range 300 {
					part := cut.Hosts[0]
					part.Host = "host" + strings.Repeat("x", i%7) + "-" + newID(cut.Time, uint16(i))
					cut.Hosts = append(cut.Hosts, part)
				}
				for i := range 10_000 {
					ch := cut.Channels[0]
					ch.InTransit = uint32(i)
					cut.Channels = append(cut.Channels, ch)
				}
				return cut
			}
			cut := large(begin(t, c, "ring"))
			check(t, c.CommitCut(t.Context(), cut))
			got, err := reopen(t, c).Cut(t.Context(), "ring", Latest)
			check(t, err)
			if diff := cmp.Diff(cut, got); diff != "" {
				t.Fatal(diff)
			}
			check(t, c.SetHolders(t.Context(), cut.ID, "hostA", []string{"hostC"}, nil))
			check(t, c.DeleteCut(t.Context(), cut.ID, removedOf(cut)))

			a := begin(t, c, "ring")
			staged := large(a)
			ws, err := cutWrites(staged)
			check(t, err)
			check(t, c.stage(t.Context(), staged, ws[:len(ws)-1]))
			if cuts, err := c.Cuts(t.Context(), ""); err != nil || len(cuts) > 0 {
				t.Errorf("%d cuts, none is committed: %v", len(cuts), err)
			}
			check(t, c.EndAttempt(t.Context(), a.ID))
			for _, bucket := range []string{bucketParts, bucketChannels} {
				if n := count(t, c, bucket); n > 0 {
					t.Errorf("%d records of %s are left", n, bucket)
				}
			}
			check(t, c.Check(t.Context()))
		})
	}
}
