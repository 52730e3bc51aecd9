package cell

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/sockets"
)

// acting starts a member that does one of memberMain's acts, and returns what it said then.
func acting(t *testing.T, g *Manager, act string, args ...string) (agent.Member, string) {
	t.Helper()
	b := newBell(t)
	m := start(t, g, agent.Member{Command: member(append([]string{act, b.path}, args...)...)})
	said := b.wait(t)
	if strings.HasPrefix(said, "failed") {
		t.Fatal(said)
	}
	return m, said
}

func socketsOfMember(t *testing.T, g *Manager, m agent.Member) []agent.Socket {
	t.Helper()
	s, err := g.Sockets(limit(t), m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func listen(t *testing.T, network, addr string) *net.TCPListener {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func accept(t *testing.T, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	if err := l.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func TestSocketsOfConnections(t *testing.T) {
	g := newManager(t, Config{})
	l4, l6, dual := listen(t, "tcp4", "127.0.0.1:0"), listen(t, "tcp6", "[::1]:0"), listen(t, "tcp", ":0")
	mapped := fmt.Sprintf("127.0.0.1:%d", dual.Addr().(*net.TCPAddr).Port)
	m, _ := acting(t, g, "dial", "wait", l4.Addr().String(), l6.Addr().String(), mapped)
	want := map[netip.AddrPort]netip.AddrPort{}
	for _, l := range []*net.TCPListener{l4, l6, dual} {
		c := accept(t, l)
		want[addrPort(c.RemoteAddr())] = addrPort(c.LocalAddr())
	}
	if err := g.Freeze(limit(t), m); err != nil {
		t.Fatal(err)
	}
	got := socketsOfMember(t, g, m)
	for _, s := range got {
		if want[s.Local] != s.Remote || s.Protocol != "tcp" || s.Listening || s.HalfOpen || s.Pid != m.Pid || s.Inode == 0 || s.Member != m.Name || s.Command == "" {
			t.Errorf("%+v", s)
		}
		delete(want, s.Local)
	}
	if len(want) != 0 || len(got) != 3 {
		t.Errorf("missing %v in %+v", want, got)
	}
}

func TestSocketsOfListeners(t *testing.T) {
	g := newManager(t, Config{})
	plain, port := acting(t, g, "listen", "tcp", "127.0.0.1")
	c := dial(t, "127.0.0.1:"+port) // never accepted
	got := socketsOfMember(t, g, plain)
	if len(got) != 2 || !got[0].Listening || got[0].Wildcard || got[0].Local.String() != "127.0.0.1:"+port || got[0].Remote.IsValid() {
		t.Fatalf("%+v", got)
	}
	if s := got[1]; !s.HalfOpen || s.Listening || s.Remote != addrPort(c.LocalAddr()) || s.Local != got[0].Local || s.Pid != plain.Pid || s.Protocol != "tcp" {
		t.Errorf("not accepted: %+v", s)
	}

	deferring, port := acting(t, g, "listen", "defer", "0.0.0.0")
	dial(t, "127.0.0.1:"+port) // stays SYN-RECV as long as it sends nothing
	got = socketsOfMember(t, g, deferring)
	if len(got) != 2 || !got[0].Wildcard || !got[1].HalfOpen {
		t.Errorf("SYN-RECV: %+v", got)
	}

	multi, port := acting(t, g, "listen", "mptcp", "127.0.0.1")
	got = socketsOfMember(t, g, multi)
	if len(got) != 1 || got[0].Protocol != "mptcp" || !got[0].Listening || got[0].Local.String() != "127.0.0.1:"+port {
		t.Errorf("mptcp: %+v", got)
	}
}

func TestSocketsConnecting(t *testing.T) {
	g := newManager(t, Config{})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	full := fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
	dial(t, full) // fills the queue: from now on SYNs are dropped
	m, _ := acting(t, g, "dial", "try", full)
	got := socketsOfMember(t, g, m)
	if len(got) != 1 || !got[0].Connecting || got[0].HalfOpen || got[0].Remote.String() != full {
		t.Errorf("SYN-SENT: %+v", got)
	}
}

func TestSocketsUDP(t *testing.T) {
	g := newManager(t, Config{})
	m, _ := acting(t, g, "udp", "127.0.0.1:9")
	got := socketsOfMember(t, g, m)
	if len(got) != 1 || got[0].Protocol != agent.UDP || got[0].Remote.String() != "127.0.0.1:9" || got[0].HalfOpen || got[0].Wildcard {
		t.Errorf("%+v", got)
	}
}

func TestSocketsAreQuick(t *testing.T) {
	g := newManager(t, Config{})
	l := listen(t, "tcp4", "127.0.0.1:0")
	addrs := slices.Repeat([]string{l.Addr().String()}, 100)
	m, _ := acting(t, g, "dial", append([]string{"wait"}, addrs...)...)
	for range addrs {
		accept(t, l)
	}
	if err := g.Freeze(limit(t), m); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name string
		do   func() error
	}{
		{"Sockets", func() error { _, err := g.Sockets(limit(t), m); return err }},
		{"PushAcks", func() error { _, err := g.PushAcks(limit(t), m); return err }},
		{"Heal", func() error { return g.Heal(limit(t), m) }},
		{"Members", func() error { _, err := g.Members(limit(t)); return err }},
		{"Obstacles", func() error { _, err := g.Obstacles(limit(t), m); return err }},
	} {
		best := time.Hour
		for range 5 {
			begin := time.Now()
			if err := f.do(); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(begin))
		}
		t.Logf("%s of a member with 100 connections: %v", f.name, best)
	}
	if got := socketsOfMember(t, g, m); len(got) != 100 {
		t.Errorf("%d sockets", len(got))
	}
}

// rawInt reads or sets an option of our own end of a connection.
func rawInt(t *testing.T, c syscall.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
}

func unacked(t *testing.T, c syscall.Conn) (n uint32) {
	t.Helper()
	rawInt(t, c, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = info.Unacked
		}
		return err
	})
	return n
}

func TestPushAcks(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		m, addr := acting(t, g, "echo", "127.0.0.1:0")
		c := dial(t, addr)
		b := make([]byte, 1)
		for range 50 { // an exchange of words makes the kernel delay acknowledgements
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Freeze(limit(t), m); err != nil {
			t.Fatal(err)
		}
		delayed := 0
		for range 20 {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			delayed += int(unacked(t, c))
			flows, err := g.PushAcks(limit(t), m)
			if err != nil {
				t.Fatal(err)
			}
			if len(flows) != 1 || flows[0].Remote.String() != c.LocalAddr().String() || flows[0].Unacked != 0 {
				t.Fatalf("flows %+v", flows)
			}
			if n := unacked(t, c); n != 0 {
				t.Fatalf("%d segments are not acknowledged", n)
			}
		}
		if delayed == 0 {
			t.Error("the kernel delayed no acknowledgement, so this test shows nothing")
		}
	})
}

func TestHealEndsRepairMode(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		l := listen(t, "tcp4", "127.0.0.1:0")
		m, _ := acting(t, g, "dial", "wait", l.Addr().String())
		accept(t, l)
		repair := func(f func(fd int)) {
			held, err := sockets.Held([]int{m.Pid})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			if err := sockets.Borrow(t.Context(), held, func(_ sockets.Holder, fd int) { n++; f(fd) }); err != nil || n != 1 {
				t.Fatalf("%d sockets, %v", n, err)
			}
		}
		if err := g.Freeze(limit(t), m); err != nil {
			t.Fatal(err)
		}
		repair(func(fd int) {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
				t.Fatal(err)
			}
		})
		if err := errors.Join(g.Heal(limit(t), m), g.Heal(limit(t), m)); err != nil {
			t.Fatal(err)
		}
		repair(func(fd int) {
			if on, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR); err != nil || on != 0 {
				t.Errorf("repair mode %d, %v", on, err)
			}
		})
	})
}

func TestKillDestroysWhatSocketsLeave(t *testing.T) {
	g := newManager(t, Config{})
	l4, l6 := listen(t, "tcp4", "127.0.0.1:0"), listen(t, "tcp6", "[::1]:0")
	m, _ := acting(t, g, "dial", "wait", l4.Addr().String(), l6.Addr().String())
	ends := []*net.TCPConn{accept(t, l4), accept(t, l6)} // never closed: the other ends stay in FIN-WAIT-2
	if err := g.Kill(limit(t), m); err != nil {
		t.Fatal(err)
	}
	c, err := sockets.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all, err := sockets.List(c, unix.IPPROTO_TCP, sockets.AllStates)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ends {
		for _, s := range all {
			if s.Local == addrPort(e.RemoteAddr()) {
				t.Errorf("left in state %d: %s to %s", s.State, s.Local, s.Remote)
			}
		}
	}
}
