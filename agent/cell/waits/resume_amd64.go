package waits

import (
	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Resume changes the registers of a thread of a running process that a tracer has stopped, so that the call in which it stands goes on: it is made
// once more, with what is left of its timeout, and a signal that has a handler interrupts it. The kernel would take some calls up by
// restart_syscall(2), which does not say what it restarts: Keep may not find out then. o was made by ObserveThread before the thread was stopped,
// and the thread has not slept since but in that stop.
func Resume(pid, tid int, regs *unix.PtraceRegs, o Observation) error {
	r := registers{*regs}
	if !r.native() || r.nr() < 0 || r.nr() == restartSyscallNr || !interrupted(r.code()) || !isSyscall(pid, r.Rip-CallLen) {
		return nil
	}
	st, err := proc.ThreadStat(pid, tid)
	if err != nil {
		return err
	}
	c := Call{Pid: pid, Tid: tid, Start: st.Start, Nr: r.nr(), Code: r.code(), Args: r.args(), IP: r.Rip, SP: r.Rsp}
	c.plan(&r, o, monotonic())
	*regs = r.PtraceRegs
	return nil
}

// Disturbs says how much a stop does to a thread: 0 nothing, for it runs; 1 next to nothing, for it waits for a futex without a limit; then calls that the
// kernel takes up again by itself; and last those that return EINTR for a mere stop, and those whose timeout must be put right.
func Disturbs(pid, tid int) int {
	call, ok, err := proc.ReadSyscall(pid, tid)
	switch f := formOf(call.Number, call.Args); {
	case err != nil:
		return 5
	case !ok:
		return 0
	case idle(call.Number, call.Args):
		return 1
	case call.Number == restartSyscallNr:
		return 4
	case f.eintr || f.timed(call.Args):
		return 3
	}
	return 2
}
