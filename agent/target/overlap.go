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

// apart says whether two datagram sockets on one port take nothing from each other: each gets a copy of what is sent to a multicast group or to all, and a connected one
// gets what its own peer sends. On any other address one of two gets all, or the kernel divides what comes between them.
func apart(a, b NeededSocket) bool {
	if !a.datagrams() {
		return false
	}
	return group(a.Local.Addr()) || group(b.Local.Addr()) || (a.Connected() || b.Connected()) && a.Remote != b.Remote
}

// group says whether an address is of all that listen to it, and not of one of them.
func group(addr netip.Addr) bool {
	return addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255})
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
