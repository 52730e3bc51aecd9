package agent

import (
	"runtime"
	"syscall"
)

// aheadNice is the niceness (setpriority(2)) of threads and helpers that members wait for, or soon will: about nine times what the job's
// weigh (sched(7)).
const aheadNice = -10

// Ahead puts the calling goroutine on a thread of its own, before the job in what it gets of processors, and with it whatever
// it starts: a job that has all processors busy would make each step towards its own standstill, and out of it, take several times as
// long. The goroutine is not to unlock the thread, which dies with it, so nobody else inherits that. Programs of members are never started
// from such a goroutine; what CRIU restores has the niceness that is in its images. Where the kernel refuses, work goes on as it is.
func Ahead() {
	runtime.LockOSThread()
	// The system call, not the C function: it returns 20 - nice.
	if raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil && 20-raw > aheadNice {
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, aheadNice)
	}
}
