package obstacles

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// pairOf makes two UNIX sockets that are connected to each other.
func pairOf(t *testing.T, kind int) (a, b *os.File) {
	t.Helper()
	s, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	return fromFd(t)(s[0], err), fromFd(t)(s[1], err)
}

func send(t *testing.T, f *os.File, messages ...string) {
	t.Helper()
	for _, m := range messages {
		if err := unix.Sendto(int(f.Fd()), []byte(m), 0, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEmptyDatagram: CRIU stops at one.
func TestEmptyDatagram(t *testing.T) {
	const stream, packets, datagrams = unix.SOCK_STREAM, unix.SOCK_SEQPACKET, unix.SOCK_DGRAM
	for _, c := range []struct {
		name     string
		kind     int
		messages []string
		ended    bool // the other end is closed
		refused  bool
	}{
		{"nothing", datagrams, nil, false, false},
		{"a datagram", datagrams, []string{"one"}, false, false},
		{"an empty one", datagrams, []string{""}, false, true},
		{"an empty one and more", datagrams, []string{"", "two"}, false, true},
		{"an empty packet", packets, []string{""}, false, true},
		{"an empty packet and the end", packets, []string{""}, true, false}, // both read the same
		{"an empty packet, one more and the end", packets, []string{"", "two"}, true, true},
		{"packets", packets, []string{"one", "two"}, false, false},
		{"the end of packets", packets, nil, true, false},
		{"the end of a stream", stream, nil, true, false},
		{"a stream", stream, []string{"", "bytes"}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pairOf(t, c.kind)
			send(t, a, c.messages...)
			held := []*os.File{b, a}
			if c.ended {
				held = held[:1]
				if err := unix.Shutdown(int(a.Fd()), unix.SHUT_RDWR); err != nil {
					t.Fatal(err)
				}
				held = append(held, a)
			}
			words := []string{"empty datagram", "(descriptor 3)", "have it read"}
			if !c.refused {
				words = nil
			}
			says(t, obstaclesOf(t, holding(t, held...)), words...)
			buf := make([]byte, 9)
			for _, m := range c.messages { // nothing was taken away
				if n, _, err := unix.Recvfrom(int(b.Fd()), buf, unix.MSG_DONTWAIT); c.kind != stream && (err != nil || string(buf[:n]) != m) {
					t.Errorf("%q, %v in the place of %q", buf[:n], err, m)
				}
			}
		})
	}
}

// TestPassed: CRIU knows of descriptors that are sent over UNIX sockets, and of nothing else beside the bytes.
func TestPassed(t *testing.T) {
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET, unix.SOCK_DGRAM} {
		for option, name := range map[int]string{
			0: "", unix.SO_PASSCRED: "SO_PASSCRED", unix.SO_PASSPIDFD: "SO_PASSPIDFD", unix.SO_TIMESTAMP: "SO_TIMESTAMP", unix.SO_TIMESTAMPNS: "SO_TIMESTAMPNS",
		} {
			a, b := pairOf(t, kind)
			if option != 0 {
				if err := unix.SetsockoptInt(int(b.Fd()), unix.SOL_SOCKET, option, 1); err == unix.ENOPROTOOPT { // before Linux 6.5
					continue
				} else if err != nil {
					t.Fatal(err)
				}
			}
			pid := holding(t, a, b)
			says(t, obstaclesOf(t, pid))
			if err := unix.Sendmsg(int(a.Fd()), []byte("x"), unix.UnixRights(int(opened(t, "/dev/null", os.O_RDONLY).Fd())), nil, 0); err != nil {
				t.Fatal(err)
			}
			before := countFds(t)
			words := []string{"has not read", "(descriptor 4, " + name + ")", "turn the option off"}
			if option == 0 || kind == unix.SOCK_STREAM && option != unix.SO_PASSCRED && option != unix.SO_PASSPIDFD { // streams have no times
				words = nil
			}
			says(t, obstaclesOf(t, pid), words...)
			if after := countFds(t); after != before {
				t.Errorf("%d descriptors are open, and %d were", after, before)
			}
		}
	}
}

func countFds(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestLeftAlone: a look at what waits would take an error away, or move what a program looks at.
func TestLeftAlone(t *testing.T) {
	a, b := pairOf(t, unix.SOCK_DGRAM)
	if err := unix.SetsockoptInt(int(b.Fd()), unix.SOL_SOCKET, unix.SO_PEEK_OFF, 1); err != nil {
		t.Fatal(err)
	}
	send(t, a, "one")
	says(t, obstaclesOf(t, holding(t, a, b)))
	if at, err := unix.GetsockoptInt(int(b.Fd()), unix.SOL_SOCKET, unix.SO_PEEK_OFF); at != 1 || err != nil {
		t.Error(at, err)
	}
	a, b = pairOf(t, unix.SOCK_STREAM)
	send(t, a, "one")
	send(t, b, "two")
	if err := a.Close(); err != nil { // with bytes that it has not read
		t.Fatal(err)
	}
	says(t, obstaclesOf(t, holding(t, b)))
	if code, err := unix.GetsockoptInt(int(b.Fd()), unix.SOL_SOCKET, unix.SO_ERROR); unix.Errno(code) != unix.ECONNRESET || err != nil {
		t.Error(code, err)
	}
}

// TestClosedBeforeAccept: CRIU fails at a listener with a connection that was closed before it was accepted.
func TestClosedBeforeAccept(t *testing.T) {
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
		at := &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "socket")}
		fd := fromFd(t)
		listener, dialer, closed := fd(unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)), fd(unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)), fd(unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0))
		for _, err := range []error{unix.Bind(int(listener.Fd()), at), unix.Listen(int(listener.Fd()), 5), unix.Connect(int(dialer.Fd()), at)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		pid := holding(t, listener, dialer)
		says(t, obstaclesOf(t, pid))
		if err := unix.Connect(int(closed.Fd()), at); err != nil {
			t.Fatal(err)
		}
		if err := closed.Close(); err != nil {
			t.Fatal(err)
		}
		says(t, obstaclesOf(t, pid), "listens on a UNIX socket (descriptor 3)", "has not accepted a connection", "have it accept it")
	}
}
