package inventory

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Unread is what waited in a descriptor, had not been read at the cut, and is in no image: CRIU leaves it out, and the kernel takes it from nobody.
type Unread struct {
	Process    int    `json:"process"`
	Descriptor int    `json:"descriptor"`
	What       string `json:"what"` // "events of inotify"
	Bytes      int    `json:"bytes"`
}

// takeUnread lists what waits in a process's inotify and fanotify descriptors.
func takeUnread(pid, inner int) ([]Unread, error) {
	var out []Unread
	what := map[int]string{}
	err := proc.EachFd([]int{pid}, func(_, fd int, link string) {
		switch link {
		case "anon_inode:inotify":
			what[fd] = "events of inotify"
		case "anon_inode:[fanotify]":
			what[fd] = "events of fanotify"
		}
	})
	if err != nil || len(what) == 0 {
		return nil, err
	}
	var numbers []int
	for fd := range what {
		numbers = append(numbers, fd)
	}
	slices.Sort(numbers)
	err = borrow(pid, numbers, func(number, fd int) {
		if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil && n > 0 {
			out = append(out, Unread{inner, number, what[number], n})
		}
	})
	return out, err
}

// datagrams is how many bytes of datagrams wait in a UDP socket, the kernel's own for each included; 0 for others.
func datagrams(fd, protocol int) int {
	if protocol != unix.IPPROTO_UDP && protocol != unix.IPPROTO_UDPLITE {
		return 0
	}
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ) // of the next datagram
	if err != nil {
		return 0
	}
	return n
}

// lost says what a restore does not put back.
func (u Unread) lost() Difference {
	return Difference{Process: u.Process, Object: fmt.Sprintf("descriptor %d", u.Descriptor), What: u.What + " that had not been read", Was: fmt.Sprintf("%d bytes", u.Bytes), Is: "none",
		Why: "the kernel gives them to nobody else"}
}

// multicastAddr is the address that IP_MULTICAST_IF was set to, with the interface that has it: "192.0.2.1%eth0". The kernel does not tell of an interface
// that was set by its number.
func multicastAddr(pid, fd int) string {
	value, err := unix.GetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF)
	if err != nil || value == [4]byte{} {
		return ""
	}
	addr := netip.AddrFrom4(value)
	for _, name := range interfaces(pid) {
		if slices.Contains(addresses(name), addr) {
			return addr.String() + "%" + name
		}
	}
	return addr.String() + "%"
}

// addresses are the IPv4 addresses of an interface of this host.
func addresses(name string) []netip.Addr {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	list, err := iface.Addrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap().Is4() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// applyMulticastAddr sets the address again if the interface has it, and else the interface's first one.
func applyMulticastAddr(fd int, want string) error {
	text, name, _ := strings.Cut(want, "%")
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return err
	}
	has := addresses(name)
	switch {
	case len(has) == 0:
		return fmt.Errorf("this host has no network interface %s with an IPv4 address", name)
	case !slices.Contains(has, addr):
		addr = has[0]
	}
	if now, err := unix.GetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF); err == nil && now == addr.As4() {
		return nil
	}
	return unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, addr.As4())
}
