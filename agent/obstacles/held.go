package obstacles

import (
	"context"
	"math"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
	"ss/agent/sockets"
)

// Of kcmp(2), include/uapi/linux/kcmp.h.
const (
	kcmpFile     = 0
	kcmpVM       = 1
	kcmpFiles    = 2
	kcmpFS       = 3
	kcmpSighand  = 4
	kcmpEpollTfd = 7
)

// kcmp orders what two processes have: 0 if it is the same object, 1 or 2 by an order of the kernel's own. ok is false where it cannot tell.
func kcmp(pid1, pid2, kind int, idx1, idx2 uintptr) (order int, ok bool) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), uintptr(kind), idx1, idx2, 0)
	return int(r), errno == 0
}

// sharedMemory looks for processes that share memory, signal handlers or a working folder and are not threads of one another.
func (s *survey) sharedMemory() {
	for _, x := range []struct {
		kind int
		what string
	}{{kcmpVM, "its memory (clone with CLONE_VM)"}, {kcmpSighand, "its signal handlers (clone with CLONE_SIGHAND)"}, {kcmpFS, "its working folder and umask (clone with CLONE_FS)"}} {
		sorted := slices.Clone(s.pids)
		slices.SortFunc(sorted, func(a, b int) int {
			switch order, ok := kcmp(a, b, x.kind, 0, 0); {
			case !ok || order == 0:
				return 0
			case order == 1:
				return -1
			}
			return 1
		})
		for i := 1; i < len(sorted); i++ {
			if order, ok := kcmp(sorted[i-1], sorted[i], x.kind, 0, 0); ok && order == 0 && sorted[i-1] != sorted[i] {
				a, b := min(sorted[i-1], sorted[i]), max(sorted[i-1], sorted[i])
				if s.vforks[[2]int{a, b}] || s.vforks[[2]int{b, a}] {
					continue // see unstoppableWaits
				}
				s.add(b, "shares %s with %s and is not a thread of it, which CRIU can't dump: have it use threads or fork", x.what, proc.Whose(a))
			}
		}
	}
}

// eventDescriptor looks at an eventfd, an epoll, or another of the kernel's anonymous files that CRIU knows, but not all of it.
func (s *survey) eventDescriptor(pid, fd int, kind string) {
	info, err := proc.ReadFdInfo(pid, fd)
	if err != nil {
		return // closed meanwhile
	}
	if info.Semaphore {
		s.add(pid, "holds an eventfd with EFD_SEMAPHORE (descriptor %d), and CRIU restores it without that flag: let the program use a pipe or a POSIX semaphore", fd)
	}
	if info.Counter > math.MaxUint32 {
		s.add(pid, "holds an eventfd (descriptor %d) whose counter is %d, and CRIU restores only the lower 32 bits of it: take the snapshot when the program has read the counter", fd, info.Counter)
	}
	if kind == "[eventpoll]" {
		s.watches(pid, fd, info.Watched)
	}
}

// epollSlot is struct kcmp_epoll_slot.
type epollSlot struct{ efd, tfd, toff uint32 }

// watches looks for files that an epoll watches and its process has closed. CRIU finds a file by its descriptor.
func (s *survey) watches(pid, fd int, watched []int) {
	times := map[int]uint32{}
	for _, w := range watched {
		slot := epollSlot{uint32(fd), uint32(w), times[w]}
		times[w]++
		same := func(other int) (is, ok bool) {
			order, ok := kcmp(pid, pid, kcmpEpollTfd, uintptr(other), uintptr(unsafe.Pointer(&slot)))
			return ok && order == 0, ok
		}
		if is, _ := same(w); is {
			continue
		}
		found, known := false, false
		_ = proc.EachFd([]int{pid}, func(_, other int, _ string) {
			is, ok := same(other)
			found, known = found || is, known || ok
		})
		if known && !found && !s.fromAncestor(pid, fd) {
			s.add(pid, "has an epoll (descriptor %d) that still watches a file that was descriptor %d, which it has closed and another process holds: have it remove what it closes (EPOLL_CTL_DEL)", fd, w)
		}
	}
}

// fromAncestor says whether an ancestor of a process in the member holds the same epoll. CRIU dumps it from there, with the ancestor's descriptors, and asks
// no other process that holds it. So a child may have closed what its parent still watches, as the child with which redis-server saves does.
func (s *survey) fromAncestor(pid, fd int) bool {
	for at := pid; ; {
		st, err := proc.ReadStat(at)
		if err != nil || !slices.Contains(s.pids, st.Parent) {
			return false
		}
		at = st.Parent
		found := false
		_ = proc.EachFd([]int{at}, func(_, other int, link string) {
			if link == "anon_inode:[eventpoll]" && !found {
				order, ok := kcmp(pid, at, kcmpFile, uintptr(fd), uintptr(other))
				found = ok && order == 0
			}
		})
		if found {
			return true
		}
	}
}

// queued looks at what waits in a socket and CRIU cannot take out of it.
func (s *survey) queued(h sockets.Holder, fd, domain, protocol int) {
	switch domain {
	case unix.AF_NETLINK:
		var b [1]byte
		if n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil && n > 0 {
			s.add(h.Pid, "has not read an answer of the kernel on a netlink socket (descriptor %d), which CRIU can't dump: have it read, or close the socket", h.Fd)
		}
	case unix.AF_INET, unix.AF_INET6:
		s.queuedInet(h, fd, protocol)
	case unix.AF_UNIX:
		s.unread(h, fd)
	}
}

func (s *survey) queuedInet(h sockets.Holder, fd, protocol int) {
	switch protocol {
	case unix.IPPROTO_TCP:
		s.urgent(h, fd)
	case unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE:
		if on, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, udpCork); err == nil && on != 0 {
			s.add(h.Pid, "holds back a datagram (descriptor %d, UDP_CORK), which CRIU can't dump: have it send it", h.Fd)
		}
	}
}

// urgent looks for an urgent byte. events are what the kernel says of the socket besides.
func (s *survey) urgent(h sockets.Holder, fd int) (events int16) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI | unix.POLLIN | unix.POLLRDHUP}}
	if n, err := unix.Poll(p, 0); err != nil || n != 1 {
		return 0
	}
	if p[0].Revents&unix.POLLPRI != 0 {
		s.add(h.Pid, "has not read an urgent byte (MSG_OOB) of a connection (descriptor %d), which CRIU can't dump: have it read it", h.Fd)
	}
	return p[0].Revents
}

// unaccepted looks for bytes that were sent over UNIX sockets whose connections nobody has accepted.
func (s *survey) unaccepted(waiting []uint64) error {
	ours := map[uint64]sockets.Holder{}
	for _, inode := range waiting {
		if h, ok := s.held[inode]; ok {
			ours[inode] = h
		}
	}
	return sockets.Borrow(context.Background(), ours, func(h sockets.Holder, fd int) {
		if n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err == nil && n > 0 {
			s.add(h.Pid, "has sent bytes over a UNIX socket (descriptor %d) whose connection nobody has accepted, which CRIU can't dump: have the program that listens accept it", h.Fd)
		}
	})
}

// udpCork is UDP_CORK of include/uapi/linux/udp.h.
const udpCork = 1
