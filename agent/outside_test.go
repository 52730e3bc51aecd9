package agent

import (
	"net/netip"
	"strings"
	"testing"

	"ss/marker"
)

// The first rule that fits counts, and what no rule fits is refused.
func TestOutsideRules(t *testing.T) {
	w := &work{open: Open{Outside: []OutsideRule{
		{Match: "10.0.0.7", As: "keep"}, {Match: ":443", As: "refuse"}, {Match: "10.0.0.0/24", As: "close"}, {Match: "nonsense", As: "close"}, {Match: ":x", As: "close"},
	}}}
	for _, tt := range []struct {
		local, remote string
		want          marker.OutsidePolicy
	}{
		{"192.0.2.1:80", "10.0.0.7:443", marker.OutsideKept},
		{"192.0.2.1:443", "10.0.0.8:5000", marker.OutsideRefuse},
		{"192.0.2.1:5000", "10.0.0.8:443", marker.OutsideRefuse},
		{"192.0.2.1:80", "10.0.0.8:5000", marker.OutsideClosed},
		{"192.0.2.1:80", "10.0.1.8:5000", marker.OutsideRefuse},
		{"[2001:db8::1]:80", "[2001:db8::2]:5000", marker.OutsideRefuse},
	} {
		if got := w.policyOf(tt.local, tt.remote); got != tt.want {
			t.Errorf("%s with %s: %d, want %d", tt.local, tt.remote, got, tt.want)
		}
		if _, err := netip.ParseAddrPort(tt.local); err != nil {
			t.Error(err)
		}
	}
	w.open.Outside = append(w.open.Outside, OutsideRule{As: "close"})
	if got := w.policyOf("192.0.2.1:80", "[2001:db8::2]:5000"); got != marker.OutsideClosed {
		t.Errorf("the rule for all: %d", got)
	}
}

// A datagram is received by a socket of the port that is connected to the sender or to nobody, at that address or at any of its family.
func TestReceived(t *testing.T) {
	at := netip.MustParseAddrPort
	for _, tt := range []struct {
		local, remote string
		v6only        bool
		from, to      string
		want          bool
	}{
		{local: "10.0.0.1:53", from: "10.0.0.1:9", to: "10.0.0.1:53", want: true},
		{local: "10.0.0.1:53", from: "10.0.0.1:9", to: "10.0.0.1:54"},
		{local: "10.0.0.1:53", from: "10.0.0.1:9", to: "127.0.0.1:53"},
		{local: "10.0.0.1:53", remote: "10.0.0.1:9", from: "10.0.0.1:9", to: "10.0.0.1:53", want: true},
		{local: "10.0.0.1:53", remote: "10.0.0.1:8", from: "10.0.0.1:9", to: "10.0.0.1:53"},
		{local: "0.0.0.0:53", from: "127.0.0.1:9", to: "127.0.0.1:53", want: true},
		{local: "0.0.0.0:53", from: "[::1]:9", to: "[::1]:53"},
		{local: "[::]:53", from: "[::1]:9", to: "[::1]:53", want: true},
		{local: "[::]:53", from: "127.0.0.1:9", to: "127.0.0.1:53", want: true},
		{local: "[::]:53", v6only: true, from: "127.0.0.1:9", to: "127.0.0.1:53"},
	} {
		s := Socket{Protocol: UDP, Local: at(tt.local), V6Only: tt.v6only}
		if tt.remote != "" {
			s.Remote = at(tt.remote)
		} else {
			s.Wildcard = s.Local.Addr().IsUnspecified()
		}
		if got := received([]Socket{s}, Conn{at(tt.from), at(tt.to)}); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	if received([]Socket{{Protocol: "tcp", Local: at("10.0.0.1:53")}}, Conn{at("10.0.0.1:9"), at("10.0.0.1:53")}) {
		t.Error("a TCP socket receives no datagrams")
	}
}

// A socket that two members hold is found once; one that processes of one member hold, and one that nobody holds yet, are not.
func TestShared(t *testing.T) {
	socks := []Socket{
		{Member: "a", Pid: 1, Inode: 7, Local: netip.MustParseAddrPort("10.0.0.1:80")}, {Member: "a", Pid: 2, Inode: 8}, {Member: "a"},
		{Member: "b", Pid: 3, Inode: 9}, {Member: "b"}, {Member: "b", Pid: 4, Inode: 7, Local: netip.MustParseAddrPort("10.0.0.1:80")},
	}
	found := shared(socks)
	if len(found) != 1 || !strings.Contains(found[0], "process 4 ") || !strings.Contains(found[0], "10.0.0.1:80 as well as process 1 ") {
		t.Errorf("%q", found)
	}
	if found := shared(socks[:5]); found != nil {
		t.Errorf("%q", found)
	}
}
