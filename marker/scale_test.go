package marker

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"
)

// crowd is a job of many hosts whose messages and actions all succeed at once: what is left is the work of the two cores.
type crowd struct {
	c     Coordinator
	hosts []Participant
	peers []map[HostID][]string
	queue []Message // from head on; the memory before it is used again
	head  int
	acts  []crowdAction
	doing []crowdAction // as acts, and its memory is used in turn
	epoch Epoch

	steps, messages, bytes int
	committed              bool
}

type crowdAction struct {
	host int
	act  Action
}

func crowdName(i int) HostID { return HostID(fmt.Sprintf("host%05d", i)) }

// newCrowd makes n hosts. In a ring (degree 2) and in the meshes each shares a channel with its degree nearest neighbours.
func newCrowd(n, degree int) *crowd {
	w := &crowd{}
	for i := range n {
		w.hosts = append(w.hosts, NewParticipant(crowdName(i), "job", 0))
		peers := map[HostID][]string{}
		for d := 1; d <= degree/2; d++ {
			for _, j := range []int{(i + d) % n, (i - d + n) % n} {
				if j != i {
					peers[crowdName(j)] = []string{"10.0.0.1:1000>10.0.0.2:80"}
				}
			}
		}
		w.peers = append(w.peers, peers)
	}
	return w
}

func (w *crowd) names() []HostID {
	var ids []HostID
	for i := range w.hosts {
		ids = append(ids, crowdName(i))
	}
	return ids
}

// size is about what a message takes on the wire.
func (m Message) size() int {
	n := 64 + len(m.From) + len(m.To) + len(m.Key.Job) + len(m.Key.Snapshot) + len(m.Reason)
	if m.Type == MsgPrepare || m.Type == MsgLacks {
		n += len(m.Group)
	}
	for _, h := range m.Participants {
		n += len(h) + 2
	}
	for _, ch := range m.Channels {
		n += len(ch) + 2
	}
	return n + 64*len(m.Ends)
}

// snapshot plays one attempt to its end.
func (w *crowd) snapshot(tb testing.TB) {
	w.epoch++
	w.steps, w.messages, w.bytes, w.committed = 0, 0, 0, false
	ids := w.names()
	w.c = NewCoordinator(Config{Key: Key{Job: "job", Snapshot: "s", Epoch: w.epoch}, Participants: ids, Initiator: ids[0], Lease: 1000, Settle: 100})
	w.coordinator(tb, Begin{})
	for w.head < len(w.queue) || len(w.acts) > 0 {
		for w.head < len(w.queue) {
			m := w.queue[w.head]
			if w.head++; w.head == len(w.queue) {
				w.head, w.queue = 0, w.queue[:0]
			}
			if m.To == CoordinatorHost {
				w.coordinator(tb, Received{m})
			} else {
				w.host(tb, crowdIndex(m.To), Received{m})
			}
		}
		w.acts, w.doing = w.doing[:0], w.acts
		for _, a := range w.doing {
			w.end(tb, a)
		}
	}
	if !w.committed {
		tb.Fatal("the crowd's snapshot has not committed")
	}
}

func crowdIndex(id HostID) (i int) {
	for _, c := range id[len("host"):] {
		i = 10*i + int(c-'0')
	}
	return i
}

func (w *crowd) end(tb testing.TB, a crowdAction) {
	key := a.act.Key
	switch a.act.Type {
	case ActPrepare:
		w.host(tb, a.host, PrepareDone{Key: key})
	case ActHold:
		w.host(tb, a.host, HoldDone{key})
	case ActRecord:
		w.host(tb, a.host, RecordDone{Key: key, Peers: w.peers[a.host]})
	case ActDump:
		w.host(tb, a.host, DumpDone{Key: key})
	case ActStore:
		w.host(tb, a.host, StoreDone{key})
	case ActFinish:
		w.host(tb, a.host, FinishDone{key})
	}
}

func (w *crowd) coordinator(tb testing.TB, ev Event) {
	c, out, err := w.c.Step(ev)
	if err != nil {
		tb.Fatal(err)
	}
	w.c = c
	w.take(out.Messages)
	if out.Commit != nil {
		w.coordinator(tb, CommitDone{})
	}
	w.committed = w.committed || out.Outcome != nil && out.Outcome.Committed
}

func (w *crowd) host(tb testing.TB, i int, ev Event) {
	p, out, err := w.hosts[i].Step(ev)
	if err != nil {
		tb.Fatal(err)
	}
	w.hosts[i] = p
	for _, a := range out.Actions {
		w.acts = append(w.acts, crowdAction{i, a})
	}
	w.take(out.Messages)
}

func (w *crowd) take(messages []Message) {
	w.steps++
	w.messages += len(messages)
	for _, m := range messages {
		w.bytes += m.size()
	}
	w.queue = append(w.queue, messages...)
}

// TestMessagesGrowLinearly: a snapshot costs a number of messages and bytes for each host and each channel, however many hosts there are. Lists of
// participants travel once, to hosts that do not know them.
func TestMessagesGrowLinearly(t *testing.T) {
	for _, degree := range []int{2, 16} {
		var last *crowd
		for _, n := range []int{100, 1000} {
			w := newCrowd(n, degree)
			w.snapshot(t)
			first := w.bytes
			w.snapshot(t)
			t.Logf("%d hosts, degree %d: %d messages, %d bytes, %d steps; %d bytes while the list was new", n, degree, w.messages, w.bytes, w.steps, first)
			if first <= w.bytes {
				t.Errorf("%d hosts: %d bytes when every host lacks the list, %d when none does", n, first, w.bytes)
			}
			if last != nil && (w.messages > 11*last.messages || w.bytes > 11*last.bytes || w.steps > 11*last.steps) {
				t.Errorf("degree %d: ten times the hosts take %d messages for %d, %d bytes for %d, %d steps for %d",
					degree, w.messages, last.messages, w.bytes, last.bytes, w.steps, last.steps)
			}
			last = w
		}
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

// BenchmarkSnapshot plays whole snapshots of both cores in memory.
func BenchmarkSnapshot(b *testing.B) {
	for _, shape := range []struct {
		name   string
		degree int
	}{{"ring", 2}, {"mesh16", 16}} {
		for _, n := range []int{10, 100, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", shape.name, n), func(b *testing.B) {
				w := newCrowd(n, shape.degree)
				known := newGroup(w.names()) // from an earlier snapshot; each host has its own copy, which does not belong in one memory
				for i := range w.hosts {
					w.hosts[i].group = known
				}
				b.ResetTimer()
				rounds(b, func() { w.snapshot(b) })
				b.ReportMetric(float64(w.messages), "messages")
				b.ReportMetric(float64(w.bytes), "bytes")
				b.ReportMetric(float64(w.steps), "steps")
			})
		}
	}
}
