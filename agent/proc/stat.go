package proc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stat is what is used of /proc/PID/stat (proc_pid_stat(5)).
type Stat struct {
	Pid      int // of a thread: its own number
	Parent   int
	Session  int
	Name     string // of the command, at most 15 bytes
	State    byte   // R, S, D, T, t, Z, X, I
	Flags    uint64
	Threads  int    // that have not ended, of the process; the first one counts until it is reaped
	Start    uint64 // clock ticks after boot; with the PID it names one process for good
	Pending  bool   // of a thread: a signal below 32 waits for it, not for its process
	CPU      int    // the processor that it ran on last
	Farewell int    // the signal that its parent gets when it ends: SIGCHLD, unless clone(2) was told another; -1 of a thread
}

// pfKthread is PF_KTHREAD of include/linux/sched.h.
const pfKthread = 0x00200000

// Dead says whether the process runs no more, reaped or not. One whose first thread alone has ended (pthread_exit in main) runs.
func (s Stat) Dead() bool { return s.Ended() && s.Threads < 2 }

// Ended says whether that thread, the first one of a process, runs no more.
func (s Stat) Ended() bool { return s.State == 'Z' || s.State == 'X' }

// OfKernel says whether it is a thread of the kernel.
func (s Stat) OfKernel() bool { return s.Flags&pfKthread != 0 }

// ReadStat reads a process's.
func ReadStat(pid int) (Stat, error) { return readStat(Path(pid, "stat")) }

// ThreadStat reads a thread's, which costs the kernel less than to add up a process's threads.
func ThreadStat(pid, tid int) (Stat, error) { return readStat(threadPath(pid, tid, "stat")) }

func readStat(path string) (Stat, error) {
	b, err := read(path)
	if err != nil {
		return Stat{}, err
	}
	s, err := parseStat(b)
	if err != nil {
		return Stat{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return s, nil
}

func parseStat(b []byte) (Stat, error) {
	// The command is in parentheses and may hold anything, parentheses and spaces too.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return Stat{}, errors.New("no command in it")
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 37 {
		return Stat{}, fmt.Errorf("%d fields after the command", len(f))
	}
	s := Stat{Name: string(b[open+1 : end]), State: f[0][0], Pending: f[28] != "0"}
	var errs [8]error
	s.Pid, errs[0] = strconv.Atoi(string(b[:open-1]))
	s.Parent, errs[1] = strconv.Atoi(f[1])
	s.Session, errs[2] = strconv.Atoi(f[3])
	s.Flags, errs[3] = strconv.ParseUint(f[6], 10, 64)
	s.Start, errs[4] = strconv.ParseUint(f[19], 10, 64)
	s.Threads, errs[6] = strconv.Atoi(f[17])
	s.Farewell, errs[7] = strconv.Atoi(f[35])
	s.CPU, errs[5] = strconv.Atoi(f[36])
	return s, errors.Join(errs[:]...)
}

// Pids lists all processes that /proc shows, in ascending order.
func Pids() ([]int, error) {
	out, err := numbers("/proc")
	if err != nil {
		return nil, fmt.Errorf("list /proc: %w", err)
	}
	slices.Sort(out)
	return out, nil
}

// Threads lists the threads of a process.
func Threads(pid int) ([]int, error) {
	out, err := numbers(Path(pid, "task"))
	if err != nil {
		return nil, fmt.Errorf("list the threads of process %d: %w", pid, err)
	}
	return out, nil
}

// HighestThread is the highest number of a process or thread in this PID namespace.
func HighestThread() (int, error) {
	pids, err := Pids()
	if err != nil {
		return 0, err
	}
	highest := 0
	for _, pid := range pids {
		tids, err := Threads(pid)
		if err != nil && !Gone(err) {
			return 0, err
		}
		for _, tid := range tids {
			highest = max(highest, tid)
		}
	}
	return highest, nil
}

// Tree returns root and all its descendants, parents before children, as they are at this moment.
func Tree(root int) ([]Stat, error) {
	all, err := Pids()
	if err != nil {
		return nil, err
	}
	children := map[int][]Stat{}
	var out []Stat
	for _, pid := range all {
		s, err := ReadStat(pid)
		if err != nil {
			if Gone(err) {
				continue
			}
			return nil, err
		}
		if pid == root {
			out = append(out, s)
		}
		children[s.Parent] = append(children[s.Parent], s)
	}
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i].Pid]...)
	}
	return out, nil
}

// Tops returns those of the processes whose parent is not among them: one, if they are one tree.
func Tops(live []int) []int {
	var out []int
	for _, pid := range live {
		if s, err := ReadStat(pid); err == nil && !slices.Contains(live, s.Parent) {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

// Identity names one process for good, across the reuse of its PID and across a reboot.
type Identity struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start_ticks"`
	Boot  string `json:"boot_id"`
}

// Identify returns the identity of a process that lives.
func Identify(pid int) (Identity, error) {
	s, err := ReadStat(pid)
	if err != nil {
		return Identity{}, err
	}
	if s.Dead() {
		return Identity{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return Identity{Pid: pid, Start: s.Start, Boot: BootID()}, nil
}

// Alive says whether that very process still runs. A zombie does not.
func (id Identity) Alive() bool {
	if id.Pid <= 0 || id.Boot != BootID() {
		return false
	}
	s, err := ReadStat(id.Pid)
	return err == nil && s.Start == id.Start && !s.Dead()
}

// OpenPidfd returns a pidfd of that very process; Gone(err) if it has ended.
func (id Identity) OpenPidfd() (int, error) {
	return openPidfd(id.Pid, func(s Stat) bool { return s.Start == id.Start && id.Boot == BootID() })
}

// OpenChild returns a pidfd of a child of parent; Gone(err) if pid is another process by now.
func OpenChild(pid, parent int) (int, error) {
	return openPidfd(pid, func(s Stat) bool { return s.Parent == parent })
}

func openPidfd(pid int, is func(Stat) bool) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("open a pidfd of process %d: %w", pid, err)
	}
	// The descriptor pins whichever process has the PID now; looking again tells which one that is.
	if s, err := ReadStat(pid); err != nil || !is(s) {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return fd, nil
}
