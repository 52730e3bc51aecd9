package target

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// comingSocket is a socket on its way here: as it was, and as it will be.
type comingSocket struct {
	Arrival
	was, is NeededSocket
}

// sockets compares the internet sockets to come with this host's addresses, with the sockets that stay, and with one another.
func (t *plan) sockets(ctx context.Context) error {
	coming := t.comingSockets()
	var blamed []uint64
	for _, s := range coming {
		for _, h := range t.inTheWay(s) {
			if !h.Orphan {
				blamed = append(blamed, h.Inode)
			}
		}
	}
	holders, err := t.Lives.Holders(ctx, blamed)
	if err != nil {
		return err
	}
	for i, s := range coming {
		if t.address(s) && t.device(s) && t.strangers(s, holders) {
			t.tryBind(ctx, s)
		}
		t.together(s, coming[:i])
	}
	return nil
}

func (t *plan) comingSockets() []comingSocket {
	var out []comingSocket
	for _, c := range t.Coming {
		for _, s := range c.Needs.Sockets() {
			is := s
			is.Local, is.Remote = t.move(s.Local), t.move(s.Remote)
			out = append(out, comingSocket{Arrival: c, was: s, is: is})
		}
	}
	return out
}

func (t *plan) move(ap netip.AddrPort) netip.AddrPort {
	if to, ok := t.Moved[ap.Addr()]; ok {
		return netip.AddrPortFrom(to, ap.Port())
	}
	return ap
}

// address looks whether the socket's own address is of this host.
func (t *plan) address(s comingSocket) bool {
	addr := s.is.Local.Addr()
	ours := addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() || s.is.Anywhere || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	for _, n := range t.Networks {
		ours = ours || n.Addr() == addr.WithZone("") || !s.is.Connected() && s.is.datagrams() && broadcast(n) == addr
	}
	if ours {
		return true
	}
	what := "port " + s.was.Local.String()
	if s.is.Connected() {
		what = "its connection with " + s.is.Remote.String()
	}
	t.add(s.Arrival, "%s uses the address %s, which is not of this host: give --remap-addr %s=ADDRESS, or this host that address", what, addr, s.was.Local.Addr())
	return false
}

// broadcast is the broadcast address of an IPv4 network, the zero value of others.
func broadcast(n netip.Prefix) netip.Addr {
	if !n.Addr().Is4() {
		return netip.Addr{}
	}
	b := n.Addr().As4()
	for i := n.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

func (t *plan) device(s comingSocket) bool {
	if s.is.Device == "" {
		return true
	}
	if _, err := net.InterfaceByName(s.is.Device); err != nil {
		t.add(s.Arrival, "port %s is bound to the network device %s, which this host does not have: make one of that name", s.is.Local, s.is.Device)
		return false
	}
	return true
}

// devices looks whether the devices of packet sockets have the same numbers here, by which CRIU binds them.
func (t *plan) devices() {
	for _, c := range t.Coming {
		for _, d := range c.Needs.Objects.Devices {
			here, err := net.InterfaceByIndex(d.Index)
			switch {
			case d.Name == "": // it was gone at the dump, or is in a network namespace of the member's own
			case err != nil:
				t.add(c, "a packet socket of it is bound to the network device %s, which had the number %d, and this host has none of that number: have the program close the socket before the snapshot, or end it and start it here", d.Name, d.Index)
			case here.Name != d.Name:
				t.add(c, "a packet socket of it is bound to the network device %s, which had the number %d, and here that is %s: have the program close the socket before the snapshot, or end it and start it here", d.Name, d.Index, here.Name)
			}
		}
	}
}

// midstream looks for connections that get another address where the host's connection tracking takes up none that it has not seen begin. To a firewall, what
// comes on them belongs to no connection.
func (t *plan) midstream() {
	if proc.Sysctl("net/netfilter/nf_conntrack_tcp_loose") != "0" || proc.Sysctl("net/netfilter/nf_conntrack_count") == "0" { // no rule asks for it
		return
	}
	told := map[string]bool{}
	for _, s := range t.comingSockets() {
		if !told[s.Member] && s.was.Protocol == "tcp" && s.was.Connected() && (s.is.Local != s.was.Local || s.is.Remote != s.was.Remote) {
			told[s.Member] = true
			t.add(s.Arrival, "its connection %s with %s would stand still, as this host's connection tracking does not track connections that already exist: "+
				"sysctl -w net.netfilter.nf_conntrack_tcp_loose=1, and set it back when the job runs", s.is.Local, s.is.Remote)
		}
	}
}

// inTheWay are the sockets that live here, do not end with the job, and keep s from being made.
func (t *plan) inTheWay(s comingSocket) []HostSocket {
	var out []HostSocket
	for _, h := range t.lives.Sockets {
		if !h.Ours && InTheWay(s.is, h.NeededSocket) {
			out = append(out, h)
		}
	}
	return out
}

// strangers looks for sockets of programs that are not of the job. What closed connections have left is not a fault if the fence may clear it
// away: when all of it was delivered, or when it is the job's own.
func (t *plan) strangers(s comingSocket, holders map[uint64]string) (free bool) {
	free = true
	for _, h := range t.inTheWay(s) {
		by := cmp.Or(holders[h.Inode], "a program of another network or process namespace")
		switch {
		case h.Orphan && (h.Over || s.is.Connected() || t.ours(s) || t.ofJob(h.Remote.Addr())):
			// The fence clears it away. Until then nobody can bind here.
			free = false
		case h.Orphan:
			free = false
			t.add(s.Arrival, "port %s: a connection with %s that a program here has closed still sends its last bytes: try again when it is over, within some minutes", s.is.Local, h.Remote)
		case s.is.Connected() && h.Connected():
			free = false
			t.add(s.Arrival, "its connection %s with %s is there already, held by %s: end that", s.is.Local, s.is.Remote, by)
		case h.Connected() && h.Protocol == "tcp":
			// A connection of a stranger's that uses the port by chance. Whether one may bind beside it depends on options of its socket: tryBind finds out.
		case s.is.Shares && (apart(s.is, h.NeededSocket) || s.is.datagrams() && s.Source == t.Host):
			// Such sockets share a port if all of them say so: tryBind finds out. In place, programs that did so before the cut do so again.
		default:
			free = false
			t.add(s.Arrival, "port %s: address already in use by %s; end what uses it, or restore to another host", s.is.Local, by)
		}
	}
	return free
}

// ours says whether a member of the job holds, until it ends, a socket where s is to come.
func (t *plan) ours(s comingSocket) bool {
	return slices.ContainsFunc(t.lives.Sockets, func(h HostSocket) bool { return h.Ours && InTheWay(s.is, h.NeededSocket) })
}

// ofJob says whether an address is of this host or of one that members come from or that other parts go to.
func (t *plan) ofJob(addr netip.Addr) bool {
	if addr.IsLoopback() || slices.ContainsFunc(t.Networks, func(n netip.Prefix) bool { return n.Addr() == addr }) {
		return true
	}
	for _, c := range t.Coming {
		for _, s := range c.Needs.Sockets() {
			if s.Connected() && (s.Remote.Addr() == addr || t.move(s.Remote).Addr() == addr) {
				return true
			}
		}
	}
	return false
}

// tryBind binds as CRIU will, where no member of the job holds the port yet.
func (t *plan) tryBind(ctx context.Context, s comingSocket) {
	if s.is.Protocol == "tcp" && s.is.Connected() {
		return // in repair mode a connection binds beside anything
	}
	if t.ours(s) {
		return
	}
	if err := bindAsCRIU(ctx, s.is); err != nil {
		t.add(s.Arrival, "port %s: %v; end what uses it", s.is.Local, err)
	}
}

// bindAsCRIU binds a socket with the options that CRIU sets until all are bound (criu/sk-inet.c), and closes it again.
func bindAsCRIU(ctx context.Context, s NeededSocket) error {
	if s.Protocol == "udplite" {
		return bindUDPLite(s)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = setAsCRIU(int(fd), s) })
		return errors.Join(set, err)
	}}
	lc.SetMultipathTCP(false)
	family := "6"
	if s.Local.Addr().Is4() {
		family = "4"
	}
	if s.Protocol == "udp" {
		c, err := lc.ListenPacket(ctx, "udp"+family, s.Local.String())
		if err != nil {
			return plain(err)
		}
		return c.Close()
	}
	l, err := lc.Listen(ctx, "tcp"+family, s.Local.String())
	if err != nil {
		return plain(err)
	}
	return l.Close()
}

// bindUDPLite is bindAsCRIU of a protocol that package net does not know.
func bindUDPLite(s NeededSocket) error {
	var at unix.Sockaddr = &unix.SockaddrInet6{Port: int(s.Local.Port()), Addr: s.Local.Addr().As16()}
	family := unix.AF_INET6
	if s.Local.Addr().Is4() {
		family, at = unix.AF_INET, &unix.SockaddrInet4{Port: int(s.Local.Port()), Addr: s.Local.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDPLITE)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return errors.New("this kernel has no UDP-Lite")
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := setAsCRIU(fd, s); err != nil {
		return plain(err)
	}
	return unix.Bind(fd, at)
}

// setAsCRIU sets the options that CRIU sets before it binds a socket.
func setAsCRIU(fd int, s NeededSocket) error {
	var errs []error
	set := func(level, name, value int) {
		errs = append(errs, os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, name, value)))
	}
	set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if s.Anywhere {
		set(unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}
	if !s.Local.Addr().Is4() {
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, boolInt(s.V6Only))
	}
	if s.Device != "" {
		errs = append(errs, os.NewSyscallError("setsockopt", unix.BindToDevice(fd, s.Device)))
	}
	return errors.Join(errs...)
}

// plain is what the kernel said, without what package net puts before it.
func plain(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// together looks for sockets to come that would be in each other's way. Those that lived on one host with other addresses between them did so by their
// programs' will.
func (t *plan) together(s comingSocket, before []comingSocket) {
	for _, o := range before {
		if !InTheWay(s.is, o.is) || o.Source == s.Source && InTheWay(s.was, o.was) || s.is.Protocol == "tcp" && s.is.Connected() != o.is.Connected() {
			continue
		}
		if s.is.Shares && o.is.Shares && apart(s.is, o.is) {
			continue
		}
		what := fmt.Sprintf("port %s would be %s's as well", s.is.Local, o.Member)
		if s.is.Connected() {
			what = fmt.Sprintf("its connection %s with %s would be %s's as well", s.is.Local, s.is.Remote, o.Member)
		}
		t.add(s.Arrival, "%s (they were %s on %s and %s on %s): restore them to different hosts%s", what, s.was.Local, s.Source, o.was.Local, o.Source,
			t.addrRemedy(s, o))
	}
}

// addrRemedy says how two sockets that had different addresses may have them again.
func (t *plan) addrRemedy(s, o comingSocket) string {
	var olds []string
	for _, a := range []netip.Addr{s.was.Local.Addr(), o.was.Local.Addr()} {
		if _, moved := t.Moved[a]; moved {
			olds = append(olds, a.String())
		}
	}
	if len(olds) == 0 || s.was.Local.Addr() == o.was.Local.Addr() {
		return ""
	}
	return fmt.Sprintf(", or give --remap-addr for %s", strings.Join(olds, " or "))
}
