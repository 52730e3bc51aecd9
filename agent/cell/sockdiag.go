package cell

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/sock_diag.h, inet_diag.h and unix_diag.h (sock_diag(7)).
const (
	sockDiagByFamily = 20
	sockDestroy      = 21

	inetDiagReqProtocol = 3 // INET_DIAG_REQ_PROTOCOL: a protocol above 255
	inetDiagMsgLen      = 72
	inetDiagCgroupID    = 21 // INET_DIAG_CGROUP_ID (Linux 5.9): that of the v2 cgroup that the socket was made in

	inetDiagSkV6Only = 11 // INET_DIAG_SKV6ONLY: of IPv6 sockets that listen or are closed

	unixDiagName    = 0 // UNIX_DIAG_NAME: with its zero byte, if it is abstract
	unixDiagVFS     = 1 // UNIX_DIAG_VFS: inode and device of its file
	unixDiagPeer    = 2 // UNIX_DIAG_PEER: the peer's inode
	udiagShowName   = 1
	udiagShowVFS    = 2
	udiagShowPeer   = 4
	unixDiagMsgLen  = 16
	protocolMPTCP   = 262
	protocolRawByte = 255 // stands in sdiag_protocol where the attribute says the protocol
)

// States of include/net/tcp_states.h.
const (
	stEstablished = 1
	stSynSent     = 2
	stSynRecv     = 3
	stFinWait1    = 4
	stFinWait2    = 5
	stTimeWait    = 6
	stCloseWait   = 8
	stLastAck     = 9
	stListen      = 10
	stClosing     = 11
)

const (
	allStates  = 1<<12 - 1<<1 // 1 to 11; SYN_RECV includes the half-open ones of listeners
	liveStates = allStates &^ (1 << stTimeWait)
	// orphanStates are those of connections whose program may be gone.
	orphanStates = 1<<stFinWait1 | 1<<stFinWait2 | 1<<stTimeWait | 1<<stLastAck | 1<<stClosing
)

// diagSocket is what inet_diag says of one socket.
type diagSocket struct {
	family        uint8
	state         uint8
	local, remote netip.AddrPort
	unread        uint32   // bytes received and not read; of a listener: connections that wait to be accepted
	inode         uint64   // 0: no program holds it, or none yet
	cgroup        uint64   // 0: not known
	v6only        bool     // of an IPv6 listener
	id            [48]byte // struct inet_diag_sockid, which names the socket to the kernel
}

// inetDump lists the sockets of one family and protocol in this network namespace.
func inetDump(c *netlink.Conn, family uint8, protocol uint32, states uint32) ([]diagSocket, error) {
	req := make([]byte, 56) // struct inet_diag_req_v2
	req[0], req[1] = family, uint8(protocol)
	binary.NativeEndian.PutUint32(req[4:], states)
	if protocol > 255 {
		req[1] = protocolRawByte
		attr, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: inetDiagReqProtocol, Data: binary.NativeEndian.AppendUint32(nil, protocol)}})
		if err != nil {
			return nil, err
		}
		req = append(req, attr...)
	}
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: req,
	})
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	out := make([]diagSocket, 0, len(msgs))
	for _, m := range msgs {
		s, err := parseInet(m.Data)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// parseInet reads a struct inet_diag_msg.
func parseInet(b []byte) (diagSocket, error) {
	if len(b) < inetDiagMsgLen {
		return diagSocket{}, fmt.Errorf("list sockets: a message of %d bytes", len(b))
	}
	s := diagSocket{family: b[0], state: b[1], unread: binary.NativeEndian.Uint32(b[56:]), inode: uint64(binary.NativeEndian.Uint32(b[68:]))}
	copy(s.id[:], b[4:52])
	size := 4
	if s.family == unix.AF_INET6 {
		size = 16
	}
	local, _ := netip.AddrFromSlice(b[8 : 8+size])
	remote, _ := netip.AddrFromSlice(b[24 : 24+size])
	s.local = netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(b[4:]))
	s.remote = netip.AddrPortFrom(remote.Unmap(), binary.BigEndian.Uint16(b[6:]))
	ad, err := netlink.NewAttributeDecoder(b[inetDiagMsgLen:])
	if err != nil {
		return diagSocket{}, fmt.Errorf("list sockets: %w", err)
	}
	for ad.Next() {
		switch ad.Type() {
		case inetDiagCgroupID:
			s.cgroup = ad.Uint64()
		case inetDiagSkV6Only:
			s.v6only = ad.Uint8() != 0
		}
	}
	return s, ad.Err()
}

// inetDumpAll lists both families. A protocol or family that the kernel does not have has no sockets.
func inetDumpAll(c *netlink.Conn, protocol, states uint32) ([]diagSocket, error) {
	var out []diagSocket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		s, err := inetDump(c, family, protocol, states)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) && protocol != unix.IPPROTO_TCP {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s...)
	}
	return out, nil
}

func dialDiag() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	return c, nil
}

// connections lists the TCP connections (no listeners) that these processes hold, and those of the cgroup that nobody holds any more: a
// program that has closed a connection leaves it to the kernel, which goes on for minutes where the other end does not answer.
func connections(pids []int, cgroup uint64) ([]diagSocket, error) {
	held, err := socketInodes(pids)
	if err != nil {
		return nil, err
	}
	c, err := dialDiag()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	all, err := inetDumpAll(c, unix.IPPROTO_TCP, liveStates&^(1<<stListen))
	var out []diagSocket
	for _, s := range all {
		_, ok := held[s.inode]
		if ok || s.inode == 0 && s.cgroup == cgroup && cgroup != 0 {
			out = append(out, s)
		}
	}
	return out, err
}

// destroy ends what is left in the kernel of connections whose programs are gone (SOCK_DESTROY):
// as long as one stands in FIN-WAIT or TIME-WAIT its addresses and ports are taken.
func destroy(conns []diagSocket) error {
	if len(conns) == 0 {
		return nil
	}
	type tuple struct{ local, remote netip.AddrPort }
	ours := map[tuple]bool{}
	for _, s := range conns {
		ours[tuple{s.local, s.remote}] = true
	}
	c, err := dialDiag()
	if err != nil {
		return err
	}
	defer c.Close()
	all, err := inetDumpAll(c, unix.IPPROTO_TCP, allStates&^(1<<stListen))
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.inode != 0 || !ours[tuple{s.local, s.remote}] {
			continue // another program's, one that shared the socket too
		}
		req := make([]byte, 8, 56) // struct inet_diag_req_v2
		req[0], req[1] = s.family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(req[4:], allStates)
		_, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append(req, s.id[:]...),
		})
		if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: it ended by itself
			return fmt.Errorf("destroy what is left of connection %s to %s: %w", s.local, s.remote, err)
		}
	}
	return nil
}

// unixPeers maps every connected UNIX socket of this network namespace to its peer, by inode.
func unixPeers() (map[uint64]uint64, error) {
	c, err := dialDiag()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	req := make([]byte, 24) // struct unix_diag_req
	req[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(req[4:], allStates)
	binary.NativeEndian.PutUint32(req[12:], udiagShowPeer)
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: req,
	})
	if err != nil {
		return nil, fmt.Errorf("list UNIX sockets: %w", err)
	}
	out := map[uint64]uint64{}
	for _, m := range msgs {
		if len(m.Data) < unixDiagMsgLen {
			return nil, fmt.Errorf("list UNIX sockets: a message of %d bytes", len(m.Data))
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[unixDiagMsgLen:])
		if err != nil {
			return nil, fmt.Errorf("list UNIX sockets: %w", err)
		}
		for ad.Next() {
			if ad.Type() == unixDiagPeer {
				out[uint64(binary.NativeEndian.Uint32(m.Data[4:]))] = uint64(ad.Uint32())
			}
		}
		if err := ad.Err(); err != nil {
			return nil, fmt.Errorf("list UNIX sockets: %w", err)
		}
	}
	return out, nil
}
