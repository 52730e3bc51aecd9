package criu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/cgroup"
)

const patience = 30 * time.Second

// eventually waits for a state of the kernel or of another process that sends no event.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// namespace is a network namespace with lo up.
type namespace struct {
	t  testing.TB
	fd int
}

func newNamespace(t testing.TB, addrs ...string) *namespace {
	t.Helper()
	n := &namespace{t: t}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			n.fd = fd
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return err
			}
			for _, a := range addrs {
				addr, err := netlink.ParseAddr(a)
				if err != nil {
					return err
				}
				addr.Flags = unix.IFA_F_NODAD
				if err := netlink.AddrAdd(lo, addr); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { unix.Close(n.fd) })
	// IPv6 addresses come into use some time after they are set.
	for _, from := range addrs {
		for _, to := range addrs {
			eventually(t, from+" to reach "+to, func() bool { return n.reaches(from, to) })
		}
	}
	return n
}

// do runs f on a thread in the namespace.
func (n *namespace) do(f func() error) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(n.fd, unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		n.t.Fatalf("in a network namespace: %v", err)
	}
}

// gate lets no packet of the namespace through any more (true), or again (false).
func (n *namespace) gate(closed bool) {
	n.t.Helper()
	n.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		drop := &netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
			QdiscType:  "blackhole",
		}
		if closed {
			return netlink.QdiscAdd(drop)
		}
		return netlink.QdiscDel(drop)
	})
}

// reaches says whether a connection can be made between two addresses, given with their prefixes' lengths.
func (n *namespace) reaches(from, to string) (ok bool) {
	n.t.Helper()
	from, _, _ = strings.Cut(from, "/")
	to, _, _ = strings.Cut(to, "/")
	n.do(func() error {
		l, err := net.Listen("tcp", net.JoinHostPort(to, "0"))
		if err != nil {
			return nil
		}
		defer l.Close()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 100 * time.Millisecond}
		c, err := d.Dial("tcp", l.Addr().String())
		if err == nil {
			ok = true
			c.Close()
		}
		return nil
	})
	return ok
}

// pair makes a connection from one address of the namespace to another.
func (n *namespace) pair(from, to string) (a, b *net.TCPConn) {
	n.t.Helper()
	n.do(func() error {
		l, err := net.Listen("tcp", net.JoinHostPort(to, "0"))
		if err != nil {
			return err
		}
		defer l.Close()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
		c, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		s, err := l.Accept()
		if err != nil {
			return err
		}
		a, b = c.(*net.TCPConn), s.(*net.TCPConn)
		return nil
	})
	n.t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// file is another descriptor of the connection.
func file(t testing.TB, conn *net.TCPConn) *os.File {
	t.Helper()
	f, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// silence closes a connection whose last descriptor f is, without a packet.
func silence(t testing.TB, f *os.File) {
	t.Helper()
	if err := unix.SetsockoptInt(int(f.Fd()), unix.SOL_TCP, unix.TCP_REPAIR, 1); err != nil {
		t.Fatal("TCP_REPAIR:", err)
	}
	f.Close()
}

var cellNumber atomic.Int64

// cell is a cell for one member, made as agent/cell makes them.
type cell struct {
	t      testing.TB
	init   *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	dir    string
	member agent.Member
}

// freezer is where a hierarchy that can freeze is mounted on this machine.
func freezer(t testing.TB, v1 bool) string {
	t.Helper()
	places := []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"}
	want := int64(unix.CGROUP2_SUPER_MAGIC)
	if v1 {
		places, want = []string{"/sys/fs/cgroup/freezer"}, unix.CGROUP_SUPER_MAGIC
	}
	for _, p := range places {
		var fs unix.Statfs_t
		if unix.Statfs(p, &fs) == nil && fs.Type == want {
			return p
		}
	}
	t.Fatal("this machine has no such cgroup hierarchy (v2, or the v1 freezer): mount it")
	return ""
}

func newCell(t testing.TB, n *namespace, v1 bool, files ...*os.File) *cell {
	t.Helper()
	c := &cell{t: t, dir: t.TempDir()}
	name := fmt.Sprintf("criu-test-%d-%d", os.Getpid(), cellNumber.Add(1))
	c.member = agent.Member{Job: "test", Name: name, Cell: agent.Cell{Cgroup: filepath.Join(freezer(t, v1), name)}}
	if err := os.Mkdir(c.member.Cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.destroy)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c.init = exec.Command(exe, "cell-init")
	c.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC}
	c.init.Stderr = os.Stderr
	c.init.ExtraFiles = files
	if c.in, err = c.init.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.init.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if n != nil {
		n.do(c.init.Start)
	} else if err := c.init.Start(); err != nil {
		t.Fatal(err)
	}
	c.member.InitPid = c.init.Process.Pid
	if line, err := c.out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("cell-init: %q, %v", line, err)
	}
	return c
}

// startIn starts a member in a new cell.
func startIn(t testing.TB, n *namespace, v1 bool, files []*os.File, args ...string) *cell {
	t.Helper()
	c := newCell(t, n, v1, files...)
	o := startOrder{Args: append(args, c.dir), Cgroup: c.member.Cgroup, Files: len(files)}
	if err := json.NewEncoder(c.in).Encode(o); err != nil {
		t.Fatal(err)
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	c.adopt(line)
	eventually(t, "the member to be what it is", func() bool {
		exe, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(c.member.Pid), "exe"))
		self, _ := os.Executable()
		return exe == self
	})
	if args[0] == "hold" || args[0] == "echo" {
		eventually(t, args[0]+" to be up", func() bool { _, err := os.Stat(filepath.Join(c.dir, "up")); return err == nil })
	}
	return c
}

// adopt takes in the member's root, whose PID in the cell is given.
func (c *cell) adopt(inner string) {
	c.t.Helper()
	inner = strings.TrimSpace(inner)
	eventually(c.t, "process "+inner+" of the cell", func() bool {
		for _, pid := range cgroupTasks(c.member.Cgroup) {
			status, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
			for line := range strings.Lines(string(status)) {
				if f := strings.Fields(line); f[0] == "NSpid:" && f[len(f)-1] == inner {
					c.member.Pid = pid
					c.member.InnerPid, _ = strconv.Atoi(inner)
					return true
				}
			}
		}
		return false
	})
}

// frozen reads whether every task of the cgroup stands still.
func (c *cell) frozen() bool {
	if text, err := os.ReadFile(filepath.Join(c.member.Cgroup, "freezer.state")); err == nil {
		return strings.TrimSpace(string(text)) == "FROZEN"
	}
	text, err := os.ReadFile(filepath.Join(c.member.Cgroup, "cgroup.events"))
	return err == nil && strings.Contains(string(text), "frozen 1")
}

func (c *cell) freeze() {
	c.t.Helper()
	if err := cgroup.Dir(c.member.Cgroup).SetFrozen(true); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, "the member to freeze", c.frozen)
}

func (c *cell) thaw() {
	c.t.Helper()
	if err := cgroup.Dir(c.member.Cgroup).SetFrozen(false); err != nil {
		c.t.Fatal(err)
	}
}

// kill ends the cell with all that is in it.
func (c *cell) kill() {
	if c.init == nil || c.init.ProcessState != nil {
		return
	}
	for _, pid := range cgroupTasks(c.member.Cgroup) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_ = cgroup.Dir(c.member.Cgroup).SetFrozen(false)
	c.in.Close()
	_ = c.init.Process.Kill()
	_ = c.init.Wait()
	eventually(c.t, "the cell's cgroup to be empty", func() bool { return len(cgroupTasks(c.member.Cgroup)) == 0 })
}

func (c *cell) destroy() {
	c.kill()
	eventually(c.t, "the cell's cgroup to go", func() bool {
		err := os.Remove(c.member.Cgroup)
		return err == nil || errors.Is(err, os.ErrNotExist)
	})
}

// counts waits until the member goes on counting.
func counts(t testing.TB, dir string, beyond uint64) {
	t.Helper()
	from := max(readCount(dir), beyond)
	eventually(t, "the count to go on", func() bool {
		if text := readStderr(dir); text != "" {
			t.Fatalf("the member says: %s", text)
		}
		return readCount(dir) > from
	})
}

// ping sends a word through the connection and waits for its echo.
func ping(t testing.TB, conn net.Conn, word string) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, word); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(word))
	if _, err := io.ReadFull(conn, back); err != nil {
		t.Fatalf("echo of %q: %v", word, err)
	}
	if string(back) != word {
		t.Fatalf("echo of %q: %q", word, back)
	}
}

func newRunner(t testing.TB) *Runner {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Path: criuPath(), Exe: []string{exe, "criu-exec"}, WorkDir: t.TempDir(), LogLevel: debugLog})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// imageDir is a folder for images, as the agent makes them.
func imageDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "images")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func lockFile(t testing.TB) string { return filepath.Join(t.TempDir(), "criu.lock") }

// locked says whether a CRIU holds the lock.
func locked(t testing.TB, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// startDump brings a dump to the pre-dump notification; run carries it through and returns the images' folder.
func startDump(t testing.TB, r *Runner, c *cell) (run func() string) {
	t.Helper()
	dir := imageDir(t)
	d, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(c.member), Dir: dir, LockFile: lockFile(t)})
	if err != nil {
		t.Fatal(err)
	}
	return func() string {
		t.Helper()
		result, err := d.Run(testContext(t), uncounted, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if result.Bytes == 0 || result.Frozen == 0 {
			t.Errorf("a dump of nothing: %+v", result)
		}
		return dir
	}
}

// dumpCell dumps the member and leaves it frozen.
func dumpCell(t testing.TB, r *Runner, c *cell) string {
	t.Helper()
	run := startDump(t, r, c)
	c.freeze()
	return run()
}

// restoreCell restores images into a new cell and leaves it at the post-restore notification.
func restoreCell(t testing.TB, r *Runner, n *namespace, v1 bool, dir string) (*cell, agent.Restore) {
	t.Helper()
	c := newCell(t, n, v1)
	s, err := r.StartRestore(testContext(t), agent.RestoreSpec{Unit: unit(c.member), Dir: dir, LogDir: t.TempDir(), LockFile: lockFile(t)})
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

// debugLog has CRIU say where it is: tests wait for its words.
const debugLog = 4

// unit is the one unit of a member.
func unit(m agent.Member) agent.Unit { return m.Units()[0] }
