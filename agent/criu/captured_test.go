package criu

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/criu/image"
)

// uncounted is a connection that no member has: its dump is never captured before its end.
var uncounted = []uint64{1 << 40}

// inode is that of the member's own end of its connection.
func (s *subject) inode() uint64 {
	s.t.Helper()
	fi, err := s.end.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

// When a dump says that it holds the connection, what arrives from then on is in no image, and the connection can be
// used while CRIU goes on with the memory.
func TestCaptured(t *testing.T) {
	r, s := newRunner(t), newSubject(t)
	dir := imageDir(t)
	d, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(s.member), Dir: dir, LockFile: lockFile(t)})
	if err != nil {
		t.Fatal(err)
	}
	s.freeze()
	calls := 0
	_, err = d.Run(testContext(t), []uint64{s.inode()}, func() {
		calls++
		if logSays(dir, "Running post-dump scripts") {
			t.Error("captured when all was over")
		}
		if !s.repairing() {
			t.Error("CRIU does not hold the connection")
		}
		if err := unix.SetsockoptInt(int(s.end.Fd()), unix.SOL_TCP, unix.TCP_REPAIR, 0); err != nil {
			t.Error(err)
		}
		if _, err := s.ours.Write([]byte("late")); err != nil {
			t.Error(err)
		}
		eventually(t, "the frozen member's kernel to acknowledge", func() bool { return unsent(t, s) == 0 })
	})
	if err != nil {
		t.Fatal(err)
	}
	if calls != 1 {
		t.Errorf("captured %d times", calls)
	}
	streams, err := filepath.Glob(filepath.Join(dir, image.StreamPrefix+"*"))
	if err != nil || len(streams) != 1 {
		t.Fatalf("images of connections: %v, %v", streams, err)
	}
	if data, err := os.ReadFile(streams[0]); err != nil || strings.Contains(string(data), "late") {
		t.Errorf("the image holds what came later: %v", err)
	}
	s.thaw()
	back := make([]byte, 4)
	if _, err := io.ReadFull(s.ours, back); err != nil || string(back) != "late" {
		t.Errorf("the member answered %q, %v", back, err)
	}
	s.freeze()
	s.unharmed()
}

// A dump that holds more connections than were listed might hold one that was read after the gates had opened.
func TestCapturedTooFew(t *testing.T) {
	r, s := newRunner(t), newSubject(t)
	d, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(s.member), Dir: imageDir(t), LockFile: lockFile(t)})
	if err != nil {
		t.Fatal(err)
	}
	s.freeze()
	called := false
	if _, err := d.Run(testContext(t), nil, func() { called = true }); err == nil || !strings.Contains(err.Error(), "hold 1 connections that were not listed") {
		t.Errorf("the error: %v", err)
	}
	if !called {
		t.Error("a dump of no connections is captured at once")
	}
	s.unharmed()
}

// A listener's dump is captured when CRIU has seen that nobody waits to be accepted, and not before: who comes later
// must not make the dump fail.
func TestCapturedListener(t *testing.T) {
	r, n := newRunner(t), newNamespace(t)
	var addr string
	var end *os.File
	n.do(func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		addr = l.Addr().String()
		end, err = l.(*net.TCPListener).File()
		return err
	})
	c := startIn(t, n, false, []*os.File{end}, "hold", "64")
	d, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(c.member), Dir: imageDir(t), LockFile: lockFile(t)})
	if err != nil {
		t.Fatal(err)
	}
	c.freeze()
	called := false
	_, err = d.Run(testContext(t), nil, func() {
		called = true
		n.do(func() error {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				t.Cleanup(func() { _ = conn.Close() })
			}
			return err
		})
	})
	if err != nil || !called {
		t.Errorf("captured: %v; %v", called, err)
	}
	c.thaw()
}

func TestFileEvents(t *testing.T) {
	event := func(name string, length, mask byte) []byte {
		b := make([]byte, unix.SizeofInotifyEvent+int(length))
		b[4], b[12] = mask, length
		copy(b[unix.SizeofInotifyEvent:], name)
		return b
	}
	all := slices.Concat(event("tcp-stream-1.img", 32, unix.IN_CLOSE_WRITE), event("", 0, 0), event("pages-1.img", 16, 0))
	want := []fileEvent{{"tcp-stream-1.img", true}, {}, {name: "pages-1.img"}}
	if got := fileEvents(all); !slices.Equal(got, want) {
		t.Errorf("events: %v", got)
	}
	for n := range len(all) {
		fileEvents(all[:n]) // a cut buffer is not a cause for a panic
	}
}

// unsent is how much the other end has written and this one has not acknowledged.
func unsent(t *testing.T, s *subject) int {
	t.Helper()
	raw, err := s.ours.(interface {
		File() (*os.File, error)
	}).File()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	n, err := unix.IoctlGetInt(int(raw.Fd()), unix.SIOCOUTQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
