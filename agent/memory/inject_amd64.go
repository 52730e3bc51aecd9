package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent/cell/waits"
	"ss/agent/proc"
)

// Of include/uapi/linux/ptrace.h.
const (
	ptraceGetSigmask  = 0x420a
	ptraceSetSigmask  = 0x420b
	ptraceGetRseq     = 0x420f
	ptraceGetDispatch = 0x4210
	sigsetSize        = 8
	userCode64        = 0x33 // the code segment of 64-bit programs
	noCall            = ^uint64(0)
)

const (
	// stopLimit bounds the wait for a thread to stop for its tracer, which takes microseconds unless it waits in the kernel for a disk.
	stopLimit = 200 * time.Millisecond
	// callLimit bounds what a thread does on our behalf, which it must come to the end of.
	callLimit = time.Minute
)

var (
	errBusyThread = errors.New("the thread is where no call can be made in its place")
	errStopped    = errors.New("the process is stopped by a signal")
	errFiltered   = errors.New("it has a seccomp filter, which might kill it for the call")
	errReplaced   = errors.New("the process has started another program")
)

// thread is a thread that this thread of ours traces. It goes through a few system calls in the program's name, and then on as if it had
// never been stopped: its registers, its signal mask and the call it may stand in are as before.
type thread struct {
	pid, tid int
	code     uint64 // address of an instruction syscall
	held     bool
	limit    time.Duration // of the wait for it to stop; 0: stopLimit
	hurried  bool          // its niceness is not the program's, which is nice
	nice     int

	before  waits.Observation
	saved   unix.PtraceRegs
	after   unix.PtraceRegs // what it goes on with: the same, but in a call that the stop has interrupted
	mask    [sigsetSize]byte
	stopped bool // SIGSTOP came meanwhile
	born    int  // the child that it has made in a call, as this host sees it
}

// inThread calls do with some thread of the process stopped such that calls can be made in its place. The caller holds its own thread of ours
// (runtime.LockOSThread) and never lets it go.
func inThread(pid int, do func(*thread) error) (err error) {
	for range 3 {
		if err = inThisProgram(pid, do); !errors.Is(err, errReplaced) {
			break
		}
	}
	return err
}

func inThisProgram(pid int, do func(*thread) error) error {
	if err := mayInject(pid); err != nil {
		return err
	}
	code, err := syscallInstruction(pid)
	if err != nil {
		return err
	}
	tids, err := threads(pid)
	if err != nil {
		return err
	}
	for _, tid := range tids[:min(len(tids), 8)] {
		t := &thread{pid: pid, tid: tid, code: code}
		err = t.hold()
		if err == nil {
			err = errors.Join(do(t), t.release())
			return err
		}
		if !errors.Is(err, errBusyThread) && !errors.Is(err, unix.ESRCH) {
			break
		}
	}
	return err
}

// mayInject refuses processes that would die of the calls, or that somebody else holds.
func mayInject(pid int) error {
	if filtered(pid) {
		return errFiltered
	}
	if tracer := proc.Tracer(pid); tracer != 0 {
		return fmt.Errorf("%s traces it", proc.Whose(tracer))
	}
	return nil
}

// syscallInstruction finds one in the vDSO, which every process has and nobody changes.
func syscallInstruction(pid int) (uint64, error) {
	maps, err := mappings(pid)
	if err != nil {
		return 0, err
	}
	for _, m := range maps {
		if m.name != "[vdso]" {
			continue
		}
		code := make([]byte, m.End-m.Start)
		if err := proc.ReadMemory(pid, m.Start, code); err != nil {
			return 0, fmt.Errorf("%w: read its vDSO: %w", errReplaced, err)
		}
		if i := bytes.Index(code, []byte{0x0f, 0x05}); i >= 0 {
			return m.Start + uint64(i), nil
		}
		return 0, errors.New("its vDSO has no system call")
	}
	return 0, errors.New("it has no vDSO")
}

// callable says whether the instruction is still there: another program has its vDSO elsewhere.
func callable(pid int, code uint64) bool {
	var b [2]byte
	if err := proc.ReadMemory(pid, code, b[:]); err != nil || b != [2]byte{0x0f, 0x05} {
		return false
	}
	at, err := proc.RegionAt(pid, code)
	if errors.Is(err, proc.ErrNoRegionAt) {
		now, err := syscallInstruction(pid)
		return err == nil && now == code
	}
	return err == nil && at.Perms[2] == 'x'
}

// threads lists the threads, those first to which a stop does the least.
func threads(pid int) ([]int, error) {
	tids, err := proc.Threads(pid)
	if err != nil {
		return nil, err
	}
	tids = tids[:min(len(tids), 256)]
	rank := map[int]int{}
	for _, tid := range tids {
		rank[tid] = waits.Disturbs(pid, tid)
	}
	slices.SortStableFunc(tids, func(a, b int) int { return rank[a] - rank[b] })
	if len(tids) == 0 {
		return nil, unix.ESRCH
	}
	return tids, nil
}

func ptrace(request, tid int, addr, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// hold stops the thread and takes down what it was at.
func (t *thread) hold() error {
	t.before = waits.ObserveThread(t.pid, t.tid)
	if err := ptrace(unix.PTRACE_SEIZE, t.tid, 0, unix.PTRACE_O_TRACESYSGOOD); err != nil {
		if st, gone := proc.ThreadStat(t.pid, t.tid); gone != nil || st.Ended() {
			return unix.ESRCH
		}
		return fmt.Errorf("trace thread %d: %w", t.tid, err)
	}
	if err := ptrace(unix.PTRACE_INTERRUPT, t.tid, 0, 0); err != nil {
		return fmt.Errorf("stop thread %d: %w", t.tid, err)
	}
	if err := t.awaitTrap(true); err != nil {
		return err
	}
	err := t.inspect()
	if err == nil {
		err = t.block()
	}
	if err != nil {
		return errors.Join(err, t.detach(0))
	}
	t.held = true
	return nil
}

// block keeps all signals away from the thread.
func (t *thread) block() error {
	all := [sigsetSize]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return ptrace(ptraceSetSigmask, t.tid, sigsetSize, uintptr(unsafe.Pointer(&all)))
}

// inspect reads the thread's state, and refuses a state that cannot be given back.
func (t *thread) inspect() error {
	if err := unix.PtraceGetRegs(t.tid, &t.saved); err != nil {
		return fmt.Errorf("read the registers of thread %d: %w", t.tid, err)
	}
	t.after = t.saved
	if err := waits.Resume(t.pid, t.tid, &t.after, t.before); err != nil {
		return err
	}
	return t.fit()
}

// fit takes down the signal mask, and refuses a thread in whose place no call can be made.
func (t *thread) fit() error {
	if err := ptrace(ptraceGetSigmask, t.tid, sigsetSize, uintptr(unsafe.Pointer(&t.mask))); err != nil {
		return fmt.Errorf("read the signal mask of thread %d: %w", t.tid, err)
	}
	if t.saved.Cs != userCode64 {
		return errors.New("it is a 32-bit program")
	}
	// What was true before the thread stopped may not be any more. From now on no thread can start another program without ending this one.
	if filter, err := proc.ThreadStatusField(t.pid, t.tid, "Seccomp"); err != nil || filter != "0" {
		return errors.Join(errFiltered, err)
	}
	if !callable(t.pid, t.code) {
		return errReplaced
	}
	var dispatch struct{ mode, selector, offset, len uint64 }
	if err := ptrace(ptraceGetDispatch, t.tid, unsafe.Sizeof(dispatch), uintptr(unsafe.Pointer(&dispatch))); err == nil && dispatch.mode != 0 {
		return errors.New("it handles its own system calls (PR_SET_SYSCALL_USER_DISPATCH)")
	}
	// The kernel drops a restartable sequence in whose midst the thread is, once the thread is elsewhere: nobody would restart it.
	var rseq struct {
		pointer         uint64
		size, signature uint32
		flags, _        uint32
	}
	if err := ptrace(ptraceGetRseq, t.tid, unsafe.Sizeof(rseq), uintptr(unsafe.Pointer(&rseq))); err == nil && rseq.pointer != 0 {
		var at [8]byte
		if err := proc.ReadMemory(t.pid, rseq.pointer+8, at[:]); err != nil || binary.LittleEndian.Uint64(at[:]) != 0 {
			return errBusyThread
		}
	}
	return nil
}

// wait returns the thread's next stop.
func (t *thread) wait() (ws unix.WaitStatus, err error) {
	limit := max(stopLimit, t.limit)
	if t.held {
		limit = callLimit
	}
	for end := time.Now().Add(limit); ; {
		got, err := unix.Wait4(t.tid, &ws, unix.WALL|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, unix.ESRCH
		case got == t.tid && !ws.Stopped():
			return 0, unix.ESRCH
		case got == t.tid:
			return ws, nil
		case time.Now().After(end):
			return 0, errBusyThread // let go when this thread of ours ends
		default:
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 5_000}, nil) // wait4 has no limit of its own
		}
	}
}

// awaitTrap waits until the thread stands in the trap that PTRACE_INTERRUPT asks for, from which it goes on to where the kernel takes up calls
// that were interrupted. What stops it before that, a signal, it takes as it comes where deliver says so.
func (t *thread) awaitTrap(deliver bool) error {
	for {
		ws, err := t.wait()
		if err != nil {
			return err
		}
		sig := ws.StopSignal()
		switch event := int(ws) >> 16; {
		case event == unix.PTRACE_EVENT_STOP && (sig == unix.SIGTRAP || !deliver):
			return nil // a signal that stops the process ends in the same trap, to which the thread goes back when it is let go
		case event == unix.PTRACE_EVENT_STOP:
			return errors.Join(errStopped, t.detach(0))
		case !deliver:
			t.stopped = t.stopped || sig == unix.SIGSTOP
			sig = 0
		}
		if err := unix.PtraceCont(t.tid, int(sig)); err != nil {
			return err
		}
	}
}

// call makes a system call in the program's name, with no signal delivered.
func (t *thread) call(nr int, args ...uint64) (int, error) {
	r := t.saved
	r.Rip, r.Rax, r.Orig_rax = t.code, uint64(nr), noCall
	for i, p := range []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9} {
		*p = 0
		if i < len(args) {
			*p = args[i]
		}
	}
	if err := unix.PtraceSetRegs(t.tid, &r); err != nil {
		return 0, err
	}
	const callStop = unix.SIGTRAP | 0x80
	for stops := 0; stops < 2; { // on its way in, and out
		if err := unix.PtraceSyscall(t.tid, 0); err != nil {
			return 0, err
		}
		ws, err := t.wait()
		if err != nil {
			return 0, err
		}
		switch sig := ws.StopSignal(); {
		case sig == callStop:
			stops++
		case int(ws)>>16 == unix.PTRACE_EVENT_CLONE:
			if err := t.hearOfChild(); err != nil {
				return 0, err
			}
		case int(ws)>>16 != 0: // an event, such as a stop of the whole process
		case sig == unix.SIGSTOP:
			t.stopped = true
		default: // all others are blocked, so it comes from the instruction itself
			return 0, fmt.Errorf("%v in the midst of a call in thread %d", sig, t.tid)
		}
	}
	if err := unix.PtraceGetRegs(t.tid, &r); err != nil {
		return 0, err
	}
	if code := int(int64(r.Rax)); code < 0 && code > -4096 {
		return 0, unix.Errno(-code)
	}
	return int(r.Rax), nil
}

// hearOfChild asks the kernel for the child whose birth has stopped the thread.
func (t *thread) hearOfChild() error {
	msg, err := unix.PtraceGetEventMsg(t.tid)
	if err != nil {
		return fmt.Errorf("find the child of thread %d: %w", t.tid, err)
	}
	t.born = int(msg)
	return nil
}

// release takes the thread to where the kernel decides about interrupted calls, gives it its state back, and lets it go.
func (t *thread) release() error {
	err := errors.Join(t.giveBack(), t.detach(0))
	if t.stopped {
		err = errors.Join(err, unix.Kill(t.pid, unix.SIGSTOP))
	}
	if errors.Is(err, unix.ESRCH) {
		return unix.ESRCH // it has ended, with its process
	}
	return err
}

// giveBack takes the thread to where the kernel decides about interrupted calls, and gives it its state back.
func (t *thread) giveBack() error {
	err := ptrace(unix.PTRACE_INTERRUPT, t.tid, 0, 0)
	if err == nil {
		err = unix.PtraceCont(t.tid, 0)
	}
	if err == nil {
		err = t.awaitTrap(false)
	}
	return errors.Join(err, unix.PtraceSetRegs(t.tid, &t.after),
		ptrace(ptraceSetSigmask, t.tid, sigsetSize, uintptr(unsafe.Pointer(&t.mask))))
}

func (t *thread) detach(sig int) error { return ptrace(unix.PTRACE_DETACH, t.tid, 0, uintptr(sig)) }

// makeUffd makes a userfaultfd of the process and returns a descriptor of ours; the process's own is closed.
func makeUffd(pid int) (fd int, err error) {
	fd = -1
	err = inThread(pid, func(t *thread) error {
		theirs, err := t.call(sysUserfaultfd, uffdFlags)
		if err != nil {
			return fmt.Errorf("userfaultfd: %w", err)
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err == nil {
			fd, err = unix.PidfdGetfd(pidfd, theirs, 0)
			_ = unix.Close(pidfd)
		}
		return errors.Join(err, t.closeUffd(theirs))
	})
	if err != nil && fd >= 0 {
		_ = unix.Close(fd)
		fd = -1
	}
	return fd, err
}

// closeIn closes a descriptor of the process, if it is a userfaultfd.
func closeIn(pid, theirs int) error {
	return inThread(pid, func(t *thread) error { return t.closeUffd(theirs) })
}

// closeUffd closes a descriptor of the process, if it is a userfaultfd. Another thread may have put something else in its place meanwhile.
func (t *thread) closeUffd(theirs int) error {
	if link, err := proc.FdLink(t.pid, theirs); err != nil || link != uffdLink {
		return err
	}
	_, err := t.call(unix.SYS_CLOSE, uint64(theirs))
	return err
}
