package obstacles

import (
	"os"
	"slices"
	"strings"

	"ss/agent/proc"
)

// locks looks for exclusive locks that programs outside of the member hold as well, since they share the open file. A restore would take the lock on a file of
// the member's own, and wait for them.
func (s *survey) locks(files []openFile) error {
	var ours []openFile
	for _, f := range files {
		if strings.HasPrefix(f.link, "/") && !strings.HasSuffix(f.link, " (deleted)") && locksShared(f.pid, f.fd) {
			ours = append(ours, f)
		}
	}
	if len(ours) == 0 {
		return nil
	}
	all, err := proc.Pids()
	if err != nil {
		return err
	}
	members, err := s.member.Procs() // it runs, and forks
	if err != nil {
		return err
	}
	self := os.Getpid() // it may hold what it hands over or copies
	all = slices.DeleteFunc(all, func(pid int) bool {
		return pid == self || slices.Contains(members, pid) || slices.Contains(s.pids, pid)
	})
	return proc.EachFd(all, func(pid, fd int, link string) {
		if !strings.HasPrefix(link, "/") || !locksShared(pid, fd) {
			return
		}
		for _, f := range ours {
			if order, ok := kcmp(f.pid, pid, kcmpFile, uintptr(f.fd), uintptr(fd)); ok && order == 0 {
				s.add(f.pid, "has %s open (descriptor %d) with an exclusive lock that %s holds as well, by the same open file (its descriptor %d), and is not part of the member: a restore would wait for that lock; end that, have it close its descriptor, or start both as one member", f.link, f.fd, proc.Whose(pid), fd)
			}
		}
	})
}

// locksShared says whether a descriptor's open file has an exclusive lock that all who share the file hold.
func locksShared(pid, fd int) bool {
	info, err := proc.ReadFdInfo(pid, fd)
	return err == nil && slices.ContainsFunc(info.Locks, func(l proc.Lock) bool { return l.Write && !l.Process })
}
