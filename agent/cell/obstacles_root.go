package cell

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// procFolder looks for the /proc of a process. CRIU's code in the process needs one; where there is none it mounts one in a folder that it
// makes, which only a process that may mount can do (get_proc_fd of criu/pie/parasite.c).
func (s *survey) procFolder(pid int) {
	var fs unix.Statfs_t
	if err := unix.Statfs(fmt.Sprintf("/proc/%d/root/proc", pid), &fs); err == nil && fs.Type == unix.PROC_SUPER_MAGIC {
		return
	}
	text, err := statusField(pid, "CapEff")
	if err != nil {
		return // it ended
	}
	caps, err := strconv.ParseUint(text, 16, 64)
	if err != nil || caps&(1<<unix.CAP_SYS_ADMIN) != 0 {
		return
	}
	s.add(pid, "has changed its root to a folder without /proc and is not root, so CRIU cannot look into it: mount a proc file system there")
}
