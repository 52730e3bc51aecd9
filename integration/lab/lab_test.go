package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// run runs a shell command on a host and returns its trimmed output.
func run(t *testing.T, h *Host, script string) string {
	t.Helper()
	out, err := h.Command(t.Context(), "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", h.Name, script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestHostsAreSeparate(t *testing.T) {
	l := New(t, "hostA", "hostB")
	a, b := l.Host("hostA"), l.Host("hostB")
	if got := run(t, a, "uname -n"); got != "hostA" {
		t.Errorf("host name %q, want hostA", got)
	}
	for _, dir := range append([]string{"/run", "/dev/shm"}, privateFolders...) {
		run(t, a, "echo here > "+dir+"/mark")
		if got := run(t, b, "ls "+dir); strings.Contains(got, "mark") {
			t.Errorf("hostB sees hostA's %s: %s", dir, got)
		}
		if data, err := a.ReadFile(dir + "/mark"); err != nil || string(data) != "here\n" {
			t.Errorf("the lab reads %q, %v from hostA's %s", data, err, dir)
		}
	}
	if got := run(t, a, "tr '\\0' ' ' < /proc/1/cmdline"); got != initName+" "+l.id+" hostA" {
		t.Errorf("PID 1 is %q", got)
	}
	if got := run(t, a, "ls -d /proc/[0-9]* | wc -l"); got > "5" || len(got) > 1 {
		t.Errorf("hostA sees %s processes", got)
	}
	if leaks := l.Leaks(); len(leaks) != 0 {
		t.Errorf("leaks: %q", leaks)
	}
}

// connect makes a TCP connection from one host to an address of another and returns both ends.
func connect(t *testing.T, from, to *Host, addr netip.Addr) (client, server net.Conn) {
	t.Helper()
	var listener net.Listener
	var err error
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	must("listen", to.inside(func() error {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	}))
	defer listener.Close()
	must("dial", from.inside(func() error {
		client, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		return err
	}))
	t.Cleanup(func() { client.Close() })
	server, err = listener.Accept()
	must("accept", err)
	t.Cleanup(func() { server.Close() })
	return client, server
}

// carries says whether a byte passes from one end to the other within a moment.
func carries(t *testing.T, from, to net.Conn, patience time.Duration) bool {
	t.Helper()
	if _, err := from.Write([]byte{1}); err != nil {
		t.Fatalf("write: %v", err)
	}
	if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadFull(to, make([]byte, 1))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read: %v", err)
	}
	return err == nil
}

func TestNetwork(t *testing.T) {
	l := New(t, "hostA", "hostB")
	a, b := l.Host("hostA"), l.Host("hostB")
	for _, addr := range []netip.Addr{b.Addr(), b.Addr6()} {
		client, server := connect(t, a, b, addr)
		if !carries(t, client, server, 5*time.Second) || !carries(t, server, client, 5*time.Second) {
			t.Errorf("%s carries nothing", addr)
		}
	}
	client, server := connect(t, a, b, b.Addr())
	a.CutNetwork()
	if carries(t, client, server, 300*time.Millisecond) {
		t.Error("a byte passed a cut network")
	}
	a.HealNetwork()
	if err := server.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Errorf("the byte sent while the network was cut: %v", err)
	}
}

// startHolder starts a program on a host that holds one end of a connection to another host, and returns the other end.
func startHolder(t *testing.T, on, peer *Host) net.Conn {
	t.Helper()
	var listener net.Listener
	if err := peer.inside(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(peer.Addr(), 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	cmd := on.Command(context.Background(), "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d; sleep 1000 & sleep 1000", peer.Addr(), port))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestPowerOffIsSilentAndCrashIsNot(t *testing.T) {
	l := New(t, "hostA", "hostB")
	a, b := l.Host("hostA"), l.Host("hostB")

	conn := startHolder(t, a, b)
	pid := a.Pid()
	a.PowerOff()
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("PID 1 after power off: %v", err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the peer of a host without power hears %v", err)
	}

	a.PowerOn()
	conn = startHolder(t, a, b)
	a.Crash()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the peer of a crashed host hears %v", err)
	}
}

func TestPowerOffEndsFrozenProcesses(t *testing.T) {
	l := New(t, "hostA")
	a := l.Host("hostA")
	roots, err := cgroupRoots()
	if err != nil {
		t.Fatal(err)
	}
	frozen := 0
	for _, root := range roots {
		for file, value := range map[string]string{"freezer.state": "FROZEN", "cgroup.freeze": "1"} {
			dir := filepath.Join(root, a.cgroup(), "job")
			if os.MkdirAll(dir, 0o755) != nil {
				continue
			}
			if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
				continue
			}
			cmd := a.Command(t.Context(), "sleep", "1000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for name, data := range map[string]string{"cgroup.procs": fmt.Sprint(cmd.Pid()), file: value} {
				if name == file {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
				t.Fatal(err)
			}
			frozen++
		}
	}
	if frozen == 0 {
		t.Fatal("this machine has no cgroup that can be frozen")
	}
	a.PowerOff()
	if left, err := cgroupFolders(a.cgroup()); err != nil || len(left) != 0 {
		t.Errorf("cgroups left: %v, %v", left, err)
	}
}

func TestLeaksAreFound(t *testing.T) {
	l := New(t, "hostA")
	a := l.Host("hostA")
	cmd := a.Command(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	run(t, a, "mkdir /run/m && mount -t tmpfs none /run/m")
	if err := a.inside(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.AddTable(&nftables.Table{Name: "sslab_leak", Family: nftables.TableFamilyINet})
		return conn.Flush()
	}); err != nil {
		t.Fatalf("add an nft table: %v", err)
	}
	roots, err := cgroupRoots()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(roots[len(roots)-1], a.cgroup(), "job"), 0o755); err != nil {
		t.Fatal(err)
	}
	leaks := strings.Join(l.Leaks(), "\n")
	for _, want := range []string{"sleep 1000", "mount /run/m tmpfs", "cgroup ", "nft table sslab_leak: 0"} {
		if !strings.Contains(leaks, want) {
			t.Errorf("no %q among the leaks:\n%s", want, leaks)
		}
	}
}

// TestMain lets the test binary be a process that makes a lab and waits to be killed.
func TestMain(m *testing.M) {
	if os.Getenv("SSLAB_TEST_VICTIM") == "" {
		os.Exit(m.Run())
	}
	err := RunScript(os.Stderr, func(s *Script) {
		l := New(s, "hostA")
		if err := l.Host("hostA").Command(context.Background(), "sleep", "1000").Start(); err != nil {
			s.Fatalf("%v", err)
		}
		fmt.Println(l.dir, l.Host("hostA").Pid())
		select {}
	})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestHostsDieWithTheirMaker(t *testing.T) {
	victim := exec.Command("/proc/self/exe")
	victim.Env = append(os.Environ(), "SSLAB_TEST_VICTIM=1")
	victim.Stderr = os.Stderr
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var dir string
	var pid int
	if _, scanErr := fmt.Sscan(line, &dir, &pid); scanErr != nil || err != nil {
		t.Fatalf("%q: %v, %v", line, scanErr, err)
	}
	if err := Clean(); err != nil {
		t.Errorf("clean: %v", err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the folder of a lab in use: %v", err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Errorf("PID 1 outlives the lab's maker: %v", err)
	}
	if err := Clean(); err != nil {
		t.Errorf("clean: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of a dead lab: %v", err)
	}
}

// TestLimitsOfAnotherUser needs root and gcc. What the stand-in for prlimit(2) says of a process is what the kernel says.
func TestLimitsOfAnotherUser(t *testing.T) {
	l := New(t, "hostA")
	h := l.Host("hostA")
	wrapper := filepath.Join(l.Dir(), "limits")
	if err := l.wrapCRIU(wrapper, "/usr/bin/prlimit", "gcc"); err != nil {
		t.Fatal(err)
	}
	sleeper := h.Command(t.Context(), "prlimit", "--nofile=77:99", "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sleep", "infinity")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Kill()
	pid := run(t, h, "until pid=$(pidof sleep); do :; done; echo $pid")
	for _, limit := range []struct{ option, want string }{{"--nofile", "77 99"}, {"--core", ""}, {"--rtprio", ""}, {"--stack", ""}} {
		got := strings.ReplaceAll(run(t, h, wrapper+" --raw --noheadings -o SOFT,HARD --pid "+pid+" "+limit.option), "  ", " ")
		want := limit.want
		if want == "" {
			want = run(t, h, "prlimit --raw --noheadings -o SOFT,HARD "+limit.option)
		}
		if got != want {
			t.Errorf("%s is %q, want %q", limit.option, got, want)
		}
	}
}
