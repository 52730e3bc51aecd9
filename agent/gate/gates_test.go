package gate

import (
	"context"
	"net/netip"
	"testing"

	"ss/agent"
)

var ctx = context.Background()

// held is the number of packets that the job's gates hold now. It is 0 in ModeDrop.
func held(k *Manager, job string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, g := range k.gates {
		if g.key.job == job && g.queue != nil {
			g.queue.mu.Lock()
			n += len(g.queue.held)
			g.queue.mu.Unlock()
		}
	}
	return n
}

// stillness checks that nothing reaches or leaves c while the bystander makes its round trips.
func stillness(t *testing.T, by *bystander, what string, conns ...pair) {
	t.Helper()
	type state struct{ received, acked uint64 }
	look := func() (s []state) {
		for _, p := range conns {
			a, b := tcpInfo(t, p.a), tcpInfo(t, p.b)
			s = append(s, state{a.Bytes_received, a.Bytes_acked}, state{b.Bytes_received, b.Bytes_acked})
		}
		return s
	}
	before := look()
	worst := by.trips(t, 300)
	for i, after := range look() {
		if after != before[i] {
			t.Errorf("%s: end %d was at %+v, then at %+v", what, i, before[i], after)
		}
	}
	t.Logf("%s: the slowest of the bystander's 300 round trips took %v", what, worst)
}

func TestCloseHoldsAndOpenReleases(t *testing.T) {
	for _, mode := range []string{ModeCompat, ModeDrop} {
		for _, family := range []string{"v4", "v6", "mapped"} {
			t.Run(mode+"/"+family, func(t *testing.T) {
				a, b := newHosts(t, mode)
				if a.manager.Mode() != mode {
					t.Fatalf("mode %s, want %s", a.manager.Mode(), mode)
				}
				to := b.v4
				if family == "v6" {
					to = b.v6
				}
				p := connect(t, a, b.listen(t, netip.IPv6Unspecified()), to)
				by := newBystander(t, a, b)
				there, back := startStream(t, p.a, p.b), startStream(t, p.b, p.a)
				there.wait(t, 10000)
				back.wait(t, 10000)

				conn := seenBy(p.b)
				if family == "mapped" {
					conn.Local = netip.AddrPortFrom(netip.AddrFrom16(conn.Local.Addr().As16()), conn.Local.Port())
				}
				g := agent.Gate{Job: "job", Peer: "a", Addrs: []netip.Addr{a.v4, a.v6}, Conns: []agent.Conn{conn}}
				if err := b.manager.Close(ctx, []agent.Gate{g}); err != nil {
					t.Fatal(err)
				}
				stillness(t, by, "closed", p)
				if mode != ModeDrop {
					eventually(t, "packets are held", func() bool { return held(b.manager, "job") > 0 })
				}
				if err := b.manager.Open(ctx, "job", "a"); err != nil {
					t.Fatal(err)
				}
				there.wait(t, 100000)
				back.wait(t, 100000)
				there.finish(t)
				back.finish(t)
				if lost := b.manager.Lost(); lost != 0 {
					t.Errorf("%d packets lost", lost)
				}
			})
		}
	}
}

// Closing and opening again and again, on both hosts, stops the stream every time and loses nothing.
func TestCloseManyTimes(t *testing.T) {
	a, b := newHosts(t, "")
	p := connect(t, a, b.listen(t, b.v4), b.v4)
	by := newBystander(t, a, b)
	there, back := startStream(t, p.a, p.b), startStream(t, p.b, p.a)
	timeouts := a.counter(t, "TCPTimeouts") + b.counter(t, "TCPTimeouts")
	for range 12 {
		for _, h := range []struct {
			*host
			agent.Conn
		}{{a, seenBy(p.a)}, {b, seenBy(p.b)}} {
			if err := h.manager.Close(ctx, []agent.Gate{{Job: "job", Peer: "peer", Conns: []agent.Conn{h.Conn}}}); err != nil {
				t.Fatal(err)
			}
		}
		before := [2]uint64{tcpInfo(t, p.a).Bytes_received, tcpInfo(t, p.b).Bytes_received}
		by.trips(t, 20)
		if after := [2]uint64{tcpInfo(t, p.a).Bytes_received, tcpInfo(t, p.b).Bytes_received}; after != before {
			t.Fatalf("bytes passed closed gates: %v, then %v", before, after)
		}
		for _, h := range []*host{a, b} {
			if err := h.manager.OpenAll(ctx, "job"); err != nil {
				t.Fatal(err)
			}
		}
		there.wait(t, 1000)
		back.wait(t, 1000)
	}
	there.finish(t)
	back.finish(t)
	t.Logf("retransmission timeouts: %d", a.counter(t, "TCPTimeouts")+b.counter(t, "TCPTimeouts")-timeouts)
}

func TestEmptyGateAddsNothing(t *testing.T) {
	a, b := newHosts(t, "")
	if err := a.manager.Close(ctx, []agent.Gate{{Job: "job", Peer: "b", Addrs: []netip.Addr{b.v4}}}); err != nil {
		t.Fatal(err)
	}
	if n := len(a.manager.gates); n != 0 {
		t.Errorf("%d gates closed", n)
	}
	if err := a.manager.Open(ctx, "job", "b"); err != nil {
		t.Errorf("opening what is not closed: %v", err)
	}
	if err := a.manager.Settle(ctx, "job", "b"); err != nil {
		t.Errorf("settling what is not closed: %v", err)
	}
}
