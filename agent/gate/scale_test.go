package gate

import (
	"fmt"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
)

func TestThousandConnections(t *testing.T) {
	a, b := newHosts(t, "")
	l := b.listen(t, netip.IPv6Unspecified())
	by := newBystander(t, a, b)
	var pairs []pair
	g := agent.Gate{Job: "job", Peer: "a", Addrs: []netip.Addr{a.v4, a.v6}}
	for i := range 1000 {
		to := b.v4
		if i%2 == 1 {
			to = b.v6
		}
		p := connect(t, a, l, to)
		pairs = append(pairs, p)
		g.Conns = append(g.Conns, seenBy(p.b))
	}
	start := time.Now()
	if err := b.manager.Close(ctx, []agent.Gate{g}); err != nil {
		t.Fatal(err)
	}
	t.Logf("closed in %v", time.Since(start))
	for i, p := range pairs {
		if _, err := fmt.Fprintf(p.a, "%08d", i); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "every connection's packet is held", func() bool { return held(b.manager, "job") >= len(pairs) })
	by.trips(t, 100)
	for _, p := range pairs {
		if n := tcpInfo(t, p.b).Bytes_received; n != 0 {
			t.Fatalf("%d bytes passed", n)
		}
	}
	start = time.Now()
	if err := b.manager.Open(ctx, "job", "a"); err != nil {
		t.Fatal(err)
	}
	t.Logf("opened in %v", time.Since(start))
	buf := make([]byte, 8)
	for i, p := range pairs {
		_ = p.b.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(p.b, buf); err != nil || string(buf) != fmt.Sprintf("%08d", i) {
			t.Fatalf("connection %d: %q, %v", i, buf, err)
		}
	}
}

// Two jobs on the same hosts: one is closed, the other goes on.
func TestTwoJobs(t *testing.T) {
	a, b := newHosts(t, "")
	l := b.listen(t, b.v4)
	by := newBystander(t, a, b)
	one, two := connect(t, a, l, b.v4), connect(t, a, l, b.v4)
	first, second := startStream(t, one.a, one.b), startStream(t, two.a, two.b)
	gate := func(job string, p pair) agent.Gate {
		return agent.Gate{Job: job, Peer: "b", Addrs: []netip.Addr{b.v4}, Conns: []agent.Conn{seenBy(p.a)}}
	}
	for range 3 {
		if err := a.manager.Close(ctx, []agent.Gate{gate("one", one)}); err != nil {
			t.Fatal(err)
		}
		stillness(t, by, "one closed", one)
		second.wait(t, 50000)
		if err := a.manager.Close(ctx, []agent.Gate{gate("two", two)}); err != nil {
			t.Fatal(err)
		}
		stillness(t, by, "both closed", one, two)
		if err := a.manager.OpenAll(ctx, "one"); err != nil {
			t.Fatal(err)
		}
		first.wait(t, 50000)
		stillness(t, by, "two closed", two)
		if err := a.manager.OpenAll(ctx, "two"); err != nil {
			t.Fatal(err)
		}
		second.wait(t, 50000)
	}
	first.finish(t)
	second.finish(t)
}

// Everything at once, from many goroutines: no stream loses a word.
func TestConcurrentUse(t *testing.T) {
	a, b := newHosts(t, "")
	l := b.listen(t, b.v4)
	var wg sync.WaitGroup
	for i := range 4 {
		p := connect(t, a, l, b.v4)
		s := startStream(t, p.a, p.b)
		job := fmt.Sprint("job", i)
		g := agent.Gate{Job: job, Peer: "b", Addrs: []netip.Addr{b.v4}, Conns: []agent.Conn{seenBy(p.a)}}
		wg.Go(func() {
			for range 15 {
				for _, step := range []func() error{
					func() error { return a.manager.Close(ctx, []agent.Gate{g}) },
					func() error { return a.manager.Settle(ctx, job, "b") },
					func() error { return a.manager.Close(ctx, []agent.Gate{g}) },
					func() error { return a.manager.Seal(ctx, job) },
					func() error { return a.manager.OpenAll(ctx, job) },
				} {
					if err := step(); err != nil {
						t.Error(err)
					}
					held(a.manager, job)
				}
			}
			s.stop.Store(true)
		})
		defer s.finish(t)
	}
	wg.Wait()
}

// How many retransmission timeouts it costs to hold a stream for 0.6 s, both gates closed as in a snapshot, with the
// program that sends standing still. The figures are reported, not judged.
func TestTimeoutsOfAHeldStream(t *testing.T) {
	const pause = 600 * time.Millisecond
	for _, test := range []struct {
		mode   string
		settle bool
	}{{ModeCompat, true}, {ModeCompat, false}, {ModeDrop, false}} {
		t.Run(fmt.Sprintf("%s settle=%v", test.mode, test.settle), func(t *testing.T) {
			a, b := newHosts(t, test.mode)
			p := connect(t, a, b.listen(t, b.v4), b.v4)
			by := newBystander(t, a, b)
			s := startStream(t, p.a, p.b)
			s.wait(t, 1000000)
			before := [...]int{a.counter(t, "TCPTimeouts"), a.counter(t, "TCPSpuriousRtxHostQueues")}
			resent := tcpInfo(t, p.a).Total_retrans
			gates := [...]agent.Gate{
				{Job: "job", Peer: "b", Conns: []agent.Conn{seenBy(p.a)}},
				{Job: "job", Peer: "a", Conns: []agent.Conn{seenBy(p.b)}},
			}
			hosts := [...]*host{a, b}
			start := time.Now()
			for i, h := range hosts {
				if err := h.manager.Close(ctx, gates[i:i+1]); err != nil {
					t.Fatal(err)
				}
			}
			if test.settle {
				s.stop.Store(true) // as a frozen program, it writes no more
				for i, h := range hosts {
					if err := h.manager.Settle(ctx, "job", gates[i].Peer); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, "everything sent is acknowledged", func() bool { return unacked(t, p) == 0 })
				for _, h := range hosts {
					if err := h.manager.Seal(ctx, "job"); err != nil {
						t.Fatal(err)
					}
				}
			}
			trips := by.during(t, pause-time.Since(start))
			kept := held(a.manager, "job") + held(b.manager, "job")
			for _, h := range hosts {
				if err := h.manager.OpenAll(ctx, "job"); err != nil {
					t.Fatal(err)
				}
			}
			if !test.settle {
				s.wait(t, 100000)
			}
			closed := time.Since(start)
			resent = tcpInfo(t, p.a).Total_retrans - resent
			s.finish(t)
			t.Logf("closed for %v, %d bystander round trips, %d packets held: %d timeouts, %d times sending again put off, %d segments sent again",
				closed, trips, kept, a.counter(t, "TCPTimeouts")-before[0], a.counter(t, "TCPSpuriousRtxHostQueues")-before[1], resent)
		})
	}
}

// unacked is how much of what p.a has written is not acknowledged.
func unacked(t *testing.T, p pair) (n int) {
	t.Helper()
	raw, err := p.a.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	return n
}

func benchmarkGate(n int) agent.Gate {
	g := agent.Gate{Job: "job", Peer: "b"}
	for i := range n {
		g.Conns = append(g.Conns, agent.Conn{
			Local:  netip.AddrPortFrom(netip.MustParseAddr("10.77.0.1"), uint16(10000+i)),
			Remote: netip.AddrPortFrom(netip.MustParseAddr("10.77.0.2"), 80),
		})
	}
	return g
}

func BenchmarkClose(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := &host{name: "a", ns: newNS(b)}
			k := h.newManager(b, Options{})
			g := []agent.Gate{benchmarkGate(n)}
			for range b.N {
				if err := k.Close(ctx, g); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := k.Open(ctx, "job", "b"); err != nil {
					b.Fatal(err)
				}
				k.drains.Wait()
				b.StartTimer()
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := &host{name: "a", ns: newNS(b)}
			k := h.newManager(b, Options{})
			g := []agent.Gate{benchmarkGate(n)}
			for range b.N {
				b.StopTimer()
				k.drains.Wait()
				if err := k.Close(ctx, g); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := k.Open(ctx, "job", "b"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
