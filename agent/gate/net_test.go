package gate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"ss/agent"
)

// patience bounds every wait for something that will happen unless the test has failed.
const patience = 20 * time.Second

// host is a network namespace that plays one host.
type host struct {
	name    string
	ns      int
	v4, v6  netip.Addr
	manager *Manager
}

// do runs f on a thread in h's namespace. What f opens stays there.
func (h *host) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := unix.Setns(h.ns, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func newNS(t testing.TB) int {
	t.Helper()
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatalf("new network namespace: %v", r.err)
	}
	t.Cleanup(func() { unix.Close(r.fd) })
	return r.fd
}

// newHosts makes two hosts, a and b, with a cable between them and a manager each.
func newHosts(t testing.TB, mode string) (a, b *host) {
	t.Helper()
	a = &host{name: "a", ns: newNS(t), v4: netip.MustParseAddr("10.77.0.1"), v6: netip.MustParseAddr("fd77::1")}
	b = &host{name: "b", ns: newNS(t), v4: netip.MustParseAddr("10.77.0.2"), v6: netip.MustParseAddr("fd77::2")}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "ssgate0", Namespace: netlink.NsFd(a.ns)},
		PeerName:  "ssgate0", PeerNamespace: netlink.NsFd(b.ns),
	}
	in, err := netlink.NewHandleAt(netns.NsHandle(a.ns))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.LinkAdd(veth); err != nil {
		t.Fatalf("make the cable: %v", err)
	}
	for _, h := range []*host{a, b} {
		h.up(t)
	}
	for _, h := range []*host{a, b} {
		h.manager = h.newManager(t, Options{Mode: mode})
	}
	return a, b
}

func (h *host) up(t testing.TB) {
	t.Helper()
	in, err := netlink.NewHandleAt(netns.NsHandle(h.ns))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, name := range []string{"lo", "ssgate0"} {
		link, err := in.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if name != "lo" {
			for _, p := range []netip.Prefix{netip.PrefixFrom(h.v4, 24), netip.PrefixFrom(h.v6, 64)} {
				addr := &netlink.Addr{
					IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
					Flags: unix.IFA_F_NODAD,
				}
				if err := in.AddrAdd(link, addr); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := in.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
}

func (h *host) newManager(t testing.TB, o Options) *Manager {
	t.Helper()
	o.Host, o.NetNS = h.name, h.ns
	k, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Shutdown(); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return k
}

func (h *host) listen(t testing.TB, addr netip.Addr) *net.TCPListener {
	t.Helper()
	var l *net.TCPListener
	err := h.do(func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		got, err := lc.Listen(context.Background(), "tcp", netip.AddrPortFrom(addr, 0).String())
		if err == nil {
			l = got.(*net.TCPListener)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (h *host) dial(to netip.AddrPort) (c *net.TCPConn, err error) {
	err = h.do(func() error {
		c, err = net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
		return err
	})
	return c, err
}

func port(a net.Addr) uint16 { return a.(*net.TCPAddr).AddrPort().Port() }

// pair is an established connection from host a to host b.
type pair struct{ a, b *net.TCPConn }

func connect(t testing.TB, from *host, l *net.TCPListener, to netip.Addr) pair {
	t.Helper()
	c, err := from.dial(netip.AddrPortFrom(to, port(l.Addr())))
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return pair{c, s}
}

// seenBy is the connection as the host of c sees it.
func seenBy(c *net.TCPConn) agent.Conn {
	return agent.Conn{Local: c.LocalAddr().(*net.TCPAddr).AddrPort(), Remote: c.RemoteAddr().(*net.TCPAddr).AddrPort()}
}

func tcpInfo(t testing.TB, c *net.TCPConn) *unix.TCPInfo {
	t.Helper()
	var info *unix.TCPInfo
	raw, err := c.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// stream sends numbered words over a connection, one way, until it is stopped.
type stream struct {
	from, to *net.TCPConn
	stop     atomic.Bool
	sent     atomic.Uint64 // words that the sender has written
	wg       sync.WaitGroup

	mu   sync.Mutex
	more sync.Cond
	got  uint64 // words that have arrived, all in order
	err  error
}

func startStream(t testing.TB, from, to *net.TCPConn) *stream {
	s := &stream{from: from, to: to}
	s.more.L = &s.mu
	s.wg.Go(s.send)
	s.wg.Go(s.receive)
	t.Cleanup(func() { from.Close(); to.Close(); s.wg.Wait() })
	return s
}

func (s *stream) send() {
	buf := make([]byte, 32<<10)
	for n := uint64(0); !s.stop.Load(); {
		for i := 0; i < len(buf); i += 8 {
			binary.BigEndian.PutUint64(buf[i:], n)
			n++
		}
		if _, err := s.from.Write(buf); err != nil {
			s.done(fmt.Errorf("send: %w", err))
			return
		}
		s.sent.Store(n)
	}
	_ = s.from.CloseWrite()
}

func (s *stream) receive() {
	buf := make([]byte, 64<<10)
	have := 0
	for {
		n, err := s.to.Read(buf[have:])
		have += n
		s.mu.Lock()
		i := 0
		for ; i+8 <= have; i += 8 {
			if w := binary.BigEndian.Uint64(buf[i:]); w != s.got {
				err = fmt.Errorf("word %d where %d belongs", w, s.got)
				break
			}
			s.got++
		}
		s.more.Broadcast()
		s.mu.Unlock()
		have = copy(buf, buf[i:have])
		if err != nil {
			s.done(err)
			return
		}
	}
}

func (s *stream) done(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.more.Broadcast()
}

// wait waits until n words more than now have arrived.
func (s *stream) wait(t testing.TB, n uint64) {
	t.Helper()
	late := false
	timer := time.AfterFunc(patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.more.Broadcast()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for target := s.got + n; s.got < target && s.err == nil && !late; {
		s.more.Wait()
	}
	if s.err != nil {
		t.Fatalf("the stream broke after %d words: %v", s.got, s.err)
	}
	if late {
		t.Fatalf("the stream stands still after %d words", s.got)
	}
}

// finish lets the sender end and checks that every word has arrived.
func (s *stream) finish(t testing.TB) {
	t.Helper()
	s.stop.Store(true)
	_ = s.to.SetReadDeadline(time.Now().Add(patience))
	s.wg.Wait()
	if !errors.Is(s.err, io.EOF) || s.got != s.sent.Load() {
		t.Errorf("the stream ended with %v, %d words of %d", s.err, s.got, s.sent.Load())
	}
}

// bystander is a connection that no gate describes, with someone who echoes at its far end. Its round trips are the
// tests' clock.
type bystander struct{ pair }

func newBystander(t testing.TB, a, b *host) *bystander {
	by := &bystander{connect(t, a, b.listen(t, b.v4), b.v4)}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(by.b, by.b) })
	t.Cleanup(func() { by.a.Close(); wg.Wait() })
	return by
}

// trips makes n round trips, one after the other, and returns how long the slowest took.
func (by *bystander) trips(t testing.TB, n int) time.Duration {
	t.Helper()
	var worst time.Duration
	buf := make([]byte, 8)
	_ = by.a.SetDeadline(time.Now().Add(patience))
	for range n {
		start := time.Now()
		if _, err := by.a.Write(buf); err != nil {
			t.Fatalf("bystander: %v", err)
		}
		if _, err := io.ReadFull(by.a, buf); err != nil {
			t.Fatalf("bystander: %v", err)
		}
		worst = max(worst, time.Since(start))
	}
	return worst
}

// during makes round trips for a time, and returns how many.
func (by *bystander) during(t testing.TB, d time.Duration) (n int) {
	for start := time.Now(); time.Since(start) < d; n++ {
		by.trips(t, 1)
	}
	return n
}

// eventually waits for a state of the kernel that nothing announces.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to pass that %s", what)
		}
		runtime.Gosched()
	}
}

// counter reads a TcpExt counter of h's kernel.
func (h *host) counter(t testing.TB, name string) (value int) {
	t.Helper()
	err := h.do(func() error {
		data, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		lines := strings.Split(string(data), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for j, n := range names {
				if n == name {
					_, err := fmt.Sscan(values[j], &value)
					return err
				}
			}
		}
		return fmt.Errorf("no counter %s", name)
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}
