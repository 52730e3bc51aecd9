package target

import "net/netip"

// InTheWay says whether one of two sockets of a host keeps the other from being made: two connections with the same addresses and ports, or two sockets
// on one port of one address of which at least one is bound without a connection. Whether SO_REUSEADDR or SO_REUSEPORT would allow it is not
// asked: of two listeners on one port, one may get all connections.
func InTheWay(a, b NeededSocket) bool {
	if a.Protocol != b.Protocol || a.Local.Port() != b.Local.Port() || a.Device != "" && b.Device != "" && a.Device != b.Device {
		return false
	}
	if a.Protocol == "tcp" && a.Connected() && b.Connected() {
		return a.Local == b.Local && a.Remote == b.Remote
	}
	return sameAddr(a, b)
}

// sameAddr says whether a packet to one address may be for either socket.
func sameAddr(a, b NeededSocket) bool {
	x, y := a.Local.Addr(), b.Local.Addr()
	if !x.IsUnspecified() && !y.IsUnspecified() {
		return x == y
	}
	x4, x6 := spans(a)
	y4, y6 := spans(b)
	return x4 && y4 || x6 && y6
}

// spans says of which families the packets are that may be for a socket.
func spans(s NeededSocket) (v4, v6 bool) {
	switch addr := s.Local.Addr(); {
	case addr.Is4():
		return true, false
	case addr == netip.IPv6Unspecified():
		return !s.V6Only, true
	}
	return false, true
}
