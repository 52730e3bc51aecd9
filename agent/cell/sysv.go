package cell

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// systemV looks for System V objects in the IPC namespaces of the member. They are in no process, and CRIU, which dumps from within a cell, leaves them out: a
// restored program would hold the number of an object that is not there.
func (s *survey) systemV() error {
	own, err := proc.Namespace(os.Getpid(), "ipc")
	if err != nil {
		return err
	}
	done := map[uint64]bool{own: true} // what the host's programs share outlives the member
	for _, pid := range s.pids {
		ns, err := proc.Namespace(pid, "ipc")
		if err != nil || done[ns] {
			continue // it ended, or is no different
		}
		done[ns] = true
		found, err := systemVOf(pid)
		if err != nil {
			if proc.Gone(err) {
				continue
			}
			return err
		}
		for _, what := range found {
			s.add(pid, "has the System V %s, which CRIU can't dump: have it use POSIX semaphores, shared memory or pipes instead, or remove what it does not use (ipcrm)", what)
		}
	}
	return nil
}

// systemVOf lists the System V objects of a process's IPC namespace. /proc tells a thread of its own namespace only, so a thread goes there, and ends.
func systemVOf(pid int) (found []string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		var ns int
		if ns, err = unix.Open(proc.Path(pid, "ns/ipc"), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return
		}
		defer unix.Close(ns)
		if err = unix.Setns(ns, unix.CLONE_NEWIPC); err != nil {
			return
		}
		found, err = readSystemV()
	}()
	<-done
	if err != nil {
		return nil, fmt.Errorf("list the System V objects of process %d: %w", pid, err)
	}
	return found, nil
}

// readSystemV reads what /proc tells this thread. A kernel that has no such objects has no such files. Shared memory that is mapped is found by its mapping.
func readSystemV() ([]string, error) {
	var found []string
	for _, kind := range []struct {
		file, name string
		attached   int // the column that counts mappings; 0: none
	}{{"sem", "semaphore set", 0}, {"msg", "message queue", 0}, {"shm", "shared memory", 6}} {
		text, err := proc.SystemV(kind.file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
			f := strings.Fields(line)
			if i == 0 || len(f) < 7 || kind.attached > 0 && f[kind.attached] != "0" {
				continue
			}
			found = append(found, fmt.Sprintf("%s %s (key %s)", kind.name, f[1], f[0]))
		}
	}
	return found, nil
}
