package proc

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
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
	Flags      int // of open(2)
	Mount      int // of the file: its number in mountinfo
	Leased     bool
	WriteLease bool // it is a write lease (F_WRLCK): nobody else has the file open
	Terminal   int  // of the master's side of a pseudoterminal: its number; -1 of all others

	Semaphore bool   // of an eventfd: EFD_SEMAPHORE
	Counter   uint64 // of an eventfd
	Watched   []int  // of an epoll: the descriptors under which files were added
	Locks     []Lock
}

// Lock is a lock that a process holds by a descriptor: one of the open file description, which all who share that hold (flock(2), F_OFD_SETLK), or one of
// the process (F_SETLK). Leases are not among them.
type Lock struct {
	Flock      bool // by flock(2), of the whole file; else of a range, by fcntl(2)
	Process    bool // the process's own (POSIX)
	Write      bool // exclusive
	Start, End int64
}

// parseLock reads what the kernel says of a lock: "1: POSIX ADVISORY WRITE 3568 fd:00:2531452 0 EOF" (proc_locks(5)). ok is false of a lease.
func parseLock(value string) (l Lock, ok bool, err error) {
	f := strings.Fields(value)
	if len(f) != 8 {
		return l, false, fmt.Errorf("a lock %q", value)
	}
	switch f[1] {
	case "FLOCK":
		l.Flock = true
	case "POSIX", "ACCESS":
		l.Process = true
	case "OFDLCK":
	default:
		return l, false, nil
	}
	l.Write = f[3] == "WRITE"
	l.End = math.MaxInt64
	l.Start, err = strconv.ParseInt(f[6], 10, 64)
	if err == nil && f[7] != "EOF" {
		l.End, err = strconv.ParseInt(f[7], 10, 64)
	}
	return l, err == nil, err
}

// LockHolders lists the processes that hold POSIX locks (F_SETLK), as far as this PID namespace sees them: /proc/locks.
func LockHolders() (map[int]bool, error) {
	text, err := os.ReadFile(filepath.Join(Root, "locks"))
	if err != nil {
		return nil, err
	}
	out := map[int]bool{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // "1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF"; "1: -> POSIX …" is of one who waits
		if len(f) < 8 || f[1] != "POSIX" {
			continue
		}
		pid, err := strconv.Atoi(f[4])
		if err != nil {
			return nil, fmt.Errorf("a lock %q", line)
		}
		out[pid] = true
	}
	return out, nil
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
		case "eventfd-count":
			info.Counter, err = strconv.ParseUint(value, 16, 64)
		case "eventfd-semaphore":
			info.Semaphore = value == "1"
		case "tfd":
			number, _, _ := strings.Cut(value, " ")
			var watched int
			watched, err = strconv.Atoi(number)
			info.Watched = append(info.Watched, watched)
		case "lock":
			if strings.Contains(value, " LEASE ") {
				info.Leased, info.WriteLease = true, info.WriteLease || strings.Contains(value, " WRITE ")
			}
			var l Lock
			var ok bool
			if l, ok, err = parseLock(value); ok {
				info.Locks = append(info.Locks, l)
			}
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
