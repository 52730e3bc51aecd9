package waits

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// sight is a thread that was seen to sleep in a call with a timeout.
type sight struct {
	start  uint64
	sleeps uint64        // how often it had gone to sleep
	since  time.Duration // at the latest, on CLOCK_MONOTONIC
}

// Observation says since when threads wait. The zero value knows of none.
type Observation struct {
	seen  map[int]sight
	stops uint64        // how often the threads go to sleep, from then on, until elapsed is asked for
	at    time.Duration // when it was made, on CLOCK_MONOTONIC
}

// Observe looks at the threads of running processes. What cannot be known is left out: such a wait is taken to begin when it is
// frozen, so that no wait ends before its time. To be called right before the freeze; it takes some 10 µs a thread.
func Observe(pids []int) Observation {
	o := Observation{seen: map[int]sight{}, stops: 2} // the freezer wakes them and they go to sleep there; then the tracer does
	zeros := map[int]time.Duration{}
	for _, pid := range pids {
		all, err := proc.Threads(pid)
		if err != nil {
			continue
		}
		for _, tid := range all {
			o.look(pid, tid, zeros)
		}
	}
	o.at = monotonic()
	return o
}

// ObserveThread looks at one thread, which a tracer will stop and no freezer.
func ObserveThread(pid, tid int) Observation {
	o := Observation{seen: map[int]sight{}, stops: 1}
	o.look(pid, tid, map[int]time.Duration{})
	o.at = monotonic()
	return o
}

// look looks at one thread. zeros are the zeros of the processors' clocks that are known.
func (o *Observation) look(pid, tid int, zeros map[int]time.Duration) {
	s, ok, err := proc.ReadSyscall(pid, tid)
	if err != nil || !ok || s.Number != restartSyscallNr && !formOf(s.Number, s.Args).timed(s.Args) {
		return
	}
	ran, sleeps, err := proc.Scheduled(pid, tid)
	if err != nil {
		return
	}
	st, err := proc.ThreadStat(pid, tid)
	if err != nil {
		return
	}
	zero, known := zeros[st.CPU]
	if !known {
		zero = schedulerZero(st.CPU)
		zeros[st.CPU] = zero
	}
	if zero != 0 {
		o.seen[tid] = sight{start: st.Start, sleeps: sleeps, since: ran + zero}
	}
}

// monotonic is the time on CLOCK_MONOTONIC, which the kernel measures waits by.
func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// schedulerZero is what CLOCK_MONOTONIC shows where the clock of a processor's scheduler shows 0, as of now, or somewhat more. That clock stands
// while a hypervisor or interrupts have the processor, so the difference grows: what was asleep before began its sleep earlier than
// this difference says, never later. 0: unknown.
func schedulerZero(cpu int) time.Duration {
	found := make(chan time.Duration)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, bound to the processor, ends with the goroutine
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10)
		var set unix.CPUSet
		set.Set(cpu)
		if unix.SchedSetaffinity(0, &set) != nil {
			found <- 0
			return
		}
		// It begins to run after a sleep, and its clock is read then.
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1000}, nil)
		ran, _, err := proc.Scheduled(unix.Getpid(), unix.Gettid())
		if err != nil {
			found <- 0
			return
		}
		found <- monotonic() - ran // after it was read: too much, if anything
	}()
	return <-found
}

// elapsed is how long a thread that its tracer holds has waited in its call, at the least: 0 if it has done anything since it was observed.
func (o Observation) elapsed(pid, tid int, start uint64, now time.Duration) time.Duration {
	seen, ok := o.seen[tid]
	if !ok || seen.start != start {
		return 0
	}
	// Neither more nor less.
	_, sleeps, err := proc.Scheduled(pid, tid)
	if err != nil || sleeps != seen.sleeps+o.stops {
		return 0
	}
	// The two clocks may run apart by 500 parts in a million (adjtimex(2)).
	waited := now - seen.since
	return max(0, waited-waited/2000)
}
