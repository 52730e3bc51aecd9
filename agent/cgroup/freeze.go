package cgroup

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// SetFrozen asks the kernel to freeze or thaw the cgroup. It does not wait for it.
func (d Dir) SetFrozen(frozen bool) error {
	file, value := "cgroup.freeze", "0"
	if frozen {
		value = "1"
	}
	if d.V1() {
		file, value = "freezer.state", "THAWED"
		if frozen {
			value = "FROZEN"
		}
	}
	if err := os.WriteFile(d.file(file), []byte(value), 0); err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}

// Freeze returns when every task stands still.
func (d Dir) Freeze(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.V1() {
		return d.freezeV1(ctx)
	}
	if err := d.SetFrozen(true); err != nil {
		return err
	}
	return d.AwaitEvent(ctx, "frozen 1")
}

// freezeV1 asks again until it is so: the v1 freezer has no event, and it gives up on a task that
// forks or wakes at the wrong instant until its state is read again
// (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
func (d Dir) freezeV1(ctx context.Context) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		if err := d.SetFrozen(true); err != nil {
			return err
		}
		if frozen, err := d.Frozen(); frozen || err != nil {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Thaw returns when the tasks run. A cgroup that is not there has none.
func (d Dir) Thaw(ctx context.Context) error {
	v1 := d.V1()
	err := d.SetFrozen(false)
	if err == nil && !v1 {
		// Where all tasks were killed while they stood still, and there are cgroups below, the kernel may go on to say "frozen 1" of nobody.
		err = d.AwaitEvent(ctx, "frozen 0", "populated 0")
	}
	if gone(err) {
		return nil
	}
	return err
}

// Frozen reports whether every task stands still. A cgroup that is not there is not frozen.
func (d Dir) Frozen() (bool, error) {
	file, want := "cgroup.events", "frozen 1"
	if d.V1() {
		file, want = "freezer.state", "FROZEN"
	}
	b, err := os.ReadFile(d.file(file))
	if gone(err) {
		return false, nil
	}
	return hasLine(b, want), err
}

// AwaitEvent blocks until cgroup.events of a v2 folder has one of the lines. The kernel reports each
// change as POLLPRI (Documentation/admin-guide/cgroup-v2.rst, "[Un]populated Notification"), but no
// two within 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV of kernel/cgroup/cgroup.c): a change soon after
// another is seen earlier by looking.
func (d Dir) AwaitEvent(ctx context.Context, lines ...string) error {
	path := d.file("cgroup.events")
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
		if slices.ContainsFunc(lines, func(line string) bool { return hasLine(buf[:n], line) }) {
			return nil
		}
		if _, err := proc.PollAtMost(ctx, fd, unix.POLLPRI, look); err != nil {
			return fmt.Errorf("wait for %q: %w", lines, err)
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
