package cell

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
	"ss/agent/sockets"
)

// PushAcks makes the kernel send the acknowledgements that it is delaying for m's connections, so
// that no peer's retransmission timer runs out over a segment that did arrive. It returns what each
// connection had under way before that. m must be frozen.
//
// Setting TCP_QUICKACK sends an acknowledgement that is due, but only if all data were read (tcp(7),
// and __tcp_cleanup_rbuf in net/ipv4/tcp.c), which a frozen program does not do. Where data wait, the
// kernel is made to believe that more than a full segment is unacknowledged, the other reason for
// which it sends at once: see forceAck. A watcher should be there: it ends repair mode should this
// agent die in the few microseconds of it.
func (g *Manager) PushAcks(ctx context.Context, m agent.Member) ([]agent.Flow, error) {
	var flows []agent.Flow
	err := g.eachTCP(ctx, m, func(h sockets.Holder, fd int) error {
		flow, err := flowOf(fd)
		if errors.Is(err, unix.ENOTCONN) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("descriptor %d of %s: %w", h.Fd, proc.Whose(h.Pid), err)
		}
		flows = append(flows, flow)
		if err := quickAck(fd); err != nil {
			return err
		}
		unread, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		if err != nil || unread == 0 {
			return nil //nolint:nilerr // EINVAL says that it is not connected: there is nobody to acknowledge to
		}
		if err := forceAck(fd); err != nil {
			return fmt.Errorf("descriptor %d of %s: %w", h.Fd, proc.Whose(h.Pid), err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("push acknowledgements of %s/%s: %w", m.Job, m.Name, err)
	}
	return flows, nil
}

func flowOf(fd int) (agent.Flow, error) {
	name, err := unix.Getpeername(fd)
	if err != nil {
		return agent.Flow{}, fmt.Errorf("name of the other end: %w", err)
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return agent.Flow{}, fmt.Errorf("TCP_INFO: %w", err)
	}
	flow := agent.Flow{Unacked: info.Unacked}
	switch sa := name.(type) {
	case *unix.SockaddrInet4:
		flow.Remote = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		flow.Remote = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return flow, nil
}

func quickAck(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1); err != nil {
		return fmt.Errorf("TCP_QUICKACK: %w", err)
	}
	return nil
}

// Of include/uapi/linux/tcp.h.
const (
	tcpRepairOn        = 1
	tcpRepairOffSilent = -1 // TCP_REPAIR_OFF_NO_WP: without a window probe
	tcpRecvQueue       = 1
)

// tcpRepairWindow is struct tcp_repair_window of include/uapi/linux/tcp.h.
type tcpRepairWindow struct{ sndWl1, sndWnd, maxWindow, rcvWnd, rcvWup uint32 }

// forceAck sends an acknowledgement that is due though data wait to be read. In repair mode it moves
// rcv_wup, the sequence number that was acknowledged last, so far back that more than a segment seems
// to be unacknowledged, and leaves the receive window's right edge where it is; then TCP_QUICKACK
// sends, and the kernel sets rcv_wup right as it does so. Where nothing is due, nothing is changed.
func forceAck(fd int) (err error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.State != sockets.Established && info.State != sockets.CloseWait {
		return err
	}
	reuse, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR) // repair mode forgets it
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, tcpRepairOn); err != nil {
		return fmt.Errorf("enter repair mode: %w", err)
	}
	moved, err := moveAcked(fd, info.Rcv_mss)
	err = errors.Join(err,
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, tcpRepairOffSilent),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse))
	if err != nil || !moved {
		return err
	}
	return quickAck(fd)
}

// moveAcked is what forceAck does in repair mode. It reports whether an acknowledgement is due.
func moveAcked(fd int, mss uint32) (bool, error) {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, tcpRecvQueue); err != nil {
		return false, fmt.Errorf("choose the receive queue: %w", err)
	}
	seq, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
	if err != nil {
		return false, fmt.Errorf("read rcv_nxt: %w", err)
	}
	var w tcpRepairWindow
	size := uint32(unsafe.Sizeof(w))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR_WINDOW,
		uintptr(unsafe.Pointer(&w)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return false, fmt.Errorf("read the window: %w", errno)
	}
	rcvNxt := uint32(seq)
	if w.rcvWup == rcvNxt {
		return false, nil
	}
	back := rcvNxt - (mss + 1)
	w.rcvWnd += w.rcvWup - back
	w.rcvWup = back
	_, _, errno = unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR_WINDOW,
		uintptr(unsafe.Pointer(&w)), unsafe.Sizeof(w), 0)
	if errno != 0 {
		return false, fmt.Errorf("set the window: %w", errno)
	}
	return true, nil
}
