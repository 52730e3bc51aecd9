package cell

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
	"ss/agent/sockets"
)

// Sockets lists m's sockets: those that its processes hold, and those that its listeners are
// about to hold (SYN-RECV, and established but not accepted). MPTCP and UDP sockets are listed with that Protocol. Made for a frozen member: of one that runs
// the answer may be old when it arrives.
func (g *Manager) Sockets(ctx context.Context, m agent.Member) ([]agent.Socket, error) {
	gr, err := g.existing(m)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out, err := socketsOf(gr, m.Name)
	if err != nil {
		return nil, fmt.Errorf("list the sockets of %s/%s: %w", m.Job, m.Name, err)
	}
	return out, ctx.Err()
}

func socketsOf(gr group, member string) ([]agent.Socket, error) {
	all, err := gr.procs()
	if err != nil {
		return nil, err
	}
	held, err := sockets.Held(all)
	if err != nil || len(held) == 0 {
		return nil, err
	}
	c, err := sockets.Dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	tcp, err := sockets.List(c, unix.IPPROTO_TCP, sockets.LiveStates)
	if err != nil {
		return nil, err
	}
	mptcp, err := multipath(c, held, tcp)
	if err != nil {
		return nil, err
	}
	udp, err := sockets.List(c, unix.IPPROTO_UDP, sockets.AllStates)
	if err != nil {
		return nil, err
	}
	col := collector{member: member, held: held, commands: map[int]string{}}
	col.add(mptcp, "mptcp")
	tcp = slices.DeleteFunc(tcp, func(s sockets.Socket) bool { // a subflow is listed with its owner's inode
		return s.Inode != 0 && slices.ContainsFunc(mptcp, func(m sockets.Socket) bool { return m.Inode == s.Inode })
	})
	col.add(tcp, "tcp")
	col.add(udp, agent.UDP)
	col.addPending(tcp)
	return col.out, nil
}

// askMost is how many sockets are asked for their protocol one by one, at some 3 µs each. The kernel takes 4 ms to list the connections of
// multipath TCP, however few there are: it goes through a table that is as large as the machine's memory asks for. Members may stand still meanwhile.
const askMost = 1000

// multipath lists the sockets of multipath TCP, if any that the processes hold is one. tcp is the list of TCP sockets: what multipath TCP does is
// among them, with the inode of the socket that is held.
func multipath(c *netlink.Conn, held map[uint64]sockets.Holder, tcp []sockets.Socket) ([]sockets.Socket, error) {
	asked := 0
	for _, s := range tcp {
		h, ok := held[s.Inode]
		if !ok {
			continue
		}
		// A descriptor that is gone has no name: the list tells then.
		if asked++; asked > askMost || !slices.Contains([]string{"TCP", "TCPv6"}, sockets.ProtocolOf(h)) {
			return sockets.List(c, sockets.ProtocolMPTCP, sockets.LiveStates)
		}
	}
	return nil, nil
}

// collector turns the kernel's sockets into a member's.
type collector struct {
	member   string
	held     map[uint64]sockets.Holder
	commands map[int]string
	out      []agent.Socket
}

func (c *collector) add(socks []sockets.Socket, protocol string) {
	for _, s := range socks {
		if h, ok := c.held[s.Inode]; ok {
			c.out = append(c.out, c.socket(s, protocol, h))
		}
	}
}

func (c *collector) socket(s sockets.Socket, protocol string, h sockets.Holder) agent.Socket {
	cmd, ok := c.commands[h.Pid]
	if !ok {
		cmd = proc.Command(h.Pid)
		c.commands[h.Pid] = cmd
	}
	out := agent.Socket{
		Member: c.member, Pid: h.Pid, Command: cmd, Inode: s.Inode,
		Local: s.Local, Remote: s.Remote, Protocol: protocol, V6Only: s.V6Only,
	}
	switch {
	case protocol == agent.UDP: // its states are those of TCP by name only
		if s.State != sockets.Established {
			out.Remote, out.Wildcard = netip.AddrPort{}, s.Local.Addr().IsUnspecified()
		}
	case s.State == sockets.Listen:
		out.Listening, out.Remote, out.Wildcard = true, netip.AddrPort{}, s.Local.Addr().IsUnspecified()
	default:
		out.Connecting, out.HalfOpen = s.State == sockets.SynSent, s.State == sockets.SynRecv
		out.Ended = s.State == sockets.CloseWait || s.State == sockets.LastAck || s.State == sockets.Closing
	}
	return out
}

// addPending adds the connections that no program holds yet but one of the member's listeners will:
// a SYN that was answered, and a finished handshake that waits for accept(2). Both have the inode 0.
func (c *collector) addPending(tcp []sockets.Socket) {
	listeners := slices.DeleteFunc(slices.Clone(c.out), func(s agent.Socket) bool { return !s.Listening })
	for _, s := range tcp {
		if s.Inode != 0 || s.State != sockets.SynRecv && s.State != sockets.Established && s.State != sockets.CloseWait {
			continue
		}
		for _, l := range listeners {
			if l.Local.Port() == s.Local.Port() && (l.Wildcard || l.Local.Addr() == s.Local.Addr()) {
				p := c.socket(s, "tcp", sockets.Holder{Pid: l.Pid})
				p.HalfOpen, p.Unread = true, s.Unread
				c.out = append(c.out, p)
				break
			}
		}
	}
}
