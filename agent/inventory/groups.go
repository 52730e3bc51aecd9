package inventory

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// joinable caches, for each network namespace's /proc/PID/net, the multicast groups that anybody there has joined. The kernel does not list the
// groups of a socket; it answers for one group at a time.
type joinable map[uint64][]membership

// membership is a group on an interface.
type membership struct {
	group netip.Addr
	iface int
}

// joined lists the groups that a socket has joined, as "GROUP%INTERFACE".
// The second result maps those from which it takes what some sources send to what membership.from says.
func (j joinable) joined(pid, fd, family int) ([]string, map[string]string) {
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return nil, nil
	}
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind == unix.SOCK_STREAM {
		return nil, nil
	}
	network, err := proc.Namespace(pid, "net")
	if err != nil {
		return nil, nil
	}
	all, ok := j[network]
	if !ok {
		all = slices.Concat(groups4(pid), groups6(pid))
		j[network] = all
	}
	var out []string
	var sources map[string]string
	for _, m := range all {
		if !m.holds(fd) {
			continue
		}
		name := m.group.String() + "%" + ifaceName(pid, m.iface)
		out = append(out, name)
		if from := m.from(fd); from != "" {
			if sources == nil {
				sources = map[string]string{}
			}
			sources[name] = from
		}
	}
	return out, sources
}

// groupReq is struct group_req and the head of struct group_filter, of include/uapi/linux/in.h.
type groupReq struct {
	iface uint32
	_     uint32
	group [128]byte // sockaddr_storage
}

type groupFilter struct {
	groupReq
	mode, sources uint32
	source        [128]byte
}

func (m membership) request() groupReq {
	r := groupReq{iface: uint32(m.iface)}
	if m.group.Is4() {
		binary.NativeEndian.PutUint16(r.group[:], unix.AF_INET)
		copy(r.group[4:], m.group.AsSlice())
	} else {
		binary.NativeEndian.PutUint16(r.group[:], unix.AF_INET6)
		copy(r.group[8:], m.group.AsSlice())
	}
	return r
}

func (m membership) level() uintptr {
	if m.group.Is4() {
		return unix.SOL_IP
	}
	return unix.SOL_IPV6
}

// holds says whether the socket has joined the group: the kernel gives its source filter for a group that it has joined only (RFC 3678).
func (m membership) holds(fd int) bool {
	f := groupFilter{groupReq: m.request()}
	size := uint32(unsafe.Offsetof(f.source)) // GROUP_FILTER_SIZE(0)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), m.level(), unix.MCAST_MSFILTER,
		uintptr(unsafe.Pointer(&f)), uintptr(unsafe.Pointer(&size)), 0)
	return errno == 0
}

// maxSources bounds the sources of one group that are kept (igmp_max_msf is 10 by default).
const maxSources = 64

// sourceFilter is struct group_filter with room for maxSources sources.
type sourceFilter struct {
	groupReq
	mode, sources uint32
	source        [maxSources][128]byte
}

// size is GROUP_FILTER_SIZE of include/uapi/linux/in.h.
func (f *sourceFilter) size() uint32 {
	return uint32(unsafe.Offsetof(f.source)) + f.sources*uint32(unsafe.Sizeof(f.source[0]))
}

// from says from which sources a socket takes what is sent to the group: "include ADDRESS…" or "exclude ADDRESS…"; "" for all.
func (m membership) from(fd int) string {
	f := &sourceFilter{groupReq: m.request(), sources: maxSources}
	size := f.size()
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), m.level(), unix.MCAST_MSFILTER, uintptr(unsafe.Pointer(f)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || f.mode == unix.MCAST_EXCLUDE && f.sources == 0 {
		return ""
	}
	words := []string{"exclude"}
	if f.mode == unix.MCAST_INCLUDE {
		words[0] = "include"
	}
	for _, s := range f.source[:min(f.sources, maxSources)] {
		addr := netip.AddrFrom16([16]byte(s[8:24]))
		if m.group.Is4() {
			addr = netip.AddrFrom4([4]byte(s[4:8]))
		}
		words = append(words, addr.String())
	}
	return strings.Join(words, " ")
}

// take makes a socket that has joined the group take from the sources that from has named.
func (m membership) take(fd int, from string) error {
	f := &sourceFilter{groupReq: m.request(), mode: unix.MCAST_EXCLUDE}
	for i, word := range strings.Fields(from) {
		if i == 0 {
			if word == "include" {
				f.mode = unix.MCAST_INCLUDE
			}
			continue
		}
		addr, err := netip.ParseAddr(word)
		if err != nil || f.sources == maxSources {
			return fmt.Errorf("%q are not the sources of a group", from)
		}
		f.source[f.sources] = membership{group: addr}.request().group
		f.sources++
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), m.level(), unix.MCAST_MSFILTER, uintptr(unsafe.Pointer(f)), uintptr(f.size()), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (m membership) join(fd int) error {
	r := m.request()
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), m.level(), unix.MCAST_JOIN_GROUP,
		uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// applyGroups joins the groups that the restored socket has not joined, on the interface of the same name.
func applyGroups(pid, fd int, want Socket, differs func(what, was, is string, err error)) {
	for _, text := range want.Groups {
		name, iface, _ := strings.Cut(text, "%")
		group, err := netip.ParseAddr(name)
		m := membership{group: group}
		if err == nil {
			m.iface, err = ifaceIndex(pid, iface)
		}
		if err == nil && !m.holds(fd) {
			err = m.join(fd)
		}
		if from := want.Sources[text]; err == nil && m.from(fd) != from {
			err = m.take(fd, from)
		}
		if err != nil {
			differs("the multicast group "+name+" on "+iface, "joined", "not joined", err)
		}
	}
}

// groups4 reads /proc/PID/net/igmp: an interface's line begins with its number, its groups follow in lines of their own, in hexadecimal digits of the
// machine's byte order.
func groups4(pid int) []membership {
	var out []membership
	iface := 0
	proc.EachLine(pid, "net/igmp", func(line string) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			return
		}
		if line[0] != '\t' {
			iface, _ = strconv.Atoi(fields[0])
			return
		}
		n, err := strconv.ParseUint(fields[0], 16, 32)
		if err != nil || iface == 0 {
			return
		}
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], uint32(n))
		out = append(out, membership{netip.AddrFrom4(b), iface})
	})
	return out
}

// groups6 reads /proc/PID/net/igmp6: number and name of an interface, and a group in hexadecimal digits.
func groups6(pid int) []membership {
	var out []membership
	proc.EachLine(pid, "net/igmp6", func(line string) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			return
		}
		iface, err := strconv.Atoi(fields[0])
		b, bad := hex.DecodeString(fields[2])
		if err != nil || bad != nil || len(b) != 16 {
			return
		}
		out = append(out, membership{netip.AddrFrom16([16]byte(b)), iface})
	})
	return out
}

// interfaces maps the numbers of a process's network interfaces to their names (/proc/PID/net/igmp names every one that is up).
func interfaces(pid int) map[int]string {
	names := map[int]string{}
	proc.EachLine(pid, "net/igmp", func(line string) {
		fields := strings.Fields(line)
		if len(fields) < 2 || line[0] == '\t' {
			return
		}
		if n, err := strconv.Atoi(fields[0]); err == nil {
			names[n] = strings.TrimSuffix(fields[1], ":")
		}
	})
	proc.EachLine(pid, "net/igmp6", func(line string) {
		if fields := strings.Fields(line); len(fields) >= 2 {
			if n, err := strconv.Atoi(fields[0]); err == nil {
				names[n] = fields[1]
			}
		}
	})
	return names
}

func ifaceName(pid, number int) string { return interfaces(pid)[number] }

func ifaceIndex(pid int, name string) (int, error) {
	for number, n := range interfaces(pid) {
		if n == name {
			return number, nil
		}
	}
	return 0, fmt.Errorf("this host has no network interface %s", name)
}

// interfaceOption is an option whose value is the number of an interface. Another host numbers its interfaces otherwise.
type interfaceOption struct {
	option
	family  int
	network bool // in network byte order
}

var interfaceOptions = []interfaceOption{
	{option{"IP_UNICAST_IF", unix.SOL_IP, unix.IP_UNICAST_IF, 4}, unix.AF_INET, true},
	{option{"IPV6_UNICAST_IF", unix.SOL_IPV6, unix.IPV6_UNICAST_IF, 4}, unix.AF_INET6, true},
	{option{"IPV6_MULTICAST_IF", unix.SOL_IPV6, unix.IPV6_MULTICAST_IF, 4}, unix.AF_INET6, false},
}

func (o interfaceOption) order() binary.ByteOrder {
	if o.network {
		return binary.BigEndian
	}
	return binary.NativeEndian
}

// takeInterfaces names the interfaces that a socket sends through.
func takeInterfaces(pid, fd, family int) Options {
	var out Options
	for _, o := range interfaceOptions {
		value, err := o.get(fd)
		if o.family != family || err != nil || len(value) != 4 {
			continue
		}
		if number := int(o.order().Uint32(value)); number != 0 {
			if out == nil {
				out = Options{}
			}
			out[o.name] = ifaceName(pid, number)
		}
	}
	if family == unix.AF_INET {
		if addr := multicastAddr(pid, fd); addr != "" {
			if out == nil {
				out = Options{}
			}
			out[multicastIf] = addr
		}
	}
	return out
}

// applyInterfaces makes a socket send through the interfaces of the same names.
func applyInterfaces(pid, fd int, want Socket, differs func(what, was, is string, err error)) {
	for _, o := range interfaceOptions {
		name := want.Interfaces[o.name]
		if name == "" {
			continue
		}
		number, err := ifaceIndex(pid, name)
		if err == nil {
			value := make([]byte, 4)
			o.order().PutUint32(value, uint32(number))
			err = o.set(fd, value)
		}
		if err != nil {
			differs(o.name, name, "not set", err)
		}
	}
	if addr := want.Interfaces[multicastIf]; addr != "" {
		if err := applyMulticastAddr(fd, addr); err != nil {
			differs(multicastIf, addr, "not set", err)
		}
	}
}

// multicastIf is an option whose value is an address of the interface.
const multicastIf = "IP_MULTICAST_IF"
