package criu

import (
	"fmt"
	"maps"
	"runtime"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// newIPC is why an attempt ends in which a namespace stopped being plain between the start of CRIU and the freeze. The next one takes it as it is.
const newIPC = "the first System V object was being made, or a limit of them set"

// plainIPC reads the IPC namespace of a process, and says whether it is as the kernel makes one: it holds no System V object, and its limits are the
// kernel's. There is nothing in it to dump then, and CRIU, which takes some milliseconds of the freeze to find that out, may be in it and leave it alone.
func plainIPC(pid int) (text map[string]string, plain bool, err error) {
	if text, err = readIPC(pid); err != nil {
		return nil, false, err
	}
	kernels, err := inThread(func() error { return unix.Unshare(unix.CLONE_NEWIPC) })
	if err != nil {
		return nil, false, fmt.Errorf("read an IPC namespace to compare with: %w", err)
	}
	return text, maps.Equal(text, kernels), nil
}

// readIPC reads what the kernel tells of the IPC namespace of a process.
func readIPC(pid int) (map[string]string, error) {
	ns, err := unix.Open(proc.Path(pid, "ns/ipc"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("the IPC namespace of the cell's first process %d: %w", pid, err)
	}
	defer unix.Close(ns)
	text, err := inThread(func() error { return unix.Setns(ns, unix.CLONE_NEWIPC) })
	if err != nil {
		return nil, fmt.Errorf("read the IPC namespace of the cell's first process %d: %w", pid, err)
	}
	return text, nil
}

// inThread reads the IPC namespace that enter takes a thread into. /proc tells a thread of its own only, so a thread goes there, and ends.
func inThread(enter func() error) (text map[string]string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err = enter(); err == nil {
			text, err = proc.IPC()
		}
	}()
	<-done
	return text, err
}
