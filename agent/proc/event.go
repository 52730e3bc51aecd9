package proc

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Poll blocks until fd has one of the events (poll(2)) or ctx is done. It is for what Go's own
// poller does not do: POLLPRI of cgroup.events, and pidfds.
func Poll(ctx context.Context, fd int, events int16) error {
	_, err := PollAtMost(ctx, fd, events, -1)
	return err
}

// PollAtMost is Poll that gives up (false) after so many milliseconds; -1 is never.
func PollAtMost(ctx context.Context, fd int, events int16, ms int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	if ctx.Done() != nil {
		wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return false, fmt.Errorf("eventfd: %w", err)
		}
		var once sync.WaitGroup
		once.Add(1)
		stop := context.AfterFunc(ctx, func() {
			defer once.Done()
			_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		})
		defer func() {
			if !stop() {
				once.Wait()
			}
			_ = unix.Close(wake)
		}()
		fds = append(fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	}
	for {
		n, err := unix.Poll(fds, ms)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("poll: %w", err)
		}
		if n == 0 || fds[0].Revents != 0 {
			return n != 0, nil
		}
		return false, ctx.Err()
	}
}

// AwaitEnd blocks until that very process has ended, reaped or not.
func (id Identity) AwaitEnd(ctx context.Context) error {
	fd, err := id.OpenPidfd()
	if Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return Poll(ctx, fd, unix.POLLIN)
}
