package obstacles

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// nestedKinds are the namespaces that CRIU dumps of a whole tree only, "user" not at all.
var nestedKinds = []string{"net", "pid", "user", "uts", "ipc", "cgroup", "time", "time_for_children", "pid_for_children"}

// namespaceNames are what people call the kinds of namespaces, with the article.
var namespaceNames = map[string]string{
	"net": "a network", "pid": "a PID", "user": "a user", "mnt": "a mount", "uts": "a UTS", "ipc": "an IPC", "cgroup": "a cgroup", "time": "a time",
}

// namespaces looks for namespaces that the member has made for itself. The root's user namespace is compared with the agent's, which every cell
// shares; all others with the root's.
func (s *survey) namespaces(pid int) {
	root := s.pids[0]
	if pid == root {
		theirs, err1 := proc.Namespace(pid, "user")
		ours, err2 := proc.Namespace(os.Getpid(), "user")
		if err1 == nil && err2 == nil && theirs != ours {
			s.add(pid, "runs in a user namespace of its own (unshare --user, bubblewrap, rootless containers), which CRIU can't dump from outside: start it without")
		}
	}
	for _, kind := range nestedKinds {
		theirs, err1 := proc.Namespace(pid, kind)
		roots, err2 := proc.Namespace(root, kind)
		if err1 == nil && err2 == nil && theirs != roots {
			name := namespaceNames[strings.TrimSuffix(kind, "_for_children")]
			s.add(pid, "runs in %s namespace of its own within the member, or has made one for its children: CRIU dumps no nested containers; make it a member of its own", name)
		}
	}
}

// scheduling looks for a policy that CRIU can't restore.
func (s *survey) scheduling(pid int) {
	tids, err := proc.Threads(pid)
	if err != nil {
		return // it ended
	}
	for _, tid := range tids {
		if attr, err := unix.SchedGetAttr(tid, 0); err == nil && attr.Policy == unix.SCHED_DEADLINE {
			s.add(pid, "is scheduled by deadline (SCHED_DEADLINE, thread %d), which CRIU can't restore: chrt --other --pid 0 %d before the snapshot, or run it with SCHED_FIFO", tid, tid)
		}
	}
}

// sealed looks for shared mappings of a memfd that must not be written any more. CRIU maps it writable, and the kernel does not seal what is mapped so.
func (s *survey) sealed(pid int) {
	for m, err := range proc.Mappings(pid) {
		if err != nil {
			return // it ended
		}
		if !m.Shared || !strings.HasPrefix(m.Path, "/memfd:") {
			continue
		}
		if seals, err := sealsOf(pid, m.Range); err == nil && seals&unix.F_SEAL_WRITE != 0 {
			s.add(pid, "maps %s shared and sealed against writing (F_SEAL_WRITE), which CRIU can't restore: map it MAP_PRIVATE, or seal it with F_SEAL_FUTURE_WRITE", strings.TrimSuffix(m.Path, " (deleted)"))
		}
	}
}

// sealsOf reads the seals of the memfd that is mapped there. Nothing waits on a memfd's opening, nor is told of it.
func sealsOf(pid int, mapping string) (int, error) {
	fd, err := unix.Open(proc.MappedFile(pid, mapping), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
}
