package gate

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"

	"ss/agent"
)

// blocked says whether there is a table of blocks.
func (h *host) blocked(t *testing.T) bool {
	t.Helper()
	return slices.ContainsFunc(h.tables(t), func(n *nftables.Table) bool { return strings.HasPrefix(n.Name, blockTableName) })
}

// TestBlockOfPorts: what comes from a host for the job's ports is dropped, of connections that there are and of new ones; all else passes.
func TestBlockOfPorts(t *testing.T) {
	a, b := newHosts(t, "")
	by := newBystander(t, a, b)
	for name, at := range map[string]netip.Addr{"every address": netip.IPv6Unspecified(), "one address": b.v4} {
		t.Run(name, func(t *testing.T) {
			l := b.listen(t, at)
			there := connect(t, a, l, b.v4)
			listen := []netip.AddrPort{netip.AddrPortFrom(at, port(l.Addr()))}
			block := agent.Block{Job: "job", From: []netip.Addr{a.v4, a.v6, a.v4}, Listen: listen}
			if err := b.manager.Block(ctx, []agent.Block{block}); err != nil {
				t.Fatal(err)
			}
			if _, err := there.a.Write([]byte("late")); err != nil {
				t.Fatal(err)
			}
			dial := startDial(t, a, netip.AddrPortFrom(b.v4, port(l.Addr())))
			by.trips(t, 200)
			dial.stillWaits(t)
			if n := tcpInfo(t, there.a).Unacked; n == 0 {
				t.Error("what was sent to a blocked port was acknowledged")
			}
			own, err := b.dial(netip.AddrPortFrom(b.v4, port(l.Addr()))) // from another address than those
			if err != nil {
				t.Fatal(err)
			}
			own.Close()
			if err := b.manager.Block(ctx, nil); err != nil {
				t.Fatal(err)
			}
			dial.succeeds(t)
			if b.blocked(t) {
				t.Error("the table is left without a block")
			}
		})
	}
}

// TestBlockOfCgroups: sockets that are made below the cgroup neither get nor send anything there, those of others do.
func TestBlockOfCgroups(t *testing.T) {
	a, b := newHosts(t, "")
	by := newBystander(t, a, b)
	fd, _ := newCgroup(t, fmt.Sprintf("ssblock-test-%d/job/member", os.Getpid()))
	job := jobOf(t, fd)
	l := b.listen(t, netip.IPv6Unspecified())
	to := netip.AddrPortFrom(b.v4, port(l.Addr()))
	if err := a.manager.Block(ctx, []agent.Block{{Job: "job", From: []netip.Addr{b.v4}, Cgroups: []uint64{job}}}); err != nil {
		t.Fatal(err)
	}
	dialer := startChild(t, a, fd, "dialer", to.String())
	listener := startChild(t, a, fd, "listener", "[::]:0")
	at := netip.MustParseAddrPort(<-listener.lines)
	if _, err := dialer.stdin.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	into := startDial(t, b, netip.AddrPortFrom(a.v4, at.Port()))
	by.trips(t, 200)
	into.stillWaits(t)
	other := startDial(t, a, to) // from another cgroup
	other.succeeds(t)
	select {
	case line := <-dialer.lines:
		t.Fatalf("the child in the cgroup says %q", line)
	case line := <-listener.lines:
		t.Fatalf("the child in the cgroup says %q", line)
	default:
	}
	six := startDial(t, b, netip.AddrPortFrom(a.v6, at.Port())) // from an address that is not blocked
	six.succeeds(t)
	listener.expect(t, "accepted "+b.v6.String())
	if err := a.manager.Block(ctx, nil); err != nil {
		t.Fatal(err)
	}
	dialer.expect(t, "connected")
	into.succeeds(t)
	dialer.kill()
	listener.kill()
}

// jobOf is the id of the cgroup above.
func jobOf(t *testing.T, fd int) uint64 {
	t.Helper()
	fi, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d/..", fd))
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

// TestBlockOfEveryone: an old copy's connections and ports are cut off, whoever is at the other end.
func TestBlockOfEveryone(t *testing.T) {
	a, b := newHosts(t, "")
	by := newBystander(t, a, b)
	out := connect(t, a, b.listen(t, b.v4), b.v4)
	l := a.listen(t, netip.IPv4Unspecified())
	block := agent.Block{Job: "job", Everyone: true, Conns: []agent.Conn{seenBy(out.a)}, Listen: []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), port(l.Addr()))}}
	if err := a.manager.Block(ctx, []agent.Block{block, {Job: "other", From: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []interface{ Write([]byte) (int, error) }{out.a, out.b} {
		if _, err := c.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
	}
	into := startDial(t, b, netip.AddrPortFrom(a.v4, port(l.Addr())))
	self := startDial(t, a, netip.AddrPortFrom(a.v4, port(l.Addr())))
	by.trips(t, 200)
	into.stillWaits(t)
	self.stillWaits(t)
	if tcpInfo(t, out.b).Unacked == 0 {
		t.Error("the old copy acknowledges")
	}
	if err := a.manager.Block(ctx, nil); err != nil {
		t.Fatal(err)
	}
	into.succeeds(t)
	self.succeeds(t)
}

// TestBlockOutlivesTheAgent: gates open when an agent dies, blocks stay, and the next agent lifts them.
func TestBlockOutlivesTheAgent(t *testing.T) {
	a, b := newHosts(t, "")
	if err := b.manager.Shutdown(); err != nil { // the child's manager takes its place
		t.Fatal(err)
	}
	l := b.listen(t, b.v4)
	at := netip.AddrPortFrom(b.v4, port(l.Addr()))
	child := startChild(t, b, 0, "blocker", a.v4.String(), at.String())
	child.expect(t, "blocked")
	child.kill()
	by := newBystander(t, a, b)
	dial := startDial(t, a, at)
	by.trips(t, 200)
	dial.stillWaits(t)
	next := b.newManager(t, Options{})
	by.trips(t, 200)
	dial.stillWaits(t)
	if err := next.Block(ctx, nil); err != nil {
		t.Fatal(err)
	}
	dial.succeeds(t)
}
