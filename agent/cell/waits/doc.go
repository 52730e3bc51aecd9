// Package waits hides a snapshot from threads that wait in a system call.
//
// A frozen thread stands at the end of its call, with a restart code in its registers: the kernel takes it back onto the call when
// nothing but the freezer has interrupted it. CRIU does not know what to do with one of these codes (ERESTART_RESTARTBLOCK: poll,
// nanosleep, futex with a timeout) and makes EINTR of it. And some calls (epoll_wait, semop, sigtimedwait, sockets with a timeout)
// return EINTR whenever they are interrupted. Programs that have no signal handlers do not expect either.
//
// Keep, called when the freezer holds the threads and before CRIU sees them, gives each of these threads ERESTARTNOHAND: CRIU and the kernel both
// take it back onto its call, and a signal that has a handler still interrupts it. GiveBack, called before the thaw, gives each thread the code
// again that it had, so that the kernel decides between the wait and a signal as it would have without a snapshot.
//
// A wait that has a length, not an end, would begin once more with its whole length. Observe, called before the freeze, notes since when such threads
// wait, and Keep writes what is left of the wait where the call reads its timeout. docs/adr/0016-waits-go-on.md weighs that.
//
// All of it is for x86-64 threads in 64-bit mode. Others are left as they are.
//
// It may import agent/proc, golang.org/x/sys/unix and the standard library.
package waits
