package obstacles

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// program looks for a process whose program is in a memfd. CRIU does not dump that memfd, and fails to restore the process.
func (s *survey) program(pid int) {
	if link := proc.Program(pid); isMemfd(link) {
		s.add(pid, "was started from memory (%s, as fexecve of a memfd does), which CRIU can't restore: start it from a file", link)
	}
}

// programs are the files that the member's processes run.
func (s *survey) programs() map[fileID]int {
	found := map[fileID]int{}
	for _, pid := range s.pids {
		var st unix.Stat_t
		if unix.Stat(proc.Path(pid, "exe"), &st) == nil {
			found[fileID{st.Dev, st.Ino}] = pid
		}
	}
	return found
}

// pathOnly looks for what CRIU can't dump or restore of a descriptor that was opened with O_PATH, and says whether it found something. CRIU takes a descriptor of a
// program's file for the one by which it is to set the program (fd_id_generate_special of criu/file-ids.c), which takes one that can be read. Of a socket's file and of
// a FIFO it asks what only an open one can answer.
func (s *survey) pathOnly(f openFile, programs map[fileID]int) (found bool) {
	id, mode, ok := idOf(f.pid, f.fd)
	if !ok {
		return false
	}
	what := ""
	switch mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		what = "the file of a UNIX socket"
	case unix.S_IFIFO:
		what = "a FIFO"
	case unix.S_IFREG:
		if pid, is := programs[id]; is {
			s.add(f.pid, "has %s open as a path only (descriptor %d, O_PATH), which is the program of %s, and CRIU can't restore that: close it before the snapshot, or open it with O_RDONLY", f.link, f.fd, proc.Whose(pid))
			return true
		}
	}
	if what == "" {
		return false
	}
	s.add(f.pid, "has %s, %s, open as a path only (descriptor %d, O_PATH), which CRIU can't dump: close it before the snapshot", f.link, what, f.fd)
	return true
}

// otherThread says whether a path in /proc is that of a thread which is not the first one of its process. CRIU opens files before it makes such threads.
func otherThread(link string) bool {
	parts := strings.Split(strings.TrimSuffix(link, deletedSuffix), "/")
	return len(parts) > 4 && parts[1] == "proc" && parts[3] == "task" && parts[2] != parts[4]
}

const deletedSuffix = " (deleted)"

// descriptorsNeeded is how many descriptors CRIU has open in a process at most: TestObjectsComeBack holds that fewer do not do.
const descriptorsNeeded = 4

// descriptorLimit looks for a process that may not open what CRIU opens in it.
func (s *survey) descriptorLimit(pid int) {
	limit, err := proc.OpenFiles(pid)
	if err != nil || limit.Soft > 1<<20 {
		return // it ended, or may open more than are counted here
	}
	used, highest := uint64(0), uint64(0)
	err = proc.EachFd([]int{pid}, func(_, fd int, _ string) {
		highest = max(highest, uint64(fd))
		if uint64(fd) < limit.Soft {
			used++
		}
	})
	if err != nil || used+descriptorsNeeded <= limit.Soft {
		return
	}
	s.add(pid, "may open %d files (ulimit -n) and has %d of them open, and CRIU needs %d more to look into it: prlimit --pid %d --nofile=%d:%d before the snapshot",
		limit.Soft, used, descriptorsNeeded, pid, highest+64, max(limit.Hard, highest+64))
}

// ofStranger looks for an open file of /proc that tells of a process which is not restored with the member. Of the cell's PID 1, which each cell has, CRIU opens files,
// but not the folder: it writes down a wrong path for that.
func (s *survey) ofStranger(f openFile) {
	rest, ok := strings.CutPrefix(f.link, proc.Root+"/")
	first, _, below := strings.Cut(rest, "/")
	number, err := strconv.Atoi(first)
	if !ok || err != nil || slices.Contains(s.inner(), number) || !onFileSystem(f.pid, f.fd, unix.PROC_SUPER_MAGIC) {
		return
	}
	own, err := proc.NSPids(f.pid)
	if err != nil {
		return // it ended
	}
	if len(own) > 1 {
		if number == 1 && !below {
			s.add(f.pid, "has %s open (descriptor %d), the folder of its PID namespace's first process, which CRIU can't restore: close it before the snapshot, or open the files in it", f.link, f.fd)
		}
		return
	}
	if _, err := proc.ReadStat(number); err == nil {
		s.add(f.pid, "has %s open (descriptor %d), which tells of %s, and no restore brings that process back: close it before the snapshot", f.link, f.fd, proc.Whose(number))
	}
}

// inner lists the numbers of the member's processes, as they see them.
func (s *survey) inner() (out []int) {
	for _, pid := range s.pids {
		if n, err := proc.NSPids(pid); err == nil && len(n) > 0 {
			out = append(out, n[len(n)-1])
		}
	}
	return out
}

// removedLease looks for a write lease on a file that has no name any more. CRIU opens such a file to read it, and that breaks the lease: the kernel sends SIGIO, which ends a
// program that has no handler for it.
func (s *survey) removedLease(f openFile, info proc.FdInfo) {
	var st unix.Stat_t
	if info.WriteLease && unix.Stat(proc.FdPath(f.pid, f.fd), &st) == nil && st.Nlink == 0 {
		s.add(f.pid, "has a write lease on %s (descriptor %d), which was removed, and a snapshot would break it: let it give up the lease (F_SETLEASE, F_UNLCK) or keep the file",
			strings.TrimSuffix(f.link, deletedSuffix), f.fd)
	}
}

// overlayMagic is OVERLAYFS_SUPER_MAGIC of linux/magic.h.
const overlayMagic = 0x794c7630

// removedBelow looks for a mapped file of an overlay's lower layer that was removed or replaced there. It keeps the links that it has below, so CRIU takes it for one that has another
// name, and cannot make one.
func (s *survey) removedBelow(pid int, m proc.Mapping) {
	if !strings.HasPrefix(m.Path, "/") || !strings.HasSuffix(m.Path, deletedSuffix) {
		return
	}
	at := proc.MappedFile(pid, m.Range)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(at, &fs) == nil && fs.Type == overlayMagic && unix.Stat(at, &st) == nil && st.Nlink > 0 {
		s.add(pid, "runs or maps %s, which was removed or replaced on an overlay file system, and CRIU can't make that again: start the program again", strings.TrimSuffix(m.Path, deletedSuffix))
	}
}
