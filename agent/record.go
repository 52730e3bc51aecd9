package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ss/fault"
	"ss/marker"
)

// settleBound is the longest that a host waits, once it knows its peers' records, for its own connections to have
// nothing in flight. A stream at full speed always has: its retransmission timer (200 ms at least on Linux) has
// time until the connections are captured.
const settleBound = 3 * time.Millisecond

// record is M2 and M4: freeze, list, close. closeGates has closed the last gate at the recorded instant.
func (w *work) record(ctx context.Context) (marker.Event, error) {
	w.early.keep()
	w.haltMemory()
	w.calm = w.a.cfg.Quiet.Pause()
	turn := w.a.turn.take() // before it lets go of the one that it may have
	w.behind()
	w.behind = turn
	w.mu.Lock()
	w.frozenAt = time.Now()
	w.mu.Unlock()
	if err := w.each(func(_ int, m Member) error { return w.a.cfg.Cells.Freeze(ctx, m) }); err != nil {
		return nil, fmt.Errorf("freeze: %w", err)
	}
	w.recorded = time.Now()
	w.copyRest(ctx)
	socks, err := w.closeGates(ctx)
	if err != nil {
		return nil, err
	}
	peers := w.channels(socks)
	w.pending = slices.ContainsFunc(socks, func(s Socket) bool { return s.HalfOpen })
	w.mu.Lock()
	w.peers = peers
	w.mu.Unlock()
	w.conns = make([][]uint64, len(w.members))
	for i, m := range w.members {
		for _, s := range socks {
			if s.Member == m.Name && s.Protocol == "tcp" && !s.Listening && !s.HalfOpen {
				w.conns[i] = append(w.conns[i], s.Inode)
			}
		}
	}
	if w.gates[w.a.cfg.Host] {
		if err := w.settle(ctx, w.a.cfg.Host); err != nil {
			return nil, err
		}
	}
	return marker.RecordDone{Key: w.key, Peers: peers}, nil
}

// closeGates lists the members' sockets and closes the gates, and returns the sockets as they were when the last gate had closed. A kernel
// completes handshakes by itself: a connection that came between the list and the gates would be in nobody's record. As the members stand
// still, no more can come of those that were under way.
func (w *work) closeGates(ctx context.Context) ([]Socket, error) {
	socks, err := w.sockets(ctx)
	if err != nil {
		return nil, err
	}
	gates := w.plan(socks)
	w.mu.Lock()
	for _, g := range gates {
		w.gates[g.Peer] = true
	}
	w.mu.Unlock()
	if err := w.a.cfg.Gates.Close(ctx, gates); err != nil {
		return nil, fmt.Errorf("close the gates: %w", err)
	}
	after, err := w.sockets(ctx)
	if err != nil {
		return nil, err
	}
	return after, w.unsettled(socks, after)
}

// unsettled refuses connections that were being made and are on their way into nobody's record. Not among them are one whose SYN has not been
// answered (M4a), and one that nobody has accepted, of which its other end decides (M4b).
func (w *work) unsettled(before, after []Socket) error {
	known := map[Conn]bool{}
	for _, s := range before {
		known[Conn{s.Local, s.Remote}] = true
	}
	for _, s := range after {
		if s.HalfOpen && (w.gateOf(s) != "" || w.policy(Conn{s.Local, s.Remote}) != marker.OutsideRefuse) || known[Conn{s.Local, s.Remote}] && !s.HalfOpen {
			continue
		}
		return fault.New(fault.Unsettled, fmt.Sprintf("the connection %s with %s of process %d (%s) was being made", s.Local, s.Remote, s.Pid, s.Command), "try again")
	}
	return nil
}

// pendingEnds lists the connections that nobody has accepted, as they are when the gates are sealed: nothing comes on them any more.
func (w *work) pendingEnds(ctx context.Context) ([]marker.End, error) {
	if !w.pending {
		return nil, nil
	}
	socks, err := w.sockets(ctx)
	if err != nil {
		return nil, err
	}
	var out []marker.End
	for _, s := range socks {
		if s.HalfOpen && w.gateOf(s) != "" {
			out = append(out, marker.End{Host: marker.HostID(w.a.cfg.Host), Member: s.Member, Local: s.Local.String(), Remote: s.Remote.String(), Pending: true, Unread: s.Unread})
		}
	}
	return out, nil
}

// gateOf names the participant toward whom the gate of a connection is; "" if there is none.
func (w *work) gateOf(s Socket) string {
	switch {
	case s.Listening || !s.Remote.IsValid():
		return ""
	case s.Remote.Addr().IsLoopback():
		return w.a.cfg.Host
	}
	return w.peerOf(s.Remote.Addr())
}

// channels are the connections with members on other hosts, by host. One whose SYN has not been answered is none (M4a), and none is one that
// has not been accepted (M4b).
func (w *work) channels(socks []Socket) map[marker.HostID][]string {
	peers := map[marker.HostID][]string{}
	for _, s := range socks {
		if peer := w.gateOf(s); peer != "" && peer != w.a.cfg.Host && !s.Connecting && !s.HalfOpen {
			peers[marker.HostID(peer)] = append(peers[marker.HostID(peer)], s.Local.String()+">"+s.Remote.String())
		}
	}
	return peers
}

// plan makes the gates of the job on this host, one toward each participant.
func (w *work) plan(socks []Socket) []Gate {
	var listen []netip.AddrPort
	var cgroups []uint64
	conns := map[string][]Conn{}
	for _, s := range socks {
		if s.Listening {
			listen = append(listen, s.Local)
		} else if peer := w.gateOf(s); peer != "" {
			conns[peer] = append(conns[peer], Conn{s.Local, s.Remote})
		}
	}
	for _, m := range w.members {
		if m.CgroupID != 0 {
			cgroups = append(cgroups, m.CgroupID)
		}
	}
	var gates []Gate
	for _, p := range w.open.Participants {
		g := Gate{Job: w.job(), Peer: p.Host, Addrs: p.Addrs, Conns: conns[p.Host]}
		if p.Host != w.a.cfg.Host {
			g.Listen, g.Cgroups = listen, cgroups
		} else if len(g.Conns) == 0 {
			continue
		}
		gates = append(gates, g)
	}
	return gates
}

// settle is M5a: what both kernels already hold flows through the closed gate.
func (w *work) settle(ctx context.Context, peer string) error {
	if err := w.a.cfg.Gates.Settle(ctx, w.job(), peer); err != nil {
		return err
	}
	w.mu.Lock()
	w.settled[peer] = true
	w.mu.Unlock()
	return nil
}

// quiesce waits until nothing is in flight on the channels of the peers whose records are known.
func (w *work) quiesce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleBound)
	defer cancel()
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for {
		flows := make([][]Flow, len(w.members))
		err := w.each(func(i int, m Member) (err error) {
			flows[i], err = w.a.cfg.Cells.PushAcks(ctx, m)
			return err
		})
		if ctx.Err() != nil {
			return nil // a loss probe later costs less than waiting longer
		}
		if err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		if !slices.ContainsFunc(slices.Concat(flows...), func(f Flow) bool { return f.Unacked > 0 && w.isSettled(f.Remote.Addr()) }) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *work) isSettled(remote netip.Addr) bool {
	peer := w.peerOf(remote)
	if remote.IsLoopback() {
		peer = w.a.cfg.Host
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settled[peer]
}
