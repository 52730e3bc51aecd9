package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Kill ends every process of the cgroup and of those below it, frozen or not, and returns when none is left: some may not be reaped yet. A cgroup that
// is not there has none.
func (d Dir) Kill(ctx context.Context) error {
	if _, err := os.Stat(string(d)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := os.WriteFile(d.file("cgroup.kill"), []byte("1"), 0)
	switch {
	case err == nil:
		if err = d.killHeadless(); err != nil {
			return err
		}
		if err = d.AwaitEvent(ctx, "populated 0"); gone(err) {
			return nil
		}
		return err
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("kill the cgroup: %w", err)
	}
	return d.killEach(ctx)
}

// killHeadless kills processes whose first thread has ended while others go on. cgroup.kill sends its signal to first threads alone, and to one that has
// ended in vain; kill(2) sends it to the process.
func (d Dir) killHeadless() error {
	live, err := d.Live()
	if err != nil {
		return err
	}
	for _, pid := range live {
		if s, err := proc.ReadStat(pid); err != nil || !s.Ended() || s.Dead() {
			continue
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		again, err := d.Procs() // the number is still its own, which a pidfd holds
		if err == nil && slices.Contains(again, pid) {
			err = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		}
		_ = unix.Close(pidfd)
		if err != nil && !proc.Gone(err) && !gone(err) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}

// killEach is for kernels without cgroup.kill (before 5.14) and for v1. Frozen processes can't fork
// away from it; a v1-frozen one dies when it is thawed.
func (d Dir) killEach(ctx context.Context) error {
	for {
		live, err := d.Live()
		if err != nil || len(live) == 0 {
			return err
		}
		if err := d.Freeze(ctx); err != nil {
			return err
		}
		if live, err = d.Live(); err != nil {
			return err
		}
		var ids []proc.Identity
		for _, pid := range live {
			id, err := proc.Identify(pid)
			if proc.Gone(err) {
				continue
			}
			if err == nil {
				ids = append(ids, id)
				err = unix.Kill(pid, unix.SIGKILL)
			}
			if err != nil && !proc.Gone(err) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if err := d.Thaw(ctx); err != nil {
			return err
		}
		for _, id := range ids {
			if err := id.AwaitEnd(ctx); err != nil {
				return fmt.Errorf("wait for the end of process %d: %w", id.Pid, err)
			}
		}
	}
}
