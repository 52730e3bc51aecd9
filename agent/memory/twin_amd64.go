package memory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/cgroup"
	"ss/agent/proc"
)

// twinOrder says of which processes of a frozen member there are to be twins.
type twinOrder struct {
	Of     []int
	Cgroup string // the member's, of the v2 hierarchy
	Lock   string // see agent.DumpSpec.LockFile: whoever holds it keeps the agent's watcher from letting the member run
}

const (
	// deadStack is the stack pointer of a twin: no program has memory there. Should a twin ever run, its first instructions end it, before it has done anything.
	deadStack = 8
	// standstillLimit bounds the wait for a member to stand still whose threads have been let go.
	standstillLimit = 5 * time.Second
	// reapLimit bounds the wait for a member to run, so that a process can take its twin's end in.
	reapLimit = 10 * time.Minute
	// mostThreads is how many threads a member may have: each of them is stopped.
	mostThreads = 1024
)

var errNoTwin = errors.New("no twin")

// twins are those of one member. They are traced by a thread that lives as long as they do, and the kernel kills them when it ends (PTRACE_O_EXITKILL), so
// that a twin ends with its helper.
type twins struct {
	all  []twin
	drop chan struct{} // closed when they are to end
	gone chan error    // how that went
	at   cgroup.Dir
}

// twin is a process that has the memory of another one at one instant. It never runs.
type twin struct {
	of    int
	pid   int
	inner int // its PID in the namespace of its parent
	start uint64

	maker *thread // while that is stopped
}

// make makes twins of processes of a frozen member, which stands still afterwards as before.
func (t *twins) make(o twinOrder) (map[int]int, error) {
	if t.drop != nil || t.all != nil {
		return nil, errors.New("there are twins already")
	}
	drop, gone, made := make(chan struct{}), make(chan error, 1), make(chan error)
	t.drop, t.gone, t.at = drop, gone, cgroup.Dir(o.Cgroup)
	var all []twin
	go proc.OnOwnThread(func() {
		agent.Ahead() // the member stands still for it
		var err error
		all, err = o.carryOut()
		made <- err
		<-drop
		gone <- kill(all)
	})
	if err := <-made; err != nil {
		return nil, errors.Join(err, t.end(false)) // those that were made have ended
	}
	t.all = all
	out := map[int]int{}
	for _, x := range t.all {
		out[x.of] = x.pid
	}
	return out, nil
}

// errReapLater says that the twins have ended, and that their parents, which stand still, cannot take that in yet.
var errReapLater = errors.New("the member stands still")

// end kills the twins, and has their parents take in their ends, of which nobody else would. Where the member stands still, it comes to that with the end
// of the helper, which waits until the member runs.
func (t *twins) end(last bool) error {
	var err error
	if t.drop != nil {
		close(t.drop)
		t.drop = nil
		err = <-t.gone
	}
	if frozen, failed := t.at.Frozen(); !last && failed == nil && frozen && len(t.all) > 0 {
		return errors.Join(err, errReapLater)
	}
	limit := time.Now().Add(reapLimit)
	for _, x := range t.all {
		err = errors.Join(err, x.reap(t.at, limit))
	}
	t.all = nil
	return err
}

// kill ends the twins, of which this thread of ours hears first.
func kill(all []twin) error {
	var errs []error
	for _, x := range all {
		if err := unix.Kill(x.pid, unix.SIGKILL); err != nil && !proc.Gone(err) {
			errs = append(errs, fmt.Errorf("kill the twin of process %d: %w", x.of, err))
		}
	}
	for _, x := range all {
		for {
			var ws unix.WaitStatus
			_, err := unix.Wait4(x.pid, &ws, unix.WALL, nil)
			if err == nil && ws.Stopped() || errors.Is(err, unix.EINTR) {
				continue
			}
			break
		}
	}
	return errors.Join(errs...)
}

// carryOut stops every thread of the frozen member, lets the cgroup go so that calls can be made, makes the twins, freezes again, and lets go of the threads. They
// do not run an instruction of the program meanwhile: a thread that its tracer has stopped does not care for the freezer, and goes back to it.
func (o twinOrder) carryOut() (all []twin, err error) {
	lock, err := os.OpenFile(o.Lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%w: the agent has ended", errNoTwin)
	}
	at := cgroup.Dir(o.Cgroup)
	if frozen, err := at.Frozen(); err != nil || !frozen {
		return nil, errors.Join(errors.New("the member does not stand still"), err)
	}
	w := whole{at: at}
	defer func() { err = errors.Join(err, w.letGo()) }()
	if err := w.stop(); err != nil {
		return nil, err
	}
	makers, err := w.choose(o.Of)
	if err != nil {
		return nil, err
	}
	w.thawed = true
	if err := at.SetFrozen(false); err != nil {
		return nil, err
	}
	for _, m := range makers {
		x, err := m.twin()
		if x.pid != 0 {
			all = append(all, x)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%w of process %d: %w", errNoTwin, m.pid, err), undo(all))
		}
	}
	return all, nil
}

// undo ends twins whose makers are still stopped, and which can take that in at once.
func undo(all []twin) error {
	err := kill(all)
	for _, x := range all {
		if _, failed := x.maker.call(unix.SYS_WAIT4, uint64(x.inner), 0, unix.WALL); failed != nil {
			err = errors.Join(err, fmt.Errorf("take in the end of the twin of process %d: %w", x.of, failed))
		}
	}
	return err
}

// whole is all threads of a member, stopped.
type whole struct {
	at     cgroup.Dir
	pids   []int
	held   map[int][]int // the threads, by process
	fit    []int         // those of them that no signal had stopped before
	makers []*thread     // those that make calls
	thawed bool
}

// stop stops every thread. None is born meanwhile: they are frozen.
func (w *whole) stop() error {
	var err error
	if w.pids, err = w.at.Procs(); err != nil {
		return err
	}
	w.held = map[int][]int{}
	n := 0
	for _, pid := range w.pids {
		tids, err := proc.Threads(pid)
		if err != nil && !proc.Gone(err) {
			return err
		}
		for _, tid := range tids {
			if n++; n > mostThreads {
				return fmt.Errorf("%w: the member has more than %d threads", errNoTwin, mostThreads)
			}
			ok, err := seize(pid, tid)
			if err != nil {
				return err
			}
			if ok {
				w.held[pid] = append(w.held[pid], tid)
			}
		}
	}
	for _, pid := range w.pids {
		for _, tid := range w.held[pid] {
			t := &thread{pid: pid, tid: tid, limit: standstillLimit}
			ws, err := t.wait()
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("stop thread %d: %w", tid, err)
			}
			if err == nil && ws.StopSignal() == unix.SIGTRAP {
				w.fit = append(w.fit, tid)
			}
		}
	}
	return nil
}

// seize asks a thread to stop for its tracer. It is not there if it has ended.
func seize(pid, tid int) (there bool, err error) {
	const options = unix.PTRACE_O_TRACESYSGOOD
	if err = ptrace(unix.PTRACE_SEIZE, tid, 0, options); err == nil {
		err = ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0)
	}
	if err != nil {
		if st, gone := proc.ThreadStat(pid, tid); gone == nil && !st.Ended() {
			return false, fmt.Errorf("trace thread %d: %w", tid, err)
		}
	}
	return err == nil, nil
}

// choose finds a thread of each process that can make calls.
func (w *whole) choose(of []int) ([]*thread, error) {
	for _, pid := range of {
		if filtered(pid) {
			return nil, fmt.Errorf("%w of process %d: %w", errNoTwin, pid, errFiltered)
		}
		code, err := syscallInstruction(pid)
		if err != nil {
			return nil, err
		}
		tids, err := threads(pid)
		if err != nil {
			return nil, err
		}
		err = errBusyThread
		for _, tid := range tids {
			if !slices.Contains(w.fit, tid) {
				continue
			}
			t := &thread{pid: pid, tid: tid, code: code}
			if err = t.ready(); err == nil {
				w.makers = append(w.makers, t)
				break
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%w of process %d: %w", errNoTwin, pid, err)
		}
	}
	return w.makers, nil
}

// ready makes a stopped thread one that makes calls in the program's name.
func (t *thread) ready() error {
	if err := unix.PtraceGetRegs(t.tid, &t.saved); err != nil {
		return fmt.Errorf("read the registers of thread %d: %w", t.tid, err)
	}
	t.after = t.saved
	if err := t.fit(); err != nil {
		return err
	}
	if err := t.block(); err != nil {
		return err
	}
	t.held = true
	t.hurry()
	return nil
}

// hurry puts the stopped thread before others in what it gets of processors, and the twin that it makes: the member stands still until both have made their calls,
// and with dozens of threads that want a processor each call would take its turn.
func (t *thread) hurry() {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, t.tid)
	if nice := 20 - raw; err == nil && nice > agent.AheadNice && unix.Setpriority(unix.PRIO_PROCESS, t.tid, agent.AheadNice) == nil {
		t.nice, t.hurried = nice, true
	}
}

// calm undoes hurry. The thread has not run a line of its program since.
func (t *thread) calm() error {
	if !t.hurried {
		return nil
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, t.tid, t.nice); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("set the priority of thread %d to %d again: %w", t.tid, t.nice, err)
	}
	return nil
}

// letGo freezes the member again, gives the threads back what they had, and lets them go.
func (w *whole) letGo() error {
	var errs []error
	for _, t := range w.makers {
		if err := t.giveBack(); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
		errs = append(errs, t.calm())
	}
	if w.thawed {
		errs = append(errs, w.at.SetFrozen(true))
	}
	for _, pid := range w.pids {
		for _, tid := range w.held[pid] {
			t := &thread{pid: pid, tid: tid}
			if err := t.detach(0); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("let thread %d go: %w", tid, err))
			}
		}
	}
	for _, t := range w.makers {
		if t.stopped {
			errs = append(errs, unix.Kill(t.pid, unix.SIGSTOP))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), standstillLimit)
	defer cancel()
	if err := w.at.AwaitEvent(ctx, "frozen 1"); err != nil {
		errs = append(errs, fmt.Errorf("wait for the member to stand still: %w", err))
	}
	return errors.Join(errs...)
}

// twin makes the twin of the thread's process. It has no signal at its end, so that neither SIGCHLD nor wait(2) tells the program of it. Its session is its own,
// so that no signal to a group reaches it; and it has no descriptor: the table that it shares with the process for an instant is left, not copied.
func (t *thread) twin() (x twin, err error) {
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	if err := ptrace(unix.PTRACE_SETOPTIONS, t.tid, 0, options); err != nil {
		return x, err
	}
	inner, err := t.call(unix.SYS_CLONE, unix.CLONE_FILES, deadStack)
	if err != nil {
		return x, fmt.Errorf("clone: %w", err)
	}
	if t.born == 0 {
		return x, errors.New("the kernel does not say which process it is")
	}
	x = twin{of: t.pid, pid: t.born, inner: inner, maker: t}
	return x, x.settle(t.code)
}

// settle waits for the twin to be born, stopped, and cuts its ties.
func (x *twin) settle(code uint64) error {
	c := &thread{pid: x.pid, tid: x.pid, code: code, held: true}
	if _, err := c.wait(); err != nil {
		return fmt.Errorf("wait for the twin: %w", err)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL
	if err := ptrace(unix.PTRACE_SETOPTIONS, c.tid, 0, options); err != nil {
		return err
	}
	if err := unix.PtraceGetRegs(c.tid, &c.saved); err != nil {
		return err
	}
	if _, err := c.call(unix.SYS_CLOSE_RANGE, 0, uint64(^uint32(0)), unix.CLOSE_RANGE_UNSHARE); err != nil {
		return fmt.Errorf("leave the descriptors: %w", err)
	}
	if _, err := c.call(unix.SYS_SETSID); err != nil {
		return fmt.Errorf("make a session: %w", err)
	}
	st, err := proc.ReadStat(x.pid)
	x.start = st.Start
	if err == nil {
		err = proc.SetText(x.pid, "oom_score_adj", "1000") // where memory is short, it goes first
	}
	return err
}

// reap has the parent of a twin that was killed take its end in, when the member runs. Where the process has ended meanwhile, whoever has adopted the twin does:
// within the member that is a process of the program, and else one that collects whatever it is given.
func (x twin) reap(at cgroup.Dir, limit time.Time) (err error) {
	for {
		st, gone := proc.ReadStat(x.pid)
		if gone != nil || st.Start != x.start {
			return nil
		}
		all, failed := at.Live()
		if frozen, err2 := at.Frozen(); failed == nil && err2 == nil && !frozen && slices.Contains(all, st.Parent) {
			proc.OnOwnThread(func() { err = takeIn(st.Parent, x.inner) })
		}
		if time.Now().After(limit) {
			return errors.Join(fmt.Errorf("process %d, the twin of process %d, has ended, and process %d has not taken that in", x.pid, x.of, st.Parent), failed, err)
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 5_000_000}, nil) // nothing tells of it
	}
}

// takeIn has a process take in the end of a child, by the PID that the child has there. No wait(2) of the program's does that: a twin has no signal at its end, and
// wait(2) leaves out such children unless it is told otherwise (__WALL, __WCLONE).
func takeIn(parent, inner int) error {
	return inThread(parent, func(t *thread) error {
		_, err := t.call(unix.SYS_WAIT4, uint64(inner), 0, unix.WALL|unix.WNOHANG)
		return err
	})
}
