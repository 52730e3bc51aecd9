package cell

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ss/agent/proc"
	"ss/agent/target"
)

// Objects lists what lives on this host that a restore of the job could be in the way of: sockets, UNIX sockets with a name,
// and files that members of other jobs have open for writing. What the job's own members hold is marked: it ends with them.
func (g *Manager) Objects(ctx context.Context, job string) (target.HostObjects, error) {
	var out target.HostObjects
	ours, others, err := g.allProcs(job)
	if err != nil {
		return out, fmt.Errorf("list what lives on this host: %w", err)
	}
	held, err := socketInodes(ours)
	if err == nil {
		out.Sockets, err = hostSockets(held)
	}
	if err == nil {
		out.Unix, err = hostUnix(held)
	}
	if err == nil {
		out.Written, err = writtenFiles(others)
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return out, fmt.Errorf("list what lives on this host: %w", err)
	}
	return out, nil
}

// allProcs are the processes of the job's members, and those of other jobs' by whose they are.
func (g *Manager) allProcs(job string) (ours []int, others map[string][]int, err error) {
	recs, err := g.records()
	if err != nil {
		return nil, nil, err
	}
	others = map[string][]int{}
	for _, r := range recs {
		pids, err := g.cg.group(r.Job, r.Name).procs()
		if err != nil {
			return nil, nil, err
		}
		if r.Job == job {
			ours = append(ours, pids...)
		} else {
			others[fmt.Sprintf("member %s of job %s", r.Name, r.Job)] = pids
		}
	}
	return ours, others, nil
}

// hostSockets lists the TCP and UDP sockets of this network namespace.
func hostSockets(ours map[uint64]holder) ([]target.HostSocket, error) {
	c, err := dialDiag()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var out []target.HostSocket
	for protocol, name := range map[uint32]string{unix.IPPROTO_TCP: "tcp", protocolMPTCP: "tcp", unix.IPPROTO_UDP: "udp"} {
		socks, err := inetDumpAll(c, protocol, allStates)
		if err != nil {
			return nil, err
		}
		for _, s := range socks {
			out = append(out, hostSocket(s, name, ours))
		}
	}
	markPending(out)
	return append(out, boundSockets(ours, out)...), nil
}

// boundSockets are the TCP sockets that the job's members have bound, and that neither listen nor are connected. The kernel does not list them (before Linux
// 6.8 not even if asked to), so the sockets themselves are asked.
func boundSockets(ours map[uint64]holder, listed []target.HostSocket) []target.HostSocket {
	known := map[uint64]bool{}
	for _, s := range listed {
		known[s.Inode] = true
	}
	var out []target.HostSocket
	for inode, h := range ours {
		if known[inode] || !strings.HasPrefix(sockProtocol(h), "TCP") {
			continue
		}
		if local, err := localAddr(h); err == nil && local.Port() != 0 {
			out = append(out, target.HostSocket{NeededSocket: target.NeededSocket{Protocol: "tcp", Local: local}, Inode: inode, Ours: true})
		}
	}
	return out
}

// sockProtocol is the name that the kernel has for the protocol of a socket ("TCP", "TCPv6", "UNIX"), "" if it does not say.
func sockProtocol(h holder) string {
	var buf [32]byte
	n, err := unix.Getxattr(proc.FdPath(h.pid, h.fd), "system.sockprotoname", buf[:])
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// localAddr asks a socket of a process what it is bound to.
func localAddr(h holder) (netip.AddrPort, error) {
	pidfd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, h.fd, 0)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(fd)
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, nil
}

func hostSocket(s diagSocket, protocol string, ours map[uint64]holder) target.HostSocket {
	h := target.HostSocket{
		NeededSocket: target.NeededSocket{Protocol: protocol, Local: s.local, Listening: protocol == "tcp" && s.state == stListen, V6Only: s.v6only},
		Inode:        s.inode,
	}
	if !h.Listening && s.remote.Port() != 0 {
		h.Remote = s.remote
	}
	_, h.Ours = ours[s.inode]
	if protocol == "tcp" && s.inode == 0 {
		switch s.state {
		case stFinWait1, stTimeWait, stFinWait2, stLastAck, stClosing:
			h.Orphan = true
			h.Over = s.state == stFinWait2 || s.state == stTimeWait
		}
	}
	return h
}

// markPending marks the connections that one of the job's listeners is about to hold: they end with it.
func markPending(socks []target.HostSocket) {
	for i, s := range socks {
		if s.Protocol != "tcp" || s.Inode != 0 || s.Orphan {
			continue
		}
		socks[i].Ours = slices.ContainsFunc(socks, func(l target.HostSocket) bool {
			return l.Ours && l.Listening && l.Local.Port() == s.Local.Port() && (l.Local.Addr().IsUnspecified() || l.Local.Addr() == s.Local.Addr())
		})
	}
}

// hostUnix lists the UNIX sockets of this network namespace that have a name.
func hostUnix(ours map[uint64]holder) ([]target.HostUnix, error) {
	c, err := dialDiag()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	req := make([]byte, 24) // struct unix_diag_req
	req[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(req[4:], allStates)
	binary.NativeEndian.PutUint32(req[12:], udiagShowName|udiagShowVFS)
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: req,
	})
	if err != nil {
		return nil, fmt.Errorf("list UNIX sockets: %w", err)
	}
	var out []target.HostUnix
	for _, m := range msgs {
		if len(m.Data) < unixDiagMsgLen {
			return nil, fmt.Errorf("list UNIX sockets: a message of %d bytes", len(m.Data))
		}
		u := target.HostUnix{Inode: uint64(binary.NativeEndian.Uint32(m.Data[4:]))}
		_, u.Ours = ours[u.Inode]
		ad, err := netlink.NewAttributeDecoder(m.Data[unixDiagMsgLen:])
		if err != nil {
			return nil, fmt.Errorf("list UNIX sockets: %w", err)
		}
		for ad.Next() {
			switch b := ad.Bytes(); {
			case ad.Type() == unixDiagName && len(b) > 1 && b[0] == 0:
				u.Abstract = string(b[1:])
			case ad.Type() == unixDiagName:
				u.Path = strings.TrimRight(string(b), "\x00")
			case ad.Type() == unixDiagVFS && len(b) >= 8: // struct unix_diag_vfs
				dev := binary.NativeEndian.Uint32(b[4:]) // the kernel's own form: twelve bits and twenty
				u.Ino, u.Dev = uint64(binary.NativeEndian.Uint32(b)), unix.Mkdev(dev>>20, dev&(1<<20-1))
			}
		}
		if u.Abstract != "" || u.Ino != 0 {
			out = append(out, u)
		}
	}
	return out, nil
}

// writtenFiles lists the regular files that processes have open for writing. It opens none.
func writtenFiles(owners map[string][]int) ([]target.HostFile, error) {
	var out []target.HostFile
	for owner, pids := range owners {
		err := proc.EachFd(pids, func(pid, fd int, link string) {
			if !strings.HasPrefix(link, "/") {
				return
			}
			info, err := proc.ReadFdInfo(pid, fd)
			if err != nil || info.Flags&unix.O_ACCMODE == unix.O_RDONLY {
				return
			}
			var st unix.Stat_t
			if unix.Stat(proc.FdPath(pid, fd), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
				out = append(out, target.HostFile{Dev: st.Dev, Ino: st.Ino, Path: link, Owner: owner})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Holders names the processes that hold sockets, by the sockets' inodes. Who holds one of another network namespace's is not looked for.
func (g *Manager) Holders(ctx context.Context, inodes []uint64) (map[uint64]string, error) {
	if len(inodes) == 0 {
		return nil, nil
	}
	all, err := proc.Pids()
	if err != nil {
		return nil, fmt.Errorf("find who holds a socket: %w", err)
	}
	out := map[uint64]string{}
	err = proc.EachFd(all, func(pid, _ int, link string) {
		if ino, ok := proc.SocketInode(link); ok && slices.Contains(inodes, ino) && out[ino] == "" {
			out[ino] = proc.Whose(pid)
		}
	})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, fmt.Errorf("find who holds a socket: %w", err)
	}
	return out, nil
}

// Clear destroys what closed connections have left that is in the way of sockets to come: an orphan (FIN-WAIT, LAST-ACK, TIME-WAIT) with the addresses and
// ports of a connection to come, or on a port that one to come is bound to.
func (g *Manager) Clear(ctx context.Context, coming []target.NeededSocket) error {
	c, err := dialDiag()
	if err != nil {
		return err
	}
	all, err := inetDumpAll(c, unix.IPPROTO_TCP, orphanStates)
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("clear the way for sockets: %w", err)
	}
	var conns []diagSocket
	for _, s := range all {
		h := hostSocket(s, "tcp", nil)
		if h.Orphan && slices.ContainsFunc(coming, func(n target.NeededSocket) bool { return target.InTheWay(n, h.NeededSocket) }) {
			conns = append(conns, s)
		}
	}
	if err := errors.Join(destroy(conns), ctx.Err()); err != nil {
		return fmt.Errorf("clear the way for sockets: %w", err)
	}
	return nil
}
