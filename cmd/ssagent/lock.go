package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

const (
	lockName = "agent.lock"
	// lockWait is how long a start waits for the lock. A child that an agent has forked has the lock as well until it executes its program: an agent that was killed just then leaves it for a moment.
	lockWait = 2 * time.Second
	lockPoll = 50 * time.Millisecond
)

// lockState makes this process the only agent that works in a state folder, until it ends or closes the file. What an agent starts does not get the lock (O_CLOEXEC), so members and their
// keepers, which outlive an agent, keep no other one from starting.
func lockState(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	for end := time.Now().Add(lockWait); ; time.Sleep(lockPoll) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%s works in the state folder %s already: end that one first (systemctl stop ssagent, if systemd has started it); members run on meanwhile", otherAgent(f), dir)
	} else if err != nil {
		err = fmt.Errorf("lock %s: %w", path, err)
	}
	if err == nil { // whom the next one names
		err = errors.Join(f.Truncate(0), onlyWritten(f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func onlyWritten(_ int, err error) error { return err }

// otherAgent names the process that has the lock, if the number in the file is that of a process which has the file open: it may be of another PID namespace.
func otherAgent(f *os.File) string {
	const unknown = "another agent"
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0) // none where it has just been made
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	mine, err2 := f.Stat()
	if err != nil || err2 != nil {
		return unknown
	}
	has := false
	_ = proc.EachFd([]int{pid}, func(pid, fd int, link string) {
		if filepath.Base(link) == lockName {
			theirs, err := os.Stat(proc.FdPath(pid, fd))
			has = has || err == nil && os.SameFile(mine, theirs)
		}
	})
	if !has {
		return unknown
	}
	return "another agent, " + proc.Whose(pid) + ","
}
