package restoration

import (
	"fmt"
	"testing"
)

// driven is a restore that is played in memory, in which nothing goes wrong.
type driven struct {
	c       Coordinator
	hosts   map[HostID]Target
	queue   []Message
	steps   int
	sent    int
	outcome *Outcome
}

// drive plays a restore on n targets.
func drive(tb testing.TB, n int) *driven {
	tb.Helper()
	ids := make([]HostID, n)
	for i := range ids {
		ids[i] = HostID(fmt.Sprintf("host%05d", i))
	}
	d := &driven{hosts: make(map[HostID]Target, n)}
	shared := newRoster(ids) // each host has one of its own; a thousand of them would be the test's cost, not the protocol's
	for _, id := range ids {
		t, err := NewTarget(Config{ID: "r", Host: id, Targets: []HostID{id}, Retry: 1000})
		if err != nil {
			tb.Fatal(err)
		}
		t.hosts, t.parts, t.self, t.runs = shared, n, shared.index(id), newVec[bool](n)
		d.hosts[id] = t
	}
	c, err := NewCoordinator(CoordinatorConfig{ID: "r", Targets: ids, Retry: 1000})
	if err != nil {
		tb.Fatal(err)
	}
	d.c = c
	d.coordinator(tb, Begin{})
	for len(d.queue) > 0 {
		m := d.queue[0]
		d.queue = d.queue[1:]
		if m.To == CoordinatorHost {
			d.coordinator(tb, Received{m})
		} else {
			d.host(tb, m.To, Received{m})
		}
	}
	return d
}

func (d *driven) coordinator(tb testing.TB, ev Event) {
	c, out, err := d.c.Step(ev)
	if err != nil {
		tb.Fatal(err)
	}
	d.c = c
	d.took(out)
}

func (d *driven) host(tb testing.TB, id HostID, ev Event) {
	t, out, err := d.hosts[id].Step(ev)
	if err != nil {
		tb.Fatal(err)
	}
	d.hosts[id] = t
	d.took(out)
	ends := map[ActionType]Event{ActCheck: CheckDone{}, ActFetch: FetchDone{}, ActFence: FenceDone{}, ActRestore: RestoreDone{}, ActResume: ResumeDone{}}
	for _, a := range out.Actions {
		if end := ends[a]; end != nil {
			d.host(tb, id, end)
		}
	}
}

func (d *driven) took(out Ready) {
	d.steps++
	d.sent += len(out.Messages)
	d.queue = append(d.queue, out.Messages...)
	if out.Outcome != nil {
		d.outcome = out.Outcome
	}
}

// TestMessagesGrowLinearly: a host costs the same number of messages in a restore of any size.
func TestMessagesGrowLinearly(t *testing.T) {
	for _, n := range []int{10, 100, 1000} {
		d := drive(t, n)
		if d.outcome == nil || d.outcome.Result != ResultResumed {
			t.Fatalf("%d hosts: %+v", n, d.outcome)
		}
		if each := float64(d.sent) / float64(n); each > 18 {
			t.Errorf("%d hosts: %.1f messages a host", n, each)
		}
	}
}

// BenchmarkRestore prints what a whole restore costs, by the number of hosts.
func BenchmarkRestore(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var d *driven
			for b.Loop() {
				d = drive(b, n)
			}
			b.ReportMetric(float64(d.sent), "messages/op")
			b.ReportMetric(float64(d.steps), "steps/op")
		})
	}
}
