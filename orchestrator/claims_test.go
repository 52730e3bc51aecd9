package orchestrator_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	. "ss/orchestrator"
	"ss/orchestrator/clustertest"
	"ss/store"
	"ss/store/keys"
)

// claimer is an agent that says what it likes of its members, and writes down what it is sent.
type claimer struct {
	*clustertest.Host
	members []Member

	sent sync.Mutex
	got  []string // what it was asked to take part in
	keys []keys.Job
}

var errEnough = errors.New("the test has seen enough")

func (c *claimer) Info(context.Context, Word) (HostInfo, error) {
	standings := []Standing{{Job: "job", Epoch: 99, Statement: []byte("forged"), InForce: true}}
	return HostInfo{Host: c.Name, FreeBytes: 1 << 40, Standings: standings}, nil
}

func (c *claimer) Members(context.Context, string) ([]Member, error) { return c.members, nil }

func (c *claimer) Stand(_ context.Context, s Standing) (Standing, error) { return s, nil }

func (c *claimer) Snapshot(_ context.Context, o Open) (SnapshotLine, error) {
	c.sent.Lock()
	defer c.sent.Unlock()
	c.got, c.keys = append(c.got, o.Members...), append(c.keys, o.JobKey)
	return nil, errEnough
}

func (c *claimer) Restore(_ context.Context, p HostPlan) (RestoreLine, error) {
	c.sent.Lock()
	defer c.sent.Unlock()
	c.got = append(c.got, "restore")
	for _, part := range p.Parts {
		c.keys = append(c.keys, part.JobKey)
	}
	return nil, errEnough
}

// TestClaimsGetNoKey: whatever a host outside of the job says that it has of it, it is asked for nothing, gets no key, and is named.
func TestClaimsGetNoKey(t *testing.T) {
	running := func(host, name string, epoch uint64) Member {
		return Member{Host: host, Job: "job", Name: name, State: StateRunning, Epoch: epoch}
	}
	for name, claim := range map[string]Member{
		"a member of its own":           running("hostC", "hostC-1", 0),
		"a member that is elsewhere":    running("hostC", "hostA-1", 0),
		"of an epoch that was not yet":  running("hostC", "hostC-1", 99),
		"elsewhere, of a later epoch":   running("hostC", "hostB-1", 99),
		"a member with an endless name": running("hostC", strings.Repeat("x", 4096), 0),
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB", "hostC")
			cut := f.AddCut(t, "job", []string{"hostA", "hostB"})
			if err := f.Catalogue.AddMember(t.Context(), "job", "hostB", "hostB-1"); err != nil {
				t.Fatal(err)
			}
			hosts := map[string]*claimer{}
			for _, h := range []string{"hostA", "hostB"} {
				hosts[h] = &claimer{Host: f.Agents[h], members: []Member{running(h, h+"-1", 0)}}
			}
			hosts["hostC"] = &claimer{Host: f.Agents["hostC"], members: []Member{claim}}
			f.Dial = func(h Host) (Agent, error) { return hosts[h.Name], nil }
			if _, err := f.Snapshot(t.Context(), SnapshotOptions{Job: "job"}); err == nil {
				t.Fatal("the agents of this test take no snapshot")
			}
			for _, h := range []string{"hostA", "hostB"} {
				if !slices.Equal(hosts[h].got, []string{h + "-1"}) || len(hosts[h].keys) != 1 {
					t.Errorf("%s was asked for %v, with %d keys", h, hosts[h].got, len(hosts[h].keys))
				}
			}
			if _, err := f.Restore(t.Context(), RestoreOptions{Cut: cut.ID}); err == nil {
				t.Fatal("the agents of this test restore nothing")
			}
			if c := hosts["hostC"]; len(c.got)+len(c.keys) > 0 {
				t.Errorf("hostC was asked for %v and got %d keys", c.got, len(c.keys))
			}
			if !slices.ContainsFunc(f.Notices, func(n string) bool {
				return strings.Contains(n, "hostC says that ") && strings.Contains(n, "takes no part")
			}) {
				t.Errorf("nobody names hostC: %q", f.Notices)
			}
			if j, err := f.Catalogue.Job(t.Context(), "job"); err != nil || j.Restored != 0 || len(j.Placement["hostC"]) > 0 {
				t.Errorf("a host's word has changed the catalogue: %+v, %v", j, err)
			}
		})
	}
}

// TestOldMemberIsRefused: a host that has a member of an older epoch where the catalogue has the restored one makes a snapshot refuse before
// any host is asked to freeze anything.
func TestOldMemberIsRefused(t *testing.T) {
	f := clustertest.New(t, clustertest.ClusterA, "hostA", "hostB")
	f.AddCut(t, "job", []string{"hostA", "hostB"})
	at, err := f.Catalogue.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindRestore, Job: "job", Hosts: []string{"hostA"}})
	if err != nil {
		t.Fatal(err)
	}
	epoch := at.Epoch
	if err := f.Catalogue.EndAttempt(t.Context(), at.ID); err != nil {
		t.Fatal(err)
	}
	if err := f.Catalogue.SetRestored(t.Context(), "job", map[string][]store.Placed{"hostA": store.Running("hostA-1")}, epoch, nil, nil); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]Member{
		"older": {Host: "hostA", Job: "job", Name: "hostA-1", State: StateRunning, Epoch: epoch - 1},
		"newer": {Host: "hostA", Job: "job", Name: "hostA-1", State: StateRunning, Epoch: epoch + 1},
	} {
		a := &claimer{Host: f.Agents["hostA"], members: []Member{m}}
		b := &claimer{Host: f.Agents["hostB"]}
		f.Dial = func(h Host) (Agent, error) { return map[string]*claimer{"hostA": a, "hostB": b}[h.Name], nil }
		_, err := f.Snapshot(t.Context(), SnapshotOptions{Job: "job"})
		if err == nil || !strings.Contains(err.Error(), "hostA-1 on hostA") || !strings.Contains(err.Error(), "ssctl ") || len(a.got) > 0 {
			t.Errorf("%s: %v, asked for %v", name, err, a.got)
		}
	}
}
