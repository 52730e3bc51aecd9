package criu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/criu/image"
	"ss/marker"
)

// block drops every packet that comes for the connection's end from now on.
func block(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	failed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	})
	if err = errors.Join(failed, err); err != nil {
		t.Fatal(err)
	}
}

// await waits until the connection is in the state.
func await(t *testing.T, c *net.TCPConn, state uint8) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, fmt.Sprintf("state %d", state), func() bool {
		var info *unix.TCPInfo
		_ = raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) })
		return err == nil && info.State == state
	})
}

// kernelEnd asks the kernel for what Ends should say of a connection that it has in repair mode at once.
func kernelEnd(t *testing.T, f *os.File) (e marker.End, state uint8) {
	t.Helper()
	fd := int(f.Fd())
	option := func(name, value int) {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, name, value); err != nil {
			t.Fatal(err)
		}
	}
	sequence := func(queue int) uint32 {
		option(unix.TCP_REPAIR_QUEUE, queue)
		v, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(v)
	}
	option(unix.TCP_REPAIR, 1)
	defer option(unix.TCP_REPAIR, -1) // off without a window probe
	const recvQueue, sendQueue = 1, 2
	e.RcvNxt, e.WriteSeq = sequence(recvQueue), sequence(sendQueue)
	unsent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		t.Fatal(err)
	}
	e.SndUna = e.WriteSeq - uint32(unsent)
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	return e, info.State
}

func send(t *testing.T, c *net.TCPConn, n int) {
	t.Helper()
	if _, err := c.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

// closeWrite sends a FIN. It does not wait for the other end.
func closeWrite(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// Ends must say of half-closed connections what the kernel says, FINs counted, and M8 must hold of it.
func TestEndsOfHalfClosedConnections(t *testing.T) {
	const a, b = "127.0.0.1", "127.0.0.2"
	tests := []struct {
		name     string
		act      func(p, q *net.TCPConn)
		p, q     uint8
		inFlight uint32 // p to q, a FIN counting one
	}{
		{"established, read by nobody", func(p, q *net.TCPConn) { send(t, p, 700); send(t, q, 30) }, image.TCPEstablished, image.TCPEstablished, 0},
		{"established, in flight", func(p, q *net.TCPConn) { send(t, p, 10); block(t, q); send(t, p, 900) }, image.TCPEstablished, image.TCPEstablished, 900},
		{"fin-wait-2 and close-wait", func(p, q *net.TCPConn) { send(t, p, 100); closeWrite(t, p) }, image.TCPFinWait2, image.TCPCloseWait, 0},
		{"fin-wait-1, only the fin", func(p, q *net.TCPConn) { block(t, q); closeWrite(t, p) }, image.TCPFinWait1, image.TCPEstablished, 1},
		{"fin-wait-1 with data", func(p, q *net.TCPConn) { block(t, q); send(t, p, 1000); closeWrite(t, p) }, image.TCPFinWait1, image.TCPEstablished, 1001},
		{"fin-wait-1, answered", func(p, q *net.TCPConn) { send(t, q, 40); block(t, q); closeWrite(t, p); send(t, q, 60) }, image.TCPFinWait1, image.TCPEstablished, 1},
		{"closing", func(p, q *net.TCPConn) { block(t, q); send(t, p, 5); closeWrite(t, p); closeWrite(t, q) }, image.TCPClosing, image.TCPFinWait1, 6},
		{"last-ack with data", func(p, q *net.TCPConn) {
			closeWrite(t, q)
			await(t, q, image.TCPFinWait2)
			block(t, q)
			send(t, p, 500)
			closeWrite(t, p)
		}, image.TCPLastAck, image.TCPFinWait2, 501},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, n := newRunner(t), newNamespace(t)
			p, q := n.pair(a, b)
			test.act(p, q)
			fp, fq := handOver(t, p), handOver(t, q)
			want := map[string]marker.End{}
			eventually(t, "the states to settle", func() bool {
				ep, sp := kernelEnd(t, fp)
				eq, sq := kernelEnd(t, fq)
				ep.Local, ep.Remote = addrs(t, fp)
				eq.Local, eq.Remote = addrs(t, fq)
				ep.Ended, eq.Ended = sp == image.TCPCloseWait || sp == image.TCPClosing || sp == image.TCPLastAck, sq == image.TCPCloseWait || sq == image.TCPClosing || sq == image.TCPLastAck
				want[ep.Local], want[eq.Local] = ep, eq
				return sp == test.p && sq == test.q && ep.WriteSeq-eq.RcvNxt == test.inFlight
			})
			c := startIn(t, n, false, []*os.File{fp, fq}, "hold", "1")
			dir := dumpCell(t, r, c)
			ends, err := r.Ends(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(ends) != 2 {
				t.Fatalf("ends %+v", ends)
			}
			for _, e := range ends {
				if e != want[e.Local] {
					t.Errorf("the image says\n%+v, the kernel\n%+v", e, want[e.Local])
				}
			}
			for i, from := range ends {
				to := ends[1-i]
				if int32(to.RcvNxt-from.SndUna) < 0 || int32(from.WriteSeq-to.RcvNxt) < 0 {
					t.Errorf("M8 does not hold: %+v, %+v", from, to)
				}
			}
		})
	}
}

func addrs(t *testing.T, f *os.File) (local, remote string) {
	t.Helper()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String(), conn.RemoteAddr().String()
}

// Neither listeners nor sockets that are connected to nothing are ends; a listener is needed.
func TestEndsOfOtherSockets(t *testing.T) {
	r, n := newRunner(t), newNamespace(t)
	var files []*os.File
	keep := func(c syscall.Conn, err error) error {
		if err != nil {
			return err
		}
		f, err := c.(interface{ File() (*os.File, error) }).File()
		files = append(files, f)
		return err
	}
	var want string
	n.do(func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		want = l.Addr().String()
		if err := keep(l.(*net.TCPListener), nil); err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		if err := keep(u.(*net.UDPConn), nil); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		files = append(files, os.NewFile(uintptr(fd), "unconnected"))
		return err
	})
	c := startIn(t, n, false, files, "hold", "1")
	dir := dumpCell(t, r, c)
	ends, err := r.Ends(dir)
	if err != nil || len(ends) != 0 {
		t.Errorf("ends %v, %v", ends, err)
	}
	needs, err := r.Needs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(needs.Listen) != 1 || needs.Listen[0].String() != want {
		t.Errorf("needs to listen on %v instead of %s", needs.Listen, want)
	}
}
