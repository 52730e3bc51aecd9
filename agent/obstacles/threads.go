package obstacles

import (
	"slices"

	"ss/agent/proc"
)

// leader looks for a process whose first thread has ended while others go on.
func (s *survey) leader(pid int) {
	if st, err := proc.ReadStat(pid); err == nil && st.Ended() && !st.Dead() {
		s.add(pid, "goes on without its first thread, which has ended (pthread_exit in main), and CRIU can't dump that: have main wait for the others (pthread_join)")
	}
}

// threads looks for threads that do not share all that the threads of a process share, as CRIU dumps it of the first one alone.
func (s *survey) threads(pid int) {
	tids, err := proc.Threads(pid)
	if err != nil || len(tids) < 2 {
		return // it ended, or has one
	}
	if first, err := proc.ReadStat(pid); err != nil || first.Ended() {
		return // it has nothing any more to compare with
	}
	for _, tid := range tids {
		if tid == pid {
			continue
		}
		for _, x := range []struct {
			kind int
			what string
		}{{kcmpFiles, "descriptors (unshare with CLONE_FILES)"}, {kcmpFS, "working folder and umask (unshare with CLONE_FS)"}} {
			if order, ok := kcmp(pid, tid, x.kind, 0, 0); ok && order != 0 {
				s.add(pid, "has a thread (%d) with its own %s, which CRIU would not restore: have a process of its own do that work", tid, x.what)
			}
		}
		s.threadNamespaces(pid, tid)
	}
}

// threadNamespaces looks for a thread that is in another namespace than its process, as setns(2) and unshare(2) make it.
func (s *survey) threadNamespaces(pid, tid int) {
	for _, kind := range []string{"net", "mnt", "uts", "ipc", "cgroup"} {
		theirs, err1 := proc.Namespace(tid, kind)
		its, err2 := proc.Namespace(pid, kind)
		if err1 == nil && err2 == nil && theirs != its {
			s.add(pid, "has a thread (%d) in %s namespace of its own, which CRIU would not restore: have a process of its own do that work", tid, namespaceNames[kind])
		}
	}
}

// sessions looks for orphans whose session was led by a process that is not above them. Those that the tree's root has adopted, and whose leader has ended, get a session of their own
// when they are restored (agent/criu/image). A restore would make all others children of the cell's PID 1, which is not part of the next dump.
func (s *survey) sessions() {
	all, err := s.member.Procs()
	if err != nil || len(s.pids) == 0 {
		return // the member ended
	}
	root, err := proc.ReadStat(proc.Tops(s.pids)[0])
	if err != nil {
		return
	}
	for _, pid := range s.pids {
		st, err := proc.ReadStat(pid)
		if err != nil || st.Session == pid || st.Session == root.Session {
			continue
		}
		if leader, err := proc.ReadStat(st.Session); err == nil && leader.State != 'Z' && slices.Contains(all, st.Session) {
			if st.Parent == root.Pid && st.Session != root.Pid {
				s.add(pid, "was adopted by process %d and is in the session of another process (%d), which CRIU can't restore: start it with setsid", st.Parent, st.Session)
			}
			continue
		}
		if parent, err := proc.ReadStat(st.Parent); st.Parent == root.Pid || err != nil || parent.Session == st.Session {
			continue
		}
		s.add(pid, "is in a session whose leader (process %d) has ended, and was adopted by process %d, which CRIU can't restore: have it call setsid itself, or have its leader stay", st.Session, st.Parent)
	}
}
