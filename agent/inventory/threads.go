package inventory

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

func isGone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF) }

// innerPid is the number of a process or thread in its own PID namespace.
func innerPid(pid int) (int, error) {
	numbers, err := proc.NSPids(pid)
	if err != nil {
		return 0, err
	}
	return numbers[len(numbers)-1], nil
}

// threadsOf maps the threads of a process as its own PID namespace numbers them to this host's numbers.
func threadsOf(pid int) (map[int]int, error) {
	tids, err := proc.Threads(pid)
	if err != nil {
		return nil, err
	}
	threads := map[int]int{}
	for _, tid := range tids {
		inner, err := innerPid(tid)
		if ended(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		threads[inner] = tid
	}
	return threads, nil
}

func takeThreads(pid, inner int, all []int) ([]Thread, error) {
	threads, err := threadsOf(pid)
	if err != nil {
		return nil, err
	}
	var out []Thread
	for number, tid := range threads {
		t := Thread{Process: inner, Thread: number}
		if t.Processors, err = processors(tid, all); err != nil {
			return nil, err
		}
		if t.IOPriority, err = ioPriority(tid); err != nil {
			return nil, err
		}
		t.Slack, _ = proc.Text(tid, "timerslack_ns") // a kernel may be built without it
		if number == inner {
			t.CoreFilter, _ = proc.Text(pid, "coredump_filter")
			t.Personality, _ = proc.Text(pid, "personality")
			t.OOMScore, _ = proc.Text(pid, "oom_score_adj")
			t.MergesPages = mergesPages(pid)
			t.ExitSignal = exitSignal(pid)
		}
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Thread) int { return a.Thread - b.Thread })
	return out, nil
}

// mergesPages says whether KSM merges the pages of a process because it asked for it (prctl PR_SET_MEMORY_MERGE).
func mergesPages(pid int) bool {
	text, _ := proc.Text(pid, "ksm_stat")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "ksm_merge_any:"); ok {
			return strings.TrimSpace(value) == "yes"
		}
	}
	return false
}

// exitSignal is the signal that a process's parent gets when it ends, 0 for SIGCHLD and -1 for none: clone(2) takes any.
func exitSignal(pid int) int {
	st, err := proc.ThreadStat(pid, pid)
	switch {
	case err != nil || st.Farewell == int(unix.SIGCHLD):
		return 0
	case st.Farewell == 0:
		return -1
	}
	return st.Farewell
}

// signalName names what exitSignal returns.
func signalName(number int) string {
	switch number {
	case 0:
		return "SIGCHLD"
	case -1:
		return "none"
	}
	if name := unix.SignalName(unix.Signal(number)); name != "" {
		return name
	}
	return strconv.Itoa(number)
}

// processors lists those that a thread may run on; nil if these are all, the ones that are online.
func processors(tid int, all []int) ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &set); err != nil {
		return nil, fmt.Errorf("the processors of thread %d: %w", tid, err)
	}
	var list []int
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			list = append(list, cpu)
		}
	}
	if !slices.ContainsFunc(all, func(cpu int) bool { return !set.IsSet(cpu) }) {
		return nil, nil
	}
	return list, nil
}

// online lists the processors of this host (sysfs-devices-system-cpu).
func online() ([]int, error) {
	text, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, err
	}
	return parseList(strings.TrimSpace(string(text)))
}

// parseList reads a list as in "0-3,8" (cpuset(7), list format).
func parseList(text string) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(last)
		}
		if err != nil || b < a || b-a > 1<<16 {
			return nil, fmt.Errorf("%q is not a list of processors", text)
		}
		for cpu := a; cpu <= b; cpu++ {
			list = append(list, cpu)
		}
	}
	return list, nil
}

const ioprioWhoProcess = 1 // include/uapi/linux/ioprio.h

func ioPriority(tid int) (int, error) {
	value, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
	if errno != 0 {
		return 0, fmt.Errorf("the I/O priority of thread %d: %w", tid, errno)
	}
	return int(value), nil
}

// restored are the processes that an inventory is compared with.
type restored struct {
	outer   map[int]int         // numbers of processes in their own PID namespace, to those of this host
	threads map[int]map[int]int // threadsOf each process that was looked at
	online  []int
}

// threadsOf reads the threads of a process once: a process may have hundreds.
func (r *restored) threadsOf(pid int) (map[int]int, error) {
	if known, ok := r.threads[pid]; ok {
		return known, nil
	}
	threads, err := threadsOf(pid)
	if err == nil {
		r.threads[pid] = threads
	}
	return threads, err
}

// applyThread sets what differs of one thread.
func (r *restored) applyThread(want Thread) []Difference {
	object := fmt.Sprintf("thread %d", want.Thread)
	missing := func(err error) []Difference {
		return []Difference{{Process: want.Process, Object: object, What: "the thread", Was: "there", Is: "not there", Why: err.Error()}}
	}
	pid, ok := r.outer[want.Process]
	if !ok {
		return missing(os.ErrNotExist)
	}
	threads, err := r.threadsOf(pid)
	if err != nil {
		return missing(err)
	}
	tid, ok := threads[want.Thread]
	if !ok {
		return missing(os.ErrNotExist)
	}
	var left []Difference
	differs := func(what, was, is string, err error) {
		d := Difference{Process: want.Process, Object: object, What: what, Was: was, Is: is}
		if err != nil {
			d.Why = err.Error()
		}
		left = append(left, d)
	}
	if was, is, err := applyProcessors(tid, want.Processors, r.online); err != nil || was != is {
		differs("processors", was, is, err)
	}
	if is, err := ioPriority(tid); err == nil && is != want.IOPriority {
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), uintptr(want.IOPriority)); errno != 0 {
			differs("the I/O priority", strconv.Itoa(want.IOPriority), strconv.Itoa(is), errno)
		}
	}
	applyText := func(of int, name, was string) {
		is, err := proc.Text(of, name)
		if was == "" || err != nil || is == was {
			return
		}
		if name == "coredump_filter" {
			was = "0x" + was
		}
		if err := proc.SetText(of, name, was); err != nil {
			differs(name, was, is, err)
		}
	}
	applyText(tid, "timerslack_ns", want.Slack)
	if want.Thread != want.Process {
		return left
	}
	applyText(pid, "coredump_filter", want.CoreFilter)
	applyText(pid, "oom_score_adj", want.OOMScore)
	errInside := errors.New("only the process itself can set it")
	if is, err := proc.Text(pid, "personality"); err == nil && want.Personality != "" && is != want.Personality {
		differs("the personality", want.Personality, is, errInside)
	}
	if want.MergesPages && !mergesPages(pid) {
		differs("merging of equal pages (KSM)", "on", "off", errInside)
	}
	if is := exitSignal(pid); is != want.ExitSignal {
		differs("the signal that its parent gets when it ends", signalName(want.ExitSignal), signalName(is), errors.New("it is set when a process is made"))
	}
	return left
}

// applyProcessors gives a thread its processors again, those that this host has. It says which it had and has.
func applyProcessors(tid int, want, all []int) (was, is string, err error) {
	have, err := processors(tid, all)
	if err != nil || slices.Equal(have, want) {
		return "", "", err
	}
	list := want
	if want == nil {
		list = all
	}
	var set unix.CPUSet
	for _, cpu := range list {
		set.Set(cpu)
	}
	if err := unix.SchedSetaffinity(tid, &set); err != nil {
		return fmt.Sprint(want), fmt.Sprint(have), err
	}
	now, err := processors(tid, all)
	if err != nil {
		return fmt.Sprint(want), "", err
	}
	return fmt.Sprint(want), fmt.Sprint(now), nil
}
