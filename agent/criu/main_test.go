// CRIU cannot dump MPTCP sockets, with which Go programs listen otherwise.
//
//go:debug multipathtcp=0

package criu

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test binary is also the keeper, the first process of cells, and every program that is dumped.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		programs := map[string]func(args []string) int{
			"criu-exec": ExecMain,
			"cell-init": cellInit,
			"hold":      holdProgram,
			"echo":      echoProgram,
			"lock":      lockProgram,
			"heir":      heirProgram,
			"lease":     leaseProgram,
			"send":      sendProgram,
			"receive":   receiveProgram,
			"parent":    parentProgram,
			"agent":     agentProgram,
		}
		if run, ok := programs[os.Args[1]]; ok {
			os.Exit(run(os.Args[2:]))
		}
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of agent/criu run CRIU, which needs root: run them as root")
		os.Exit(1)
	}
	if _, err := os.Stat(criuPath()); err != nil {
		fmt.Fprintf(os.Stderr, "no CRIU at %s: run scripts/install-criu, or name one in SS_CRIU\n", criuPath())
		os.Exit(1)
	}
	// Whatever whoever started the tests has left open must not end up in what is dumped.
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func criuPath() string {
	if path := os.Getenv("SS_CRIU"); path != "" {
		return path
	}
	return "/opt/ss/criu/bin/criu"
}

// startOrder asks cell-init for a member.
type startOrder struct {
	Args   []string
	Cgroup string
	Files  int // descriptors from 3 on that it inherits
}

// cellInit is PID 1 of a cell: it starts what it is told on its standard input, tells the PID, and
// reaps. It ends, and the cell with it, when its input ends.
func cellInit([]string) int {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "cell-init:", err)
			os.Exit(1)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("proc", "/proc", "proc", 0, ""))
	must(unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"))
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		for range children {
			for {
				pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
				if err != nil || pid <= 0 {
					break
				}
			}
		}
	}()
	fmt.Println("ready")
	in := json.NewDecoder(os.Stdin)
	for {
		var o startOrder
		if in.Decode(&o) != nil {
			return 0
		}
		must(os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte("1000"), 0))
		pid, err := startMember(o)
		must(err)
		fmt.Println(pid)
	}
}

// startMember starts a program with standard streams opened in the cell and a session of its own.
func startMember(o startOrder) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	errs, err := os.OpenFile(filepath.Join(o.Args[len(o.Args)-1], "stderr"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer errs.Close()
	files := []uintptr{null.Fd(), null.Fd(), errs.Fd()}
	for i := range o.Files {
		files = append(files, uintptr(3+i))
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	// Of the cgroup freezers only v2 lets a process be born there; for v1 the shell moves first.
	procs := filepath.Join(o.Cgroup, "cgroup.procs")
	script := `echo 0 > "$0" && exec "$@"`
	args := append([]string{"sh", "-c", script, procs, exe}, o.Args...)
	return syscall.ForkExec("/bin/sh", args, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
}

// holdProgram touches as many MiB as its first argument says and then does nothing. Descriptors that it
// inherits stay open.
func holdProgram(args []string) int {
	memory := touched(args[0])
	if err := os.WriteFile(filepath.Join(args[len(args)-1], "up"), nil, 0o600); err != nil {
		return 1
	}
	for memory[0] != 0 { // for ever; the runtime's own signals end a pause, too
		_ = unix.Pause()
	}
	return 0
}

// touched is as many MiB of memory as the text says, every page of which is there.
func touched(mib string) []byte {
	n, _ := strconv.Atoi(mib)
	memory := make([]byte, n<<20+1)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = byte(i>>12) | 1
	}
	return memory
}

// echoProgram sends back what comes through descriptor 3.
func echoProgram(args []string) int {
	conn := inherited(3)
	var ballast []byte
	if len(args) > 1 {
		ballast = touched(args[0])
	}
	_ = os.WriteFile(filepath.Join(args[len(args)-1], "up"), nil, 0o600)
	_, err := io.Copy(struct{ io.Writer }{conn}, conn)
	fmt.Fprintln(os.Stderr, "echo:", err, len(ballast))
	return 1
}

func inherited(fd uintptr) net.Conn {
	f := os.NewFile(fd, "inherited")
	conn, err := net.FileConn(f)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	f.Close()
	return conn
}

// sendProgram writes 1, 2, 3, … to descriptor 3 as fast as it can.
func sendProgram([]string) int {
	out := bufio.NewWriterSize(inherited(3), 1<<16)
	var word [8]byte
	for n := uint64(1); ; n++ {
		binary.BigEndian.PutUint64(word[:], n)
		if _, err := out.Write(word[:]); err != nil {
			fmt.Fprintln(os.Stderr, "send:", err)
			return 1
		}
	}
}

// receiveProgram checks what sendProgram sends and keeps the number it has come to in the file "count".
func receiveProgram(args []string) int {
	dir := args[len(args)-1]
	count, err := os.Create(filepath.Join(dir, "count"))
	if err != nil {
		return 1
	}
	in := bufio.NewReaderSize(inherited(3), 1<<16)
	var word [8]byte
	for n := uint64(1); ; n++ {
		if _, err := io.ReadFull(in, word[:]); err != nil {
			fmt.Fprintln(os.Stderr, "receive:", err)
			return 1
		}
		if got := binary.BigEndian.Uint64(word[:]); got != n {
			fmt.Fprintf(os.Stderr, "receive: got %d instead of %d\n", got, n)
			return 1
		}
		if n%4096 == 0 {
			if _, err := count.WriteAt(word[:], 0); err != nil {
				return 1
			}
		}
	}
}

// parentProgram has a child (cat) that it talks to through pipes, over and over.
func parentProgram(args []string) int {
	dir := args[len(args)-1]
	var to, from [2]int
	if unix.Pipe2(to[:], unix.O_CLOEXEC) != nil || unix.Pipe2(from[:], unix.O_CLOEXEC) != nil {
		return 1
	}
	_, err := syscall.ForkExec("/bin/cat", []string{"cat"}, &syscall.ProcAttr{Files: []uintptr{uintptr(to[0]), uintptr(from[1]), 2}})
	if err != nil {
		return 1
	}
	unix.Close(to[0])
	unix.Close(from[1])
	count, err := os.Create(filepath.Join(dir, "count"))
	if err != nil {
		return 1
	}
	var word, back [8]byte
	for n := uint64(1); ; n++ {
		binary.BigEndian.PutUint64(word[:], n)
		if _, err := unix.Write(to[1], word[:]); err != nil {
			return 1
		}
		if k, err := unix.Read(from[0], back[:]); err != nil || k != 8 || back != word {
			fmt.Fprintln(os.Stderr, "parent: came back:", back, k, err)
			return 1
		}
		if _, err := count.WriteAt(word[:], 0); err != nil {
			return 1
		}
	}
}

// readCount reads the number that a program keeps in its file.
func readCount(dir string) uint64 {
	text, err := os.ReadFile(filepath.Join(dir, "count"))
	if err != nil || len(text) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(text)
}

func readStderr(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, "stderr"))
	return strings.TrimSpace(string(text))
}
