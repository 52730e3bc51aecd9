package cell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// Freeze returns when every task of m stands still, and none of them between vfork(2) and exec: CRIU
// can't dump that. Threads that wait in system calls are then such that CRIU does not interrupt them (package waits). When that does not come to pass
// before ctx is done, m runs again and the error names what does not stand still.
func (g *Manager) Freeze(ctx context.Context, m agent.Member) error {
	gr, err := g.existing(m)
	if err != nil {
		return fmt.Errorf("freeze %s/%s: %w", m.Job, m.Name, err)
	}
	seen, keep := g.observe(m, gr)
	if err := gr.freezeWhole(ctx); err != nil {
		stuck := gr.stuck()
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return errors.Join(fmt.Errorf("freeze %s/%s: %w%s", m.Job, m.Name, err, stuck), gr.thaw(undo))
	}
	if !keep {
		return nil
	}
	if err := g.keepWaits(ctx, m, gr, seen); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return errors.Join(fmt.Errorf("freeze %s/%s: %w", m.Job, m.Name, err), g.Thaw(undo, m))
	}
	return nil
}

// Thaw lets m run, with its threads in the system calls that they waited in. Thawing a running or an ended member is not an error.
func (g *Manager) Thaw(ctx context.Context, m agent.Member) error {
	if err := checkNames(m); err != nil {
		return err
	}
	gr := g.cg.group(m.Job, m.Name)
	// Whatever has become of the waits, the member runs.
	if err := errors.Join(g.giveBackWaits(m, gr), gr.thaw(ctx)); err != nil {
		return fmt.Errorf("thaw %s/%s: %w", m.Job, m.Name, err)
	}
	return nil
}

// existing returns the member's cgroup if there is one.
func (g *Manager) existing(m agent.Member) (group, error) {
	if err := checkNames(m); err != nil {
		return group{}, err
	}
	gr := g.cg.group(m.Job, m.Name)
	if _, err := os.Stat(gr.dir()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return group{}, ErrUnknown
		}
		return group{}, err
	}
	return gr, nil
}

func (g group) freeze(ctx context.Context) error { return g.freezer().Freeze(ctx) }

func (g group) thaw(ctx context.Context) error { return g.freezer().Thaw(ctx) }

func (g group) frozen() (bool, error) { return g.freezer().Frozen() }

// forkLimit is how long freezeWhole goes on to find two processes that share their memory.
const forkLimit = 2 * time.Second

// freezeWhole freezes, and as long as a process stands between vfork(2) and exec lets all run on and
// freezes again: the parent waits in the kernel for its child then, where no tracer can stop it. It
// is what posix_spawn(3), system(3) and every shell do, for some 100 µs each time.
func (g group) freezeWhole(ctx context.Context) error {
	limit := time.Now().Add(forkLimit)
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if err := g.freeze(ctx); err != nil {
			return err
		}
		parent, child, err := g.sharing()
		if err != nil || child == 0 {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("%s and %s share their memory, as between vfork and exec: CRIU can't dump that", proc.Whose(parent), proc.Whose(child))
		}
		if err := g.thaw(ctx); err != nil {
			return err
		}
		select {
		case <-time.After(wait): // until it has come to exec, of which nothing tells
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sharing finds a process of the group that uses the memory of its parent (kcmp(2)), or returns 0.
func (g group) sharing() (parent, child int, err error) {
	all, err := g.procs()
	if err != nil || len(all) < 2 {
		return 0, 0, err
	}
	for _, pid := range all {
		s, err := proc.ReadStat(pid)
		if err != nil || s.Dead() || !slices.Contains(all, s.Parent) {
			continue
		}
		const kcmpVM = 1
		order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(s.Parent), uintptr(pid), kcmpVM, 0, 0, 0)
		if errno == 0 && order == 0 {
			return s.Parent, pid, nil
		}
	}
	return 0, 0, nil
}

// stuck names the processes that wait inside the kernel, which is where freezing fails.
func (g group) stuck() string {
	all, _ := g.procs()
	for _, pid := range all {
		if s, err := proc.ReadStat(pid); err == nil && s.State == 'D' {
			return fmt.Sprintf("; %s waits in the kernel (%s): a disk or network file system that does not answer?", proc.Whose(pid), proc.Wchan(pid))
		}
	}
	return ""
}
