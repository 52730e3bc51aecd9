package names

import "net/netip"

// NoAgentAt says what an address is that no agent can be reached at, for a message; "" for any other. An agent can listen at an unspecified one (0.0.0.0, ::), which is for the caller to allow.
func NoAgentAt(a netip.Addr) string {
	switch a = a.Unmap(); {
	case a.IsUnspecified():
		return "the unspecified address, which names no host"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address, to which no connection can be made"
	case a.IsMulticast():
		return "a multicast address, to which no connection can be made"
	case a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "":
		return "a link-local address without a zone, so that the network device it is of is not known"
	}
	return ""
}
