package gate

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
)

// dialing is a connection attempt under way.
type dialing struct {
	done chan struct{}
	conn *net.TCPConn
	err  error
}

func startDial(t *testing.T, from *host, to netip.AddrPort) *dialing {
	d := &dialing{done: make(chan struct{})}
	go func() {
		defer close(d.done)
		d.conn, d.err = from.dial(to)
	}()
	t.Cleanup(func() {
		<-d.done
		if d.conn != nil {
			d.conn.Close()
		}
	})
	return d
}

func (d *dialing) stillWaits(t *testing.T) {
	t.Helper()
	select {
	case <-d.done:
		t.Fatalf("the connection came about (error %v) though its gate is closed", d.err)
	default:
	}
}

func (d *dialing) succeeds(t *testing.T) {
	t.Helper()
	select {
	case <-d.done:
		if d.err != nil {
			t.Fatal(d.err)
		}
	case <-time.After(patience):
		t.Fatal("the connection did not come about")
	}
}

func TestListenHoldsHandshakes(t *testing.T) {
	a, b := newHosts(t, "")
	by := newBystander(t, a, b)
	for _, test := range []struct {
		name     string
		listener netip.Addr
		to       netip.Addr
	}{
		{"v4 on its address", b.v4, b.v4},
		{"v6 on its address", b.v6, b.v6},
		{"v4 on every v4 address", netip.IPv4Unspecified(), b.v4},
		{"v4 on every address", netip.IPv6Unspecified(), b.v4},
		{"v6 on every address", netip.IPv6Unspecified(), b.v6},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := b.listen(t, test.listener)
			g := agent.Gate{
				Job: "job", Peer: "a", Addrs: []netip.Addr{a.v4, a.v6},
				Listen: []netip.AddrPort{netip.AddrPortFrom(test.listener, port(l.Addr()))},
			}
			if err := b.manager.Close(ctx, []agent.Gate{g}); err != nil {
				t.Fatal(err)
			}
			d := startDial(t, a, netip.AddrPortFrom(test.to, port(l.Addr())))
			eventually(t, "the SYN is held", func() bool { return held(b.manager, "job") > 0 })
			by.trips(t, 100)
			d.stillWaits(t)
			if err := b.manager.Open(ctx, "job", "a"); err != nil {
				t.Fatal(err)
			}
			d.succeeds(t)
		})
	}
}

// A gate settles: data goes through, handshakes do not; sealed, nothing does.
func TestSettleAndSeal(t *testing.T) {
	for _, mode := range []string{ModeCompat, ModeDrop} {
		t.Run(mode, func(t *testing.T) {
			a, b := newHosts(t, mode)
			l := b.listen(t, b.v4)
			p := connect(t, a, l, b.v4)
			by := newBystander(t, a, b)
			there, back := startStream(t, p.a, p.b), startStream(t, p.b, p.a)
			there.wait(t, 10000)
			g := agent.Gate{
				Job: "job", Peer: "a", Addrs: []netip.Addr{a.v4}, Conns: []agent.Conn{seenBy(p.b)},
				Listen: []netip.AddrPort{netip.AddrPortFrom(b.v4, port(l.Addr()))},
			}
			if err := b.manager.Close(ctx, []agent.Gate{g}); err != nil {
				t.Fatal(err)
			}
			d := startDial(t, a, netip.AddrPortFrom(b.v4, port(l.Addr())))
			stillness(t, by, "closed", p)
			for range 3 {
				if err := b.manager.Settle(ctx, "job", "a"); err != nil {
					t.Fatal(err)
				}
				there.wait(t, 20000)
				back.wait(t, 20000)
				d.stillWaits(t)
				if err := b.manager.Seal(ctx, "job"); err != nil {
					t.Fatal(err)
				}
				stillness(t, by, "sealed", p)
				d.stillWaits(t)
			}
			if err := b.manager.OpenAll(ctx, "job"); err != nil {
				t.Fatal(err)
			}
			d.succeeds(t)
			there.wait(t, 20000)
			back.wait(t, 20000)
			there.finish(t)
			back.finish(t)
		})
	}
}

// What a cgroup's sockets send to the peer is held, at whatever level the cgroup lies; what others send is not.
func TestCgroupHoldsNewConnections(t *testing.T) {
	a, b := newHosts(t, "")
	by := newBystander(t, a, b)
	l := b.listen(t, netip.IPv6Unspecified())
	top := fmt.Sprintf("ssgate-test-%d", os.Getpid())
	for _, test := range []struct {
		name string
		path string
		to   netip.Addr
	}{
		{"level 1 v4", top, b.v4},
		{"level 3 v6", top + "/job/member", b.v6},
	} {
		t.Run(test.name, func(t *testing.T) {
			fd, id := newCgroup(t, test.path)
			to := netip.AddrPortFrom(test.to, port(l.Addr()))
			c := startChild(t, a, fd, "dialer", to.String())
			g := agent.Gate{Job: "job", Peer: "b", Addrs: []netip.Addr{b.v4, b.v6}, Cgroups: []uint64{id, 0}}
			if err := a.manager.Close(ctx, []agent.Gate{g}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.stdin.Write([]byte("go\n")); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the SYN is held", func() bool { return held(a.manager, "job") > 0 })
			by.trips(t, 100)
			other := startDial(t, a, to) // of the same host, to the same port, from another cgroup
			other.succeeds(t)
			select {
			case line := <-c.lines:
				t.Fatalf("the child in the cgroup says %q though the gate is closed", line)
			default:
			}
			if err := a.manager.Open(ctx, "job", "b"); err != nil {
				t.Fatal(err)
			}
			c.expect(t, "connected")
			c.kill()
		})
	}
}

// newCgroup makes a v2 cgroup, and returns a descriptor and the id.
func newCgroup(t *testing.T, path string) (fd int, id uint64) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			root = f[1]
		}
	}
	if root == "" {
		t.Fatal("no cgroup2 hierarchy is mounted: mount one, on /sys/fs/cgroup or /sys/fs/cgroup/unified")
	}
	at := root
	for name := range strings.SplitSeq(path, "/") {
		at = filepath.Join(at, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		made := at
		t.Cleanup(func() {
			// A cgroup is busy until the kernel is through with its last process.
			eventually(t, made+" can be removed", func() bool { return os.Remove(made) == nil })
		})
	}
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		t.Fatal(err)
	}
	fd, err = unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd, st.Ino
}

// Packets that CRIU marks pass a closed gate.
func TestMarkedPacketsPass(t *testing.T) {
	a, b := newHosts(t, "")
	l := b.listen(t, b.v4)
	p := connect(t, a, l, b.v4)
	by := newBystander(t, a, b)
	if err := a.manager.Close(ctx, []agent.Gate{{Job: "job", Peer: "b", Conns: []agent.Conn{seenBy(p.a)}}}); err != nil {
		t.Fatal(err)
	}
	send := func(mark int, text string) {
		raw, err := p.a.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
		if err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		if _, err := p.a.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	send(criuMark, "marked")
	buf := make([]byte, 16)
	_ = p.b.SetReadDeadline(time.Now().Add(patience))
	if n, err := p.b.Read(buf); string(buf[:n]) != "marked" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	send(0, "plain")
	stillness(t, by, "closed", p)
	if err := a.manager.Open(ctx, "job", "b"); err != nil {
		t.Fatal(err)
	}
	if n, err := p.b.Read(buf); string(buf[:n]) != "plain" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
}

// Connections between two members of one host are held, whichever address they use and whichever ends are given.
func TestGateToOwnHost(t *testing.T) {
	a, b := newHosts(t, "")
	by := newBystander(t, a, b)
	for _, addr := range []netip.Addr{a.v4, a.v6, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		t.Run(addr.String(), func(t *testing.T) {
			l := a.listen(t, addr)
			p := connect(t, a, l, addr)
			there, back := startStream(t, p.a, p.b), startStream(t, p.b, p.a)
			there.wait(t, 1000)
			back.wait(t, 1000)
			g := agent.Gate{
				Job: "job", Peer: "a", Addrs: []netip.Addr{a.v4, a.v6}, Conns: []agent.Conn{seenBy(p.a)},
				Listen: []netip.AddrPort{l.Addr().(*net.TCPAddr).AddrPort()},
			}
			if err := a.manager.Close(ctx, []agent.Gate{g}); err != nil {
				t.Fatal(err)
			}
			d := startDial(t, a, l.Addr().(*net.TCPAddr).AddrPort())
			stillness(t, by, "closed", p)
			d.stillWaits(t)
			if err := a.manager.Open(ctx, "job", "a"); err != nil {
				t.Fatal(err)
			}
			d.succeeds(t)
			there.wait(t, 1000)
			back.wait(t, 1000)
			there.finish(t)
			back.finish(t)
		})
	}
}

// Packets of sockets that are gone never arrive once they are discarded.
func TestDiscard(t *testing.T) {
	a, b := newHosts(t, "")
	p := connect(t, a, b.listen(t, b.v4), b.v4)
	by := newBystander(t, a, b)
	if err := a.manager.Close(ctx, []agent.Gate{{Job: "job", Peer: "b", Conns: []agent.Conn{seenBy(p.a)}}}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	closed := make(chan error, 1)
	wg.Go(func() {
		_, err := p.b.Read(make([]byte, 1)) // ends with the connection
		closed <- err
	})
	if err := p.a.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	p.a.Close() // sends a RST
	if err := a.manager.Discard(ctx, "job"); err != nil {
		t.Fatal(err)
	}
	if n := held(a.manager, "job"); n != 0 {
		t.Errorf("%d packets are held still", n)
	}
	if err := a.manager.Open(ctx, "job", "b"); err != nil {
		t.Fatal(err)
	}
	by.trips(t, 100)
	select {
	case err := <-closed:
		t.Errorf("the discarded RST arrived: %v", err)
	default:
	}
	p.b.Close()
}
