package obstacles

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// tcpSocket is a TCP socket that is not bound.
func tcpSocket(t *testing.T) *os.File {
	t.Helper()
	return fromFd(t)(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
}

// connection makes a listener and a connection with it, each end of which set is called with before.
func connection(t *testing.T, set func(fd int)) (listener, dialed, accepted *os.File) {
	t.Helper()
	listener, dialed = tcpSocket(t), tcpSocket(t)
	set(int(listener.Fd()))
	set(int(dialed.Fd()))
	if err := unix.Bind(int(listener.Fd()), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(int(listener.Fd()), 5); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(int(listener.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(int(dialed.Fd()), at); err != nil {
		t.Fatal(err)
	}
	fd, _, err := unix.Accept4(int(listener.Fd()), unix.SOCK_CLOEXEC)
	return listener, dialed, fromFd(t)(fd, err)
}

// sign gives a socket a key toward 127.0.0.1 (struct tcp_md5sig of linux/tcp.h).
func sign(t *testing.T) func(fd int) {
	return func(fd int) {
		t.Helper()
		sig := unix.TCPMD5Sig{Keylen: 3}
		(*unix.RawSockaddrInet4)(unsafe.Pointer(&sig.Addr)).Family = unix.AF_INET
		(*unix.RawSockaddrInet4)(unsafe.Pointer(&sig.Addr)).Addr = [4]byte{127, 0, 0, 1}
		copy(sig.Key[:], "key")
		if err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig); err != nil {
			t.Skip("the kernel has no TCP_MD5SIG:", err)
		}
	}
}

// TestKeys needs root. CRIU forgets the keys of TCP sockets.
func TestKeys(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root: make test runs it")
	}
	listener, dialed, accepted := connection(t, sign(t))
	for _, f := range []*os.File{listener, dialed, accepted} {
		says(t, obstaclesOf(t, holding(t, opened(t, "/dev/null", os.O_RDONLY), f)), "(descriptor 4, TCP_MD5SIG)", "without", "close it")
	}
	listener, dialed, accepted = connection(t, func(int) {})
	says(t, obstaclesOf(t, holding(t, listener, dialed, accepted)))
	pass := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16}}
	if err := unix.SetsockoptSockFprog(int(listener.Fd()), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &pass); err != nil {
		t.Fatal(err)
	}
	if optionMemory(int(listener.Fd())) == 0 {
		t.Error("a filter takes no memory")
	}
	says(t, obstaclesOf(t, holding(t, listener))) // it has something else than keys
}

// TestConnectedElsewhere needs root. A connection in another network namespace is in no list, and no gate holds it.
func TestConnectedElsewhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root: make test runs it")
	}
	var listener, dialed, accepted *os.File
	var key *os.File
	proc.OnOwnThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		raise(t)
		listener, dialed, accepted = connection(t, func(int) {})
		key = tcpSocket(t)
	})
	if t.Failed() {
		return
	}
	says(t, obstaclesOf(t, holding(t, listener, key)))
	for _, f := range []*os.File{dialed, accepted} {
		says(t, obstaclesOf(t, holding(t, f)), "has a TCP connection (descriptor 3)", "in a network namespace other than this host's", "start it without")
	}
}

// raise raises the loopback device of the calling thread's network namespace.
func raise(t *testing.T) {
	t.Helper()
	fd := int(tcpSocket(t).Fd())
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}
