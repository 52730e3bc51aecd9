package cell

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ss/agent/files"

	"ss/agent/proc"
)

// firstPid is the highest PID that is left to CRIU in a cell: members' PIDs lie above.
const firstPid = 1000

// InitMain is the cell's PID 1: the hidden subcommand InitCommand. Descriptor 3 says what to do (a
// spec), descriptor 4 takes the answer. It starts the member's root, or waits until CRIU has restored
// one; it reaps whatever is orphaned in the cell, writes down how the root ended, and ends when the
// cell is empty. args is a label for people who read a list of processes. (PID 1 starts it once more, to become the root: see forkExec.)
func InitMain(args []string) int {
	if len(args) > 2 && args[0] == execArg {
		return execMain(args[1], args[2:])
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this command is a member's PID 1 and is started by the agent only")
		return 2
	}
	closeInherited()
	in, out := os.NewFile(3, "spec"), os.NewFile(4, "status")
	p := &pid1{children: make(chan os.Signal, 1), adopt: make(chan adoptCall)}
	// Caught and dropped, not ignored: an ignored signal stays ignored in a program that is executed.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	signal.Notify(p.children, unix.SIGCHLD)

	rep := reply{}
	if err := p.prepare(in); err != nil {
		rep.Error = err.Error()
	}
	rep.InnerPid = p.root
	err := json.NewEncoder(out).Encode(rep)
	if err = errors.Join(err, in.Close(), out.Close()); rep.Error != "" {
		return 1
	}
	_ = err // the agent died meanwhile; the member lives on, and the next agent finds it
	debug.FreeOSMemory()
	if err := p.run(); err != nil {
		return 1
	}
	return 0
}

// closeInherited closes what the agent was itself given by whoever started it, a shell's pipe say,
// and keeps 3 and 4, which are ours, from programs executed. CRIU could not dump a member that
// inherits a stray descriptor, and nobody would see the end of a pipe that is kept open here.
func closeInherited() {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	entries, err := os.ReadDir(proc.Path(proc.Self, "fd")) // not /proc/PID/fd: a cell's /proc is not mounted yet
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 4 {
			continue
		}
		// The Go runtime's own are anonymous inodes; the list itself is closed already.
		if link, err := os.Readlink(proc.Path(proc.Self, "fd/"+e.Name())); err == nil && !strings.HasPrefix(link, "anon_inode:") {
			_ = unix.Close(fd)
		}
	}
}

// pid1 is the state of a cell's PID 1, owned by the goroutine that runs run.
type pid1 struct {
	spec     spec
	root     int  // the member's root, 0 while there is none
	rootDone bool // exit.json is written
	children chan os.Signal
	adopt    chan adoptCall
	rootEnd  chan struct{} // an adopted root has ended; it may never have been a child of ours
}

func (p *pid1) prepare(in io.Reader) error {
	b, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read the spec: %w", err)
	}
	if err := json.Unmarshal(b, &p.spec); err != nil {
		return fmt.Errorf("parse the spec: %w", err)
	}
	// The host's mounts and unmounts go on to show here; ours do not show there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the cell's mounts its own: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount the cell's /proc: %w", err)
	}
	if err := ownTerminals(); err != nil {
		return err
	}
	unix.Umask(0o022)
	logFile, err := openLog(p.spec.Log)
	if p.spec.Kind == restored {
		// CRIU opens what the member had open, and R1 has looked whether it can. The log may be another file by now, or its folder gone: nothing needs it then.
		if err == nil {
			_ = logFile.Close()
		}
		return p.listen()
	}
	if err != nil {
		return err
	}
	defer logFile.Close()
	return p.start(logFile)
}

// openLog opens where output goes. It happens in the cell's own mount namespace, since CRIU finds a
// descriptor's file by its mount; append-only, since CRIU checks the size of any other file.
func openLog(path string) (*os.File, error) {
	if path == "" {
		path = "/dev/null"
	}
	f, err := files.Append(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}

// start starts the member's root, in its cgroup from its first instant on.
func (p *pid1) start(logFile *os.File) error {
	if err := setLastPid(firstPid); err != nil {
		return err
	}
	if fi, err := os.Stat(p.spec.Dir); err != nil {
		return fmt.Errorf("working directory: %w", err)
	} else if !fi.IsDir() {
		return fmt.Errorf("working directory: %s is not a directory", p.spec.Dir)
	}
	path, err := lookPath(p.spec.Command[0], p.spec.Dir, p.spec.Env)
	if err != nil {
		return err
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return err
	}
	defer null.Close()
	sys := &syscall.SysProcAttr{Setsid: true}
	if p.spec.V2 != "" {
		fd, err := unix.Open(p.spec.V2, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open the cgroup: %w", err)
		}
		defer unix.Close(fd)
		sys.UseCgroupFD, sys.CgroupFD = true, fd
	}
	if p.spec.V1 != "" {
		back, err := visitV1(p.spec)
		if err != nil {
			return err
		}
		defer back()
	}
	pid, err := forkExec(path, p.spec.Command, &syscall.ProcAttr{
		Dir: p.spec.Dir, Env: p.spec.Env, Sys: sys,
		Files: []uintptr{null.Fd(), logFile.Fd(), logFile.Fd()},
	})
	if err != nil {
		return err
	}
	p.root = pid
	return writeState(p.spec.StateDir, rootFile, rootRecord{InnerPid: pid})
}

// visitV1 takes this process into the member's v1 freezer cgroup, so that its child is born there,
// and returns the way back. (clone3 can do that without the detour, but for v2 only.)
func visitV1(sp spec) (back func(), err error) {
	home, err := folderOf(proc.Self, sp.V1Mount, false)
	if err != nil {
		return nil, err
	}
	if err := enterDir(sp.V1, 0); err != nil { // 0 is the writer itself
		return nil, err
	}
	return func() {
		if enterDir(home, 0) != nil {
			_ = enterDir(sp.V1Mount, 0) // its own was removed, or lies outside what is mounted
		}
	}, nil
}

// lookPath finds a command as a shell in that directory with that environment would.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executable(name)
	}
	denied := error(nil)
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		for _, d := range filepath.SplitList(list) {
			if !ok || !filepath.IsAbs(d) {
				continue
			}
			path := filepath.Join(d, name)
			err := executable(path)
			if err == nil {
				return path, nil
			}
			if errors.Is(err, fs.ErrPermission) {
				denied = err
			}
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("command not found: %s is nowhere in the member's PATH", name)
}

func executable(path string) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("command not found: %w", err)
	}
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return fmt.Errorf("cannot execute %s: %w: it is a directory", path, fs.ErrPermission)
	}
	if fi.Mode()&0o111 == 0 {
		return fmt.Errorf("cannot execute %s: %w: it is not executable (chmod +x)", path, fs.ErrPermission)
	}
	return nil
}

// setLastPid makes the next PID of this PID namespace last+1 (pid_namespaces(7)).
func setLastPid(last int) error {
	if err := proc.SetSysctl("kernel/ns_last_pid", strconv.Itoa(last)); err != nil {
		return fmt.Errorf("set the last PID (the kernel needs CONFIG_CHECKPOINT_RESTORE): %w", err)
	}
	return nil
}

// run reaps until the cell is empty.
func (p *pid1) run() error {
	for {
		empty, err := p.reapAll()
		if err != nil {
			return err
		}
		if empty && p.root != 0 && (p.rootDone || unix.Kill(p.root, 0) != nil) {
			if p.rootDone {
				return nil
			}
			return p.ended("unknown: it ended before it was this cell's")
		}
		select {
		case <-p.children:
		case <-p.rootEnd:
			p.rootEnd = nil
		case c := <-p.adopt:
			c.answer <- p.take(c.root)
		}
	}
}

// reapAll reaps every child that has ended and reports whether there are no others.
func (p *pid1) reapAll() (empty bool, err error) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD):
			return true, nil
		case err != nil:
			return false, fmt.Errorf("wait for children: %w", err)
		case pid == 0:
			return false, nil
		case pid == p.root && !p.rootDone:
			if err := p.ended(describe(ws)); err != nil {
				return false, err
			}
		}
	}
}

func (p *pid1) ended(status string) error {
	p.rootDone = true
	return writeState(p.spec.StateDir, exitFile, exitRecord{Status: status})
}

// describe says how a process ended, in the words of os.ProcessState.
func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		s := "signal: " + ws.Signal().String()
		if ws.CoreDump() {
			s += " (core dumped)"
		}
		return s
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}
