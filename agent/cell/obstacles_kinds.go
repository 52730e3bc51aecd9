package cell

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nestedKinds are the namespaces that CRIU dumps of a whole tree only, "user" not at all.
var nestedKinds = []string{"uts", "ipc", "cgroup", "time", "time_for_children"}

// namespaces looks for namespaces that the member has made for itself. The root's user namespace is compared with the agent's, which every cell
// shares; all others with the root's.
func (s *survey) namespaces(pid int) {
	root := s.pids[0]
	if pid == root {
		theirs, err1 := namespace(pid, "user")
		ours, err2 := namespace(os.Getpid(), "user")
		if err1 == nil && err2 == nil && theirs != ours {
			s.add(pid, "runs in a user namespace of its own (unshare --user, bubblewrap, rootless containers), which CRIU can't dump from outside: start it without")
		}
	}
	for _, kind := range nestedKinds {
		theirs, err1 := namespace(pid, kind)
		roots, err2 := namespace(root, kind)
		if err1 == nil && err2 == nil && theirs != roots {
			s.add(pid, "runs in a %s namespace of its own within the member, or has made one for its children: CRIU dumps no nested containers; make it a member of its own", strings.TrimSuffix(kind, "_for_children"))
		}
	}
}

// scheduling looks for a policy that CRIU can't restore.
func (s *survey) scheduling(pid int) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	if err != nil {
		return
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(filepath.Base(t))
		if err != nil {
			continue
		}
		if attr, err := unix.SchedGetAttr(tid, 0); err == nil && attr.Policy == unix.SCHED_DEADLINE {
			s.add(pid, "is scheduled by deadline (SCHED_DEADLINE, thread %d), which CRIU can't restore: chrt --other --pid 0 %d before the snapshot, or run it with SCHED_FIFO", tid, tid)
		}
	}
}

// sealed looks for shared mappings of a memfd that must not be written any more. CRIU maps it writable, and the kernel does not seal what is mapped so.
func (s *survey) sealed(pid int) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return // it ended
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 6 || !strings.HasPrefix(fields[5], "/memfd:") || len(fields[1]) < 4 || fields[1][3] != 's' {
			continue
		}
		if seals, err := sealsOf(pid, fields[0]); err == nil && seals&unix.F_SEAL_WRITE != 0 {
			s.add(pid, "maps %s shared and sealed against writing (F_SEAL_WRITE), which CRIU can't restore: map it MAP_PRIVATE, or seal it with F_SEAL_FUTURE_WRITE", fields[5])
		}
	}
}

// sealsOf reads the seals of the memfd that is mapped there. Nothing waits on a memfd's opening, nor is told of it.
func sealsOf(pid int, mapping string) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/map_files/%s", pid, mapping), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
}
