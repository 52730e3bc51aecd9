package agent

import (
	"testing"

	"ss/marker"
)

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
			hosts := []marker.HostID{"hostA", "hostB"}
			core := marker.NewCoordinator(marker.Config{
				Key:          marker.Key{Job: "job", Snapshot: "20260101-000000-aaaa", Epoch: 1},
				Participants: hosts, Initiator: "hostB", Lease: 100, PrepareTimeout: 10_000, Timeout: 10_000, AbortTimeout: 10_000,
			})
			_, ready, err := core.Step(marker.Begin{})
			if err != nil {
				t.Fatal(err)
			}
			r := a.newRunner("job") // its loop does not run: it reads late
			var prepare *marker.Message
			for _, m := range ready.Messages {
				if m.Type == marker.MsgPrepare && m.To == "hostA" {
					prepare = &m
				}
			}
			if prepare == nil {
				t.Fatalf("the coordinator says %v", ready.Messages)
			}
			prepare.Participants = hosts
			r.handle(input{event: marker.Received{Message: *prepare}})
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
