package proc

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Syscall is what /proc/PID/task/TID/syscall says of a thread that sleeps in a system call.
type Syscall struct {
	Number int
	Args   [6]uint64
	SP, IP uint64
}

// ReadSyscall reads which system call a thread is in. ok is false where it is in none.
func ReadSyscall(pid, tid int) (s Syscall, ok bool, err error) {
	path := threadPath(pid, tid, "syscall")
	text, err := read(path)
	if err != nil {
		return s, false, err
	}
	// The number, six arguments, stack pointer and program counter; or -1 and the latter two; or "running".
	f := bytes.Fields(text)
	if len(f) != 9 {
		return s, false, nil
	}
	if s.Number, err = strconv.Atoi(string(f[0])); err != nil {
		return s, false, fmt.Errorf("parse %s: %w", path, err)
	}
	var errs []error
	number := func(text []byte) uint64 {
		n, err := strconv.ParseUint(strings.TrimPrefix(string(text), "0x"), 16, 64)
		errs = append(errs, err)
		return n
	}
	for i := range s.Args {
		s.Args[i] = number(f[i+1])
	}
	s.SP, s.IP = number(f[7]), number(f[8])
	return s, true, errors.Join(errs...)
}

// Signals is what /proc/PID/task/TID/status says of a thread's signals, bit n-1 for signal n.
type Signals struct {
	Inner   int    // the thread's number in its own PID namespace
	Pending uint64 // for the thread or its process
	Caught  uint64 // that have a handler
}

// ReadSignals reads a thread's.
func ReadSignals(pid, tid int) (Signals, error) {
	var s Signals
	var bad error
	path := threadPath(pid, tid, "status")
	err := fields(path, func(name, value string) bool {
		var err error
		switch name {
		case "NSpid":
			s.Inner, err = strconv.Atoi(value[strings.LastIndexAny(value, " \t")+1:])
		case "SigPnd", "ShdPnd":
			var set uint64
			set, err = strconv.ParseUint(value, 16, 64)
			s.Pending |= set
		case "SigCgt":
			s.Caught, err = strconv.ParseUint(value, 16, 64)
		}
		bad = err
		return err == nil
	})
	if err == nil && bad != nil {
		err = fmt.Errorf("parse %s: %w", path, bad)
	}
	return s, err
}

// Scheduled is what /proc/PID/task/TID/sched says: when the thread last began to run, on the scheduler's clock, and how often it has gone
// to sleep. Kernels built without it give an error.
func Scheduled(pid, tid int) (ran time.Duration, sleeps uint64, err error) {
	path := threadPath(pid, tid, "sched")
	found := 0
	err = fields(path, func(name, value string) bool {
		switch name {
		case "se.exec_start":
			ms, ns, _ := strings.Cut(value, ".")
			whole, errMs := strconv.ParseInt(ms, 10, 64)
			part, errNs := strconv.ParseInt(ns, 10, 64)
			if errors.Join(errMs, errNs) == nil && len(ns) == 6 {
				ran = time.Duration(whole)*time.Millisecond + time.Duration(part)
				found++
			}
		case "nr_voluntary_switches":
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				sleeps = n
				found++
			}
		}
		return true
	})
	if err != nil {
		return 0, 0, err
	}
	if found != 2 || ran == 0 { // it is 0 while a thread that was woken moves to another processor
		return 0, 0, fmt.Errorf("%s does not say when the thread ran", path)
	}
	return ran, sleeps, nil
}
