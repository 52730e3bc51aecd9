package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// Config says how members' memory is tracked.
type Config struct {
	// Exe is the command that runs HelperMain, e.g. {"/usr/sbin/ssagent", "memory-helper"}.
	Exe []string
	// Off turns tracking off.
	Off bool
	// From is how much private memory a unit has at least that is tracked, in bytes.
	From int64
	// NoTwins turns twins off. A process has one only if at least TwinsFrom bytes of it are left at the freeze.
	NoTwins   bool
	TwinsFrom int64
	// Pause waits until nothing on this host stands still; copying waits for it between two small pieces. nil: no wait.
	Pause func(context.Context) error
}

// Tracker tracks members' memory. Its methods are safe for concurrent use.
type Tracker struct {
	cfg    Config
	reason string // why nothing is tracked; "": it is
	guard  uint64
	plant  plant

	spare int64 // see there

	lateLeft atomic.Int64 // bytes of lateMax that no unit has

	mu    sync.Mutex
	looks bool                // lookAfterKept is at work
	kept  map[string]*tracked // units whose memory is still tracked since their last cut, by cgroup
}

var _ agent.Memory = (*Tracker)(nil)

// New finds out, by trying, whether this kernel can track writes.
func New(cfg Config) *Tracker {
	t := &Tracker{cfg: cfg, spare: spare, kept: map[string]*tracked{}}
	t.lateLeft.Store(lateMax)
	if t.cfg.Pause == nil {
		t.cfg.Pause = func(context.Context) error { return nil }
	}
	switch {
	case cfg.Off:
		t.reason = errTurnedOff
	case runtime.GOARCH != "amd64":
		t.reason = errOtherMachine
	default:
		var err error
		if t.guard, err = try(); err != nil {
			t.reason = err.Error()
		}
	}
	return t
}

// Mode says whether memory is tracked here, and if not, why.
func (t *Tracker) Mode() (tracked bool, reason string) { return t.reason == "", t.reason }

// Omits says whether CRIU may be kept from memory of m.
func (t *Tracker) Omits(m agent.Unit) bool {
	if t.reason != "" {
		return false
	}
	all, err := pids(m)
	for _, pid := range all {
		if filtered(pid) {
			return false
		}
	}
	return err == nil
}

// Small says, of a unit, that it has less memory than Config.From. What was kept of it since its last cut is given back then.
func (t *Tracker) Small(m agent.Unit) string {
	if t.cfg.From == 0 {
		return ""
	}
	all, err := pids(m)
	if err != nil {
		return "" // Track says what is wrong
	}
	var sum int64
	for _, pid := range all {
		if sum += proc.PrivateMemory(pid); sum >= t.cfg.From {
			return ""
		}
	}
	if k := t.resume(m); k != nil {
		_ = k.Close() // files without a name
	}
	return fmt.Sprintf("it has %d KiB of private memory, less than the %d KiB from which memory is tracked on this host", sum>>10, t.cfg.From>>10)
}

// filtered says whether a thread of a process has a seccomp filter: each has its own. A process that is gone has none.
func filtered(pid int) bool {
	tids, _ := proc.Threads(pid)
	for _, tid := range tids {
		if mode, err := proc.ThreadStatusField(pid, tid, "Seccomp"); err == nil && mode != "0" {
			return true
		}
	}
	return false
}

// try tracks a page of our own.
func try() (guard uint64, err error) {
	fd, _, errno := unix.Syscall(sysUserfaultfd, uffdFlags, 0, 0)
	if errno != 0 {
		return 0, fmt.Errorf("%s: %w", errNoTracking, errno)
	}
	u := uffd(fd)
	defer u.close()
	if err := u.enable(); err != nil {
		return 0, err
	}
	mem, err := unix.Mmap(-1, 0, 2*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Munmap(mem) }()
	mem[0] = 1
	start := uint64(uintptr(unsafe.Pointer(&mem[0])))
	all := agent.PageRange{Start: start, End: start + 2*pageSize}
	if err := u.register(all); err != nil {
		return 0, fmt.Errorf("%s: %w", errNoTracking, err)
	}
	for _, guard := range []uint64{pageGuard, 0} {
		s, err := openScanner(proc.Self, guard)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", errNoScan, err)
		}
		defer s.close()
		n := 0
		count := func(region) error { n++; return nil }
		err = s.written(all, count)
		if errors.Is(err, unix.EINVAL) && guard != 0 {
			continue // it does not know guards
		}
		if err == nil && n == 1 {
			n = 0
			err = s.written(all, count)
		} else if err == nil {
			err = fmt.Errorf("it found %d written regions instead of one", n)
		}
		if err == nil && n == 0 {
			mem[0] = 2
			if err = s.written(all, count); err == nil && n == 1 {
				return guard, nil
			}
		}
		return 0, fmt.Errorf("%s: %w", errNoScan, cmp.Or(err, errors.New("it does not say what was written")))
	}
	return 0, errors.New(errNoScan)
}

// Track begins to track a running member and copies its memory to files in dir. It returns when the rest is small, when it does not become
// smaller, or when the time is up; copying goes on until Divide. Whatever cannot be tracked is left to CRIU, so there is no error.
func (t *Tracker) Track(ctx context.Context, m agent.Unit, dir string) agent.TrackedMemory {
	k := t.resume(m)
	if k == nil {
		k = newTracked(t, m)
	}
	k.dir = dir
	k.ctx, k.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if t.reason != "" {
		k.whole = t.reason
		return k
	}
	var err error
	if k.helper, err = startHelper(t.cfg.Exe); err != nil {
		k.giveUp(err.Error())
		return k
	}
	k.sweep()
	done := make(chan struct{})
	go func() { // its thread makes way for the job, and ends with it
		defer close(done)
		k.approach(ctx)
	}()
	<-done
	if err = k.takeLate(); err != nil {
		k.giveUp(err.Error())
		return k
	}
	k.done = make(chan struct{})
	go k.goOn()
	return k
}

// pids lists the processes of a member, as this host sees them.
func pids(m agent.Unit) ([]int, error) {
	var out []int
	err := filepath.WalkDir(m.Cgroup, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			out = append(out, pid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the processes of %s: %w", m.Member, err)
	}
	return out, nil
}
