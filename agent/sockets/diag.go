package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Of include/uapi/linux/sock_diag.h, inet_diag.h and unix_diag.h (sock_diag(7)).
const (
	sockDiagByFamily = 20
	sockDestroy      = 21

	inetDiagReqProtocol = 3 // INET_DIAG_REQ_PROTOCOL: a protocol above 255
	inetDiagMsgLen      = 72
	inetDiagCgroupID    = 21 // INET_DIAG_CGROUP_ID (Linux 5.9): that of the v2 cgroup that the socket was made in

	inetDiagSkV6Only = 11           // INET_DIAG_SKV6ONLY: of IPv6 sockets that listen or are closed
	inetDiagMD5Sig   = 18           // INET_DIAG_MD5SIG: keys, for those with CAP_NET_ADMIN that ask for showInfo
	showInfo         = 1 << (2 - 1) // INET_DIAG_INFO, in idiag_ext

	unixDiagName    = 0 // UNIX_DIAG_NAME: with its zero byte, if it is abstract
	unixDiagVFS     = 1 // UNIX_DIAG_VFS: inode and device of its file
	unixDiagPeer    = 2 // UNIX_DIAG_PEER: the peer's inode
	unixDiagIcons   = 3 // UNIX_DIAG_ICONS: of a listener, the inodes of sockets whose connections it has not accepted
	udiagShowName   = 1
	udiagShowVFS    = 2
	udiagShowPeer   = 4
	udiagShowIcons  = 8
	unixDiagMsgLen  = 16
	protocolRawByte = 255 // stands in sdiag_protocol where the attribute says the protocol
)

// ProtocolMPTCP is IPPROTO_MPTCP of include/uapi/linux/in.h.
const ProtocolMPTCP = 262

// The states of a TCP connection, as include/net/tcp_states.h numbers them.
const (
	Established = 1
	SynSent     = 2
	SynRecv     = 3
	FinWait1    = 4
	FinWait2    = 5
	TimeWait    = 6
	CloseWait   = 8
	LastAck     = 9
	Listen      = 10
	Closing     = 11

	boundInactive = 13 // TCP_BOUND_INACTIVE: bound and no more, listed from Linux 6.8 on
)

// Sets of states, for List.
const (
	AllStates  = 1<<12 - 1<<1 // 1 to 11; SYN_RECV includes the half-open ones of listeners
	LiveStates = AllStates &^ (1 << TimeWait)
	// OrphanStates are those of connections whose program may be gone.
	OrphanStates = 1<<FinWait1 | 1<<FinWait2 | 1<<TimeWait | 1<<LastAck | 1<<Closing
)

// Socket is what inet_diag says of one socket.
type Socket struct {
	Family        uint8
	State         uint8 // Established and so on
	Local, Remote netip.AddrPort
	Unread        uint32   // bytes received and not read; of a listener: connections that wait to be accepted
	Inode         uint64   // 0: no program holds it, or none yet
	Cgroup        uint64   // 0: not known
	V6Only        bool     // of an IPv6 listener
	signs         bool     // it has keys (TCP_MD5SIG); false if they were not asked for
	id            [48]byte // struct inet_diag_sockid, which names the socket to the kernel
}

// inetDump lists the sockets of one family and protocol in this network namespace. show says what else is told of each (idiag_ext).
func inetDump(c *netlink.Conn, family uint8, protocol uint32, states uint32, show uint8) ([]Socket, error) {
	req := make([]byte, 56) // struct inet_diag_req_v2
	req[0], req[1], req[2] = family, uint8(protocol), show
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
	out := make([]Socket, 0, len(msgs))
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
func parseInet(b []byte) (Socket, error) {
	if len(b) < inetDiagMsgLen {
		return Socket{}, fmt.Errorf("list sockets: a message of %d bytes", len(b))
	}
	s := Socket{Family: b[0], State: b[1], Unread: binary.NativeEndian.Uint32(b[56:]), Inode: uint64(binary.NativeEndian.Uint32(b[68:]))}
	copy(s.id[:], b[4:52])
	size := 4
	if s.Family == unix.AF_INET6 {
		size = 16
	}
	local, _ := netip.AddrFromSlice(b[8 : 8+size])
	remote, _ := netip.AddrFromSlice(b[24 : 24+size])
	s.Local = netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(b[4:]))
	s.Remote = netip.AddrPortFrom(remote.Unmap(), binary.BigEndian.Uint16(b[6:]))
	ad, err := netlink.NewAttributeDecoder(b[inetDiagMsgLen:])
	if err != nil {
		return Socket{}, fmt.Errorf("list sockets: %w", err)
	}
	for ad.Next() {
		switch ad.Type() {
		case inetDiagCgroupID:
			s.Cgroup = ad.Uint64()
		case inetDiagSkV6Only:
			s.V6Only = ad.Uint8() != 0
		case inetDiagMD5Sig:
			s.signs = true
		}
	}
	return s, ad.Err()
}

// List lists both families. A protocol or family that the kernel does not have has no sockets.
func List(c *netlink.Conn, protocol, states uint32) ([]Socket, error) {
	return list(c, protocol, states, 0)
}

func list(c *netlink.Conn, protocol, states uint32, show uint8) ([]Socket, error) {
	var out []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		s, err := inetDump(c, family, protocol, states, show)
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

// Signing lists the inodes of the TCP sockets that have keys (TCP_MD5SIG), in the network namespace of a process. The kernel tells it of all but those that are not
// bound.
func Signing(pid int) (map[uint64]bool, error) {
	c, err := dialOf(pid)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	all, err := list(c, unix.IPPROTO_TCP, LiveStates|1<<boundInactive, showInfo)
	out := map[uint64]bool{}
	for _, s := range all {
		if s.signs {
			out[s.Inode] = true
		}
	}
	return out, err
}

// dialOf is Dial in the network namespace of a process.
func dialOf(pid int) (*netlink.Conn, error) {
	theirs, err1 := proc.Namespace(pid, "net")
	ours, err2 := proc.Namespace(os.Getpid(), "net")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if theirs == ours {
		return Dial()
	}
	ns, err := unix.Open(proc.Path(pid, "ns/net"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace of process %d: %w", pid, err)
	}
	defer unix.Close(ns)
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("open sock_diag in the network namespace of process %d: %w", pid, err)
	}
	return c, nil
}

// Dial opens a netlink socket for sock_diag(7).
func Dial() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	return c, nil
}

// Connections lists the TCP connections (no listeners) that these processes hold, and those of the cgroup that nobody holds any more: a
// program that has closed a connection leaves it to the kernel, which goes on for minutes where the other end does not answer.
func Connections(pids []int, cgroup uint64) ([]Socket, error) {
	held, err := Held(pids)
	if err != nil {
		return nil, err
	}
	c, err := Dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	all, err := List(c, unix.IPPROTO_TCP, LiveStates&^(1<<Listen))
	var out []Socket
	for _, s := range all {
		_, ok := held[s.Inode]
		if ok || s.Inode == 0 && s.Cgroup == cgroup && cgroup != 0 {
			out = append(out, s)
		}
	}
	return out, err
}

// Destroy ends what is left in the kernel of connections whose programs are gone (SOCK_DESTROY):
// as long as one stands in FIN-WAIT or TIME-WAIT its addresses and ports are taken.
func Destroy(conns []Socket) error {
	if len(conns) == 0 {
		return nil
	}
	type tuple struct{ local, remote netip.AddrPort }
	ours := map[tuple]bool{}
	for _, s := range conns {
		ours[tuple{s.Local, s.Remote}] = true
	}
	c, err := Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	all, err := List(c, unix.IPPROTO_TCP, AllStates&^(1<<Listen))
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Inode != 0 || !ours[tuple{s.Local, s.Remote}] {
			continue // another program's, one that shared the socket too
		}
		req := make([]byte, 8, 56) // struct inet_diag_req_v2
		req[0], req[1] = s.Family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(req[4:], AllStates)
		_, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append(req, s.id[:]...),
		})
		if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: it ended by itself
			return fmt.Errorf("destroy what is left of connection %s to %s: %w", s.Local, s.Remote, err)
		}
	}
	return nil
}

// UnixSocket is what unix_diag says of one UNIX socket.
type UnixSocket struct {
	Inode    uint64
	Abstract string   // its name, without the zero byte, if that is abstract
	Path     string   // the name it was bound to, if that is a path
	Dev, Ino uint64   // of the file that Path led to then
	Peer     uint64   // inode of the socket that it is connected to, 0 if there is none
	Waiting  []uint64 // of a listener: inodes of the sockets whose connections it has not accepted; 0 for one that was closed
}

// Unix lists the UNIX sockets of this network namespace.
func Unix() ([]UnixSocket, error) {
	c, err := Dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	req := make([]byte, 24) // struct unix_diag_req
	req[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(req[4:], AllStates)
	binary.NativeEndian.PutUint32(req[12:], udiagShowName|udiagShowVFS|udiagShowPeer|udiagShowIcons)
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: req,
	})
	if err != nil {
		return nil, fmt.Errorf("list UNIX sockets: %w", err)
	}
	out := make([]UnixSocket, 0, len(msgs))
	for _, m := range msgs {
		s, err := parseUnix(m.Data)
		if err != nil {
			return nil, fmt.Errorf("list UNIX sockets: %w", err)
		}
		out = append(out, s)
	}
	return out, nil
}

// parseUnix reads a struct unix_diag_msg.
func parseUnix(data []byte) (UnixSocket, error) {
	if len(data) < unixDiagMsgLen {
		return UnixSocket{}, fmt.Errorf("a message of %d bytes", len(data))
	}
	s := UnixSocket{Inode: uint64(binary.NativeEndian.Uint32(data[4:]))}
	ad, err := netlink.NewAttributeDecoder(data[unixDiagMsgLen:])
	if err != nil {
		return UnixSocket{}, err
	}
	for ad.Next() {
		switch b := ad.Bytes(); {
		case ad.Type() == unixDiagName && len(b) > 1 && b[0] == 0:
			s.Abstract = string(b[1:])
		case ad.Type() == unixDiagName:
			s.Path = strings.TrimRight(string(b), "\x00")
		case ad.Type() == unixDiagVFS && len(b) >= 8: // struct unix_diag_vfs
			dev := binary.NativeEndian.Uint32(b[4:]) // the kernel's own form: twelve bits and twenty
			s.Ino, s.Dev = uint64(binary.NativeEndian.Uint32(b)), unix.Mkdev(dev>>20, dev&(1<<20-1))
		case ad.Type() == unixDiagPeer:
			s.Peer = uint64(ad.Uint32())
		case ad.Type() == unixDiagIcons:
			for ; len(b) >= 4; b = b[4:] {
				s.Waiting = append(s.Waiting, uint64(binary.NativeEndian.Uint32(b)))
			}
		}
	}
	return s, ad.Err()
}
