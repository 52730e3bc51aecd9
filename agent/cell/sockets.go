package cell

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// holder is one descriptor that refers to a socket.
type holder struct{ pid, fd int }

// Sockets lists m's TCP sockets: those that its processes hold, and those that its listeners are
// about to hold (SYN-RECV, and established but not accepted). MPTCP sockets and connected UDP
// sockets are listed with that Protocol. Made for a frozen member: of one that runs the answer may
// be old when it arrives.
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
	held, err := socketInodes(all)
	if err != nil || len(held) == 0 {
		return nil, err
	}
	c, err := dialDiag()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	tcp, err := inetDumpAll(c, unix.IPPROTO_TCP, liveStates)
	if err != nil {
		return nil, err
	}
	mptcp, err := inetDumpAll(c, protocolMPTCP, liveStates)
	if err != nil {
		return nil, err
	}
	udp, err := inetDumpAll(c, unix.IPPROTO_UDP, 1<<stEstablished)
	if err != nil {
		return nil, err
	}
	col := collector{member: member, held: held, commands: map[int]string{}}
	col.add(mptcp, "mptcp")
	tcp = slices.DeleteFunc(tcp, func(s diagSocket) bool { // a subflow is listed with its owner's inode
		return s.inode != 0 && slices.ContainsFunc(mptcp, func(m diagSocket) bool { return m.inode == s.inode })
	})
	col.add(tcp, "tcp")
	col.add(udp, "udp-connected")
	col.addPending(tcp)
	return col.out, nil
}

// collector turns the kernel's sockets into a member's.
type collector struct {
	member   string
	held     map[uint64]holder
	commands map[int]string
	out      []agent.Socket
}

func (c *collector) add(socks []diagSocket, protocol string) {
	for _, s := range socks {
		if h, ok := c.held[s.inode]; ok {
			c.out = append(c.out, c.socket(s, protocol, h))
		}
	}
}

func (c *collector) socket(s diagSocket, protocol string, h holder) agent.Socket {
	cmd, ok := c.commands[h.pid]
	if !ok {
		cmd = proc.Command(h.pid)
		c.commands[h.pid] = cmd
	}
	out := agent.Socket{
		Member: c.member, Pid: h.pid, Command: cmd, Inode: s.inode,
		Local: s.local, Remote: s.remote, Protocol: protocol,
		Connecting: protocol != "udp-connected" && s.state == stSynSent,
		HalfOpen:   protocol != "udp-connected" && s.state == stSynRecv,
		Ended:      protocol != "udp-connected" && (s.state == stCloseWait || s.state == stLastAck || s.state == stClosing),
	}
	if s.state == stListen {
		out.Listening, out.Remote, out.Wildcard = true, netip.AddrPort{}, s.local.Addr().IsUnspecified()
	}
	return out
}

// addPending adds the connections that no program holds yet but one of the member's listeners will:
// a SYN that was answered, and a finished handshake that waits for accept(2). Both have the inode 0.
func (c *collector) addPending(tcp []diagSocket) {
	listeners := slices.DeleteFunc(slices.Clone(c.out), func(s agent.Socket) bool { return !s.Listening })
	for _, s := range tcp {
		if s.inode != 0 || s.state != stSynRecv && s.state != stEstablished && s.state != stCloseWait {
			continue
		}
		for _, l := range listeners {
			if l.Local.Port() == s.local.Port() && (l.Wildcard || l.Local.Addr() == s.local.Addr()) {
				p := c.socket(s, "tcp", holder{pid: l.Pid})
				p.HalfOpen, p.Unread = true, s.unread
				c.out = append(c.out, p)
				break
			}
		}
	}
}

// socketInodes maps the inode of every socket that the processes hold to one of its descriptors.
func socketInodes(pids []int) (map[uint64]holder, error) {
	out := map[uint64]holder{}
	err := proc.EachFd(pids, func(pid, fd int, link string) {
		if ino, ok := proc.SocketInode(link); ok {
			if _, known := out[ino]; !known {
				out[ino] = holder{pid, fd}
			}
		}
	})
	return out, err
}
