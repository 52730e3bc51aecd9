package obstacles

import (
	"strconv"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// procFolder looks for the /proc of a process. CRIU's code in the process needs one; where there is none it mounts one in a folder that it
// makes, which only a process that may mount can do (get_proc_fd of criu/pie/parasite.c).
func (s *survey) procFolder(pid int) {
	var fs unix.Statfs_t
	if err := unix.Statfs(proc.Path(pid, "root/proc"), &fs); err == nil && fs.Type == unix.PROC_SUPER_MAGIC {
		return
	}
	text, err := proc.StatusField(pid, "CapEff")
	if err != nil {
		return // it ended
	}
	caps, err := strconv.ParseUint(text, 16, 64)
	if err != nil || caps&(1<<unix.CAP_SYS_ADMIN) != 0 {
		return
	}
	s.add(pid, "has changed its root to a folder without /proc and is not root, so CRIU cannot look into it: mount a proc file system there")
}

// socketsInRoot looks for UNIX sockets with a name below a root folder that a process has changed to. CRIU binds them below the member's
// first root, where that name leads elsewhere.
func (s *survey) socketsInRoot(pid int) {
	if sameRoot(pid) {
		return
	}
	names, err := proc.UnixNames(pid)
	if err != nil {
		return // it ended
	}
	for _, name := range names {
		if h, ok := s.held[name.Inode]; ok && h.Pid == pid {
			s.add(pid, "has changed its root and has the UNIX socket %s (descriptor %d) in it, which CRIU cannot restore: bind it before the root is changed, or do without", name.Path, h.Fd)
		}
	}
}

// sameRoot says whether a process has the root folder that everyone has.
func sameRoot(pid int) bool {
	var theirs, ours unix.Stat_t
	if unix.Stat(proc.Path(pid, "root/"), &theirs) != nil || unix.Stat("/", &ours) != nil {
		return true // it ended
	}
	return theirs.Dev == ours.Dev && theirs.Ino == ours.Ino
}
