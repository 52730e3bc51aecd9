package cell

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
	"ss/agent/sockets"
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
	held, err := sockets.Held(ours)
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

// hostSockets lists the TCP, UDP and UDP-Lite sockets of this network namespace. Those of multipath TCP are among them: what each does in TCP has its inode.
func hostSockets(ours map[uint64]sockets.Holder) ([]target.HostSocket, error) {
	c, err := sockets.Dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var out []target.HostSocket
	for protocol, name := range map[uint32]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_UDPLITE: "udplite"} {
		socks, err := sockets.List(c, protocol, sockets.AllStates)
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
func boundSockets(ours map[uint64]sockets.Holder, listed []target.HostSocket) []target.HostSocket {
	known := map[uint64]bool{}
	for _, s := range listed {
		known[s.Inode] = true
	}
	var out []target.HostSocket
	for inode, h := range ours {
		if known[inode] || !strings.HasPrefix(sockets.ProtocolOf(h), "TCP") {
			continue
		}
		if local, err := sockets.LocalAddr(h); err == nil && local.Port() != 0 {
			out = append(out, target.HostSocket{NeededSocket: target.NeededSocket{Protocol: "tcp", Local: local}, Inode: inode, Ours: true})
		}
	}
	return out
}

func hostSocket(s sockets.Socket, protocol string, ours map[uint64]sockets.Holder) target.HostSocket {
	h := target.HostSocket{
		NeededSocket: target.NeededSocket{Protocol: protocol, Local: s.Local, Listening: protocol == "tcp" && s.State == sockets.Listen, V6Only: s.V6Only},
		Inode:        s.Inode,
	}
	if !h.Listening && s.Remote.Port() != 0 {
		h.Remote = s.Remote
	}
	_, h.Ours = ours[s.Inode]
	if protocol == "tcp" && s.Inode == 0 {
		switch s.State {
		case sockets.FinWait1, sockets.TimeWait, sockets.FinWait2, sockets.LastAck, sockets.Closing:
			h.Orphan = true
			h.Over = s.State == sockets.FinWait2 || s.State == sockets.TimeWait
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
func hostUnix(ours map[uint64]sockets.Holder) ([]target.HostUnix, error) {
	all, err := sockets.Unix()
	if err != nil {
		return nil, err
	}
	var out []target.HostUnix
	for _, s := range all {
		if s.Abstract == "" && s.Ino == 0 {
			continue
		}
		_, held := ours[s.Inode]
		out = append(out, target.HostUnix{Inode: s.Inode, Abstract: s.Abstract, Path: s.Path, Dev: s.Dev, Ino: s.Ino, Ours: held})
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

// deleted ends the name of a file that has none any more, as the kernel prints it.
const deleted = " (deleted)"

// Freed says how many bytes the end of the job's members frees, by device: those of files that have no name any more and that they have open or mapped.
func (g *Manager) Freed(ctx context.Context, job string) (map[uint64]int64, error) {
	ours, _, err := g.allProcs(job)
	if err != nil {
		return nil, fmt.Errorf("list what the members of %s hold: %w", job, err)
	}
	out := map[uint64]int64{}
	done := map[target.FileID]bool{}
	add := func(path string) {
		var st unix.Stat_t
		id := target.FileID{}
		if unix.Stat(path, &st) == nil {
			id = target.FileID{Dev: st.Dev, Ino: st.Ino}
		}
		if st.Nlink == 0 && st.Mode&unix.S_IFMT == unix.S_IFREG && !done[id] {
			done[id] = true
			out[st.Dev] += st.Blocks * 512
		}
	}
	err = proc.EachFd(ours, func(pid, fd int, link string) {
		if strings.HasSuffix(link, deleted) {
			add(proc.FdPath(pid, fd))
		}
	})
	for _, pid := range ours {
		for m, err := range proc.Mappings(pid) {
			if err != nil {
				break // it has ended
			}
			if m.Shared && strings.HasSuffix(m.Path, deleted) {
				add(proc.MappedFile(pid, m.Range))
			}
		}
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, fmt.Errorf("list what the members of %s hold: %w", job, err)
	}
	return out, nil
}

// Holders names the processes that hold sockets, by the sockets' inodes. It does not look for those of other network namespaces.
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
	c, err := sockets.Dial()
	if err != nil {
		return err
	}
	all, err := sockets.List(c, unix.IPPROTO_TCP, sockets.OrphanStates)
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("clear the way for sockets: %w", err)
	}
	var conns []sockets.Socket
	for _, s := range all {
		h := hostSocket(s, "tcp", nil)
		if h.Orphan && slices.ContainsFunc(coming, func(n target.NeededSocket) bool { return target.InTheWay(n, h.NeededSocket) }) {
			conns = append(conns, s)
		}
	}
	if err := errors.Join(sockets.Destroy(conns), ctx.Err()); err != nil {
		return fmt.Errorf("clear the way for sockets: %w", err)
	}
	return nil
}
