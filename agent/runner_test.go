package agent

import (
	"os"
	"strings"
	"testing"

	"ss/marker"
)

// aPrepare is what hostA gets first in a snapshot with hostB, with the list of both.
func aPrepare(t *testing.T) marker.Message {
	t.Helper()
	hosts := []marker.HostID{"hostA", "hostB"}
	core := marker.NewCoordinator(marker.Config{
		Key:          marker.Key{Job: "job", Snapshot: "20260101-000000-aaaa", Epoch: 1},
		Participants: hosts, Initiator: "hostB", Lease: 100, PrepareTimeout: 10_000, Timeout: 10_000, AbortTimeout: 10_000,
	})
	_, ready, err := core.Step(marker.Begin{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ready.Messages {
		if m.Type == marker.MsgPrepare && m.To == "hostA" {
			m.Participants = hosts
			return m
		}
	}
	t.Fatalf("the coordinator says %v", ready.Messages)
	return marker.Message{}
}

// A renewal that came in time is heard, however long the loop was kept from reading it, and one that came late is not.
func TestARenewalThatWaitsIsHeard(t *testing.T) {
	for name, c := range map[string]struct {
		renewed marker.Millis
		phase   marker.Phase
	}{
		"in time": {50, marker.Preparing},
		"late":    {150, marker.RollingBack},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, "hostB")
			prepare := aPrepare(t)
			r := a.newRunner("job") // its loop does not run: it reads late
			r.handle(input{event: marker.Received{Message: prepare}})
			if got := r.p.Phase(); got != marker.Preparing {
				t.Fatalf("it is %v, want preparing", got)
			}
			<-r.inputs // what came of preparing: nothing lives here
			r.inputs <- input{at: c.renewed, event: marker.Received{Message: marker.Message{
				Type: marker.MsgRenew, Key: prepare.Key, To: "hostA", Lease: 100,
			}}}
			r.tick(120)
			if got := r.p.Phase(); got != c.phase {
				t.Errorf("it is %v, want %v", got, c.phase)
			}
			r.cur.running.Wait()
			r.cur.ending.Wait()
		})
	}
}

// TestUnwrittenIsUnsaid: where the entry of a step cannot be written, nothing that depends on it is said, and the attempt is given up.
func TestUnwrittenIsUnsaid(t *testing.T) {
	prepare := aPrepare(t)
	key := prepare.Key
	for phase, step := range map[marker.Phase]func(r *runner){
		marker.Preparing: func(r *runner) { r.step(marker.Received{Message: prepare}) },
		marker.Complete: func(r *runner) {
			entry := marker.Entry{Key: key, Phase: marker.Complete}
			r.p, _ = marker.Recover("hostA", "job", entry)
			r.execute(marker.Ready{Journal: &entry, Binding: true, Messages: []marker.Message{{Type: marker.MsgComplete, Key: key}}})
		},
	} {
		t.Run(phase.String(), func(t *testing.T) {
			a := newAgent(t)
			r := a.newRunner("job") // its loop does not run
			at := &Attempt{line: newLine[Out](), r: r, open: Open{Key: key}}
			r.attempts[key] = at
			if err := os.RemoveAll(a.journal.dir); err != nil {
				t.Fatal(err)
			}
			step(r)
			if got := r.p.Phase(); got != marker.RollingBack {
				t.Errorf("it is %v", got)
			}
			failed := false
			for _, out := range at.Take() {
				if m := out.Message; m != nil {
					failed = failed || m.Type == marker.MsgFailed && strings.Contains(m.Reason, "write the journal")
					if m.Type != marker.MsgFailed {
						t.Errorf("it says %v", *m)
					}
				}
			}
			if !failed {
				t.Error("it does not say that it has failed")
			}
			r.cur.running.Wait()
			r.cur.ending.Wait()
		})
	}
}
