package obstacles

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// file is a descriptor of the member.
type openFile struct {
	pid, fd int
	link    string
}

// fileID names a file on this host.
type fileID struct{ dev, ino uint64 }

func idOf(pid, fd int) (fileID, uint32, bool) {
	var st unix.Stat_t
	if unix.Stat(proc.FdPath(pid, fd), &st) != nil {
		return fileID{}, 0, false
	}
	return fileID{st.Dev, st.Ino}, st.Mode, true
}

// pipes looks for pipes and FIFOs that programs outside of the member have open. CRIU would restore the member's end and the bytes in it, without the
// other program.
func (s *survey) pipes(files []openFile) error {
	ours := map[fileID]openFile{}
	for _, f := range files {
		if !strings.HasPrefix(f.link, "pipe:[") && !strings.HasPrefix(f.link, "/") {
			continue
		}
		id, mode, ok := idOf(f.pid, f.fd)
		if _, known := ours[id]; ok && !known && mode&unix.S_IFMT == unix.S_IFIFO {
			ours[id] = f
		}
	}
	if len(ours) == 0 {
		return nil
	}
	all, err := s.outsiders()
	if err != nil {
		return err
	}
	type outside struct {
		pid, fd int
		named   bool
		file    fileID
	}
	var found []outside
	err = proc.EachFd(all, func(pid, fd int, link string) {
		named := strings.HasPrefix(link, "/")
		if !named && !strings.HasPrefix(link, "pipe:[") {
			return
		}
		id, mode, ok := idOf(pid, fd)
		if _, is := ours[id]; ok && is && mode&unix.S_IFMT == unix.S_IFIFO {
			found = append(found, outside{pid, fd, named, id})
		}
	})
	if err != nil || len(found) == 0 {
		return err
	}
	// The member runs, and forks: what is its own by now is not outside.
	members, err1 := s.member.Procs()
	others, err2 := s.member.Others()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	for _, o := range found {
		if slices.Contains(members, o.pid) || o.named && slices.Contains(others, o.pid) {
			continue
		}
		if id, _, ok := idOf(o.pid, o.fd); !ok || id != o.file {
			continue // it ended, or has closed it: a child between its fork and its end, say
		}
		f, what := ours[o.file], "a pipe"
		if o.named {
			what = "the FIFO " + f.link
		}
		s.add(f.pid, "has %s open (descriptor %d) that %s has open as well, which is not part of the member: start both as one member (sh -c 'one & two & wait'), or have it use a file, or a TCP connection to another member", what, f.fd, proc.Whose(o.pid))
	}
	return nil
}

// outsiders lists the processes of this host that are not part of the member. The agent is not among them: it may hold what it hands over or copies.
func (s *survey) outsiders() ([]int, error) {
	if s.outside == nil {
		all, err := proc.Pids()
		if err != nil {
			return nil, err
		}
		self := os.Getpid()
		s.outside = slices.DeleteFunc(all, func(pid int) bool { return pid == self || slices.Contains(s.pids, pid) })
	}
	return s.outside, nil
}

// appendOnly looks for a file that a restore could not put back.
func (s *survey) appendOnly(f openFile, info proc.FdInfo) {
	if info.Flags&unix.O_ACCMODE == unix.O_RDONLY || info.Flags&unix.O_PATH != 0 {
		return
	}
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, proc.FdPath(f.pid, f.fd), 0, unix.STATX_TYPE, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	switch {
	case st.Attributes&unix.STATX_ATTR_APPEND != 0:
		s.add(f.pid, "writes %s (descriptor %d), which may only be appended to, so that a restore could not put it back: chattr -a %s", f.link, f.fd, f.link)
	case st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0:
		s.add(f.pid, "writes %s (descriptor %d), which is immutable, so that a restore could not put it back: chattr -i %s", f.link, f.fd, f.link)
	}
}

// foreignMount looks for a file on a mount that its process's mount namespace does not have. mounts caches those that it has, by process. One line a process says it.
func (s *survey) foreignMount(f openFile, info proc.FdInfo, mounts map[int]map[int]bool) {
	have, looked := mounts[f.pid]
	if !looked {
		have = proc.MountIDs(f.pid)
		mounts[f.pid] = have
	}
	if len(have) == 0 || have[info.Mount] {
		return
	}
	mounts[f.pid] = nil
	what := "runs in a mount namespace of its own (unshare --mount, bubblewrap, ip netns exec)"
	if theirs, err := proc.Namespace(f.pid, "mnt"); err == nil && f.pid != s.pids[0] {
		if root, err := proc.Namespace(s.pids[0], "mnt"); err == nil && root == theirs {
			what = "was given a file by a program in another mount namespace"
		}
	}
	s.add(f.pid, "%s and holds %s (descriptor %d), opened in another mount namespace, where CRIU can't find it: start it without that namespace (nsenter --net in the place of ip netns exec), or have it open the file itself", what, f.link, f.fd)
}

// mounted looks for file systems that the member has mounted: a restore makes a new mount namespace, which has the host's.
func (s *survey) mounted() {
	if len(s.pids) == 0 || !sameRoot(s.pids[0]) {
		return
	}
	theirs, err1 := proc.MountPoints(s.pids[0])
	hosts, err2 := proc.MountPoints(proc.Self)
	if err1 != nil || err2 != nil {
		return // it ended
	}
	for _, point := range theirs {
		if !slices.Contains(hosts, point) {
			s.add(s.pids[0], "has a file system mounted on %s that this host has not mounted, and that a restore would not find: mount it on the host before the program starts", point)
		}
	}
}
