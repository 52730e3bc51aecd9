package sockets

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Holder is one descriptor that refers to a socket.
type Holder struct{ Pid, Fd int }

// Held maps the inode of every socket that the processes hold to one of its descriptors.
func Held(pids []int) (map[uint64]Holder, error) {
	out := map[uint64]Holder{}
	err := proc.EachFd(pids, func(pid, fd int, link string) {
		if ino, ok := proc.SocketInode(link); ok {
			if _, known := out[ino]; !known {
				out[ino] = Holder{pid, fd}
			}
		}
	})
	return out, err
}

// Borrow calls f with a duplicate of each socket (pidfd_getfd(2)) and closes it again. Sockets whose
// process has ended or closed them meanwhile are left out.
func Borrow(ctx context.Context, held map[uint64]Holder, f func(Holder, int)) error {
	pidfds := map[int]int{}
	defer func() {
		for _, fd := range pidfds {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
	}()
	for _, h := range held {
		if err := ctx.Err(); err != nil {
			return err
		}
		pidfd, ok := pidfds[h.Pid]
		if !ok {
			var err error
			if pidfd, err = unix.PidfdOpen(h.Pid, 0); err != nil {
				if !proc.Gone(err) {
					return fmt.Errorf("open a pidfd of process %d: %w", h.Pid, err)
				}
				pidfd = -1
			}
			pidfds[h.Pid] = pidfd
		}
		if pidfd < 0 {
			continue
		}
		fd, err := unix.PidfdGetfd(pidfd, h.Fd, 0)
		if err != nil {
			if proc.Gone(err) || errors.Is(err, unix.EBADF) {
				continue
			}
			return fmt.Errorf("duplicate descriptor %d of process %d: %w", h.Fd, h.Pid, err)
		}
		f(h, fd)
		_ = unix.Close(fd)
	}
	return nil
}

// ProtocolOf is the name that the kernel has for the protocol of a socket ("TCP", "TCPv6", "UNIX"), "" if it does not say.
func ProtocolOf(h Holder) string {
	var buf [32]byte
	n, err := unix.Getxattr(proc.FdPath(h.Pid, h.Fd), "system.sockprotoname", buf[:])
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// LocalAddr asks a socket of a process what it is bound to.
func LocalAddr(h Holder) (netip.AddrPort, error) {
	pidfd, err := unix.PidfdOpen(h.Pid, 0)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, h.Fd, 0)
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
