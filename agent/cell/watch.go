package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// watchSpec is the line that a watcher reads first.
type watchSpec struct {
	Config   Config         `json:"config"`
	Members  []agent.Member `json:"members"` // Job and Name are used
	LockFile string         `json:"lock_file"`
}

// stopByte is what an agent writes that has no more need of its watcher. End of file without it
// means that the agent is dead: only the agent holds the pipe's other end.
const stopByte = 's'

// Watch starts a process that outlives this agent: when the agent ends without having called stop,
// it waits until no CRIU holds lockFile (flock(2)), for Config.Grace at most, after which it kills
// whoever has that file open; then it heals the members and thaws them. When Watch returns the
// watcher is ready. stop returns when it is gone, and is to be called once.
func (g *Manager) Watch(ctx context.Context, members []agent.Member, lockFile string) (stop func() error, err error) {
	for _, m := range members {
		if err := checkNames(m); err != nil {
			return nil, err
		}
	}
	s := watchSpec{Config: g.cfg, LockFile: lockFile}
	for _, m := range members {
		s.Members = append(s.Members, agent.Member{Job: m.Job, Name: m.Name})
	}
	line, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("start the watcher: %w", err)
	}
	r, w, err := os.Pipe() // close-on-exec, both: no CRIU must keep the agent's end open
	if err != nil {
		return nil, fmt.Errorf("start the watcher: %w", err)
	}
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the watcher: %w", err), r.Close(), w.Close())
	}
	defer readyR.Close()
	args := append(append([]string{}, g.cfg.Exe...), WatchCommand)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.Env = agent.HelperEnv("GOMAXPROCS=2")
	cmd.ExtraFiles = []*os.File{r, readyW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	started := make(chan error)
	go func() {
		agent.Ahead() // the snapshot waits for it
		started <- cmd.Start()
	}()
	err = <-started
	_ = r.Close()
	_ = readyW.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the watcher: %w", err), w.Close())
	}
	end := func(b []byte) error {
		_, err := w.Write(b)
		return errors.Join(err, w.Close(), cmd.Wait())
	}
	if _, err = w.Write(append(line, '\n')); err == nil {
		err = readReply(ctx, readyR)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(fmt.Errorf("start the watcher: %w", err), w.Close(), ignoreExit(cmd.Wait()))
	}
	return func() error {
		if err := end([]byte{stopByte}); err != nil {
			return fmt.Errorf("stop the watcher: %w", err)
		}
		return nil
	}, nil
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// WatchMain is the watcher: the hidden subcommand WatchCommand. Descriptor 3 is the pipe to the
// agent, descriptor 4 says that the watcher is ready.
func WatchMain([]string) int {
	closeInherited()
	agent.SessionAhead(os.Getpid())
	// Whatever ends the agent politely, and its terminal, is not meant for the watcher.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
	pipe, ready := os.NewFile(3, "agent"), os.NewFile(4, "ready")
	dec := json.NewDecoder(pipe)
	var s watchSpec
	rep := reply{}
	w, err := prepareWatch(dec, &s)
	if err != nil {
		rep.Error = err.Error()
	}
	_ = json.NewEncoder(ready).Encode(rep) // nobody to read it: the agent died, which the pipe says too
	_ = ready.Close()
	if err != nil {
		return 1
	}
	if stopped(dec, pipe) {
		return 0
	}
	if err := w.rescue(s.Members); err != nil {
		return 1
	}
	return 0
}

// watcher is what WatchMain needs when the agent dies, all of it there before.
type watcher struct {
	g     *Manager
	lock  *os.File
	grace time.Duration
}

func prepareWatch(dec *json.Decoder, s *watchSpec) (watcher, error) {
	if err := dec.Decode(s); err != nil {
		return watcher{}, fmt.Errorf("read what to watch: %w", err)
	}
	g, err := open(s.Config)
	if err != nil {
		return watcher{}, err
	}
	lock, err := os.OpenFile(s.LockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return watcher{}, fmt.Errorf("open the lock file: %w", err)
	}
	return watcher{g: g, lock: lock, grace: g.cfg.Grace}, nil
}

// stopped blocks until the agent says stop (true) or is gone (false).
func stopped(dec *json.Decoder, pipe io.Reader) bool {
	b, _ := io.ReadAll(io.MultiReader(dec.Buffered(), pipe))
	return slices.Contains(b, stopByte)
}

// rescue lets the members of a dead agent run again. Each step is tried even if one before it failed.
func (w watcher) rescue(members []agent.Member) error {
	ctx := context.Background()
	errs := []error{w.outlast()}
	for _, m := range members {
		errs = append(errs, w.g.Heal(ctx, m))
	}
	for _, m := range members {
		errs = append(errs, w.g.Thaw(ctx, m))
	}
	return errors.Join(errs...)
}

// outlast returns when no CRIU holds the lock. One that has lost its agent ends by itself soon; one
// that does not is killed, since the members' running again matters more than its images.
func (w watcher) outlast() error {
	locked := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(w.lock.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				locked <- err
				return
			}
		}
	}()
	select {
	case err := <-locked:
		return err
	case <-time.After(w.grace):
	}
	for {
		if err := w.killHolders(); err != nil {
			return err
		}
		select {
		case err := <-locked:
			return err
		case <-time.After(100 * time.Millisecond): // one that was forked off while the others were looked for
		}
	}
}

// killHolders kills every process that has the lock file open, except those of this program: the
// next agent may be here already, and other watchers.
func (w watcher) killHolders() error {
	var lock, self syscall.Stat_t
	if err := errors.Join(syscall.Fstat(int(w.lock.Fd()), &lock), syscall.Stat(proc.Path(proc.Self, "exe"), &self)); err != nil {
		return fmt.Errorf("find who holds the lock: %w", err)
	}
	all, err := proc.Pids()
	if err != nil {
		return err
	}
	same := func(path string, as syscall.Stat_t) bool {
		var st syscall.Stat_t
		return syscall.Stat(path, &st) == nil && st.Dev == as.Dev && st.Ino == as.Ino
	}
	base := "/" + filepath.Base(w.lock.Name()) // looked at first: stat(2) of an arbitrary file may block
	var errs []error
	_ = proc.EachFd(all, func(pid, fd int, link string) {
		if !strings.HasSuffix(link, base) || !same(proc.FdPath(pid, fd), lock) || same(proc.Path(pid, "exe"), self) {
			return
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !proc.Gone(err) {
			errs = append(errs, fmt.Errorf("kill %s: %w", proc.Whose(pid), err))
		}
	})
	return errors.Join(errs...)
}
