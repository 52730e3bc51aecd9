package inventory

import (
	"math"
	"sync"

	"golang.org/x/sys/unix"
)

// seenEmpty are the sockets in which an empty datagram was found behind others, by SO_COOKIE. The kernel passes over it when it is looked for once more, so that these
// are believed to have it until they are empty.
var seenEmpty sync.Map

// emptyBehind says of a UNIX socket that an empty datagram waits in it. CRIU stops at one, so that it and what is behind it would be lost. It looks as CRIU does, at
// one message after the other by SO_PEEK_OFF, so the process must stand still.
func emptyBehind(fd int) string {
	const why = "has not read an empty datagram of a UNIX socket, at which CRIU stops, so that a restore would lose it and what waits behind it"
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind == unix.SOCK_STREAM {
		return ""
	}
	events, ok := waiting(fd)
	cookie, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if !ok {
		seenEmpty.Delete(cookie)
		return ""
	}
	was, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF)
	if err != nil {
		return ""
	}
	defer func() { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, was) }()
	all, ended := math.MaxInt, events&unix.POLLRDHUP != 0 && kind == unix.SOCK_SEQPACKET
	if ended { // what follows the last byte reads as the end, whatever it is
		if all, err = unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil || all == 0 {
			return ""
		}
	}
	_, again := seenEmpty.Load(cookie)
	for at := -1; at < all; {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, at) != nil {
			return ""
		}
		var b [1]byte
		n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if err != nil { // there are no more
			if at < 0 {
				seenEmpty.Delete(cookie)
			}
			return ""
		}
		if n == 0 || again {
			seenEmpty.Store(cookie, true)
			return why
		}
		at = max(at, 0) + n
	}
	return ""
}

// waiting says whether something waits in a socket that may be looked at: a look at one with an error would take that away.
func waiting(fd int) (events int16, ok bool) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
	if n, err := unix.Poll(p, 0); err != nil || n != 1 {
		return 0, false
	}
	events = p[0].Revents
	return events, events&unix.POLLIN != 0 && events&unix.POLLERR == 0
}
