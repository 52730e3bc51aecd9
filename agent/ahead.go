package agent

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// AheadNice is the niceness (setpriority(2)) of threads and helpers that members wait for, or soon will: about nine times what the job's
// weigh (sched(7)).
const AheadNice = -10

// Ahead puts the calling goroutine on a thread of its own, before the job in what it gets of processors, and with it whatever
// it starts: a job that has all processors busy would make each step towards its own standstill, and out of it, take several times as
// long. The goroutine is not to unlock the thread, which dies with it, so nobody else inherits that. Programs of members are never started
// from such a goroutine; what CRIU restores has the niceness that is in its images. Where the kernel refuses, work goes on as it is. Between
// sessions niceness does not count where the kernel schedules them as groups: see SessionAhead.
func Ahead() {
	runtime.LockOSThread()
	// The system call, not the C function: it returns 20 - nice.
	if raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil && 20-raw > AheadNice {
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, AheadNice)
	}
}

// SessionAhead puts the session of a process before others in what it gets of processors, where the kernel schedules sessions as groups (sched(7), "The
// autogroup feature": the niceness of a process counts only within its session then). It is for helpers that lead a session of their own, in
// which no program of a member ever is. Where there are no such groups, and where the kernel refuses, nothing happens.
func SessionAhead(leader int) { _ = setAutogroup(leader, AheadNice) }

func setAutogroup(pid, nice int) error {
	return proc.SetText(pid, "autogroup", strconv.Itoa(nice))
}

// turn says whether the agent's own session goes before others, as it does while somebody needs it. The zero value does not.
type turn struct {
	mu    sync.Mutex
	takes int
}

// take makes the agent's session go first until the function returned is called, which may happen more than once. An agent that was started from a
// shell shares a session with whatever else was, and stays where it is.
func (t *turn) take() (release func()) {
	pid := os.Getpid()
	if sid, err := unix.Getsid(0); err != nil || sid != pid {
		return func() {}
	}
	t.change(pid, 1)
	return sync.OnceFunc(func() { t.change(pid, -1) })
}

func (t *turn) change(pid, by int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.takes > 0
	t.takes += by
	switch now := t.takes > 0; {
	case now && !before:
		SessionAhead(pid)
	case before && !now:
		_ = setAutogroup(pid, 0)
	}
}
