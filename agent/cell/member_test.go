package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/sockets"
)

// memberMain is what the tests' members do, each one small thing. They say on a bell when they have
// done it, and stay.
func memberMain(what string, args []string) int {
	acts := map[string]func([]string) (string, error){
		"tree": actTree, "listen": actListen, "dial": actDial, "echo": actEcho, "talk": actTalk, "spawn": actSpawn,
		"io_uring": actIOUring, "perf": actPerf, "unix": actUnix, "udp": actUDP, "vsock": actVsock, "sysv": actSysV, "device": actDevice,
	}
	if what == "count" {
		return count(args[0], args[1])
	}
	bell, args := args[0], args[1:]
	said, err := acts[what](args)
	if err != nil {
		ring(bell, "failed: "+err.Error())
		return 1
	}
	ring(bell, said)
	for {
		_ = unix.Pause()
	}
}

// count counts in a shared mapping of a file until it is killed.
func count(file, bell string) int {
	c, err := mapCounter(file)
	if err != nil {
		ring(bell, "failed: "+err.Error())
		return 1
	}
	ring(bell, "ready")
	for {
		c.add()
	}
}

func actTree([]string) (string, error) {
	for range 2 {
		// A child with a child, each waiting for a signal.
		if err := exec.Command("/bin/sh", "-c", "sleep 1000 & exec sleep 1000").Start(); err != nil {
			return "", err
		}
	}
	for range 5 {
		go func() { _ = unix.Pause() }() // a thread of its own
	}
	return "ready", nil
}

// actSpawn starts programs, one after the other; Go does so by way of vfork.
func actSpawn([]string) (string, error) {
	go func() {
		for {
			_ = exec.Command("true").Run()
		}
	}()
	return "ready", nil
}

// actListen listens and does not accept: PROTOCOL ADDRESS PORT, plain system calls.
func actListen(args []string) (string, error) {
	protocol := map[string]int{"tcp": unix.IPPROTO_TCP, "defer": unix.IPPROTO_TCP, "mptcp": sockets.ProtocolMPTCP}[args[0]]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return "", err
	}
	sa := &unix.SockaddrInet4{}
	copy(sa.Addr[:], net.ParseIP(args[1]).To4())
	if err := errors.Join(unix.Bind(fd, sa), unix.Listen(fd, 10)); err != nil {
		return "", err
	}
	if args[0] == "defer" { // handshakes end only when data come
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30); err != nil {
			return "", err
		}
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return "", err
	}
	return strconv.Itoa(at.(*unix.SockaddrInet4).Port), nil
}

// actDial connects to each address: "wait" waits for it, "try" does not.
func actDial(args []string) (string, error) {
	for _, addr := range args[1:] {
		if args[0] == "try" {
			if err := dialTry(addr); err != nil {
				return "", err
			}
			continue
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return "", err
		}
		kept = append(kept, c)
	}
	return "ready", nil
}

var kept []any // what the garbage collector must not close

func dialTry(addr string) error {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	sa := &unix.SockaddrInet4{Port: a.Port}
	copy(sa.Addr[:], a.IP.To4())
	if err := unix.Connect(fd, sa); !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// actEcho sends back what comes, on one connection.
func actEcho(args []string) (string, error) {
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", args[0])
	if err != nil {
		return "", err
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		for b := make([]byte, 1); ; {
			if _, err := c.Read(b); err != nil {
				return
			}
			_, _ = c.Write(b)
		}
	}()
	return l.Addr().String(), nil
}

// actTalk listens as every Go program does.
func actTalk(args []string) (string, error) {
	l, err := net.Listen("tcp", args[0])
	kept = append(kept, l)
	return "ready", err
}

func actIOUring([]string) (string, error) {
	var params [120]byte // struct io_uring_params
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return "", errno
	}
	return "ready", nil
}

func actPerf([]string) (string, error) {
	attr := &unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	_, err := unix.PerfEventOpen(attr, 0, -1, -1, 0)
	return "ready", err
}

// actUnix connects to a UNIX socket outside, and has a pair inside.
func actUnix(args []string) (string, error) {
	if _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); err != nil {
		return "", err
	}
	if len(args) == 0 {
		return "ready", nil
	}
	c, err := net.Dial("unix", args[0])
	kept = append(kept, c)
	return "ready", err
}

func actUDP(args []string) (string, error) {
	c, err := net.Dial("udp", args[0])
	kept = append(kept, c)
	return "ready", err
}

func actVsock([]string) (string, error) {
	_, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	return "ready", err
}

func actSysV([]string) (string, error) {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o600)
	if err != nil {
		return "", err
	}
	b, err := unix.SysvShmAttach(id, 0, 0)
	kept = append(kept, b)
	return "ready", err
}

func actDevice(args []string) (string, error) {
	_, err := unix.Open(args[0], unix.O_RDONLY, 0)
	return "ready", err
}

// sharedCounter is a number in a file that several processes have mapped.
type sharedCounter struct{ mem []byte }

func mapCounter(file string) (sharedCounter, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return sharedCounter{}, err
	}
	defer f.Close()
	if err := f.Truncate(8); err != nil {
		return sharedCounter{}, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return sharedCounter{mem}, err
}

// agentOrder is what a process that plays the agent is to do.
type agentOrder struct {
	Config Config
	Member agent.Member
	Watch  string // lock file; "" for no watcher and no freezing
	Bell   string
}

// agentMain plays an agent that will be killed.
func agentMain(args []string) int {
	var o agentOrder
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return 2
	}
	if err := playAgent(o); err != nil {
		ring(o.Bell, "failed: "+err.Error())
		return 1
	}
	ring(o.Bell, "agent ready")
	for {
		_ = unix.Pause()
	}
}

func playAgent(o agentOrder) error {
	ctx := context.Background()
	g, err := New(o.Config)
	if err != nil {
		return err
	}
	m, err := g.Start(ctx, o.Member)
	if err != nil || o.Watch == "" {
		return err
	}
	stop, err := g.Watch(ctx, []agent.Member{m}, o.Watch)
	if err != nil {
		return err
	}
	kept = append(kept, stop)
	return g.Freeze(ctx, m)
}

// runAgent starts a process that plays the agent and returns when it has said so.
func runAgent(t *testing.T, b bell, o agentOrder) *exec.Cmd {
	t.Helper()
	o.Bell = b.path
	arg, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "agent", string(arg))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for {
		line := b.wait(t)
		if strings.HasPrefix(line, "failed") {
			t.Fatal(line)
		}
		if line == "agent ready" {
			return cmd
		}
	}
}
