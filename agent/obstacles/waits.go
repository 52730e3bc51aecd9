package obstacles

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

const (
	// waitPatience is how long a wait in the kernel may go on before it counts as one that does not end. A busy disk may take a second.
	waitPatience = 2 * time.Second
	// waitPoll is how often such a wait is looked at meanwhile: nothing tells of its end.
	waitPoll = 20 * time.Millisecond
)

// unstoppable are functions of the kernel in which a thread sleeps interruptibly, and goes on to sleep uninterruptibly when it is to be frozen
// (request_wait_answer of fs/fuse/dev.c).
var unstoppable = []string{"request_wait_answer"}

// unstoppableWaits looks for threads that wait in the kernel where no freezer and no tracer can stop them. Most such waits end within milliseconds.
func (s *survey) unstoppableWaits(pid int) {
	tids, err := proc.Threads(pid)
	if err != nil {
		return // it ended
	}
	for _, tid := range tids {
		w, ok := waitOf(pid, tid)
		if !ok {
			continue
		}
		if child := s.vforked(pid); child != 0 {
			s.vforks[[2]int{pid, child}] = true
			s.addWait(pid, w, "waits for its child %s, which shares its memory until it calls exec or ends (vfork), and CRIU can't dump that: have the child do so, or have the program use fork", proc.Whose(child))
			continue
		}
		s.addWait(pid, w, "waits in the kernel%s and could not be stopped: a disk or a network file system that does not answer? Fix it, or end the process", w.what())
	}
}

// wait is one wait of a thread in the kernel. count tells it from the thread's other ones.
type wait struct {
	pid, tid int
	count    string
	function string
}

// waitOf says in which wait, which nothing interrupts, a thread is.
func waitOf(pid, tid int) (w wait, ok bool) {
	st, err := proc.ThreadStat(pid, tid)
	if err != nil {
		return w, false
	}
	w = wait{pid: pid, tid: tid, function: proc.ThreadWchan(pid, tid)}
	if st.State != 'D' && !slices.Contains(unstoppable, w.function) {
		return w, false
	}
	w.count, err = proc.ThreadStatusField(pid, tid, "voluntary_ctxt_switches")
	return w, err == nil
}

// goesOn says whether the thread is in that very wait.
func (w wait) goesOn() bool {
	now, ok := waitOf(w.pid, w.tid)
	return ok && now.count == w.count
}

// fileCalls are the system calls whose first argument is the descriptor of the file that they may wait for.
var fileCalls = []int{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_PREADV2,
	unix.SYS_PWRITEV2, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSTAT, unix.SYS_GETDENTS64,
	unix.SYS_FCHMOD, unix.SYS_FCHOWN, unix.SYS_FSETXATTR, unix.SYS_FLOCK, unix.SYS_IOCTL, unix.SYS_SYNCFS,
}

// what says what the thread waits for, as far as it can be told.
func (w wait) what() string {
	text := ""
	if w.function != "" {
		text = fmt.Sprintf(" (%s)", w.function)
	}
	if call, ok, err := proc.ReadSyscall(w.pid, w.tid); err == nil && ok && slices.Contains(fileCalls, call.Number) {
		if link, err := proc.FdLink(w.pid, int(call.Args[0])); err == nil {
			text += fmt.Sprintf(" for %s (descriptor %d)", link, call.Args[0])
		}
	}
	return text
}

// vforked finds a child of a process that uses the process's memory.
func (s *survey) vforked(pid int) (child int) {
	for _, other := range s.pids {
		if st, err := proc.ReadStat(other); err == nil && st.Parent == pid && proc.SameMemory(pid, other) {
			return other
		}
	}
	return 0
}

// addWait adds an obstacle that counts if the wait does not end within waitPatience.
func (s *survey) addWait(pid int, w wait, format string, args ...any) {
	before := len(s.found)
	s.add(pid, format, args...)
	if len(s.found) > before {
		s.found[before].wait = &w
	}
}

// unending leaves of the waits in the kernel those that do not end in time.
func (s *survey) unending(ctx context.Context) error {
	over := func(o obstacle) bool { return o.wait != nil && !o.wait.goesOn() }
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	for end := time.After(waitPatience); ; {
		s.found = slices.DeleteFunc(s.found, over)
		if !slices.ContainsFunc(s.found, func(o obstacle) bool { return o.wait != nil }) {
			return nil
		}
		select {
		case <-tick.C:
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
