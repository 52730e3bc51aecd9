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

// request is what the helper is asked for: a userfaultfd of a process, that the process closes its own descriptor Close or takes in the end of its child Reap (by
// the PID that it has there), twins, or the end of those.
type request struct {
	Pid   int        `json:",omitempty"`
	Close int        `json:",omitempty"`
	Reap  int        `json:",omitempty"`
	Twins *twinOrder `json:",omitempty"`
	End   bool       `json:",omitempty"`
}

// answer is what the helper says. Later: a later attempt may succeed.
type answer struct {
	Error string      `json:",omitempty"`
	Later bool        `json:",omitempty"`
	Twins map[int]int `json:",omitempty"` // the twin of each process
}

// errLater wraps the error of a request that may succeed later.
var errLater = errors.New("not at this moment")

// helperSocket is the descriptor that the helper speaks through.
const helperSocket = 3

// messageSize is what a request or an answer may have, in bytes.
const messageSize = 64 << 10

// HelperMain is the main of the helper. It stops a thread of a process and makes a few system calls in its place, which must not be cut short: so it is a process
// of its own with a session of its own, which no polite signal ends, and which finishes what it is at when the agent dies. What its own
// violent end in these 0.1 ms would do is in docs/adr/0027-memory-is-copied-while-members-run.md.
func HelperMain([]string) int {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
	unix.CloseOnExec(helperSocket)
	buf := make([]byte, messageSize)
	var made twins
	defer func() { _ = made.end(true) }() // nobody hears why
	for {
		n, err := unix.Read(helperSocket, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return 0 // the agent is through with it, or dead
		}
		var q request
		if err = json.Unmarshal(buf[:n], &q); err != nil {
			return 2
		}
		var a answer
		fd := -1
		switch {
		case q.Twins != nil:
			a.Twins, err = made.make(*q.Twins)
		case q.End:
			err = made.end(false)
		default:
			fd, err = serve(q)
		}
		if err != nil {
			a.Error, a.Later = err.Error(), errors.Is(err, errBusyThread) || errors.Is(err, errReplaced) || errors.Is(err, errReapLater)
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
		if q.Reap != 0 {
			fd, err = -1, takeIn(q.Pid, q.Reap)
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
	twins  bool // it holds some
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
	h := &helper{socket: pair[0], cmd: cmd}
	if err := h.allow(helperWait); err != nil {
		_ = unix.Close(pair[0])
		return nil, errors.Join(err, cmd.Wait())
	}
	return h, nil
}

// ask sends a request for a descriptor. A helper that does not answer is not asked again: what it is at is unknown.
func (h *helper) ask(q request) (fd int, err error) {
	_, fd, err = h.exchange(q)
	return fd, err
}

func (h *helper) exchange(q request) (a answer, fd int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.socket < 0 {
		return a, -1, errNoAnswer
	}
	text, err := json.Marshal(q)
	if err != nil {
		return a, -1, err
	}
	if err := unix.Sendmsg(h.socket, text, nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return a, -1, fmt.Errorf("ask the helper for memory: %w", err)
	}
	buf, oob := make([]byte, messageSize), make([]byte, unix.CmsgSpace(4))
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
		return a, -1, errors.Join(errNoAnswer, err)
	}
	fd = -1
	if msgs, err := unix.ParseSocketControlMessage(oob[:noob]); err == nil && len(msgs) == 1 {
		if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
			fd = fds[0]
		}
	}
	if err := json.Unmarshal(buf[:n], &a); err != nil {
		return a, fd, fmt.Errorf("the helper for memory: %w", err)
	}
	switch {
	case a.Later:
		return a, fd, fmt.Errorf("%w: %s", errLater, a.Error)
	case a.Error != "":
		return a, fd, errors.New(a.Error)
	}
	return a, fd, nil
}

// errNoAnswer says that it is unknown what the helper is at.
var errNoAnswer = errors.New("the helper for memory did not answer")

// twinWait bounds the wait for the helper to have made twins. It keeps limits of its own, which are shorter.
const twinWait = 75 * time.Second

// makeTwins makes twins and says, for each process, which one is its twin.
func (h *helper) makeTwins(o *twinOrder) (map[int]int, error) {
	if err := h.allow(twinWait); err != nil {
		return nil, err
	}
	h.twins = true
	a, _, err := h.exchange(request{Twins: o})
	return a.Twins, err
}

// endTwins ends them. Where their member stands still, the helper waits for it to run before it ends itself.
func (h *helper) endTwins() error {
	_, _, err := h.exchange(request{End: true})
	h.twins = h.twins && err != nil
	if errors.Is(err, errLater) {
		return nil
	}
	return err
}

// allow sets how long an answer may take.
func (h *helper) allow(limit time.Duration) error {
	wait := unix.NsecToTimeval(int64(limit))
	if err := unix.SetsockoptTimeval(h.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return fmt.Errorf("wait for the helper for memory: %w", err)
	}
	return nil
}

// stop ends the helper. It does not wait for one that did not answer: that one finishes what it is at. It does not wait for the end of twins either, for
// which their members have to run.
func (h *helper) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	answered := h.socket >= 0 && !h.twins
	if h.socket >= 0 {
		_ = unix.Close(h.socket)
		h.socket = -1
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = h.cmd.Wait() }()
	if answered {
		<-done
	}
}
