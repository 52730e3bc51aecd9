package target

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func socketAt(local, remote string) NeededSocket {
	s := NeededSocket{Protocol: "tcp", Local: netip.MustParseAddrPort(local)}
	if remote != "" {
		s.Remote = netip.MustParseAddrPort(remote)
	}
	return s
}

func TestInTheWay(t *testing.T) {
	v6only := func(s NeededSocket) NeededSocket { s.V6Only = true; return s }
	udp := func(s NeededSocket) NeededSocket { s.Protocol = "udp"; return s }
	dev := func(s NeededSocket, d string) NeededSocket { s.Device = d; return s }
	for name, tt := range map[string]struct {
		a, b NeededSocket
		want bool
	}{
		"one address":                  {socketAt("10.0.0.1:80", ""), socketAt("10.0.0.1:80", ""), true},
		"two ports":                    {socketAt("10.0.0.1:80", ""), socketAt("10.0.0.1:81", ""), false},
		"two addresses":                {socketAt("10.0.0.1:80", ""), socketAt("10.0.0.2:80", ""), false},
		"any address":                  {socketAt("0.0.0.0:80", ""), socketAt("10.0.0.2:80", ""), true},
		"any IPv6 address takes IPv4":  {socketAt("[::]:80", ""), socketAt("10.0.0.2:80", ""), true},
		"any IPv6 address and no IPv4": {v6only(socketAt("[::]:80", "")), socketAt("10.0.0.2:80", ""), false},
		"both any":                     {socketAt("[::]:80", ""), socketAt("0.0.0.0:80", ""), true},
		"both any, one IPv6 only":      {v6only(socketAt("[::]:80", "")), socketAt("0.0.0.0:80", ""), false},
		"IPv6":                         {v6only(socketAt("[::]:80", "")), socketAt("[fd00::1]:80", ""), true},
		"any IPv4 and an IPv6 address": {socketAt("0.0.0.0:80", ""), socketAt("[fd00::1]:80", ""), false},
		"two protocols":                {socketAt("10.0.0.1:80", ""), udp(socketAt("10.0.0.1:80", "")), false},
		"two devices":                  {dev(socketAt("0.0.0.0:80", ""), "eth0"), dev(socketAt("0.0.0.0:80", ""), "eth1"), false},
		"one device":                   {dev(socketAt("0.0.0.0:80", ""), "eth0"), socketAt("0.0.0.0:80", ""), true},
		"one connection":               {socketAt("10.0.0.1:80", "10.0.0.2:5000"), socketAt("10.0.0.1:80", "10.0.0.2:5000"), true},
		"two connections of a server":  {socketAt("10.0.0.1:80", "10.0.0.2:5000"), socketAt("10.0.0.1:80", "10.0.0.2:5001"), false},
		"a connection and a listener":  {socketAt("10.0.0.1:80", "10.0.0.2:5000"), socketAt("0.0.0.0:80", ""), true},
	} {
		t.Run(name, func(t *testing.T) {
			if InTheWay(tt.a, tt.b) != tt.want || InTheWay(tt.b, tt.a) != tt.want {
				t.Errorf("%+v and %+v: %v and %v, want %v", tt.a, tt.b, InTheWay(tt.a, tt.b), InTheWay(tt.b, tt.a), tt.want)
			}
		})
	}
}

// TestInTheWayIsTheKernels binds pairs of sockets without any option: what the kernel refuses is in the way, and nothing else.
func TestInTheWayIsTheKernels(t *testing.T) {
	addrs := []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"}
	for _, a := range addrs {
		for _, b := range addrs {
			first, err := bindPlain(t.Context(), a, "0")
			if err != nil {
				t.Fatal(err)
			}
			at := netip.MustParseAddrPort(first.Addr().String())
			second, err := bindPlain(t.Context(), b, strconv.Itoa(int(at.Port())))
			kernel := err != nil
			if err == nil {
				second.Close()
			}
			first.Close()
			x := NeededSocket{Protocol: "tcp", Local: netip.AddrPortFrom(netip.MustParseAddr(a), at.Port())}
			y := NeededSocket{Protocol: "tcp", Local: netip.AddrPortFrom(netip.MustParseAddr(b), at.Port())}
			if InTheWay(x, y) != kernel {
				t.Errorf("%s and %s: %v, and the kernel says %v", a, b, InTheWay(x, y), kernel)
			}
		}
	}
}

// bindPlain listens with IPV6_V6ONLY off, as the kernel does by itself.
func bindPlain(ctx context.Context, addr, port string) (net.Listener, error) {
	s := NeededSocket{Protocol: "tcp", Local: netip.MustParseAddrPort(net.JoinHostPort(addr, port))}
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) (err error) {
		if network == "tcp6" {
			cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0) })
			err = errors.Join(err, cerr)
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	family := "tcp6"
	if s.Local.Addr().Is4() {
		family = "tcp4"
	}
	return lc.Listen(ctx, family, s.Local.String())
}

// nobody lives on the host beside what the plan is given.
type nobody struct{}

func (nobody) Objects(context.Context, string) (HostObjects, error) { return HostObjects{}, nil }

func (nobody) Locks(context.Context, string, []FileID) ([]HostLock, error) { return nil, nil }

func (nobody) Opens(context.Context, string, map[FileID]bool) ([]HostOpen, error) { return nil, nil }

func (nobody) Holders(context.Context, []uint64) (map[uint64]string, error) { return nil, nil }

// planned is what a target finds when sources' members come to a host with the addresses 10.0.0.9/24, on which lives what is given.
func planned(t *testing.T, lives []HostSocket, moved map[netip.Addr]netip.Addr, coming ...Arrival) []string {
	t.Helper()
	networks := []netip.Prefix{netip.MustParsePrefix("10.0.0.9/24"), netip.MustParsePrefix("127.0.0.1/8")}
	p := plan{Target: Target{Lives: nobody{}, Networks: networks, Moved: moved, Coming: coming}, lives: HostObjects{Sockets: lives}}
	if err := p.sockets(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p.found
}

func coming(source, member string, socks ...NeededSocket) Arrival {
	return Arrival{Source: source, Member: member, Needs: Needs{Objects: NeededObjects{Sockets: socks}}}
}

func TestSocketsThatComeTogether(t *testing.T) {
	one, two, here := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.9")
	both := map[netip.Addr]netip.Addr{one: here, two: here}
	connA := socketAt("10.0.0.1:5000", "10.0.0.3:80")
	connB := socketAt("10.0.0.2:5000", "10.0.0.3:80")
	orphan := func(local, remote string, over bool) HostSocket {
		return HostSocket{NeededSocket: socketAt(local, remote), Orphan: true, Over: over}
	}
	held := func(s NeededSocket, ours bool) HostSocket { return HostSocket{NeededSocket: s, Inode: 7, Ours: ours} }
	for name, tt := range map[string]struct {
		lives  []HostSocket
		coming []Arrival
		want   string // "" for nothing
	}{
		"connections of two hosts become one": {coming: []Arrival{coming("hostA", "a", connA), coming("hostB", "b", connB)}, want: "would be a's as well"},
		"connections with two peers":          {coming: []Arrival{coming("hostA", "a", connA), coming("hostB", "b", socketAt("10.0.0.2:5000", "10.0.0.3:81"))}},
		"a connection lives here":             {lives: []HostSocket{held(socketAt("10.0.0.9:5000", "10.0.0.3:80"), false)}, coming: []Arrival{coming("hostA", "a", connA)}, want: "is there already"},
		"and ends with the job":               {lives: []HostSocket{held(socketAt("10.0.0.9:5000", "10.0.0.3:80"), true)}, coming: []Arrival{coming("hostA", "a", connA)}},
		"what is left of it":                  {lives: []HostSocket{orphan("10.0.0.9:5000", "10.0.0.3:80", false)}, coming: []Arrival{coming("hostA", "a", connA)}},
		"TIME-WAIT of a stranger's client on a listener's port": {lives: []HostSocket{orphan("10.0.0.9:80", "192.0.2.1:6000", true)},
			coming: []Arrival{coming("hostA", "a", listener("10.0.0.1:80"))}},
		"last bytes to a stranger": {lives: []HostSocket{orphan("10.0.0.9:80", "192.0.2.1:6000", false)},
			coming: []Arrival{coming("hostA", "a", listener("10.0.0.1:80"))}, want: "still sends its last bytes"},
		"last bytes of the job's own server": {lives: []HostSocket{orphan("10.0.0.9:80", "192.0.2.1:6000", false), held(listener("10.0.0.9:80"), true)},
			coming: []Arrival{coming("hostA", "a", listener("10.0.0.1:80"))}},
		"last bytes to a peer of the cut": {lives: []HostSocket{orphan("10.0.0.9:80", "10.0.0.3:6000", false)},
			coming: []Arrival{coming("hostA", "a", listener("10.0.0.1:80"), connA)}},
		"listeners of one host": {coming: []Arrival{coming("hostA", "a", listener("127.0.0.1:0")), coming("hostA", "b", listener("127.0.0.1:0"))}},
		"an address of nobody":  {coming: []Arrival{coming("hostA", "a", listener("192.0.2.7:80"))}, want: "--remap-addr 192.0.2.7=ADDRESS"},
		"a device of nobody": {coming: []Arrival{coming("hostA", "a", NeededSocket{Protocol: "udp", Local: netip.MustParseAddrPort("0.0.0.0:80"), Device: "nodev0"})},
			want: "network device nodev0"},
		"UDP-Lite of two hosts": {coming: []Arrival{coming("hostA", "a", datagrams("udplite", "0.0.0.0:80", false)), coming("hostB", "b", datagrams("udplite", "0.0.0.0:80", false))},
			want: "port 0.0.0.0:80 would be a's as well"},
		"UDP-Lite here":         {lives: []HostSocket{held(datagrams("udplite", "0.0.0.0:80", false), false)}, coming: []Arrival{coming("hostA", "a", datagrams("udplite", "0.0.0.0:80", false))}, want: "already in use"},
		"UDP beside UDP-Lite":   {lives: []HostSocket{held(datagrams("udplite", "0.0.0.0:80", false), false)}, coming: []Arrival{coming("hostA", "a", datagrams("udp", "0.0.0.0:80", false))}},
		"shared UDP, two hosts": {coming: []Arrival{coming("hostA", "a", datagrams("udp", "0.0.0.0:80", true)), coming("hostB", "b", datagrams("udp", "0.0.0.0:80", true))}, want: "would be a's as well"},
		"shared UDP, one host":  {coming: []Arrival{coming("hostA", "a", datagrams("udp", "0.0.0.0:80", true)), coming("hostA", "b", datagrams("udp", "0.0.0.0:80", true))}},
		"shared UDP, here":      {lives: []HostSocket{held(datagrams("udp", "0.0.0.0:80", true), false)}, coming: []Arrival{coming("hostA", "a", datagrams("udp", "10.0.0.9:80", true))}, want: "already in use"},
		"multicast, two hosts":  {coming: []Arrival{coming("hostA", "a", datagrams("udp", "224.1.1.9:80", true)), coming("hostB", "b", datagrams("udp", "224.1.1.9:80", true))}},
		"multicast, not shared": {coming: []Arrival{coming("hostA", "a", datagrams("udp", "224.1.1.9:80", false)), coming("hostB", "b", datagrams("udp", "224.1.1.9:80", true))}, want: "would be a's as well"},
		"multicast, here":       {lives: []HostSocket{held(datagrams("udp", "0.0.0.0:80", true), false)}, coming: []Arrival{coming("hostA", "a", datagrams("udp", "224.1.1.9:80", true))}},
	} {
		t.Run(name, func(t *testing.T) {
			found := planned(t, tt.lives, both, tt.coming...)
			switch text := strings.Join(found, "\n"); {
			case tt.want == "" && len(found) > 0 && !strings.Contains(text, "cannot assign"): // the addresses are of no host in truth
				t.Errorf("found %s", text)
			case tt.want != "" && !strings.Contains(text, tt.want):
				t.Errorf("no %q in %q", tt.want, text)
			}
		})
	}
}

func datagrams(protocol, local string, shares bool) NeededSocket {
	return NeededSocket{Protocol: protocol, Local: netip.MustParseAddrPort(local), Shares: shares}
}

func listener(local string) NeededSocket {
	s := socketAt(local, "")
	s.Listening = true
	return s
}
