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
