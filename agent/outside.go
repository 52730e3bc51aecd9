package agent

import (
	"net/netip"
	"strconv"
	"strings"

	"ss/marker"
)

// OutsideRule is one rule of a job for connections whose other end is in no member of it.
type OutsideRule struct {
	Match string // an address or prefix of the other end, or ":PORT" of either end; "": every connection
	As    string // "refuse", "close" or "keep"
}

// fits says whether the rule is for the connection. What it cannot read fits nothing.
func (r OutsideRule) fits(c Conn) bool {
	if r.Match == "" {
		return true
	}
	if port, ok := strings.CutPrefix(r.Match, ":"); ok {
		n, err := strconv.ParseUint(port, 10, 16)
		return err == nil && (c.Local.Port() == uint16(n) || c.Remote.Port() == uint16(n))
	}
	if prefix, err := netip.ParsePrefix(r.Match); err == nil {
		return prefix.Contains(c.Remote.Addr())
	}
	addr, err := netip.ParseAddr(r.Match)
	return err == nil && addr.Unmap() == c.Remote.Addr()
}

// policy is what becomes of a connection, should it lead outside.
func (w *work) policy(c Conn) marker.OutsidePolicy {
	for _, r := range w.open.Outside {
		if !r.fits(c) {
			continue
		}
		switch r.As {
		case "close":
			return marker.OutsideClosed
		case "keep":
			return marker.OutsideKept
		}
		return marker.OutsideRefuse
	}
	return marker.OutsideRefuse
}

// policyOf is policy of addresses as an image has them.
func (w *work) policyOf(local, remote string) marker.OutsidePolicy {
	l, err1 := netip.ParseAddrPort(local)
	r, err2 := netip.ParseAddrPort(remote)
	if err1 != nil || err2 != nil {
		return marker.OutsideRefuse
	}
	return w.policy(Conn{l, r})
}
