package cell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// Thaw lets m run, with its threads in the system calls that they waited in. Thawing a running or an ended member is no error.
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

// thawed is the request that lets a group run.
func (g group) thawed() (file, value string) {
	if g.v1 != "" {
		return "freezer.state", "THAWED"
	}
	return "cgroup.freeze", "0"
}

func (g group) write(file, value string) error {
	if err := os.WriteFile(filepath.Join(g.dir(), file), []byte(value), 0); err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}

func (g group) freeze(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if g.v1 != "" {
		return g.freezeV1(ctx)
	}
	if err := g.write("cgroup.freeze", "1"); err != nil {
		return err
	}
	return g.waitEvents(ctx, "frozen 1")
}

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

// freezeV1 asks again until it is so: the v1 freezer has no event, and it gives up on a task that
// forks or wakes at the wrong instant until its state is read again
// (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
func (g group) freezeV1(ctx context.Context) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		if err := g.write("freezer.state", "FROZEN"); err != nil {
			return err
		}
		if frozen, err := g.frozen(); frozen || err != nil {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g group) thaw(ctx context.Context) error {
	err := g.write(g.thawed())
	if err == nil && g.v1 == "" {
		err = g.waitEvents(ctx, "frozen 0")
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil // it ended meanwhile, and its cgroup was removed
	}
	return err
}

// frozen reports whether every task stands still. A group that is not there is not frozen.
func (g group) frozen() (bool, error) {
	file, want := "cgroup.events", "frozen 1"
	if g.v1 != "" {
		file, want = "freezer.state", "FROZEN"
	}
	b, err := os.ReadFile(filepath.Join(g.dir(), file))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return hasLine(b, want), err
}

// waitEvents blocks until cgroup.events of the v2 folder has that line. The kernel reports each
// change as POLLPRI (Documentation/admin-guide/cgroup-v2.rst, "[Un]populated Notification"), but no
// two within 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV of kernel/cgroup/cgroup.c): a change soon after
// another is seen earlier by looking.
func (g group) waitEvents(ctx context.Context, line string) error {
	path := filepath.Join(g.v2, "cgroup.events")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var buf [512]byte
	for look := 1; ; look = min(2*look, 100) {
		n, err := unix.Pread(fd, buf[:], 0)
		if err != nil {
			return &os.PathError{Op: "read", Path: path, Err: err}
		}
		if hasLine(buf[:n], line) {
			return nil
		}
		if _, err := waitForAtMost(ctx, fd, unix.POLLPRI, look); err != nil {
			return fmt.Errorf("wait for %q: %w", line, err)
		}
	}
}

func hasLine(b []byte, want string) bool {
	for l := range strings.Lines(string(b)) {
		if strings.TrimSpace(l) == want {
			return true
		}
	}
	return false
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
