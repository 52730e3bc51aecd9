package gate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"ss/agent"
)

// childEnv makes the test binary play one of the children below instead of running tests.
const childEnv = "SS_GATE_TEST_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		if err := playChild(role, strings.Fields(os.Getenv(childEnv+"_ARGS"))); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		fmt.Println("FAIL: the tests of agent/gate make network namespaces, nft tables and cgroups: run them as root")
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// playChild runs in a process of its own, in the network namespace that it gets as descriptor 3.
func playChild(role string, args []string) error {
	runtime.LockOSThread() // setns(2) moves a thread, and a goroutine that has waited may go on in another one
	if err := unix.Setns(3, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	switch role {
	case "manager": // local, remote: closes a gate and waits to be killed
		k, err := New(Options{NetNS: 3})
		if err != nil {
			return err
		}
		conn := agent.Conn{Local: netip.MustParseAddrPort(args[0]), Remote: netip.MustParseAddrPort(args[1])}
		err = k.Close(context.Background(), []agent.Gate{{Job: "killed", Peer: "b", Conns: []agent.Conn{conn}}})
		if err != nil {
			return err
		}
		fmt.Println("closed")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return nil
	case "blocker": // address, port: blocks and waits to be killed
		k, err := New(Options{NetNS: 3})
		if err != nil {
			return err
		}
		listen := []netip.AddrPort{netip.MustParseAddrPort(args[1])}
		if err := k.Block(context.Background(), []agent.Block{{Job: "killed", From: []netip.Addr{netip.MustParseAddr(args[0])}, Listen: listen}}); err != nil {
			return err
		}
		fmt.Println("blocked")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return nil
	case "listener": // address: accepts one connection
		l, err := net.Listen("tcp", args[0])
		if err != nil {
			return err
		}
		fmt.Println(l.Addr())
		c, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Println("accepted", c.RemoteAddr().(*net.TCPAddr).IP)
		_, _ = io.Copy(io.Discard, os.Stdin)
		return c.Close()
	case "dialer": // address: connects when told to
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return err
		}
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return err
		}
		fmt.Println("connected")
		return c.Close()
	}
	return fmt.Errorf("no child plays %q", role)
}

// child is a running child. Its lines arrive on the channel, which is closed at the end of its output.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
}

// startChild starts a child in h's namespace; cgroup is a descriptor of the cgroup to start in, or 0.
func startChild(t *testing.T, h *host, cgroup int, role string, args ...string) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+role, childEnv+"_ARGS="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	ns, err := unix.FcntlInt(uintptr(h.ns), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(ns), "netns")
	defer file.Close()
	cmd.ExtraFiles = []*os.File{file}
	if cgroup != 0 {
		cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: cgroup}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd, stdin: stdin, lines: make(chan string, 16)}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	t.Cleanup(c.kill)
	return c
}

// kill kills the child and waits until it is gone, and all it owned with it.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		for range c.lines {
		}
		_ = c.cmd.Wait()
	}
}

// expect waits for the child to say line.
func (c *child) expect(t *testing.T, line string) {
	t.Helper()
	if got, ok := <-c.lines; !ok || got != line {
		t.Fatalf("child said %q, want %q", got, line)
	}
}
