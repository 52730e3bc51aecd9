package cell

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// Heal undoes what a CRIU that was killed leaves behind: sockets in repair mode, which send and
// receive nothing. Tasks that it traced are let go by the kernel; tasks that are stopped stay so,
// since CRIU stops none and a program may have wanted it. It may be called on a frozen member, and
// on a healthy one.
func (g *Manager) Heal(ctx context.Context, m agent.Member) error {
	err := g.eachTCP(ctx, m, func(h holder, fd int) error {
		on, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR)
		if err != nil || on == 0 {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 0); err != nil {
			return fmt.Errorf("take descriptor %d of %s out of repair mode: %w", h.fd, proc.Whose(h.pid), err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("heal %s/%s: %w", m.Job, m.Name, err)
	}
	return nil
}

// eachTCP calls f with a duplicate of each TCP socket that m holds, listeners left out.
func (g *Manager) eachTCP(ctx context.Context, m agent.Member, f func(holder, int) error) error {
	gr, err := g.existing(m)
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := gr.procs()
	if err != nil {
		return err
	}
	held, err := socketInodes(all)
	if err != nil {
		return err
	}
	var errs []error
	err = borrow(ctx, held, func(h holder, fd int) {
		protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err != nil || protocol != unix.IPPROTO_TCP {
			return
		}
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listens == 0 {
			errs = append(errs, f(h, fd))
		}
	})
	return errors.Join(append(errs, err)...)
}

// borrow calls f with a duplicate of each socket (pidfd_getfd(2)) and closes it again. Sockets whose
// process has ended or closed them meanwhile are left out.
func borrow(ctx context.Context, held map[uint64]holder, f func(holder, int)) error {
	pidfds := map[int]int{}
	defer func() {
		for _, fd := range pidfds {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
	}()
	for _, h := range held {
		if err := ctx.Err(); err != nil {
			return err
		}
		pidfd, ok := pidfds[h.pid]
		if !ok {
			var err error
			if pidfd, err = unix.PidfdOpen(h.pid, 0); err != nil {
				if !proc.Gone(err) {
					return fmt.Errorf("open a pidfd of process %d: %w", h.pid, err)
				}
				pidfd = -1
			}
			pidfds[h.pid] = pidfd
		}
		if pidfd < 0 {
			continue
		}
		fd, err := unix.PidfdGetfd(pidfd, h.fd, 0)
		if err != nil {
			if proc.Gone(err) || errors.Is(err, unix.EBADF) {
				continue
			}
			return fmt.Errorf("duplicate descriptor %d of process %d: %w", h.fd, h.pid, err)
		}
		f(h, fd)
		_ = unix.Close(fd)
	}
	return nil
}
