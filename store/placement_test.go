package store

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDrawMember: a name is never given twice in a job's life, whatever becomes of its members, cuts and hosts.
func TestDrawMember(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(t.Context(), Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	long := strings.Repeat("h", 62)
	check(t, c.AddHost(t.Context(), Host{Name: long + "1", Addr: "10.0.0.2:7070"}))
	check(t, c.AddHost(t.Context(), Host{Name: long + "2", Addr: "10.0.0.3:7070"}))
	draw := func(job, host, want string, taken ...string) {
		t.Helper()
		got, err := c.DrawMember(t.Context(), job, host, taken)
		check(t, err)
		if got != want {
			t.Fatalf("drew %s, want %s", got, want)
		}
	}
	draw("ring", "hostA", "hostA-1")
	draw("ring", "hostA", "hostA-2")
	draw("bank", "hostA", "hostA-1")
	j, err := c.Job(t.Context(), "ring")
	check(t, err)
	want := []Placed{{Name: "hostA-1", State: PlacedStarting}, {Name: "hostA-2", State: PlacedStarting}}
	if diff := cmp.Diff(want, j.Placement["hostA"]); diff != "" {
		t.Error(diff)
	}
	check(t, c.AddMember(t.Context(), "ring", "hostA", "hostA-1"))
	check(t, c.RemoveMember(t.Context(), "ring", "hostA", "hostA-2"))
	draw("ring", "hostA", "hostA-3")
	check(t, c.ClearHosts(t.Context(), "ring", 0, "hostA", "hostX"))
	draw("ring", "hostA", "hostA-4")
	check(t, c.SetPlacement(t.Context(), "ring", map[string][]Placed{"hostC": Running("hostA-9")})) // as after a rebuild
	draw("ring", "hostA", "hostA-10")
	draw("ring", "hostA", "hostA-21", "hostA-20", "hostB-99", "else", "hostA-x")
	// Long names of hosts that begin alike share one count.
	draw("ring", long+"1", long[:52]+"-1")
	draw("ring", long+"2", long[:52]+"-2")
	_, err = c.DrawMember(t.Context(), "ring", "none", nil)
	wantErr(t, err, ErrNotFound, "none")
	_, err = c.DrawMember(t.Context(), strings.Repeat("j", 64), "hostA", nil)
	wantErr(t, err, ErrInvalid)
	check(t, c.RemoveHost(t.Context(), "hostA"))
	check(t, c.AddHost(t.Context(), Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	draw("ring", "hostA", "hostA-22")
	check(t, c.Check(t.Context()))
}

// TestWithdrawMember: a job that comes into being with a start that fails is not there afterwards; one that has had members is.
func TestWithdrawMember(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(t.Context(), Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	for range 2 {
		name, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
		check(t, err)
		check(t, c.WithdrawMember(t.Context(), "ring", "hostA", name))
		_, err = c.Job(t.Context(), "ring")
		wantErr(t, err, ErrNotFound)
	}
	first, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
	check(t, err)
	check(t, c.AddMember(t.Context(), "ring", "hostA", first))
	check(t, c.ClearHosts(t.Context(), "ring", 0, "hostA"))
	second, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
	check(t, err)
	check(t, c.WithdrawMember(t.Context(), "ring", "hostA", second))
	third, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
	check(t, err)
	if third != "hostA-3" {
		t.Errorf("drew %s", third)
	}
	wantErr(t, c.WithdrawMember(t.Context(), "none", "hostA", "hostA-1"), ErrNotFound)
}

// TestNoStartBesideARestore: while a restore has the lease on a job, no name of a member is drawn; a name that was drawn before, and that the restore or a kill has
// taken off the catalogue, does not come back by itself.
func TestNoStartBesideARestore(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(t.Context(), Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	first, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
	check(t, err)
	late, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
	check(t, err)
	confirm := func(member string, want bool) {
		t.Helper()
		there, err := c.ConfirmMember(t.Context(), "ring", "hostA", member)
		check(t, err)
		if there != want {
			t.Errorf("%s is there: %v", member, there)
		}
	}
	confirm(first, true)
	other := reopen(t, c)
	for kind, refused := range map[string]bool{KindRestore: true, KindSnapshot: false, KindCollect: false} {
		at, err := other.BeginAttempt(t.Context(), Attempt{Kind: kind, Job: "ring", Hosts: []string{"hostA"}})
		check(t, err)
		name, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
		if refused {
			wantErr(t, err, ErrConflict, at.ID, "a restore of job \"ring\" is under way", "wait for its end")
		} else {
			check(t, err)
			check(t, c.RemoveMember(t.Context(), "ring", "hostA", name))
		}
		check(t, other.EndAttempt(t.Context(), at.ID))
	}
	at, err := c.BeginAttempt(t.Context(), Attempt{Kind: KindRestore, Job: "ring", Hosts: []string{"hostA"}})
	check(t, err)
	check(t, c.SetRestored(t.Context(), "ring", map[string][]Placed{"hostA": Running(first)}, at.Epoch, nil, nil))
	check(t, c.EndAttempt(t.Context(), at.ID))
	confirm(late, false)
	check(t, c.ClearHosts(t.Context(), "ring", at.Epoch-1, "hostA")) // a kill that had ended what was there before the restore
	confirm(first, true)
	check(t, c.ClearHosts(t.Context(), "ring", at.Epoch, "hostA"))
	confirm(first, false)
	if there, err := c.ConfirmMember(t.Context(), "none", "hostA", "hostA-1"); there || err != nil {
		t.Errorf("of a job that is gone: %v, %v", there, err)
	}
	check(t, c.Check(t.Context()))
}

// TestDrawMemberBesideCuts: a catalogue that was made again, or has imported a cut, does not give the names of its cuts again.
func TestDrawMemberBesideCuts(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(t.Context(), Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	check(t, c.SetPlacement(t.Context(), "ring", nil))
	cut := sample(begin(t, c, "ring"))
	cut.Hosts[0].Members = []CutMember{{Name: "hostA-7"}}
	check(t, c.CommitCut(t.Context(), cut))
	name, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
	check(t, err)
	if name != "hostA-8" {
		t.Errorf("drew %s beside a cut that has hostA-7", name)
	}
}

// TestDrawMemberAtOnce: several ssctl draw at the same time.
func TestDrawMemberAtOnce(t *testing.T) {
	c := create(t)
	check(t, c.AddHost(t.Context(), Host{Name: "hostA", Addr: "10.0.0.1:7070"}))
	const each = 10
	got := make(chan string, 4*each)
	var wg sync.WaitGroup
	for range 4 {
		c := reopen(t, c)
		wg.Go(func() {
			for range each {
				name, err := c.DrawMember(t.Context(), "ring", "hostA", nil)
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
