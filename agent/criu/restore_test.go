package criu

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/marker"
)

// handOver makes the connection ready to be inherited. The test keeps a descriptor of it, with which it can close the
// connection without a packet when the member has ended.
func handOver(t testing.TB, conn *net.TCPConn) *os.File {
	t.Helper()
	f := file(t, conn)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	return f
}

// One end of a connection is dumped, killed and restored while the other lives.
func TestDumpRestoreConnection(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		t.Run(addr, func(t *testing.T) {
			r, n := newRunner(t), newNamespace(t)
			ours, theirs := n.pair(addr, addr)
			end := handOver(t, theirs)
			c := startIn(t, n, false, []*os.File{end}, "echo")
			ping(t, ours, "before")
			dumpCell(t, r, c)
			// What is in the member's queues at the dump is the member's to answer after the restore.
			c.thaw()
			ping(t, ours, "between")
			c.freeze()
			if _, err := ours.Write([]byte("held")); err != nil {
				t.Fatal(err)
			}
			dir := dumpCell(t, r, c)
			c.kill()
			silence(t, end)

			c2, s := restoreCell(t, r, n, false, dir)
			if err := s.Resume(testContext(t)); err != nil {
				t.Fatal(err)
			}
			c2.adopt(strconv.Itoa(s.InnerPid()))
			back := make([]byte, 4)
			if _, err := ours.Read(back); err != nil || string(back) != "held" {
				t.Fatalf("after the restore: %q, %v", back, err)
			}
			ping(t, ours, "after")
		})
	}
}

// An IPv6 socket that was accepted from an IPv4 address is reported as the IPv4 connection that it is.
func TestEndsOfMappedAddress(t *testing.T) {
	r, n := newRunner(t), newNamespace(t)
	var theirs, ours *net.TCPConn
	n.do(func() error {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port))
		if err != nil {
			return err
		}
		s, err := l.Accept()
		ours, theirs = c.(*net.TCPConn), s.(*net.TCPConn)
		return err
	})
	defer ours.Close()
	local, remote := ours.RemoteAddr().String(), ours.LocalAddr().String()
	c := startIn(t, n, false, []*os.File{handOver(t, theirs)}, "echo")
	dir := dumpCell(t, r, c)
	ends, err := r.Ends(dir)
	if err != nil || len(ends) != 1 {
		t.Fatalf("ends %v, %v", ends, err)
	}
	if ends[0].Local != local || ends[0].Remote != remote {
		t.Errorf("the end is %s>%s instead of %s>%s", ends[0].Local, ends[0].Remote, local, remote)
	}
}

// digests of all files in a folder.
func digests(t testing.TB, dir string) map[string][32]byte {
	t.Helper()
	sums := map[string][32]byte{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		sums[path] = sha256.Sum256(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

// Both ends of a stream at full speed are dumped, killed, moved (one address changes) and restored. Not a word is lost.
func TestMoveStream(t *testing.T) {
	for _, test := range []struct{ family, stays, from, to string }{
		{"v4", "127.0.0.1", "127.0.0.2", "127.0.0.3"},
		{"v6", "fd00::1", "fd00::2", "fd00::3"},
	} {
		t.Run(test.family, func(t *testing.T) {
			r := newRunner(t)
			n := newNamespace(t, "fd00::1/128", "fd00::2/128", "fd00::3/128")
			a, b := n.pair(test.stays, test.from)
			sending, receiving := handOver(t, a), handOver(t, b)
			tx := startIn(t, n, false, []*os.File{sending}, "send")
			rx := startIn(t, n, false, []*os.File{receiving}, "receive")
			counts(t, rx.dir, 0)
			// Stopping the receiver first fills the queues. What kernels would still send after the first dump must not
			// arrive before the second: a receiver that has got more than the sender's image says was sent
			// acknowledges it after the restore, and the sender's kernel drops such acknowledgements for ever.
			runTx, runRx := startDump(t, r, tx), startDump(t, r, rx)
			rx.freeze()
			tx.freeze()
			n.gate(true)
			txDir, rxDir := runTx(), runRx()
			checkCut(t, r, txDir, rxDir)
			at, count := readCount(rx.dir), rx.dir
			tx.kill()
			rx.kill()
			silence(t, sending)
			silence(t, receiving)

			moved := map[netip.Addr]netip.Addr{netip.MustParseAddr(test.from): netip.MustParseAddr(test.to)}
			before := digests(t, txDir)
			txMoved, rxMoved := filepath.Join(t.TempDir(), "tx"), filepath.Join(t.TempDir(), "rx")
			for dst, src := range map[string]string{txMoved: txDir, rxMoved: rxDir} {
				if err := r.Rewrite(src, dst, moved, nil); err != nil {
					t.Fatal(err)
				}
			}
			cutMoved(t, r, rxMoved, test.from, test.to)
			n.gate(false)
			// The receiver, which has nothing to send, must be there before the sender's packets.
			rx2, rxr := restoreCell(t, r, n, false, rxMoved)
			tx2, txr := restoreCell(t, r, n, false, txMoved)
			if err := rxr.Resume(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if err := txr.Resume(testContext(t)); err != nil {
				t.Fatal(err)
			}
			tx2.adopt(strconv.Itoa(txr.InnerPid()))
			rx2.adopt(strconv.Itoa(rxr.InnerPid()))
			counts(t, count, at)
			for name, sum := range digests(t, txDir) {
				if before[name] != sum {
					t.Errorf("the source's %s changed", name)
				}
			}
		})
	}
}

// checkCut applies M8 to the one connection that two folders share.
func checkCut(t *testing.T, r *Runner, p, q string) {
	t.Helper()
	ps, err := r.Ends(p)
	if err != nil {
		t.Fatal(err)
	}
	qs, err := r.Ends(q)
	if err != nil {
		t.Fatal(err)
	}
	if len(ps) != 1 || len(qs) != 1 {
		t.Fatalf("ends %v and %v", ps, qs)
	}
	a, b := ps[0], qs[0]
	if a.Local != b.Remote || a.Remote != b.Local {
		t.Fatalf("%v and %v are not one connection", a, b)
	}
	for _, d := range [][2]marker.End{{a, b}, {b, a}} {
		from, to := d[0], d[1]
		if int32(to.RcvNxt-from.SndUna) < 0 || int32(from.WriteSeq-to.RcvNxt) < 0 {
			t.Errorf("M8 does not hold: %+v, %+v", from, to)
		}
	}
	t.Logf("in transit: %d and %d bytes", a.WriteSeq-b.RcvNxt, b.WriteSeq-a.RcvNxt)
}

// cutMoved checks that an address is gone from the ends and another is there.
func cutMoved(t *testing.T, r *Runner, dir, from, to string) {
	t.Helper()
	ends, err := r.Ends(dir)
	if err != nil || len(ends) != 1 {
		t.Fatalf("ends %v, %v", ends, err)
	}
	all := ends[0].Local + " " + ends[0].Remote
	if host, _, _ := net.SplitHostPort(ends[0].Local); host != to || strings.Contains(all, from+":") {
		t.Errorf("the end is %s after the move from %s to %s", all, from, to)
	}
}

// A restore that is cancelled, or whose CRIU is killed, leaves nothing; the images can be restored after.
func TestCancelRestore(t *testing.T) {
	r := newRunner(t)
	c := startIn(t, nil, false, nil, "parent")
	counts(t, c.dir, 0)
	dir := dumpCell(t, r, c)
	at := readCount(c.dir)
	c.kill()

	empty := func(c *cell) {
		t.Helper()
		if left := cgroupTasks(c.member.Cgroup); len(left) != 0 {
			t.Errorf("processes %v are left", left)
		}
		if readCount(c.dir) > at {
			t.Error("the tree ran")
		}
	}
	c1, s := restoreCell(t, r, nil, false, dir)
	if err := s.Cancel(testContext(t)); err != nil {
		t.Fatal(err)
	}
	empty(c1)
	if err := s.Resume(testContext(t)); err == nil {
		t.Error("a cancelled restore was resumed")
	}

	c2, s := restoreCell(t, r, nil, false, dir)
	kill(t, s.(*restore).operation)
	if len(cgroupTasks(c2.member.Cgroup)) == 0 {
		t.Error("expected the tasks of a killed CRIU to wait for ever")
	}
	err := s.Resume(testContext(t))
	if err == nil {
		t.Fatal("the restore of a killed CRIU was resumed")
	}
	t.Log(err)
	empty(c2)

	c3, s := restoreCell(t, r, nil, false, dir)
	if err := s.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	c3.adopt(strconv.Itoa(s.InnerPid()))
	counts(t, c.dir, at)
}

// A tree that was running before anyone knew of it, whose session is led from outside, goes into a cell at its restore,
// and can be dumped and restored from there. The lock is free while it runs.
func TestAttached(t *testing.T) {
	r := newRunner(t)
	c := newCell(t, nil, false) // only for its cgroup and folder
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := os.Create(filepath.Join(c.dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	// The shell leads the session: whoever runs the tests may lead theirs from outside of the PID namespace.
	leader := exec.Command("sh", "-c", `"$0" parent "$1" >/dev/null & echo $!; wait`, exe, c.dir)
	leader.Dir, leader.Stderr, leader.SysProcAttr = "/", errs, &syscall.SysProcAttr{Setsid: true}
	said, err := leader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var pid int
	_, err = fmt.Fscan(said, &pid)
	go func() { defer close(ended); _ = leader.Wait() }()
	t.Cleanup(func() { _ = unix.Kill(-leader.Process.Pid, unix.SIGKILL); <-ended })
	if err != nil {
		t.Fatal(err)
	}
	counts(t, c.dir, 0)
	attached := &cell{t: t, dir: c.dir, member: c.member}
	attached.member.Attached = true
	attached.member.Pid, attached.member.InnerPid, attached.member.InitPid = pid, pid, 0
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(strings.Fields(string(children)), strconv.Itoa(pid)) {
		if err := os.WriteFile(filepath.Join(c.member.Cgroup, "cgroup.procs"), []byte(pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	dir := dumpCell(t, r, attached)
	at := readCount(c.dir)
	for _, pid := range cgroupTasks(c.member.Cgroup) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	attached.thaw()
	<-ended

	for range 2 {
		fresh, lock := newCell(t, nil, false), lockFile(t)
		s, err := r.StartRestore(testContext(t), agent.RestoreSpec{Unit: unit(fresh.member), Dir: dir, LogDir: t.TempDir(), LockFile: lock})
		if err != nil {
			t.Fatal(err)
		}
		if !locked(t, lock) {
			t.Error("CRIU does not hold the lock")
		}
		if err := s.Resume(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if locked(t, lock) {
			t.Error("the restored tree holds CRIU's lock")
		}
		fresh.adopt(strconv.Itoa(s.InnerPid()))
		counts(t, c.dir, at)
		dir = dumpCell(t, r, fresh)
		at = readCount(c.dir)
		fresh.kill()
	}
}
