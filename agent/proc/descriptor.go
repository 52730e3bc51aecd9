package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// EachFd calls f with every descriptor of the processes and what it refers to, as its link has it. A process that ends meanwhile holds nothing.
func EachFd(pids []int, f func(pid, fd int, link string)) error {
	buf := make([]byte, unix.PathMax)
	for _, pid := range pids {
		d, err := os.Open(Path(pid, "fd"))
		if err != nil {
			if Gone(err) {
				continue
			}
			return fmt.Errorf("list the descriptors of process %d: %w", pid, err)
		}
		names, err := d.Readdirnames(-1)
		for _, name := range names {
			fd, convErr := strconv.Atoi(name)
			n, linkErr := unix.Readlinkat(int(d.Fd()), name, buf)
			if convErr == nil && linkErr == nil {
				f(pid, fd, string(buf[:n]))
			}
		}
		_ = d.Close()
		if err != nil && !Gone(err) {
			return fmt.Errorf("list the descriptors of process %d: %w", pid, err)
		}
	}
	return nil
}

// FdLink is what a descriptor refers to.
func FdLink(pid, fd int) (string, error) { return os.Readlink(FdPath(pid, fd)) }

// SocketInode reads the inode of a socket from a descriptor's link.
func SocketInode(link string) (uint64, bool) {
	s, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	ino, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return ino, err == nil
}

// FdInfo is what is used of /proc/PID/fdinfo/FD (proc_pid_fdinfo(5)).
type FdInfo struct {
	Flags    int // of open(2)
	Mount    int // of the file: its number in mountinfo
	Leased   bool
	Locked   bool // by the open file, not by a process (flock(2), F_OFD_SETLK)
	Terminal int  // of the master's side of a pseudoterminal: its number; -1 of all others

	Semaphore bool  // of an eventfd: EFD_SEMAPHORE
	Watched   []int // of an epoll: the descriptors under which files were added
	Passed    int   // of a UNIX socket: descriptors that were sent to it and not received
}

// ReadFdInfo reads a descriptor's.
func ReadFdInfo(pid, fd int) (FdInfo, error) {
	info := FdInfo{Terminal: -1}
	var bad error
	err := fields(Path(pid, "fdinfo/"+strconv.Itoa(fd)), func(name, value string) bool {
		var err error
		switch name {
		case "flags":
			var n int64
			n, err = strconv.ParseInt(value, 8, 64)
			info.Flags = int(n)
		case "mnt_id":
			info.Mount, err = strconv.Atoi(value)
		case "tty-index":
			info.Terminal, err = strconv.Atoi(value)
		case "eventfd-semaphore":
			info.Semaphore = value == "1"
		case "scm_fds":
			info.Passed, err = strconv.Atoi(value)
		case "tfd":
			number, _, _ := strings.Cut(value, " ")
			var watched int
			watched, err = strconv.Atoi(number)
			info.Watched = append(info.Watched, watched)
		case "lock":
			info.Leased = info.Leased || strings.Contains(value, " LEASE ")
			info.Locked = info.Locked || strings.Contains(value, " FLOCK ") || strings.Contains(value, " OFDLCK ")
		}
		if err != nil {
			bad = fmt.Errorf("%s of descriptor %d of process %d: %w", name, fd, pid, err)
		}
		return err == nil
	})
	if err == nil {
		err = bad
	}
	return info, err
}
