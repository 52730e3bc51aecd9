package criu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/cgroup"
	"ss/agent/criu/image"
	"ss/agent/proc"
)

// order is what the agent tells the keeper.
type order struct {
	Criu     string         // CRIU's executable
	Dump     bool           // a dump; otherwise a restore
	InitPid  int            // whose namespaces to enter; 0: none
	IPC      bool           // its IPC namespace as well
	Cgroup   string         // the member's cgroup: where restored tasks are born, and what is frozen if CRIU dies
	LockFile string         // CRIU holds a shared flock on it while it lives; "": none
	Output   string         // file for what CRIU writes to its standard error before it has a log
	Pipe     string         // FIFO to the agent
	Hand     []image.Handed // files that CRIU gets as descriptors
	Omit     string         // the file that will say which memory CRIU is to find empty; "": its scans are the kernel's to answer
	Omitted  string         // the file to write what it has found empty to
}

// news is what the keeper tells the agent, one JSON object a line.
type news struct {
	Keeper  int    `json:",omitempty"` // its own PID
	Criu    int    `json:",omitempty"` // CRIU's PID as this host sees it
	Exit    string `json:",omitempty"` // how CRIU ended
	Failure string `json:",omitempty"` // why there is no CRIU
}

// polite are the signals that ask a process to end. They go to all of a service when it is stopped, and
// the end of a dump is to be the agent's decision.
var polite = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTERM}

// orphanGrace is how long a CRIU whose agent has died may take to undo what it did.
const orphanGrace = time.Minute

// ExecMain is the main of the keeper, the process between the agent and CRIU:
//
//	ExecMain(FILE, "swrk", FD)
//
// where FILE holds the order and FD is the socket that go-criu speaks through. It returns its exit status, CRIU's own.
//
//   - It takes the lock before CRIU starts and lets CRIU alone hold it: it is free when CRIU is gone, whoever else lives.
//   - It traces CRIU (ptrace, PTRACE_O_TRACEEXIT), only to be stopped with it when it dies. At that instant
//     CRIU's tracees are still held. If CRIU was killed in the midst of a dump, the keeper freezes the member's
//     cgroup, which CRIU has thawed, before it lets CRIU go: the member then does not run with its sockets in
//     repair mode. Healing and thawing it is for the agent, or the agent's watcher. CRIU's own children end with it.
//   - If the agent dies, it shuts CRIU's socket down, so that CRIU fails and undoes what it did, however many copies of
//     the socket others inherited, and kills CRIU if it takes too long.
//   - It has a session of its own, so that a signal to the agent's process group does not hit it in the middle of a dump.
func ExecMain(args []string) int {
	if len(args) != 3 || args[1] != "swrk" {
		fmt.Fprintln(os.Stderr, "criu keeper: usage: ORDER swrk FD")
		return 2
	}
	fd, err := strconv.Atoi(args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "criu keeper: bad descriptor:", err)
		return 2
	}
	var o order
	text, err := os.ReadFile(args[0])
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "criu keeper: read the order:", err)
		return 2
	}
	pipe, err := os.OpenFile(o.Pipe, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "criu keeper: reach the agent:", err)
		return 1
	}
	k := &keeper{order: o, socket: fd, pipe: pipe}
	k.tell(news{Keeper: os.Getpid()}) // whatever may hold it up comes after this
	status, err := k.run()
	if errors.Is(err, errNoSocket) {
		return statusNoSocket
	}
	if err != nil {
		k.tell(news{Keeper: os.Getpid(), Failure: err.Error()})
		return 1
	}
	return status
}

// errNoSocket: the descriptor that go-criu named is not here. go-criu passes its socket by number, and package syscall, which starts the keeper, knows
// nothing of it: in the child it moves the descriptors that it does know (forkAndExecInChild: to the first number above stdin, stdout and
// stderr), and closes what stands there. That happens when the agent closes a descriptor with a lower number between the making of the socket and
// the start, once in some 4,000 snapshots of a busy agent. Nothing has been done then, so it is done once more.
var errNoSocket = errors.New("the socket of go-criu is gone")

// statusNoSocket is the keeper's exit status for it: EX_TEMPFAIL of sysexits.h.
const statusNoSocket = 75

type keeper struct {
	order
	socket int
	pipe   *os.File
	pid    atomic.Int64 // CRIU's
	omit   *omitter     // nil: nothing is omitted
}

func (k *keeper) tell(n news) {
	line, err := json.Marshal(n)
	if err == nil {
		_, _ = k.pipe.Write(append(line, '\n')) // nobody reads it if the agent is gone
	}
}

func (k *keeper) run() (int, error) {
	_, _ = unix.Setsid()
	if k.Dump {
		agent.SessionAhead(os.Getpid())
	}
	// CRIU inherits what is ignored. A write over the limit that throttle sets must fail, not kill.
	signal.Ignore(unix.SIGPIPE, unix.SIGXFSZ)
	// These CRIU must not inherit as ignored: it ends helpers of its own with SIGTERM.
	signal.Notify(make(chan os.Signal, 1), polite...)
	if k.Dump {
		unix.Umask(0o077)
	}
	// Whatever else was inherited, another operation's socket say, must not live on in CRIU.
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return 0, fmt.Errorf("close inherited descriptors: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(k.socket), unix.F_SETFD, 0); err != nil {
		return 0, errNoSocket
	}
	// ptrace and namespaces belong to one thread. It is never unlocked: it ends with the process.
	runtime.LockOSThread()
	if err := k.start(); err != nil {
		return 0, err
	}
	pid := int(k.pid.Load())
	k.tell(news{Keeper: os.Getpid(), Criu: pid})
	go k.watchAgent()

	status := k.attend(pid)
	if k.omit != nil {
		if err := k.omit.finish(); err != nil {
			fmt.Fprintln(os.Stderr, "criu keeper:", err) // the agent finds that memory is missing
		}
	}
	_ = unix.Shutdown(k.socket, unix.SHUT_RDWR)
	k.tell(news{Exit: describe(status)})
	if status.Exited() {
		return status.ExitStatus(), nil
	}
	return 128 + int(status.Signal()), nil
}

// start starts CRIU in the cell's namespaces, holding the lock.
func (k *keeper) start() error {
	out, err := os.OpenFile(k.Output, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open the output file: %w", err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()

	if k.LockFile != "" {
		lock, err := openLock(k.LockFile)
		if err != nil {
			return err
		}
		defer unix.Close(lock)
	}
	// A tree whose session was led from outside inherits CRIU's on a restore. The keeper's has no number in the cell.
	attr := &syscall.SysProcAttr{Setsid: true}
	if !k.Dump && k.Cgroup != "" {
		closeGroup, err := birthCgroup(attr, k.Cgroup)
		if err != nil {
			return err
		}
		defer closeGroup()
	}
	if k.InitPid != 0 {
		if err := enter(k.InitPid, k.IPC); err != nil {
			return err
		}
	}
	if err := hold(k.Hand); err != nil {
		return err
	}
	if k.Omit != "" {
		// This thread is under the filter too, which does not matter: it makes no such call.
		listener, err := installFilter()
		if err != nil {
			return err
		}
		k.omit = &omitter{listener: listener, file: k.Omit, report: k.Omitted}
		go k.omit.answer()
	}
	proc, err := syscall.ForkExec(k.Criu, []string{k.Criu, "--no-default-config", "swrk", strconv.Itoa(k.socket)},
		&syscall.ProcAttr{Dir: "/", Env: keeperEnv(), Files: []uintptr{null.Fd(), out.Fd(), out.Fd()}, Sys: attr})
	if err != nil {
		return fmt.Errorf("start %s in the member's namespaces: %w", k.Criu, err)
	}
	k.pid.Store(int64(proc))
	if k.Dump {
		// A CRIU that is not traced still works; it is only not guarded against being killed.
		if err := seize(proc); err != nil {
			fmt.Fprintln(out, "criu keeper: cannot trace CRIU:", err)
		}
	}
	return nil
}

// openLock opens the lock file for CRIU to inherit and takes a shared flock, which whoever holds a copy
// of the descriptor keeps.
func openLock(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, fmt.Errorf("open the lock %s: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("lock %s, which someone holds for himself: %w", path, err)
	}
	return fd, nil
}

// birthCgroup makes CRIU, and so the tasks it restores, start in the cgroup: in the v2 hierarchy by
// clone3 (CLONE_INTO_CGROUP), elsewhere by moving the keeper there.
func birthCgroup(attr *syscall.SysProcAttr, path string) (func(), error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, fmt.Errorf("the member's cgroup %s: %w", path, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		err := os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
		if err != nil {
			return nil, fmt.Errorf("enter the member's cgroup: %w", err)
		}
		return func() {}, nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the member's cgroup: %w", err)
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	return func() { _ = dir.Close() }, nil
}

// enter moves this thread into the mount, UTS and network namespaces of the process, and what it starts next into its PID namespace. CRIU dumps an IPC
// namespace that it is not in, and makes it again at the restore. So ipc, to enter that as well, is for a dump that finds nothing in it (plainIPC), and for
// the restore of images that have none.
func enter(pid int, ipc bool) error {
	target, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("the cell's first process %d: %w", pid, err)
	}
	defer unix.Close(target)
	// A mount namespace can only be entered with a file system context that no other thread shares.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the file system context: %w", err)
	}
	kinds := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWNET
	if ipc {
		kinds |= unix.CLONE_NEWIPC
	}
	if err := unix.Setns(target, kinds); err != nil {
		return fmt.Errorf("enter the cell's namespaces through process %d: %w", pid, err)
	}
	return nil
}

func seize(pid int) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, unix.PTRACE_O_TRACEEXIT, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// attend reaps CRIU and passes on what ptrace stops it for.
func (k *keeper) attend(pid int) unix.WaitStatus {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil, status.Exited(), status.Signaled():
			return status
		}
		switch event := int(status) >> 16; {
		case event == unix.PTRACE_EVENT_EXIT:
			end, err := unix.PtraceGetEventMsg(pid)
			if err != nil || end != 0 {
				// This thread stands in the cell's mount namespace, with the cell's /proc; no other does.
				done := make(chan struct{})
				go func() { defer close(done); k.guard(pid) }()
				<-done
				if k.Dump {
					// Children that it tries the kernel's features with wait for it, and for nobody else. They are in its process group, and
					// nobody else is: it leads a session of its own.
					_ = unix.Kill(-pid, unix.SIGKILL)
				}
			}
			_ = unix.PtraceCont(pid, 0)
		case event == unix.PTRACE_EVENT_STOP && status.StopSignal() != unix.SIGTRAP:
			// CRIU was stopped by a signal (SIGSTOP, SIGTSTP): let it stand until SIGCONT.
			_, _, _ = unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_LISTEN, uintptr(pid), 0, 0, 0, 0)
		case event != 0:
			_ = unix.PtraceCont(pid, 0)
		case slices.Contains(polite, os.Signal(status.StopSignal())):
			_ = unix.PtraceCont(pid, 0)
		default:
			_ = unix.PtraceCont(pid, int(status.StopSignal()))
		}
	}
}

// guard freezes the member if CRIU, which is about to die, still traces one of its tasks. CRIU's end of the sockets to its
// parasites, the code that it runs inside of the tasks, is open until it is gone: what they are at, they finish first. One that
// answered a dead CRIU would get SIGPIPE, and its task would end.
func (k *keeper) guard(pid int) {
	traced := slices.DeleteFunc(cgroupTasks(k.Cgroup), func(task int) bool { return proc.Tracer(task) != pid })
	if len(traced) == 0 {
		return
	}
	for end := time.Now().Add(parasiteGrace); slices.ContainsFunc(traced, runs) && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // nothing tells of a task that CRIU traces
	}
	_ = cgroup.Dir(k.Cgroup).SetFrozen(true)
}

// parasiteGrace bounds the wait for parasites: what they are asked for takes a few milliseconds.
const parasiteGrace = 200 * time.Millisecond

// runs says whether a task is neither stopped nor waiting.
func runs(pid int) bool {
	s, err := proc.ReadStat(pid)
	return err == nil && (s.State == 'R' || s.State == 'D')
}

// watchAgent waits for the end of the agent, which alone reads the pipe, and then sees to it that CRIU ends.
func (k *keeper) watchAgent() {
	conn, err := k.pipe.SyscallConn()
	if err != nil {
		return
	}
	gone := false
	_ = conn.Control(func(fd uintptr) {
		set := []unix.PollFd{{Fd: int32(fd)}}
		for !gone {
			n, err := unix.Poll(set, -1)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			gone = n > 0 && set[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
		}
	})
	if !gone {
		return
	}
	pid := int(k.pid.Load())
	_ = unix.Shutdown(k.socket, unix.SHUT_RDWR)
	if k.Dump {
		throttle(pid)
	}
	time.AfterFunc(orphanGrace, func() { _ = unix.Kill(pid, unix.SIGKILL) })
}

// throttle makes every further write of CRIU to an image fail (EFBIG, for SIGXFSZ is ignored), so that it gives
// up where it is and rolls the dump back.
func throttle(pid int) {
	_ = unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{}, nil)
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return "exit status " + strconv.Itoa(status.ExitStatus())
}

// cgroupTasks lists the processes of a cgroup and of those below it. A cgroup that goes away meanwhile has none.
func cgroupTasks(path string) []int {
	pids, _ := cgroup.Dir(path).Procs()
	return pids
}
