package obstacles

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"ss/agent/sockets"
)

// passesMax is what the kernel says of a message beside its bytes, at most: 253 descriptors (SCM_MAX_FD), and some words on its sender and its time.
var passesMax = unix.CmsgSpace(4*253) + 1024

// unread looks at the first message that waits in a UNIX socket. The message stays: the kernel gives duplicates of the descriptors in it. A socket with an error
// is left alone, as a look would take the error away, and so is one that counts what was looked at (SO_PEEK_OFF).
func (s *survey) unread(h sockets.Holder, fd int) {
	events := s.urgent(h, fd)
	if events&unix.POLLIN == 0 || events&unix.POLLERR != 0 {
		return
	}
	if at, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF); err != nil || at >= 0 {
		return
	}
	var b [1]byte
	control := make([]byte, passesMax)
	n, controlled, _, _, err := unix.Recvmsg(fd, b[:], control, unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return
	}
	if n == 0 && isMessage(fd, events) {
		s.add(h.Pid, "has not read an empty datagram of a UNIX socket (descriptor %d), at which CRIU stops, so that a restore would lose it and what waits behind it: have it read them", h.Fd)
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil {
		return
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_RIGHTS {
			s.passedConnections(h, m)
			continue
		}
		if m.Header.Type == unix.SCM_PIDFD && len(m.Data) >= 4 {
			_ = unix.Close(int(int32(binary.NativeEndian.Uint32(m.Data)))) // made for the look; negative where the sender has ended
		}
		s.add(h.Pid, "has not read what has come on a UNIX socket with an option that adds to what is read (descriptor %d, %s), which CRIU can't dump: have it read that, or turn the option off", h.Fd, passing(m.Header.Type))
	}
}

// isMessage says whether a look at a socket that gave nothing has found an empty datagram: streams have none. What a packet socket gives when its other end has closed
// looks the same, and so it does to the program.
func isMessage(fd int, events int16) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind == unix.SOCK_STREAM {
		return false
	}
	if kind == unix.SOCK_DGRAM || events&unix.POLLRDHUP == 0 {
		return true
	}
	behind, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err == nil && behind > 0
}

// passing is the option that has the kernel add such a message.
func passing(kind int32) string {
	options := map[int32]string{
		unix.SCM_CREDENTIALS: "SO_PASSCRED", unix.SCM_SECURITY: "SO_PASSSEC", unix.SCM_PIDFD: "SO_PASSPIDFD",
		unix.SO_TIMESTAMP_OLD: "SO_TIMESTAMP", unix.SO_TIMESTAMP_NEW: "SO_TIMESTAMP", unix.SO_TIMESTAMPNS_OLD: "SO_TIMESTAMPNS", unix.SO_TIMESTAMPNS_NEW: "SO_TIMESTAMPNS",
		unix.SO_TIMESTAMPING_OLD: "SO_TIMESTAMPING", unix.SO_TIMESTAMPING_NEW: "SO_TIMESTAMPING",
	}
	if name, ok := options[kind]; ok {
		return name
	}
	return fmt.Sprintf("a control message of type %d", kind)
}

// passedConnections looks for TCP connections among the descriptors of a message that nobody has received.
func (s *survey) passedConnections(h sockets.Holder, m unix.SocketControlMessage) {
	passed, err := unix.ParseUnixRights(&m)
	if err != nil {
		return
	}
	for _, p := range passed {
		protocol, err := unix.GetsockoptInt(p, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err == nil && protocol == unix.IPPROTO_TCP {
			s.add(h.Pid, "has not received a TCP socket that was sent to it over a UNIX socket (descriptor %d), which CRIU can't dump: have it receive it", h.Fd)
		}
		_ = unix.Close(p)
	}
}
