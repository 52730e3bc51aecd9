package waits

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sysState is what /proc/PID/task/TID/syscall says of a thread that sleeps in a system call.
type sysState struct {
	nr     int
	args   [6]uint64
	sp, ip uint64
}

// taskFile reads a file of a thread. They are read by the thousand while a member stands still, so this is open, read and close and no more: the
// kernel makes such a file in one piece.
func taskFile(pid, tid int, name string) ([]byte, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(tid) + "/" + name
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 8192)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return buf[:n], nil
}

// tasks lists the threads of a process.
func tasks(pid int) ([]int, error) {
	d, err := os.Open("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the threads of process %d: %w", pid, err)
	}
	out := make([]int, 0, len(names))
	for _, n := range names {
		if tid, err := strconv.Atoi(n); err == nil {
			out = append(out, tid)
		}
	}
	return out, nil
}

// sysOf reads which system call a thread is in. ok is false where it is in none.
func sysOf(pid, tid int) (s sysState, ok bool, err error) {
	text, err := taskFile(pid, tid, "syscall")
	if err != nil {
		return s, false, err
	}
	// The number, six arguments, stack pointer and program counter; or -1 and the latter two; or "running".
	f := bytes.Fields(text)
	if len(f) != 9 {
		return s, false, nil
	}
	if s.nr, err = strconv.Atoi(string(f[0])); err != nil {
		return s, false, fmt.Errorf("parse /proc/%d/task/%d/syscall: %w", pid, tid, err)
	}
	var errs []error
	number := func(text []byte) uint64 {
		n, err := strconv.ParseUint(strings.TrimPrefix(string(text), "0x"), 16, 64)
		errs = append(errs, err)
		return n
	}
	for i := range s.args {
		s.args[i] = number(f[i+1])
	}
	s.sp, s.ip = number(f[7]), number(f[8])
	return s, true, errors.Join(errs...)
}

// stat is what is used of /proc/PID/task/TID/stat.
type stat struct {
	start   uint64 // when the thread started, in clock ticks after boot
	pending bool   // a signal below 32 waits for this thread, not for its process
	cpu     int    // the processor that it ran on last
}

func statOf(pid, tid int) (stat, error) {
	text, err := taskFile(pid, tid, "stat")
	if err != nil {
		return stat{}, err
	}
	// The name, in parentheses, may hold anything; field 3 follows the last one.
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 37 {
		return stat{}, fmt.Errorf("parse /proc/%d/task/%d/stat: %d fields after the command", pid, tid, len(f))
	}
	start, errStart := strconv.ParseUint(f[19], 10, 64)
	cpu, errCPU := strconv.Atoi(f[36])
	return stat{start: start, pending: f[28] != "0", cpu: cpu}, errors.Join(errStart, errCPU)
}

// atRest says whether a thread stands where a signal has stopped it, or has ended.
func atRest(tid int) bool {
	text, err := taskFile(tid, tid, "stat")
	_, after, _ := bytes.Cut(text[bytes.LastIndexByte(text, ')')+1:], []byte(" "))
	return err != nil || bytes.HasPrefix(after, []byte("T"))
}

// scheduled is what /proc/PID/task/TID/sched says: when the thread last began to run, on the scheduler's clock, and how often it has gone
// to sleep. Kernels built without it give an error.
func scheduled(pid, tid int) (ran time.Duration, sleeps uint64, err error) {
	text, err := taskFile(pid, tid, "sched")
	if err != nil {
		return 0, 0, err
	}
	found := 0
	for line := range bytes.Lines(text) {
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		v := string(bytes.TrimSpace(value))
		switch string(bytes.TrimSpace(name)) {
		case "se.exec_start":
			ms, ns, _ := strings.Cut(v, ".")
			whole, errMs := strconv.ParseInt(ms, 10, 64)
			part, errNs := strconv.ParseInt(ns, 10, 64)
			if errors.Join(errMs, errNs) == nil && len(ns) == 6 {
				ran = time.Duration(whole)*time.Millisecond + time.Duration(part)
				found++
			}
		case "nr_voluntary_switches":
			if sleeps, err = strconv.ParseUint(v, 10, 64); err == nil {
				found++
			}
		}
	}
	if found != 2 || ran == 0 { // it is 0 while a thread that was woken moves to another processor
		return 0, 0, fmt.Errorf("/proc/%d/task/%d/sched does not say when it ran", pid, tid)
	}
	return ran, sleeps, nil
}

// status is what is used of /proc/PID/task/TID/status.
type status struct {
	inner   int    // the thread in its own PID namespace
	pending uint64 // signals for the thread or its process, bit n-1 for signal n
	caught  uint64 // that have a handler
}

func statusOf(pid, tid int) (s status, err error) {
	text, err := taskFile(pid, tid, "status")
	if err != nil {
		return s, err
	}
	for line := range bytes.Lines(text) {
		name, value, _ := strings.Cut(string(line), ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		last := fields[len(fields)-1]
		switch name {
		case "NSpid":
			s.inner, err = strconv.Atoi(last)
		case "SigPnd", "ShdPnd":
			var set uint64
			set, err = strconv.ParseUint(last, 16, 64)
			s.pending |= set
		case "SigCgt":
			s.caught, err = strconv.ParseUint(last, 16, 64)
		}
		if err != nil {
			return s, fmt.Errorf("parse /proc/%d/task/%d/status: %w", pid, tid, err)
		}
	}
	return s, nil
}
