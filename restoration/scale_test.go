package restoration

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"
)

// driven is a restore that is played in memory, in which nothing goes wrong.
type driven struct {
	c       Coordinator
	hosts   map[HostID]Target
	queue   []Message
	steps   int
	sent    int
	bytes   int
	outcome *Outcome
}

// size is about what a message takes on the wire.
func (m Message) size() int { return 32 + len(m.ID) + len(m.From) + len(m.To) + len(m.Reason) }

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
	for _, m := range out.Messages {
		d.bytes += m.size()
	}
	d.queue = append(d.queue, out.Messages...)
	if out.Outcome != nil {
		d.outcome = out.Outcome
	}
}

// TestMessagesGrowLinearly: a host costs the same number of messages, bytes and steps in a restore of any size.
func TestMessagesGrowLinearly(t *testing.T) {
	var last *driven
	for _, n := range []int{10, 100, 1000} {
		d := drive(t, n)
		if d.outcome == nil || d.outcome.Result != ResultResumed {
			t.Fatalf("%d hosts: %+v", n, d.outcome)
		}
		if each := float64(d.sent) / float64(n); each > 18 {
			t.Errorf("%d hosts: %.1f messages a host", n, each)
		}
		t.Logf("%d hosts: %d messages, %d bytes, %d steps", n, d.sent, d.bytes, d.steps)
		if last != nil && (d.sent > 11*last.sent || d.bytes > 11*last.bytes || d.steps > 11*last.steps) {
			t.Errorf("%d hosts take %d messages for %d, %d bytes for %d, %d steps for %d", n, d.sent, last.sent, d.bytes, last.bytes, d.steps, last.steps)
		}
		last = d
	}
}

// processorTime is what this process has used of processors: unlike the clock it does not count what other programs take meanwhile.
func processorTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rounds plays b.N rounds, after one that is not counted, and reports the processor time of one, in ms, and what it allocates, in bytes. Garbage is collected between rounds and its time
// is not counted: the collector's share depends on what lives in the process, and here all hosts do, where each has a process of its own.
func rounds(b *testing.B, play func()) {
	b.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var spent time.Duration
	var before, after runtime.MemStats
	play()
	for range b.N {
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := processorTime(b)
		b.StartTimer()
		play()
		spent += processorTime(b) - start
	}
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "cpu-ms")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc), "allocated")
}

// BenchmarkRestore prints what a whole restore costs, by the number of hosts.
func BenchmarkRestore(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var d *driven
			rounds(b, func() { d = drive(b, n) })
			b.ReportMetric(float64(d.sent), "messages")
			b.ReportMetric(float64(d.bytes), "bytes")
			b.ReportMetric(float64(d.steps), "steps")
		})
	}
}
