package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

// TestDrawMember: a name is never given twice in a job's life, whatever becomes of its members, cuts and hosts.
func TestDrawMember(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	long := strings.Repeat("h", 62)
	check(t, c.AddHost(Host{Name: long + "1", Addr: "10.0.0.2:7070"}))
	check(t, c.AddHost(Host{Name: long + "2", Addr: "10.0.0.3:7070"}))
	draw := func(job, host, want string, taken ...string) {
		t.Helper()
		got, err := c.DrawMember(job, host, taken)
		check(t, err)
		if got != want {
			t.Fatalf("drew %s, want %s", got, want)
		}
	}
	draw("ring", "hostA", "hostA-1")
	draw("ring", "hostA", "hostA-2")
	draw("bank", "hostA", "hostA-1")
	j, err := c.Job("ring")
	check(t, err)
	want := []Placed{{Name: "hostA-1", State: PlacedStarting}, {Name: "hostA-2", State: PlacedStarting}}
	if diff := cmp.Diff(want, j.Placement["hostA"]); diff != "" {
		t.Error(diff)
	}
	check(t, c.AddMember("ring", "hostA", "hostA-1"))
	check(t, c.RemoveMember("ring", "hostA", "hostA-2"))
	draw("ring", "hostA", "hostA-3")
	check(t, c.ClearHosts("ring", "hostA", "hostX"))
	draw("ring", "hostA", "hostA-4")
	check(t, c.SetPlacement("ring", map[string][]Placed{"hostC": Running("hostA-9")})) // as after a rebuild
	draw("ring", "hostA", "hostA-10")
	draw("ring", "hostA", "hostA-21", "hostA-20", "hostB-99", "else", "hostA-x")
	// Long names of hosts that begin alike share one count.
	draw("ring", long+"1", long[:52]+"-1")
	draw("ring", long+"2", long[:52]+"-2")
	_, err = c.DrawMember("ring", "none", nil)
	wantErr(t, err, ErrNotFound, "none")
	_, err = c.DrawMember(strings.Repeat("j", 64), "hostA", nil)
	wantErr(t, err, ErrInvalid)
	check(t, c.RemoveHost("hostA"))
	check(t, c.AddHost(Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	draw("ring", "hostA", "hostA-22")
	check(t, c.Check())
}

// TestWithdrawMember: a job that comes into being with a start that fails is not there afterwards; one that has had members is.
func TestWithdrawMember(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	for range 2 {
		name, err := c.DrawMember("ring", "hostA", nil)
		check(t, err)
		check(t, c.WithdrawMember("ring", "hostA", name))
		_, err = c.Job("ring")
		wantErr(t, err, ErrNotFound)
	}
	first, err := c.DrawMember("ring", "hostA", nil)
	check(t, err)
	check(t, c.AddMember("ring", "hostA", first))
	check(t, c.ClearHosts("ring", "hostA"))
	second, err := c.DrawMember("ring", "hostA", nil)
	check(t, err)
	check(t, c.WithdrawMember("ring", "hostA", second))
	third, err := c.DrawMember("ring", "hostA", nil)
	check(t, err)
	if third != "hostA-3" {
		t.Errorf("drew %s", third)
	}
	wantErr(t, c.WithdrawMember("none", "hostA", "hostA-1"), ErrNotFound)
}

// TestDrawMemberBesideCuts: a catalogue that was made anew, or has imported a cut, does not give the names of its cuts again.
func TestDrawMemberBesideCuts(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	check(t, c.SetPlacement("ring", nil))
	cut := sample(begin(t, c, "ring"))
	cut.Hosts[0].Members = []CutMember{{Name: "hostA-7"}}
	check(t, c.CommitCut(cut))
	name, err := c.DrawMember("ring", "hostA", nil)
	check(t, err)
	if name != "hostA-8" {
		t.Errorf("drew %s beside a cut that has hostA-7", name)
	}
}

// TestDrawMemberAtOnce: several ssctl draw at the same time.
func TestDrawMemberAtOnce(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	const each = 10
	got := make(chan string, 4*each)
	var wg sync.WaitGroup
	for range 4 {
		c := reopen(t, c)
		wg.Go(func() {
			for range each {
				name, err := c.DrawMember("ring", "hostA", nil)
				if err != nil {
					t.Error(err)
				}
				got <- name
			}
		})
	}
	wg.Wait()
	close(got)
	seen := map[string]bool{}
	for name := range got {
		seen[name] = true
	}
	if len(seen) != 4*each {
		t.Errorf("%d names for %d members", len(seen), 4*each)
	}
}

// TestPlacedForm: what was written before members had more than a name is read, and written again as it was.
func TestPlacedForm(t *testing.T) {
	for _, text := range []string{`{"hostA":["hostA-1","hostA-2"],"hostB":[]}`, `{"hostA":[{"name":"hostA-1","state":"starting"},"hostA-2"]}`} {
		var p map[string][]Placed
		check(t, json.Unmarshal([]byte(text), &p))
		again, err := json.Marshal(p)
		check(t, err)
		if string(again) != text {
			t.Errorf("%s is written again as %s", text, again)
		}
	}
	for _, text := range []string{`[1]`, `[[]]`, `[{"name":1}]`} {
		var p []Placed
		if err := json.Unmarshal([]byte(text), &p); err == nil {
			t.Errorf("%s is read as %+v", text, p)
		}
	}
}

// TestOlderLayout: a catalogue of the layout before is read as it is, and is one of today's after the first change.
func TestOlderLayout(t *testing.T) {
	c := create(t)
	check(t, c.AddMember("ring", "hostA", "hostA-1"))
	check(t, c.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		return errors.Join(meta.Delete([]byte(keySealed)), meta.Put([]byte(keyLayout), fmt.Append(nil, oldLayout)))
	}))
	j, err := reopen(t, c).Job("ring")
	check(t, err)
	if diff := cmp.Diff(map[string][]Placed{"hostA": Running("hostA-1")}, j.Placement); diff != "" {
		t.Error(diff)
	}
	check(t, c.AddMember("ring", "hostA", "hostA-2"))
	check(t, c.view(func(tx *bbolt.Tx) error {
		if now := string(tx.Bucket([]byte(bucketMeta)).Get([]byte(keyLayout))); now != strconv.Itoa(layout) {
			t.Errorf("layout %s after a change, want %d", now, layout)
		}
		return nil
	}))
}
