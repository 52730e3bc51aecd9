package orchestrator

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"ss/fault"
	"ss/marker"
	"ss/store"
)

// stuckLine is a host that says what it is at, and never comes to an end. When it is told to give up, its line breaks.
type stuckLine struct {
	say  chan FromHost
	gone chan struct{}
	once sync.Once
}

func (l *stuckLine) Send(m marker.Message) error {
	if m.Type == marker.MsgAbort {
		return l.Close()
	}
	return nil
}

func (l *stuckLine) Recv() (FromHost, error) {
	select {
	case m := <-l.say:
		return m, nil
	case <-l.gone:
		return FromHost{}, io.EOF
	}
}

func (l *stuckLine) Close() error {
	l.once.Do(func() { close(l.gone) })
	return nil
}

// TestOnlyStandingStillIsLimited: a snapshot whose members stand still for too long is rolled back, and one that stores for long is not.
func TestOnlyStandingStillIsLimited(t *testing.T) {
	for name, c := range map[string]struct {
		now  Progress
		want fault.Kind
		text string
	}{
		"a dump that hangs": {Progress{Phase: "dumping"}, fault.RolledBack, "hostA is not finished"},
		"a slow vault":      {Progress{Phase: "storing", Storing: true}, fault.Interrupted, "enough"},
	} {
		catalogue, _, _ := twoHandles(t, "memory")
		at, err := catalogue.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: "ring", Hosts: []string{"hostA"}})
		if err != nil {
			t.Fatal(err)
		}
		line := &stuckLine{say: make(chan FromHost, 1), gone: make(chan struct{})}
		a := &attempt{c: &Cluster{Catalogue: catalogue}, at: at, opt: SnapshotOptions{Job: "ring"}, key: attemptKey{Job: "ring", Snapshot: "s", Epoch: 1}, zero: time.Now(),
			hosts: []HostStatus{{Host: store.Host{Name: "hostA"}}}, lines: map[marker.HostID]SnapshotLine{"hostA": line},
			events: make(chan marker.Event, 64), done: make(chan struct{}), reports: map[string]HostReport{},
			failures: map[marker.HostID]error{}, heard: map[marker.HostID]bool{}}
		a.core = marker.NewCoordinator(marker.Config{Key: marker.Key(a.key), Participants: []marker.HostID{"hostA"}, Initiator: "hostA",
			Lease: millis(lease), Standstill: 50, AbortTimeout: millis(abortTimeout)})
		line.say <- FromHost{Progress: &c.now}
		a.reads.Add(1)
		go func() {
			defer a.reads.Done()
			a.read("hostA", line)
		}()
		ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, errors.New("enough"))
		err = a.failure(a.drive(ctx), nil)
		cancel()
		a.close()
		if fault.KindOf(err) != c.want || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
