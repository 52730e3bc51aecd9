package cell

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// procStat is what is used of /proc/PID/stat (proc_pid_stat(5)).
type procStat struct {
	pid, ppid, session int
	comm               string
	state              byte
	flags              uint64
	start              uint64 // clock ticks after boot; with the pid it names one process for good
}

// pfKthread is PF_KTHREAD of include/linux/sched.h, field 9 of /proc/PID/stat.
const pfKthread = 0x00200000

// errGone says that a process ended while it was looked at.
var errGone = errors.New("the process is gone")

// gone reports whether an error of /proc, kill(2) or a pidfd means that the process has ended.
func gone(err error) bool {
	return errors.Is(err, errGone) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	// The command is in parentheses and may hold anything, parentheses and spaces too.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return procStat{}, fmt.Errorf("parse /proc/%d/stat: no command in it", pid)
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return procStat{}, fmt.Errorf("parse /proc/%d/stat: %d fields after the command", pid, len(f))
	}
	s := procStat{pid: pid, comm: string(b[open+1 : end]), state: f[0][0]}
	var errs [4]error
	s.ppid, errs[0] = strconv.Atoi(f[1])
	s.session, errs[1] = strconv.Atoi(f[3])
	s.flags, errs[2] = strconv.ParseUint(f[6], 10, 64)
	s.start, errs[3] = strconv.ParseUint(f[19], 10, 64)
	return s, errors.Join(errs[:]...)
}

// dead reports whether the process runs no more, reaped or not.
func (s procStat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// identity names one process for good, across the reuse of its pid and across a reboot.
type identity struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start_ticks"`
	Boot  string `json:"boot_id"`
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // no such file, no check
	}
	return strings.TrimSpace(string(b))
}

// identify returns the identity of a process that lives.
func identify(pid int) (identity, error) {
	s, err := readStat(pid)
	if err != nil {
		return identity{}, err
	}
	if s.dead() {
		return identity{}, fmt.Errorf("process %d: %w", pid, errGone)
	}
	return identity{Pid: pid, Start: s.start, Boot: bootID()}, nil
}

// alive reports whether that very process still runs. A zombie does not.
func (id identity) alive() bool {
	if id.Pid <= 0 || id.Boot != bootID() {
		return false
	}
	s, err := readStat(id.Pid)
	return err == nil && s.start == id.Start && !s.dead()
}

// openPidfd returns a pidfd of that very process; gone(err) if it has ended.
func (id identity) openPidfd() (int, error) {
	fd, err := unix.PidfdOpen(id.Pid, 0)
	if err != nil {
		return -1, fmt.Errorf("open a pidfd of process %d: %w", id.Pid, err)
	}
	// The descriptor pins whichever process has the pid now; looking again tells which one that is.
	if s, err := readStat(id.Pid); err != nil || s.start != id.Start || id.Boot != bootID() {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("process %d: %w", id.Pid, errGone)
	}
	return fd, nil
}

// statusField returns one field of /proc/PID/status, without its name.
func statusField(pid int, name string) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(rest), nil
		}
	}
	return "", fmt.Errorf("/proc/%d/status has no %s", pid, name)
}

// nsPids returns the process's pid in each PID namespace from ours (as /proc has it) inward.
func nsPids(pid int) ([]int, error) {
	s, err := statusField(pid, "NSpid")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, f := range strings.Fields(s) {
		n, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("parse NSpid of process %d: %w", pid, err)
		}
		out = append(out, n)
	}
	return out, nil
}

// pids lists all processes that /proc shows, in ascending order.
func pids() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list /proc: %w", err)
	}
	var out []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out, nil
}

// tree returns root and all its descendants, parents before children, as they are at this moment.
func tree(root int) ([]procStat, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	children := map[int][]procStat{}
	var out []procStat
	for _, pid := range all {
		s, err := readStat(pid)
		if err != nil {
			if gone(err) {
				continue
			}
			return nil, err
		}
		if pid == root {
			out = append(out, s)
		}
		children[s.ppid] = append(children[s.ppid], s)
	}
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i].pid]...)
	}
	return out, nil
}

// command returns how a person would call the process: its arguments, or its name in brackets.
func command(pid int) string {
	if args := arguments(pid); len(args) > 0 {
		return strings.Join(args, " ")
	}
	s, err := readStat(pid)
	if err != nil {
		return "?"
	}
	return "[" + s.comm + "]"
}

func arguments(pid int) []string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
}

// whose names a process for a message.
func whose(pid int) string { return fmt.Sprintf("process %d (%s)", pid, shorten(command(pid), 60)) }

func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// namespace returns the inode that names the process's namespace of that kind ("net", "pid", ...).
func namespace(pid int, kind string) (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: fmt.Sprintf("/proc/%d/ns/%s", pid, kind), Err: err}
	}
	return st.Ino, nil
}
