package waits

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// tracer holds frozen threads by ptrace(2), which leaves their cgroup frozen. All of it happens on one thread of ours, which ends with it: whatever
// else fails, the kernel lets the threads go then.
type tracer struct {
	held  []int
	still []int // those of them that a signal had stopped before
}

// trapLimit bounds the wait for a frozen thread to stop for its tracer, which takes microseconds.
const trapLimit = 2 * time.Second

// trace calls do on a thread that has the given ones stopped, as many as there still are, and lets them go again.
func trace(tids []int, do func(t *tracer) error) error {
	if len(tids) == 0 {
		return do(&tracer{})
	}
	var err error
	proc.OnOwnThread(func() {
		t := &tracer{}
		if err = t.seize(tids); err == nil {
			err = errors.Join(do(t), t.release())
		}
	})
	return err
}

func (t *tracer) seize(tids []int) error {
	seized := make([]int, 0, len(tids))
	for _, tid := range tids {
		err := ptrace(unix.PTRACE_SEIZE, tid)
		if err == nil {
			err = ptrace(unix.PTRACE_INTERRUPT, tid)
		}
		if proc.Gone(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at thread %d, which waits in a system call: %w; does a debugger trace it?", tid, err)
		}
		seized = append(seized, tid)
	}
	end := time.Now().Add(trapLimit)
	for _, tid := range seized {
		ws, err := stopped(tid, end)
		if err != nil {
			return err
		}
		if !ws.Stopped() {
			continue
		}
		t.held = append(t.held, tid)
		if ws.StopSignal() != unix.SIGTRAP {
			t.still = append(t.still, tid)
		}
	}
	return nil
}

// stopped waits until a thread has stopped, or has ended.
func stopped(tid int, end time.Time) (ws unix.WaitStatus, err error) {
	for {
		got, err := unix.Wait4(tid, &ws, unix.WALL|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD):
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("wait for thread %d to stop: %w", tid, err)
		case got == tid:
			return ws, nil
		case time.Now().After(end):
			return 0, fmt.Errorf("thread %d does not stop for its tracer within %v", tid, trapLimit)
		default:
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 10_000}, nil) // wait4 has no limit of its own
		}
	}
}

// release lets the threads go.
func (t *tracer) release() error {
	var errs []error
	for _, tid := range t.held {
		if err := ptrace(unix.PTRACE_DETACH, tid); err != nil && !proc.Gone(err) {
			errs = append(errs, fmt.Errorf("let thread %d go: %w", tid, err))
		}
	}
	// One that a signal had stopped goes back to that by itself. A CRIU that comes before it has done so waits for it in vain.
	end := time.Now().Add(trapLimit)
	for _, tid := range t.still {
		for !atRest(tid) && time.Now().Before(end) {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 10_000}, nil) // nothing tells of it
		}
	}
	return errors.Join(errs...)
}

func ptrace(request, tid int) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// registers are a thread's.
type registers struct{ unix.PtraceRegs }

func registersOf(tid int) (r registers, err error) {
	if err := unix.PtraceGetRegs(tid, &r.PtraceRegs); err != nil {
		return r, fmt.Errorf("read the registers of thread %d: %w", tid, err)
	}
	return r, nil
}

func (r registers) set(tid int) error {
	if err := unix.PtraceSetRegs(tid, &r.PtraceRegs); err != nil && !proc.Gone(err) {
		return fmt.Errorf("write the registers of thread %d: %w", tid, err)
	}
	return nil
}

const (
	userCode64 = 0x33 // the code segment of 64-bit programs: arch/x86/include/asm/segment.h
	// redZone is what a function may use below the stack pointer (System V ABI for x86-64). A signal handler's frame begins below it, so nobody
	// keeps anything there.
	redZone = 128
)

func (r registers) native() bool { return r.Cs == userCode64 }
func (r registers) nr() int      { return int(int64(r.Orig_rax)) }
func (r registers) code() int    { return int(int64(r.Rax)) }

func (r registers) args() [6]uint64 { return [6]uint64{r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9} }

func (r *registers) setCall(nr, code int, args [6]uint64) {
	r.Orig_rax, r.Rax = uint64(nr), uint64(int64(code))
	r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9 = args[0], args[1], args[2], args[3], args[4], args[5]
}

// isSyscall says whether the instruction syscall is at an address of the process: not sysenter, and not int 0x80.
func isSyscall(pid int, at uint64) bool {
	var code [CallLen]byte
	return peek(pid, at, code[:]) == nil && code == [CallLen]byte{0x0f, 0x05}
}

// numberBefore finds the call that the code before an instruction syscall has chosen, mov $nr, %eax, among those that the kernel continues by
// restart_syscall(2). If it is none, restart_syscall itself is returned.
func numberBefore(pid int, at uint64) int {
	code := make([]byte, 48)
	if peek(pid, at-uint64(len(code)), code) != nil {
		return restartSyscallNr
	}
	for i := len(code) - 5; i >= 0; i-- {
		switch nr := int(binary.LittleEndian.Uint32(code[i+1:])); nr {
		case nrPoll, nrNanosleep, nrFutex, nrClockNanosleep:
			if code[i] == 0xb8 {
				return nr
			}
		}
	}
	return restartSyscallNr
}

func peek(pid int, at uint64, b []byte) error { return proc.ReadMemory(pid, at, b) }

func poke(pid int, at uint64, b []byte) error {
	n, err := unix.ProcessVMWritev(pid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err == nil && n != len(b) {
		err = unix.EFAULT
	}
	return err
}

// timeAt reads a struct timespec or a struct timeval. One that no call would take is an error.
func timeAt(pid int, kind how, at uint64) (time.Duration, error) {
	var b [16]byte
	if err := peek(pid, at, b[:]); err != nil {
		return 0, err
	}
	sec, part := int64(binary.LittleEndian.Uint64(b[:])), int64(binary.LittleEndian.Uint64(b[8:]))
	unit := unitOf(kind)
	if sec < 0 || part < 0 || part >= int64(time.Second/unit) {
		return 0, unix.EINVAL
	}
	if sec > int64(1<<62/time.Second) {
		return 0, unix.ERANGE // centuries: it need not become shorter
	}
	return time.Duration(sec)*time.Second + time.Duration(part)*unit, nil
}

// putTime writes a struct timespec or a struct timeval, rounded up.
func putTime(pid int, kind how, at uint64, d time.Duration) error {
	unit := unitOf(kind)
	d += unit - 1
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(d/time.Second))
	binary.LittleEndian.PutUint64(b[8:], uint64(d%time.Second/unit))
	return poke(pid, at, b[:])
}

func unitOf(kind how) time.Duration {
	if kind == timeval {
		return time.Microsecond
	}
	return time.Nanosecond
}

// scratch is where a struct timespec or timeval may be written on a stack: below its red zone.
func scratch(sp uint64) uint64 { return (sp - redZone - 64) &^ 15 }

// atRest says whether a thread stands where a signal has stopped it, or has ended.
func atRest(tid int) bool {
	s, err := proc.ThreadStat(tid, tid)
	return err != nil || s.State == 'T'
}
