package yield

import (
	"runtime"
	"syscall"
)

// Nice is the niceness (setpriority(2)) of threads that work while the job runs: about a tenth of what the job's weigh (sched(7)).
const Nice = 10

const (
	// From ioprio_set(2), which the standard library has no names for: this thread, best effort, the last of 8 levels.
	ioprioWhoProcess = 1
	ioprioLast       = 2<<13 | 7
)

// ToJob puts the calling goroutine on a thread of its own, below the job's in what it gets of processors and disks. The goroutine is not to
// unlock it: the thread dies with it, so nobody else inherits that. Where the kernel refuses, work goes on as it is. Doing it again does no harm.
func ToJob() {
	runtime.LockOSThread()
	// The system call, not the C function: it returns 20 - nice.
	if raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil && 20-raw < Nice {
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, Nice)
	}
	_, _, _ = syscall.Syscall(syscall.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioLast)
}
