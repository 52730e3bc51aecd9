package criu

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/cgroup"
	"ss/agent/proc"
)

// lockWait is how long a restore waits for a file lock that another holds. It restores nothing else in that process meanwhile, so it is not too short for
// large images. lockLooks is how often it is looked at within that time.
const (
	lockWait  = 30 * time.Second
	lockLooks = 10
)

// blockedError says that a restore waits for a lock: R1 compares locks, but one may be taken since.
type blockedError struct{ path string }

func (e *blockedError) Error() string {
	return fmt.Sprintf("it waits for a lock on %s, which another process has taken: end that (lslocks names it), and restore again", e.path)
}

// watchLocks calls blocked when one process of the restore has waited for one lock at each of lockLooks looks. stop ends it.
func (s *restore) watchLocks(ctx context.Context, wait time.Duration, blocked func(error)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		looks := time.NewTicker(wait / lockLooks)
		defer looks.Stop()
		seen := map[waitingLock]int{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-looks.C:
			}
			now := map[waitingLock]int{}
			for _, w := range s.waitingLocks() {
				if now[w] = seen[w] + 1; now[w] > lockLooks {
					blocked(&blockedError{w.path})
					return
				}
			}
			seen = now
		}
	}()
	return func() {
		cancel()
		<-over
	}
}

// waitingLock is a process that waits for a lock.
type waitingLock struct {
	pid  int
	path string
}

// waitingLocks lists the processes that are restored and wait for locks. None of them runs its program yet, so it is CRIU that takes these.
func (s *restore) waitingLocks() []waitingLock {
	if s.unit.Cgroup == "" {
		return nil
	}
	pids, err := cgroup.Dir(s.unit.Cgroup).Procs()
	if err != nil {
		return nil // it is gone
	}
	var out []waitingLock
	for _, pid := range pids {
		call, ok, err := proc.ReadSyscall(pid, pid)
		if err != nil || !ok || !locking(call) {
			continue
		}
		if path, err := proc.FdLink(pid, int(call.Args[0])); err == nil {
			out = append(out, waitingLock{pid, path})
		}
	}
	return out
}

// locking says whether a system call waits for a lock on a file.
func locking(call proc.Syscall) bool {
	switch call.Number {
	case unix.SYS_FLOCK:
		return true
	case unix.SYS_FCNTL:
		return call.Args[1] == unix.F_SETLKW || call.Args[1] == unix.F_OFD_SETLKW
	}
	return false
}
