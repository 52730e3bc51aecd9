package memory

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// request is what the helper is asked for: a userfaultfd of a process, or that the process's own descriptor Close is closed.
type request struct {
	Pid   int
	Close int `json:",omitempty"`
}

// answer is what the helper says. Later: a later attempt may succeed.
type answer struct {
	Error string
	Later bool `json:",omitempty"`
}

// errLater wraps the error of a request that may succeed later.
var errLater = errors.New("not at this moment")

// helperSocket is the descriptor that the helper speaks through.
const helperSocket = 3

// HelperMain is the main of the helper. It stops a thread of a process and makes a few system calls in its place, which must not be cut short: so it is a process
// of its own with a session of its own, which no polite signal ends, and which finishes what it is at when the agent dies. What its own
// violent end in these 0.1 ms would do is in docs/adr/0027-memory-is-copied-while-members-run.md.
func HelperMain([]string) int {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
	unix.CloseOnExec(helperSocket)
	buf := make([]byte, 512)
	for {
		n, err := unix.Read(helperSocket, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return 0 // the agent is through with it, or dead
		}
		var q request
		if err := json.Unmarshal(buf[:n], &q); err != nil {
			return 2
		}
		fd, err := serve(q)
		var a answer
		if err != nil {
			a.Error, a.Later = err.Error(), errors.Is(err, errBusyThread) || errors.Is(err, errReplaced)
		}
		text, err := json.Marshal(a)
		if err != nil {
			return 2
		}
		var rights []byte
		if fd >= 0 {
			rights = unix.UnixRights(fd)
		}
		err = unix.Sendmsg(helperSocket, text, rights, nil, 0)
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if err != nil {
			return 0
		}
	}
}

// serve does what is asked for on a thread that ends with it: whatever fails, the kernel lets go then of all that the thread traced.
func serve(q request) (fd int, err error) {
	proc.OnOwnThread(func() {
		if q.Close != 0 {
			fd, err = -1, closeIn(q.Pid, q.Close)
			return
		}
		fd, err = makeUffd(q.Pid)
	})
	return fd, err
}

// helper is the agent's end of it.
type helper struct {
	mu     sync.Mutex
	socket int
	cmd    *exec.Cmd
}

// helperWait bounds the wait for an answer. It takes a millisecond, and seconds where a hundred processes want a processor.
const helperWait = 15 * time.Second

func startHelper(exe []string) (*helper, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start the helper for memory: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "helper")
	defer theirs.Close()
	cmd := exec.Command(exe[0], exe[1:]...) //nolint:noctx // what it is at, it must come to the end of
	cmd.Dir, cmd.Env = "/", agent.HelperEnv("GOMAXPROCS=2")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = unix.Close(pair[0])
		return nil, fmt.Errorf("start the helper for memory: %w", err)
	}
	wait := unix.NsecToTimeval(int64(helperWait))
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		_ = unix.Close(pair[0])
		return nil, errors.Join(fmt.Errorf("start the helper for memory: %w", err), cmd.Wait())
	}
	return &helper{socket: pair[0], cmd: cmd}, nil
}

// ask sends a request. A helper that does not answer is not asked again: what it is at is unknown.
func (h *helper) ask(q request) (fd int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.socket < 0 {
		return -1, errors.New("the helper for memory did not answer")
	}
	text, err := json.Marshal(q)
	if err != nil {
		return -1, err
	}
	if err := unix.Sendmsg(h.socket, text, nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return -1, fmt.Errorf("ask the helper for memory: %w", err)
	}
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	var n, noob int
	for {
		n, noob, _, _, err = unix.Recvmsg(h.socket, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil || n == 0 {
		_ = unix.Close(h.socket)
		h.socket = -1
		return -1, errors.Join(errors.New("the helper for memory did not answer"), err)
	}
	fd = -1
	if msgs, err := unix.ParseSocketControlMessage(oob[:noob]); err == nil && len(msgs) == 1 {
		if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
			fd = fds[0]
		}
	}
	var a answer
	if err := json.Unmarshal(buf[:n], &a); err != nil {
		return fd, fmt.Errorf("the helper for memory: %w", err)
	}
	switch {
	case a.Later:
		return fd, fmt.Errorf("%w: %s", errLater, a.Error)
	case a.Error != "":
		return fd, errors.New(a.Error)
	}
	return fd, nil
}

// stop ends the helper. It does not wait for one that did not answer: that one finishes what it is at.
func (h *helper) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	answered := h.socket >= 0
	if answered {
		_ = unix.Close(h.socket)
		h.socket = -1
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = h.cmd.Wait() }()
	if answered {
		<-done
	}
}
