package waits

// Codes of include/linux/errno.h that a call returns to the kernel's own signal code, which no program sees.
const (
	eintr            = -4
	restartSys       = -512
	restartNoIntr    = -513
	restartNoHand    = -514
	restartByBlock   = -516 // ERESTART_RESTARTBLOCK
	restartSyscallNr = 219  // restart_syscall(2), which such a thread is in when it has been taken back onto its call
)

// how says where a call has its timeout.
type how int

const (
	untimed  how = iota
	millis       // an int of milliseconds; negative: none
	timespec     // points to a struct timespec, relative; null: none
	timeval      // points to a struct timeval, likewise
)

// form describes a system call that may wait.
type form struct {
	timeout how
	arg     int  // the argument that is the timeout
	rest    int  // the argument that points to where the kernel writes what is left of the wait; 0: none
	updates bool // the kernel writes what is left of the wait into the timeout itself, and returns EINTR only where it cannot be written to
	eintr   bool // returns EINTR though nobody has sent a signal, before it has had any effect: it may be made once more
	socket  bool // that is so where its descriptor, the first argument, is a socket
	other   int  // or where the descriptor that this argument is, is one; 0: it has no other
}

// Numbers of calls on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
const (
	nrPoll           = 7
	nrNanosleep      = 35
	nrFutex          = 202
	nrClockNanosleep = 230
)

// forms holds the calls that are not simply left to the kernel. close(2) is none of them and never will be: it frees its
// descriptor before it returns EINTR, and a second close would hit somebody else's.
var forms = map[int]form{
	nrPoll: {timeout: millis, arg: 2},
	232:    {timeout: millis, arg: 3, eintr: true},   // epoll_wait
	281:    {timeout: millis, arg: 3, eintr: true},   // epoll_pwait
	441:    {timeout: timespec, arg: 3, eintr: true}, // epoll_pwait2

	23:  {timeout: timeval, arg: 4, updates: true, eintr: true},  // select
	270: {timeout: timespec, arg: 4, updates: true, eintr: true}, // pselect6
	271: {timeout: timespec, arg: 2, updates: true, eintr: true}, // ppoll

	65:  {eintr: true},                            // semop
	220: {timeout: timespec, arg: 3, eintr: true}, // semtimedop
	128: {timeout: timespec, arg: 2, eintr: true}, // rt_sigtimedwait
	208: {timeout: timespec, arg: 4, eintr: true}, // io_getevents
	0:   {eintr: true, socket: true},              // read
	1:   {eintr: true, socket: true},              // write
	19:  {eintr: true, socket: true},              // readv
	20:  {eintr: true, socket: true},              // writev
	327: {eintr: true, socket: true},              // preadv2
	328: {eintr: true, socket: true},              // pwritev2
	40:  {eintr: true, socket: true},              // sendfile
	275: {eintr: true, socket: true, other: 2},    // splice
	42:  {eintr: true, socket: true},              // connect
	43:  {eintr: true, socket: true},              // accept
	44:  {eintr: true, socket: true},              // sendto
	45:  {eintr: true, socket: true},              // recvfrom
	46:  {eintr: true, socket: true},              // sendmsg
	47:  {eintr: true, socket: true},              // recvmsg
	288: {eintr: true, socket: true},              // accept4
	299: {eintr: true, socket: true},              // recvmmsg
	307: {eintr: true, socket: true},              // sendmmsg
}

const (
	timerAbstime    = 1    // TIMER_ABSTIME of clock_nanosleep(2)
	futexWaitBitset = 9    // FUTEX_WAIT_BITSET
	futexWait       = 0    // FUTEX_WAIT, the one operation of futex(2) with a relative timeout
	futexCommand    = 0x7f // without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
)

// formOf describes a call by its number and arguments.
func formOf(nr int, args [6]uint64) form {
	switch nr {
	case nrNanosleep:
		return form{timeout: timespec, arg: 0, rest: 1}
	case nrClockNanosleep:
		if args[1]&timerAbstime == 0 && wallClock(int32(args[0])) {
			return form{timeout: timespec, arg: 2, rest: 3}
		}
	case nrFutex:
		if args[1]&futexCommand == futexWait {
			return form{timeout: timespec, arg: 3}
		}
	}
	return forms[nr]
}

// wallClock says whether a clock runs as CLOCK_MONOTONIC does, but for its zero: not one of processor time.
func wallClock(clock int32) bool {
	switch clock {
	case 0, 1, 7, 8, 9, 11: // REALTIME, MONOTONIC, BOOTTIME, their ALARMs, TAI
		return true
	}
	return false
}

// timed says whether the call, with these arguments, waits for some length of time.
func (f form) timed(args [6]uint64) bool {
	switch f.timeout {
	case millis:
		return int32(args[f.arg]) > 0
	case timespec, timeval:
		return args[f.arg] != 0
	}
	return false
}

// idle says whether a thread need not be stopped to be looked at: it waits for a futex, with no timeout, and stands there with ERESTARTSYS. Of a member's
// threads these are most.
func idle(nr int, args [6]uint64) bool {
	op := args[1] & futexCommand
	return nr == nrFutex && args[3] == 0 && (op == futexWait || op == futexWaitBitset)
}
