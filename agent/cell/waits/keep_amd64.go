package waits

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"ss/agent/proc"
)

// Keep gives the threads of frozen processes codes that CRIU takes back onto their calls. What they were about to return is in the store before the
// first of them is changed. o is what was seen of them before they were frozen.
func Keep(store Store, pids []int, o Observation) error {
	unlock, err := store.lock()
	if err != nil {
		return err
	}
	defer unlock()
	last := store.Load().byThread()
	rec := Record{Boot: proc.BootID()}
	threads, err := rec.waiting(pids, last)
	if err != nil {
		return err
	}
	now := monotonic()
	return trace(slices.Collect(maps.Keys(threads)), func(t *tracer) error {
		regs := map[int]registers{}
		for _, tid := range t.held {
			c, r, ok, err := look(threads[tid], tid, last)
			if proc.Gone(err) {
				continue
			}
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			c.plan(&r, o, now)
			regs[tid] = r
			rec.Calls = append(rec.Calls, c)
		}
		if err := store.save(rec); err != nil {
			return err
		}
		var errs []error
		for _, c := range rec.Calls {
			if c.Kept != 0 {
				errs = append(errs, regs[c.Tid].set(c.Tid))
			}
		}
		return errors.Join(errs...)
	})
}

// waiting finds the threads of frozen processes that stand in a system call, or may be on their way back onto one, by tid; the value is the process. Threads
// that need not be stopped are recorded at once.
func (r *Record) waiting(pids []int, last map[int]Call) (map[int]int, error) {
	out := map[int]int{}
	for _, pid := range pids {
		all, err := proc.Threads(pid)
		if err != nil && !proc.Gone(err) {
			return nil, err
		}
		for _, tid := range all {
			s, ok, err := proc.ReadSyscall(pid, tid)
			if err == nil && ok && idle(s.Number, s.Args) {
				var st proc.Stat
				if st, err = proc.ThreadStat(pid, tid); err == nil {
					r.Calls = append(r.Calls, Call{
						Pid: pid, Tid: tid, Start: st.Start, Nr: s.Number, Code: restartSys, Args: s.Args, IP: s.IP, SP: s.SP, Idle: true,
					})
				}
			} else if before, known := last[tid]; err == nil && (ok || known && !before.Idle) {
				out[tid] = pid
			}
			if err != nil && !proc.Gone(err) {
				return nil, err
			}
		}
	}
	return out, nil
}

// look reads the call that a stopped thread stands in. ok is false where it is none that was interrupted.
func look(pid, tid int, last map[int]Call) (c Call, r registers, ok bool, err error) {
	if r, err = registersOf(tid); err != nil {
		return c, r, false, err
	}
	if r.native() && r.nr() < 0 && r.code() == restartSyscallNr && isSyscall(pid, r.Rip) {
		// The kernel has taken it back to the instruction, which it has not come to yet: as if it had just been interrupted there.
		r.Rip += CallLen
		r.setCall(restartSyscallNr, restartByBlock, r.args())
	}
	if !r.native() || r.nr() < 0 || !interrupted(r.code()) || !isSyscall(pid, r.Rip-CallLen) {
		return c, r, false, nil
	}
	c = Call{Pid: pid, Tid: tid, Nr: r.nr(), Code: r.code(), Args: r.args(), IP: r.Rip, SP: r.Rsp}
	st, err := proc.ThreadStat(pid, tid)
	if err != nil {
		return c, r, false, err
	}
	c.Start = st.Start
	if was, ok := last[tid]; ok && was.Start == c.Start && was.IP == c.IP && was.SP == c.SP && was.Set == c.Args {
		c.Was, c.Signed = was.Deadline, was.Signed && c.Nr == was.Nr && was.Deadline != 0
		if c.Nr == restartSyscallNr { // which does not say what it restarts
			c.Nr, c.again = was.Nr, true
		}
	}
	if c.Nr == restartSyscallNr {
		c.Nr = numberBefore(pid, c.IP-CallLen)
	}
	return c, r, true, nil
}

func interrupted(code int) bool {
	return code == eintr || code == restartByBlock || code <= restartSys && code >= restartNoHand
}

// plan says what becomes of the call, and puts it into r.
func (c *Call) plan(r *registers, o Observation, now time.Duration) {
	f := formOf(c.Nr, c.Args)
	switch {
	case c.Code == restartByBlock:
	case c.Code == restartNoHand && c.Signed: // it has not come to run since it was given that back
	case c.Code == eintr && f.eintr && f.waitsFor(c.Pid, c.Args):
	case c.Code == restartNoHand && f.updates:
		if f.timed(c.Args) {
			c.Deadline, _ = c.deadline(f, o, now)
		}
		return
	default:
		return // CRIU and the kernel know what to do; or nobody knows which call it is
	}
	c.Kept = restartNoHand
	args := c.Args
	if f.timed(c.Args) {
		if end, ok := c.deadline(f, o, now); ok {
			c.Deadline = end
			if _, written := c.written(f); !written {
				args = c.shortened(f, max(0, end-now))
			}
		}
	}
	r.setCall(c.Nr, c.Kept, args)
}

// written is where the kernel has written what is left of the wait, if the call reads its timeout there when it is made once more. The program knows that
// this memory changes.
func (c *Call) written(f form) (at uint64, ok bool) {
	switch {
	case f.updates && c.Code == restartNoHand:
		return c.Args[f.arg], true
	case f.rest != 0 && c.Args[f.rest] == c.Args[f.arg] && c.Code == restartByBlock: // sleep(3)
		return c.Args[f.arg], true
	}
	return 0, false
}

// thawSlack is how much later than its thaw a thread comes to run, on a busy host.
const thawSlack = 100 * time.Millisecond

// deadline is when a call's wait ends. ok is false where that is not known. now is a time after the freeze.
func (c *Call) deadline(f form, o Observation, now time.Duration) (end time.Duration, ok bool) {
	if c.Signed {
		return c.Was, true
	}
	left, err := c.left(f, o, now)
	if err != nil {
		return 0, false
	}
	// What the kernel has written was so at some time between the observation and now, and the thread came to run some time after the last thaw: it
	// is the wait of an earlier freeze if that fits.
	end = now + left
	if c.Was != 0 && c.Was <= end && end-c.Was <= now-o.at+thawSlack {
		end = c.Was
	}
	return end, true
}

// left is how much of its wait a call still had before it when it was frozen, or somewhat more.
func (c *Call) left(f form, o Observation, now time.Duration) (time.Duration, error) {
	if at, ok := c.written(f); ok {
		return timeAt(c.Pid, f.timeout, at)
	}
	if f.rest != 0 && c.Args[f.rest] != 0 && c.Code == restartByBlock {
		if left, err := timeAt(c.Pid, f.timeout, c.Args[f.rest]); err == nil {
			return left, nil // the kernel has written it there
		}
	}
	whole, err := c.whole(f)
	if err == nil && c.Was > now && c.Was <= now+whole && c.again {
		return c.Was - now, nil
	}
	return max(0, whole-o.elapsed(c.Pid, c.Tid, c.Start, now)), err
}

// whole is the timeout that a call was given.
func (c *Call) whole(f form) (time.Duration, error) {
	if f.timeout == millis {
		return time.Duration(int32(c.Args[f.arg])) * time.Millisecond, nil
	}
	return timeAt(c.Pid, f.timeout, c.Args[f.arg])
}

// shortened returns the arguments of a call with what is left of its timeout. A timeout in memory is the program's own: what is left is written below the
// stack's red zone. Where that cannot be, the wait has its whole length once more.
func (c *Call) shortened(f form, left time.Duration) [6]uint64 {
	args := c.Args
	if f.timeout == millis {
		args[f.arg] = uint64(min((left+time.Millisecond-1)/time.Millisecond, math.MaxInt32))
		return args
	}
	if at := scratch(c.SP); putTime(c.Pid, f.timeout, at, left) == nil {
		args[f.arg] = at
	}
	return args
}

// waitsFor says whether a call of a process that returns EINTR is of the kind that its form says.
func (f form) waitsFor(pid int, args [6]uint64) bool {
	return !f.socket || isSocket(pid, int(int32(args[0]))) || f.other > 0 && isSocket(pid, int(int32(args[f.other])))
}

func isSocket(pid, fd int) bool {
	link, err := proc.FdLink(pid, fd)
	return err == nil && strings.HasPrefix(link, "socket:")
}

// GiveBack gives the threads of a frozen member the codes again that they had before Keep, wherever CRIU has left them. It may be called more than once, and
// where Keep was not. pids are the member's processes.
func GiveBack(store Store, pids []int) error {
	unlock, err := store.lock()
	if err != nil {
		return err
	}
	defer unlock()
	rec := store.Load()
	if rec.Given || rec.Boot != proc.BootID() {
		return nil
	}
	rec.Given = true
	calls := map[int]*Call{}
	signalled := map[int]bool{}
	for _, pid := range pids {
		signalled[pid] = toHandle(pid)
	}
	for i := range rec.Calls {
		c := &rec.Calls[i]
		st, err := proc.ThreadStat(c.Pid, c.Tid)
		its, ours := signalled[c.Pid]
		if err == nil && st.Start == c.Start && ours && (!c.Idle || its || st.Pending) {
			calls[c.Tid] = c
		}
	}
	now := monotonic()
	err = trace(slices.Collect(maps.Keys(calls)), func(t *tracer) error {
		var errs []error
		for _, tid := range t.held {
			if err := calls[tid].giveBack(now); err != nil && !proc.Gone(err) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	return errors.Join(err, store.save(rec))
}

// toHandle says whether a process has a signal before it for which it has a handler.
func toHandle(pid int) bool {
	s, err := proc.ReadSignals(pid, pid)
	return err == nil && s.Pending&s.Caught != 0
}

// giveBack puts one stopped thread back.
func (c *Call) giveBack(now time.Duration) error {
	r, err := registersOf(c.Tid)
	if err != nil {
		return err
	}
	code := c.Code
	if c.Kept != 0 {
		code = c.Kept
	}
	untouched := r.Rip == c.IP && r.code() == code
	rewound := r.Rip == c.IP-CallLen && r.code() == c.Nr
	if !r.native() || r.Rsp != c.SP || !untouched && !rewound {
		return nil // it is elsewhere: CRIU died while its code ran in the thread
	}
	c.Set = c.Args
	if c.Code == restartByBlock && (untouched || c.Tid != c.Pid) {
		// The kernel still remembers the wait. It forgets that of a leader, in which CRIU's code ends with sigreturn(2).
		code = c.Code
	} else if f := formOf(c.Nr, c.Args); c.Deadline != 0 && f.timed(c.Args) {
		left := max(0, c.Deadline-now)
		if at, ok := c.written(f); !ok {
			c.Set = c.shortened(f, left)
			c.Signed = c.Signed || c.Set != c.Args
		} else if err := putTime(c.Pid, f.timeout, at, left); err != nil {
			return fmt.Errorf("write what is left of the wait of thread %d: %w", c.Tid, err)
		}
	}
	r.Rip = c.IP // CRIU takes a thread back to the instruction that made the call
	r.setCall(c.Nr, code, c.Set)
	return r.set(c.Tid)
}
