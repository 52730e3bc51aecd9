package orchestrator_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"ss/fault"
	. "ss/orchestrator"
	"ss/orchestrator/clustertest"
	"ss/store"
)

// besideHost is an agent on which members start. before is called when one is about to start, after when it runs.
type besideHost struct {
	*clustertest.Host
	before, after func()
	busy          error // what it says of a check
}

func (h *besideHost) Run(_ context.Context, m Member) (Member, error) {
	if h.before != nil {
		h.before()
	}
	m.State, m.Host = StateRunning, h.Name
	h.Living = append(h.Living, m)
	if h.after != nil {
		h.after()
	}
	return m, nil
}

func (h *besideHost) Attach(ctx context.Context, m Member) (Member, error) { return h.Run(ctx, m) }

func (h *besideHost) Check(context.Context, CheckQuestion) (CheckAnswer, error) {
	return CheckAnswer{}, h.busy
}

// besideCluster has a job with a cut of hostA and hostB, and hostC.
func besideCluster(t *testing.T) (f *clustertest.Cluster, cut store.Cut, hosts map[string]*besideHost) {
	t.Helper()
	f = clustertest.New(t, clustertest.ClusterA, "hostA", "hostB", "hostC")
	cut = f.AddCut(t, "job", []string{"hostA", "hostB"})
	hosts = map[string]*besideHost{}
	for name, h := range f.Agents {
		hosts[name] = &besideHost{Host: h}
	}
	f.Dial = func(h Host) (Agent, error) { return hosts[h.Name], nil }
	return f, cut, hosts
}

// restoring begins a restore of the job, as another ssctl does, and returns what ends it.
func restoring(t *testing.T, f *clustertest.Cluster, placed ...string) (restored func()) {
	t.Helper()
	at, err := f.Catalogue.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindRestore, Job: "job", Hosts: []string{"hostA", "hostB"}})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		err := f.Catalogue.SetRestored(t.Context(), "job", map[string][]store.Placed{"hostA": store.Running(placed...)}, at.Epoch, nil, nil)
		if err := errors.Join(err, f.Catalogue.EndAttempt(t.Context(), at.ID)); err != nil {
			t.Error(err)
		}
	}
}

// TestNothingStartsBesideARestore: while a restore has the job, nothing starts; a start that comes before it and is overtaken by it says what its host has.
func TestNothingStartsBesideARestore(t *testing.T) {
	f, _, hosts := besideCluster(t)
	c := hosts["hostC"]
	run := func() (Member, error) {
		return f.Run(t.Context(), "hostC", Member{Job: "job", Command: []string{"x"}})
	}
	attach := func() (Member, error) { return f.Attach(t.Context(), "hostC", Member{Job: "job", Pid: 7}) }
	over := restoring(t, f, "hostA-1")
	for _, start := range []func() (Member, error){run, attach} {
		if m, err := start(); !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "a restore of job \"job\" is under way") || len(c.Living) > 0 {
			t.Errorf("%+v, %v; %v live", m, err, c.Living)
		}
	}
	over()
	where := func(member, want string) {
		t.Helper()
		j, err := f.Catalogue.Job(t.Context(), "job")
		if host, _, _ := j.Where(member); err != nil || host != want {
			t.Errorf("%s is on %q, want %q; %v", member, host, want, err)
		}
	}
	// It runs, and a whole restore comes before its ssctl has written that down.
	c.after = func() {
		restored := restoring(t, f, "hostA-1")
		c.Living = nil
		restored()
	}
	m, err := run()
	if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "has ended it") {
		t.Errorf("a member that the restore has ended: %v", err)
	}
	where(m.Name, "")
	// It starts when the restore is over.
	c.before, c.after = func() { restoring(t, f, "hostA-1")() }, nil
	if m, err = run(); err != nil {
		t.Error(err)
	}
	where(m.Name, "hostC")
}

// TestRestoreFindsWhatStarts: a host takes part in a restore also if the member that it has, or is about to have, was not there when the hosts were asked.
func TestRestoreFindsWhatStarts(t *testing.T) {
	for name, c := range map[string]struct {
		start func(*clustertest.Cluster) error
		want  string
	}{
		"nothing starts": {func(*clustertest.Cluster) error { return nil }, ""},
		"one is on its way": {func(f *clustertest.Cluster) error {
			_, err := f.Catalogue.DrawMember(t.Context(), "job", "hostC", nil)
			return err
		}, "hostC"},
		"one runs": {func(f *clustertest.Cluster) error {
			_, err := f.Run(t.Context(), "hostC", Member{Job: "job", Command: []string{"x"}})
			return err
		}, "hostC"},
		"one runs on a target": {func(f *clustertest.Cluster) error {
			_, err := f.Run(t.Context(), "hostB", Member{Job: "job", Command: []string{"x"}})
			return err
		}, ""},
	} {
		f, cut, _ := besideCluster(t)
		got, err := f.OldHosts(t.Context(), cut.ID, func() {
			if err := c.start(f); err != nil {
				t.Error(name, err)
			}
		})
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v take part without a part, want %q; %v", name, got, c.want, err)
		}
	}
}

// TestNotWholeForARestore: a job whose members are away for a restore is not said to lack them.
func TestNotWholeForARestore(t *testing.T) {
	f, _, hosts := besideCluster(t)
	if err := f.Catalogue.AddMember(t.Context(), "job", "hostB", "hostB-1"); err != nil {
		t.Fatal(err)
	}
	commands := map[string]func() error{
		"snapshot": func() error {
			_, err := f.Snapshot(t.Context(), SnapshotOptions{Job: "job"})
			return err
		},
		"check": func() error {
			_, err := f.Check(t.Context(), CheckOptions{Job: "job"})
			return err
		},
	}
	says := func(kind fault.Kind, want string) {
		t.Helper()
		for name, do := range commands {
			if err := do(); fault.KindOf(err) != kind || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
	says(fault.Refused, "hostA has no member hostA-1 any more")
	over := restoring(t, f, "hostA-1", "hostB-1")
	says(fault.Conflict, "job job is busy with restore ")
	over()
	says(fault.Refused, "has no member hostA-1 any more")
	hosts["hostA"].busy = fault.New(fault.Conflict, "restore x of job job lost its connection to ssctl", "")
	says(fault.Conflict, "lost its connection to ssctl")
}

// TestKillBesideARestore: members that a restore has put where a kill has just ended others stay in the catalogue.
func TestKillBesideARestore(t *testing.T) {
	f, _, hosts := besideCluster(t)
	kill := &killedHost{besideHost: hosts["hostA"], during: func() { restoring(t, f, "hostA-1")() }}
	f.Dial = func(h Host) (Agent, error) {
		if h.Name == "hostA" {
			return kill, nil
		}
		return &killedHost{besideHost: hosts[h.Name]}, nil
	}
	for range 2 {
		killed, err := f.Kill(t.Context(), "job")
		if err != nil || !slices.Equal(killed, []string{"hostA-1"}) {
			t.Errorf("%v, %v", killed, err)
		}
		j, err := f.Catalogue.Job(t.Context(), "job")
		if _, _, ok := j.Where("hostA-1"); err != nil || ok != (kill.during != nil) {
			t.Errorf("hostA-1 is in the catalogue: %v, %v", ok, err)
		}
		kill.during = nil
	}
}

// killedHost ends hostA-1. during is called when that is done, and ssctl has not heard of it.
type killedHost struct {
	*besideHost
	during func()
}

func (h *killedHost) Kill(context.Context, string) ([]string, error) {
	if h.Name != "hostA" {
		return nil, nil
	}
	if h.during != nil {
		h.during()
	}
	return []string{"hostA-1"}, nil
}
