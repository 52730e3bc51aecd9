package orchestrator

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ss/fault"
	"ss/marker"
	"ss/restoration"
	"ss/store"
	"ss/store/kv/memory"
)

// twoHandles are two handles on one catalogue with a job that has a member, in memory and in a file, and a way to have the first lose the job's lease.
func twoHandles(t *testing.T, name string) (first, second *store.Catalogue, lose func()) {
	t.Helper()
	const id = "0123456789abcdef0123456789abcdef"
	space, dir := memory.NewSpace(), filepath.Join(t.TempDir(), "ss")
	var err, err2 error
	switch name {
	case "memory":
		first, err = store.Init(t.Context(), space.Open(), store.Cluster{ID: id})
		second, lose = store.New(space.Open()), func() { space.Expire("ring") }
	case "bbolt":
		first, err = store.Create(dir, store.Cluster{ID: id})
		second, err2 = store.Open(t.Context(), dir)
		lose = func() { // its folder was put back from a copy, say
			if err := os.Remove(filepath.Join(dir, "leases", "ring.lock")); err != nil {
				t.Error(err)
			}
		}
	}
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = first.Close(), second.Close() })
	if err := errors.Join(first.AddHost(t.Context(), store.Host{Name: "hostA", Addr: "192.0.2.1:7070"}), first.AddMember(t.Context(), "ring", "hostA", "hostA-1")); err != nil {
		t.Fatal(err)
	}
	second.Where = "/home/other/.ss"
	return first, second, lose
}

// waitingLine is a host that waits with its part until it is told to abort, which it does. first is called, by the goroutine that drives the attempt,
// when the host is told anything for the first time.
type waitingLine struct {
	first sync.Once
	begun func()
	back  chan marker.Message
	asked []marker.MessageType
}

func (l *waitingLine) Send(m marker.Message) error {
	l.first.Do(l.begun)
	l.asked = append(l.asked, m.Type)
	if m.Type == marker.MsgAbort {
		l.back <- marker.Message{Type: marker.MsgAborted, Key: m.Key, From: "hostA", To: marker.CoordinatorHost}
	}
	return nil
}

func (l *waitingLine) Recv() (FromHost, error) {
	m, ok := <-l.back
	if !ok {
		return FromHost{}, io.EOF
	}
	return FromHost{Message: &m}, nil
}

func (l *waitingLine) Close() error { close(l.back); return nil }

// TestSnapshotThatLosesItsJob: a snapshot whose lease is lost rolls back before it commits, says who has the job and what to do, and leaves the other's
// attempt alone.
func TestSnapshotThatLosesItsJob(t *testing.T) {
	for _, name := range []string{"memory", "bbolt"} {
		t.Run(name, func(t *testing.T) {
			mine, others, lose := twoHandles(t, name)
			at, err := mine.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}})
			if err != nil {
				t.Fatal(err)
			}
			var other store.Attempt
			line := &waitingLine{back: make(chan marker.Message, 1)}
			line.begun = func() {
				lose()
				if other, err = others.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}}); err != nil {
					t.Error(err)
				}
			}
			a := &attempt{c: &Cluster{Catalogue: mine}, opt: SnapshotOptions{Job: "ring"}, at: at, zero: time.Now(),
				key:   attemptKey{Job: "ring", Snapshot: marker.SnapshotID(at.ID), Epoch: marker.Epoch(at.Epoch)},
				hosts: []HostStatus{{Host: store.Host{Name: "hostA"}}}, lines: map[marker.HostID]SnapshotLine{"hostA": line},
				events: make(chan marker.Event, 64), done: make(chan struct{}), reports: map[string]HostReport{},
				failures: map[marker.HostID]error{}, heard: map[marker.HostID]bool{}}
			a.core = marker.NewCoordinator(marker.Config{Key: marker.Key(a.key), Participants: []marker.HostID{"hostA"}, Initiator: "hostA",
				Lease: millis(time.Minute), AbortTimeout: millis(time.Minute)})
			a.reads.Go(func() { a.read("hostA", line) })
			out := a.drive(t.Context())
			failed := a.failure(out, nil)
			a.close()
			wantLost(t, failed, other.ID, "process ", "/home/other/.ss", "the job runs on")
			if out.Committed || len(out.Unknown) > 0 || line.asked[len(line.asked)-1] != marker.MsgAbort {
				t.Errorf("%+v after %v", out, line.asked)
			}
			leftAlone(t, mine, at, other)
		})
	}
}

// wantLost complains of an error that is not a conflict, or does not say who has the job and what to do.
func wantLost(t *testing.T, err error, words ...string) {
	t.Helper()
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("it fails with %v", err)
	}
	var f *fault.Error
	if !errors.As(err, &f) || !strings.Contains(f.Next, "ssctl ps") {
		t.Errorf("what to do is not said: %+v", f)
	}
	text := err.Error()
	if f != nil {
		text += " " + f.Next
	}
	for _, w := range words {
		if w == "" || !strings.Contains(text, w) {
			t.Errorf("%q is not in %q", w, text)
		}
	}
}

// leftAlone ends the attempt that has lost its lease, and checks that the other one's lives, and that there is no cut.
func leftAlone(t *testing.T, mine *store.Catalogue, at, other store.Attempt) {
	t.Helper()
	if err := mine.EndAttempt(t.Context(), at.ID); err != nil {
		t.Error(err)
	}
	left, err := mine.Attempts(t.Context())
	if err != nil || len(left) != 1 || left[0].ID != other.ID || !left[0].Live {
		t.Errorf("%+v, %v: want the other's attempt %s alone", left, err, other.ID)
	}
	if cuts, err := mine.Cuts(t.Context(), "ring"); err != nil || len(cuts) > 0 {
		t.Errorf("cuts: %v, %v", cuts, err)
	}
}

// waitingTarget is a host of a restore that stays at one phase until it is told to abort.
type waitingTarget struct {
	begun func()
	back  chan restoration.Message
	stays restoration.MessageType // the order that it is at when the lease is lost
	lost  sync.Once
}

// reached is the phase in which a target has done what it was told.
var reached = map[restoration.MessageType]restoration.Phase{
	restoration.MsgCheck: restoration.Checked, restoration.MsgFetch: restoration.Armed, restoration.MsgFence: restoration.Fenced,
}

func (l *waitingTarget) Send(m restoration.Message) error {
	answer := restoration.Message{Type: restoration.MsgReport, ID: m.ID, From: m.To, To: restoration.CoordinatorHost, Phase: reached[m.Type]}
	switch {
	case m.Type == l.stays:
		l.lost.Do(l.begun)
		return nil
	case m.Type == restoration.MsgAbort && m.Ended:
		answer.Phase = restoration.Stopped
	case m.Type == restoration.MsgAbort:
		answer.Phase = restoration.Left
	}
	l.back <- answer
	return nil
}

func (l *waitingTarget) Recv() (FromTarget, error) {
	m, ok := <-l.back
	if !ok {
		return FromTarget{}, io.EOF
	}
	return FromTarget{Message: m}, nil
}

func (l *waitingTarget) Hangup() error { close(l.back); return nil }
func (l *waitingTarget) Close()        {}

// TestRestoreThatLosesItsJob: a restore whose lease is lost backs out before it is decided, and says who has the job and what to do.
func TestRestoreThatLosesItsJob(t *testing.T) {
	for _, name := range []string{"memory", "bbolt"} {
		for stays, words := range map[restoration.MessageType]string{restoration.MsgCheck: "nothing was touched", restoration.MsgRestore: "the job is stopped"} {
			t.Run(name+"/"+stays.String(), func(t *testing.T) {
				mine, others, lose := twoHandles(t, name)
				at, err := mine.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindRestore, Job: "ring", Hosts: []string{"hostA"}})
				if err != nil {
					t.Fatal(err)
				}
				var other store.Attempt
				line := &waitingTarget{back: make(chan restoration.Message, 8), stays: stays}
				line.begun = func() {
					lose()
					if other, err = others.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindRestore, Job: "ring", Hosts: []string{"hostA"}}); err != nil {
						t.Error(err)
					}
				}
				r := &restore{c: &Cluster{Catalogue: mine}, id: at.ID, at: at, lines: map[string]RestoreLine{"hostA": line}, res: &RestoreResult{StepsMs: map[string]float64{}},
					hosts: map[string]HostStatus{"hostA": {Host: store.Host{Name: "hostA"}}},
					plan:  RestorePlan{Cut: store.Cut{Job: "ring"}, Parts: []PlannedPart{{From: "hostA", To: "hostA"}}}}
				out, err := r.drive(t.Context(), false)
				if err != nil {
					t.Fatal(err)
				}
				wantLost(t, r.verdict(out), other.ID, "process ", "/home/other/.ss", words)
				r.close()
				leftAlone(t, mine, at, other)
			})
		}
	}
}
