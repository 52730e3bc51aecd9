package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
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

// stillOutside is outside for members that run: they may make and end connections while their sockets are listed, one member after
// the other. So it lists what leads outside as often as it needs to see the same in two lists in a row.
func (w *work) stillOutside(ctx context.Context, socks []Socket) ([]string, error) {
	before := w.outside(socks)
	for len(before) > 0 {
		again, err := w.sockets(ctx)
		if err != nil {
			return nil, err
		}
		now := w.outside(again)
		var both []string
		for c, text := range now {
			if before[c] != "" {
				both = append(both, text)
			}
		}
		if len(both) > 0 {
			slices.Sort(both)
			return both, nil
		}
		before = now
	}
	return nil, nil
}

// outside lists the connections whose other end is on no host of the job, or here and no member's. What is at the end of one
// that leads to another host of the job, that host alone could say: the check of the cut finds it. One that the other end has closed needs no partner.
func (w *work) outside(socks []Socket) map[Conn]string {
	ours := map[Conn]bool{}
	for _, s := range socks {
		ours[Conn{s.Local, s.Remote}] = true
	}
	out := map[Conn]string{}
	for _, s := range socks {
		if s.Listening || s.Connecting || s.HalfOpen || s.Ended || !s.Remote.IsValid() || ours[Conn{s.Remote, s.Local}] {
			continue
		}
		if w.policy(Conn{s.Local, s.Remote}) != marker.OutsideRefuse {
			continue
		}
		what, remedy := "no host of the job", "close it, make its other end a member, or let it be restored as closed (ssctl job set --outside close)"
		if s.Remote.Addr().Is6() && s.Remote.Addr().IsLinkLocalUnicast() {
			what = "a link-local address, by which no host of the job is known"
			remedy = "have it connect to another address of that host, or let it be restored as closed (ssctl job set --outside close)"
		}
		switch peer := w.peerOf(s.Remote.Addr()); {
		case peer == w.a.cfg.Host || s.Remote.Addr().IsLoopback():
			what = "no member of the job"
		case peer != "":
			continue
		}
		out[Conn{s.Local, s.Remote}] = fmt.Sprintf("process %d (%s) has a connection with %s, which is %s: %s", s.Pid, s.Command, s.Remote, what, remedy)
	}
	return out
}

// peerOf names the participant that has the address; "" if none has.
func (w *work) peerOf(addr netip.Addr) string {
	for _, p := range w.open.Participants {
		if slices.Contains(p.Addrs, addr) {
			return p.Host
		}
	}
	return ""
}
