package gate

import (
	"net/netip"
	"testing"

	"ss/agent"
)

// Only SYNs for the listener are held: connections go on, new ones wait, whoever asks, until that gate opens, whatever other gates do meanwhile.
func TestSYNsAreHeldAlone(t *testing.T) {
	for _, mode := range []string{ModeCompat, ModeDrop} {
		t.Run(mode, func(t *testing.T) {
			a, b := newHosts(t, mode)
			l, other := b.listen(t, netip.IPv6Unspecified()), b.listen(t, b.v4)
			p := connect(t, a, l, b.v4)
			there, back := startStream(t, p.a, p.b), startStream(t, p.b, p.a)
			at := netip.AddrPortFrom(b.v4, port(l.Addr()))
			syns := agent.Gate{Job: "job", SYNs: true, Listen: []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), port(l.Addr()))}}
			if err := b.manager.Close(ctx, []agent.Gate{syns}); err != nil {
				t.Fatal(err)
			}
			far, own := startDial(t, a, at), startDial(t, b, at)
			six := startDial(t, a, netip.AddrPortFrom(b.v6, port(l.Addr())))
			startDial(t, a, netip.AddrPortFrom(b.v4, port(other.Addr()))).succeeds(t)
			there.wait(t, 20000)
			back.wait(t, 20000)
			for _, d := range []*dialing{far, own, six} {
				d.stillWaits(t)
			}
			peer := agent.Gate{Job: "job", Peer: "a", Addrs: []netip.Addr{a.v4}, Conns: []agent.Conn{seenBy(p.b)}, Listen: []netip.AddrPort{at}}
			if err := b.manager.Close(ctx, []agent.Gate{peer}); err != nil {
				t.Fatal(err)
			}
			if err := b.manager.Open(ctx, "job", "a"); err != nil {
				t.Fatal(err)
			}
			there.wait(t, 20000)
			for _, d := range []*dialing{far, own, six} {
				d.stillWaits(t)
			}
			if err := b.manager.Open(ctx, "job", ""); err != nil {
				t.Fatal(err)
			}
			for _, d := range []*dialing{far, own, six} {
				d.succeeds(t)
			}
			there.finish(t)
			back.finish(t)
		})
	}
}
