package criu

import (
	"fmt"

	"ss/agent/criu/image"
	"ss/agent/proc"
)

// addLocks completes what the images say of locks, while the tree is still frozen. A child that has its parent's descriptor holds POSIX locks of its own on
// it, as the processes of a server may; CRIU takes these for the parent's, whose descriptor it has seen before, and forgets them (discard_dup_locks_tail in
// its criu/file-lock.c).
func addLocks(dir string, root int) error {
	holders, err := proc.LockHolders()
	if err != nil {
		return fmt.Errorf("locks: %w", err)
	}
	var held []image.ProcessLock
	for holder := range holders { // few, on most hosts: members stand still meanwhile
		if !descends(holder, root) {
			continue
		}
		inner, err := proc.NSPids(holder)
		if err != nil {
			return fmt.Errorf("locks of process %d: %w", holder, err)
		}
		err = proc.EachFd([]int{holder}, func(pid, fd int, _ string) {
			info, err := proc.ReadFdInfo(pid, fd)
			if err != nil {
				return // frozen, it closes nothing: CRIU has read the same
			}
			for _, l := range info.Locks {
				if l.Process {
					held = append(held, image.ProcessLock{Pid: inner[len(inner)-1], Fd: fd, Write: l.Write, Start: l.Start, End: l.End})
				}
			}
		})
		if err != nil {
			return fmt.Errorf("locks: %w", err)
		}
	}
	return image.AddLocks(dir, held)
}

// descends says whether a process is below root. root itself opened what it has locked, or has it from a program that is not dumped.
func descends(pid, root int) bool {
	for pid > 1 {
		s, err := proc.ReadStat(pid)
		if err != nil {
			return false
		}
		if pid = s.Parent; pid == root {
			return true
		}
	}
	return false
}
