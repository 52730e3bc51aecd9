package memory

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
	"ss/internal/yield"
)

const (
	// approachLimit bounds the rounds before the freeze. The coordinator waits for no host much longer than a minute.
	approachLimit = 40 * time.Second
	// smallRest is what is left for the freeze without a further round, in bytes: it takes a millisecond.
	smallRest = 4 << 20
	// maxRounds bounds the rounds of a member that writes about as fast as it is copied.
	maxRounds = 8
	// between is the least pause between the rounds that go on until the freeze, and pauses is how many times as long it is as the round before: each round costs a
	// program the first write to each page.
	between, pauses = 100 * time.Millisecond, 4
	// The memory for what is copied during the freeze: that of one unit, and the most that all units of a host have.
	lateMin, lateMax = 16 << 20, 128 << 20
)

// tracked is a member whose memory is tracked. It implements agent.TrackedMemory. Until Divide one goroutine uses it, first that of Track
// and then that of goOn; from Divide on its callers, one after the other.
type tracked struct {
	t      *Tracker
	member agent.Unit
	dir    string
	helper *helper
	late   *lateStore

	ctx    context.Context // ends when the rounds are to end
	cancel context.CancelFunc
	done   chan struct{} // closed when they have

	procs   map[int]*process
	divided [][2]int       // the processes that Divide has named, by the PIDs that this host and CRIU see
	left    map[int]string // processes that are CRIU's, and why
	later   map[int]string // processes that could not be tracked yet, and why
	whole   string         // why the whole member is
	last    int64          // bytes of the last round
	rest    int64          // bytes that it did not come to
	buf     []byte         // what is copied at the moment; one for all processes, which are copied one after the other
	rep     agent.MemoryReport

	twinsOf  []*process // those of which much is left
	twinSize int64      // what their twins may have, in bytes
	noTwin   []string   // processes that should have one and have none, and why
}

// approach makes rounds until the rest is small or does not become smaller, or a round takes no longer than the pause between those that go on: what is
// written in that time is as much as they leave for the freeze.
func (k *tracked) approach(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, approachLimit)
	defer cancel()
	yield.ToJob()
	before := int64(-1)
	for n := 0; n < maxRounds && ctx.Err() == nil && k.whole == ""; n++ {
		began := time.Now()
		k.round(ctx)
		if k.rest == 0 && (k.last <= smallRest || time.Since(began) < between || before >= 0 && k.last > before*7/10) {
			return
		}
		before = k.last
	}
}

// goOn makes further rounds until the freeze: other hosts may not be prepared yet.
func (k *tracked) goOn() {
	defer close(k.done)
	yield.ToJob()
	pause := between
	for {
		select {
		case <-time.After(pause):
		case <-k.ctx.Done():
			return
		}
		began := time.Now()
		k.round(k.ctx)
		pause = max(between, pauses*time.Since(began))
	}
}

// round makes one round of every process, and takes in those that are new.
func (k *tracked) round(ctx context.Context) {
	k.last, k.rest = 0, 0
	all, err := pids(k.member)
	if err != nil {
		k.giveUp(err.Error())
		return
	}
	for _, pid := range all {
		if ctx.Err() != nil {
			return
		}
		p := k.take(pid, all)
		if p == nil {
			continue
		}
		n, err := p.round(ctx, k.t.cfg.Pause)
		k.last += n
		k.rest += p.rest()
		k.rep.Copied += n
		if err == nil {
			err = bypasses(pid)
		}
		if err != nil {
			k.leave(p, err)
		}
	}
	k.rep.Rounds++
	for pid, p := range k.procs {
		if !slices.Contains(all, pid) {
			_ = p.close() // it has ended
			delete(k.procs, pid)
		}
	}
}

// take returns the process as tracked, or nil if it is not. all are the member's processes.
func (k *tracked) take(pid int, all []int) *process {
	born, err := startOf(pid)
	if err != nil {
		return nil
	}
	if p := k.procs[pid]; p != nil {
		if p.born == born {
			return p
		}
		_ = p.close()
		delete(k.procs, pid)
		delete(k.left, pid)
	}
	if _, known := k.left[pid]; known {
		return nil
	}
	delete(k.later, pid)
	if other := k.sharing(pid, all); other != 0 {
		k.later[pid] = fmt.Sprintf("it shares its memory with %s, as between vfork and exec", proc.Whose(other))
		return nil
	}
	p, err := k.begin(pid, born)
	switch {
	case errors.Is(err, errLater):
		k.later[pid] = err.Error()
	case err != nil && !proc.Gone(err):
		k.left[pid] = err.Error()
	case err == nil:
		k.procs[pid] = p
	}
	return p
}

// sharing returns the process that has the same memory as a process that is to be tracked, and goes before it: one that is tracked already, or else the
// one with the lower PID. A scan for one of the two takes down what was written, and the other would not hear of it. Processes come to share memory
// by the birth of one of them alone, so this is asked once for each.
func (k *tracked) sharing(pid int, all []int) int {
	for _, other := range all {
		if other != pid && (other < pid || k.procs[other] != nil) && proc.SameMemory(pid, other) {
			return other
		}
	}
	return 0
}

// begin makes a process tracked.
func (k *tracked) begin(pid int, born uint64) (*process, error) {
	if err := k.closeLeaked(pid); err != nil {
		return nil, err
	}
	if err := bypasses(pid); err != nil {
		return nil, err
	}
	inner, err := innerPid(k.member, pid)
	if err != nil {
		return nil, err
	}
	fd, err := k.helper.ask(request{Pid: pid})
	if err != nil {
		return nil, err
	}
	p := &process{
		pid: pid, inner: inner, born: born, guard: k.t.guard, uffd: uffd(fd),
		plant: k.t.plant, slots: slots{}, buf: k.buf, refused: map[agent.PageRange]string{},
	}
	if err = p.uffd.enable(); err == nil {
		p.staging, err = newStaging(filepath.Join(k.dir, fmt.Sprintf("memory-%d-%d", pid, born)))
	}
	if err != nil {
		p.uffd.close()
		return nil, err
	}
	return p, nil
}

// closeLeaked closes the userfaultfd that a process inherited, which was forked in the 0.1 ms between the making of its parent's and its end there. A
// userfaultfd of its own makes the member one that is not dumped, long before it comes to this.
func (k *tracked) closeLeaked(pid int) error {
	var theirs []int
	err := proc.EachFd([]int{pid}, func(_, fd int, link string) {
		if link == uffdLink {
			theirs = append(theirs, fd)
		}
	})
	for _, fd := range theirs {
		if _, err := k.helper.ask(request{Pid: pid, Close: fd}); err != nil {
			return fmt.Errorf("close the userfaultfd that it inherited: %w", err)
		}
	}
	return err
}

// bypasses refuses a process whose memory may be written around its page tables: by a device, for a file that is open with O_DIRECT, or by the
// kernel's asynchronous I/O. The kernel notes no write then.
func bypasses(pid int) error {
	var direct error
	err := proc.EachFd([]int{pid}, func(_, fd int, link string) {
		if !strings.HasPrefix(link, "/") {
			return // no file
		}
		if info, err := proc.ReadFdInfo(pid, fd); err == nil && info.Flags&unix.O_DIRECT != 0 {
			direct = fmt.Errorf("its descriptor %d is open with O_DIRECT, whose reads show in no page table", fd)
		}
	})
	if err := errors.Join(err, direct); err != nil {
		return err
	}
	maps, err := mappings(pid)
	if err != nil {
		return err
	}
	for _, m := range maps {
		if strings.HasPrefix(m.name, "/[aio]") || strings.HasPrefix(m.name, "anon_inode:[io_uring]") {
			return errors.New("it uses asynchronous I/O, whose reads show in no page table")
		}
	}
	return nil
}

// leave gives a process back to CRIU.
func (k *tracked) leave(p *process, why error) {
	_ = p.close()
	delete(k.procs, p.pid)
	k.left[p.pid] = why.Error()
}

// giveUp gives the whole member back to CRIU.
func (k *tracked) giveUp(why string) {
	k.whole = why
	for _, p := range k.procs {
		_ = p.close()
	}
	clear(k.procs)
}

// takeLate takes memory for the pages that are copied during the freeze: for twice what the last round found, as far as other units have left some. What finds no
// room there goes to the file at once.
func (k *tracked) takeLate() (err error) {
	want := min(max(2*k.last+k.rest, lateMin), lateMax)
	for {
		left := k.t.lateLeft.Load()
		got := min(want, left)
		if !k.t.lateLeft.CompareAndSwap(left, left-got) {
			continue
		}
		if k.late, err = newLateStore(int(got)); err != nil {
			k.t.lateLeft.Add(got)
		}
		return err
	}
}

// Halt ends the rounds.
func (k *tracked) Halt() {
	k.cancel()
	<-k.done
}

// Divide says, of a frozen member, which of its memory we copy, by the PIDs that CRIU sees. CRIU is to find nothing there.
func (k *tracked) Divide() (map[int][]agent.PageRange, error) {
	k.Halt()
	all, err := pids(k.member)
	if err != nil {
		k.giveUp(err.Error())
	}
	out := map[int][]agent.PageRange{}
	for _, pid := range all {
		p := k.procs[pid]
		if p == nil {
			if k.whole == "" && k.left[pid] == "" {
				k.left[pid] = cmp.Or(k.later[pid], "it was born after the last round")
			}
			continue
		}
		born, err := startOf(pid)
		if err == nil && born != p.born {
			err = errors.New("it was born after the last round")
		}
		if err == nil {
			err = bypasses(pid)
		}
		var ranges []agent.PageRange
		if err == nil {
			ranges, err = p.divide()
		}
		if err == nil && len(ranges) == 0 {
			err = errors.New("it has ended, or has started another program, since the last round")
		}
		if err != nil {
			k.leave(p, err)
			continue
		}
		out[p.inner] = ranges
		k.divided = append(k.divided, [2]int{p.pid, p.inner})
	}
	return out, nil
}

// Smaps reads what /proc/PID/smaps says of the processes that Divide has named. The kernel walks all their pages for that. A process of which it cannot be read is
// left out.
func (k *tracked) Smaps() map[int][]byte {
	out := map[int][]byte{}
	for _, p := range k.divided {
		text, err := proc.Smaps(p[0])
		if err != nil || len(text) == 0 {
			continue
		}
		if k.t.plant == plantFlags {
			text = bytes.ReplaceAll(text, []byte(" hg"), nil)
		}
		out[p[1]] = text
	}
	return out
}

// CopyRest copies what was written since the last round, while the member is frozen, but not what twins are to have. After an error the cut fails.
func (k *tracked) CopyRest(ctx context.Context) error {
	for _, p := range k.procs {
		if p.scan == nil {
			continue // it has ended
		}
		left, err := p.list(ctx)
		if err == nil && k.wantsTwin(p, int64(left)*pageSize) {
			continue
		}
		if err == nil {
			var n int64
			n, err = p.copyBehind(ctx, k.late)
			k.rep.CopiedFrozen += n
		}
		if ctx.Err() == nil && err != nil && hasEnded(p.pid) {
			k.leave(p, errors.New("it was about to end when it was frozen"))
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Pages are the pages that the cut holds of the memory that Divide named. To be called when the member runs again.
func (k *tracked) Pages() ([]agent.ProcessPages, error) {
	var out []agent.ProcessPages
	for _, p := range k.procs {
		if p.scan == nil {
			continue
		}
		if err := p.expand(); err != nil {
			return nil, err
		}
		pp := agent.ProcessPages{InnerPid: p.inner, Ranges: p.known}
		for _, r := range p.runs {
			if r.slot == behind {
				return nil, fmt.Errorf("the memory of process %d was not copied at %#x", p.pid, r.start)
			}
			pp.Runs = append(pp.Runs, agent.PageRange{Start: r.start, End: r.end()})
			k.rep.Pages += int64(r.pages)
			if r.slot == inTwin {
				k.rep.CopiedTwin += int64(r.pages) * pageSize
			}
		}
		pp.Write = func(w io.Writer, i int) error { return p.write(w, p.runs[i], k.late) }
		out = append(out, pp)
	}
	k.rep.Tracked = len(out) > 0
	return out, nil
}

// Report says what was tracked and what was not, and why.
func (k *tracked) Report() agent.MemoryReport {
	r := k.rep
	if k.whole != "" {
		r.Left = append(r.Left, k.whole)
	}
	for pid, why := range k.left {
		r.Left = append(r.Left, fmt.Sprintf("process %d: %s", pid, why))
	}
	for pid, p := range k.procs {
		for at, why := range p.refused {
			r.Left = append(r.Left, fmt.Sprintf("process %d: mapping %#x-%#x: %s", pid, at.Start, at.End, why))
		}
	}
	r.Left = append(r.Left, k.noTwin...)
	slices.Sort(r.Left)
	const most = 20
	if n := len(r.Left); n > most {
		r.Left = append(r.Left[:most], fmt.Sprintf("and %d more", n-most))
	}
	return r
}

// Close ends the tracking and removes the copies. It may be called more than once.
func (k *tracked) Close() error {
	k.Halt()
	var errs []error
	for _, p := range k.procs {
		errs = append(errs, p.close())
	}
	clear(k.procs)
	if k.late != nil {
		k.t.lateLeft.Add(int64(k.late.close()))
	}
	if k.helper != nil {
		k.helper.stop()
		k.helper = nil
	}
	return errors.Join(errs...)
}

// startOf is when a process began: with its PID it names one process for good.
func startOf(pid int) (uint64, error) {
	st, err := proc.ReadStat(pid)
	return st.Start, err
}

// hasEnded says whether a process has no memory any more. Freezing does not stop one that is about to end.
func hasEnded(pid int) bool {
	st, err := proc.ReadStat(pid)
	return err == nil && st.Ended() || proc.Gone(err)
}

// innerPid is a process's PID as CRIU sees it: in the namespace of the cell, or on this host.
func innerPid(m agent.Unit, pid int) (int, error) {
	if m.InitPid == 0 {
		return pid, nil
	}
	all, err := proc.NSPids(pid)
	if err != nil {
		return 0, err
	}
	return all[len(all)-1], nil
}
