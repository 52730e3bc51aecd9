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
	before, err := w.outside(ctx, socks)
	for len(before) > 0 && err == nil {
		if socks, err = w.sockets(ctx); err != nil {
			return nil, err
		}
		var now map[Conn]string
		if now, err = w.outside(ctx, socks); err != nil {
			return nil, err
		}
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
	return nil, err
}

// outside lists the connections whose other end is on no host of the job, or on one and no member's. What is at the end of a TCP connection
// that leads to another host of the job, that host alone could say: the check of the cut finds it. Of a UDP socket no end is in the cut, so that host is asked. A
// connection that the other end has closed needs no partner.
func (w *work) outside(ctx context.Context, socks []Socket) (map[Conn]string, error) {
	ours := map[Conn]bool{}
	for _, s := range socks {
		ours[Conn{s.Local, s.Remote}] = true
	}
	out, far := map[Conn]string{}, map[string][]Socket{}
	for _, s := range socks {
		if s.Listening || s.Connecting || s.HalfOpen || s.Ended || !s.Remote.IsValid() || ours[Conn{s.Remote, s.Local}] {
			continue
		}
		if w.policy(Conn{s.Local, s.Remote}) != marker.OutsideRefuse {
			continue
		}
		switch peer := w.gateOf(s); {
		case peer == "":
			out[Conn{s.Local, s.Remote}] = w.leadsOutside(s, "no host of the job")
		case peer != w.a.cfg.Host && s.Protocol == UDP:
			far[peer] = append(far[peer], s)
		case peer == w.a.cfg.Host && !received(socks, Conn{s.Local, s.Remote}):
			out[Conn{s.Local, s.Remote}] = w.leadsOutside(s, "no member of the job")
		}
	}
	for _, p := range w.open.Participants {
		if err := w.askReceived(ctx, p, far[p.Host], out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// leadsOutside says that a connection leads outside, and what one may do.
func (w *work) leadsOutside(s Socket, what string) string {
	remedy := "close it, make its other end a member, or let it be restored as closed (ssctl job set --outside close)"
	switch {
	case s.Protocol == UDP:
		remedy = "close it, make its other end a member, or let it be restored as it was (ssctl job set --outside keep)"
	case s.Remote.Addr().Is6() && s.Remote.Addr().IsLinkLocalUnicast():
		what = "a link-local address, by which no host of the job is known"
		remedy = "have it connect to another address of that host, or let it be restored as closed (ssctl job set --outside close)"
	}
	return fmt.Sprintf("process %d (%s) has a connection with %s, which is %s: %s", s.Pid, s.Command, s.Remote, what, remedy)
}

// askReceived asks another host whether members there receive what UDP sockets of members here send. What nobody receives is added to out.
func (w *work) askReceived(ctx context.Context, to Participant, socks []Socket, out map[Conn]string) error {
	if len(socks) == 0 {
		return nil
	}
	var ways []Conn
	for _, s := range socks {
		ways = append(ways, Conn{s.Local, s.Remote})
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	there, err := w.a.cfg.Peers.Receives(ctx, to.Peer, w.job(), ways)
	if err != nil {
		return fmt.Errorf("ask %s who receives datagrams: %w", to.Host, err)
	}
	for i, s := range socks {
		if !there[i] {
			out[ways[i]] = w.leadsOutside(s, "no member of the job on "+to.Host)
		}
	}
	return nil
}

// Receives says which of the ways, from UDP sockets of another host to addresses of this one, end at a member of the job.
func (a *Agent) Receives(ctx context.Context, job string, ways []Conn) ([]bool, error) {
	members, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return nil, a.fail("list sockets", job, err)
	}
	var socks []Socket
	for _, m := range members {
		if m.Job != job || m.State != Running {
			continue
		}
		more, err := a.cfg.Cells.Sockets(ctx, m)
		if err != nil {
			return nil, a.fail("list sockets", job, err)
		}
		socks = append(socks, more...)
	}
	out := make([]bool, len(ways))
	for i, c := range ways {
		out[i] = received(socks, c)
	}
	return out, nil
}

// received says whether one of the sockets of a host receives what is sent from one address to another, which is one of the host's.
func received(socks []Socket, way Conn) bool {
	return slices.ContainsFunc(socks, func(s Socket) bool {
		if s.Protocol != UDP || s.Local.Port() != way.Remote.Port() || s.Remote.IsValid() && s.Remote != way.Local {
			return false
		}
		to := way.Remote.Addr().WithZone("")
		if !s.Wildcard {
			return s.Local.Addr().WithZone("") == to
		}
		return s.Local.Addr().Is4() == to.Is4() || s.Local.Addr().Is6() && !s.V6Only
	})
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

// shared lists the sockets that two members hold: one has passed its descriptor to the other. Each CRIU would restore one of its own.
func shared(socks []Socket) []string {
	first := map[uint64]Socket{}
	var found []string
	for _, s := range socks {
		f, known := first[s.Inode]
		switch {
		case s.Inode == 0: // no program holds it yet
		case !known:
			first[s.Inode] = s
		case f.Member != s.Member:
			found = append(found, fmt.Sprintf("process %d (%s) holds the socket %s as well as process %d (%s) of another member: start both as one member (sh -c 'one & two & wait'), or have one of them close it",
				s.Pid, s.Command, s.Local, f.Pid, f.Command))
		}
	}
	return found
}
