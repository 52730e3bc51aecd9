package cell

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
	"ss/agent/sockets"
)

// Heal undoes what a CRIU that was killed leaves behind: sockets in repair mode, which send and
// receive nothing. Tasks that it traced are let go by the kernel; tasks that are stopped stay so,
// since CRIU stops none and a program may have wanted it. It may be called on a frozen member, and
// on a healthy one.
func (g *Manager) Heal(ctx context.Context, m agent.Member) error {
	err := g.eachTCP(ctx, m, func(h sockets.Holder, fd int) error {
		on, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR)
		if err != nil || on == 0 {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 0); err != nil {
			return fmt.Errorf("take descriptor %d of %s out of repair mode: %w", h.Fd, proc.Whose(h.Pid), err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("heal %s/%s: %w", m.Job, m.Name, err)
	}
	return nil
}

// eachTCP calls f with a duplicate of each TCP socket that m holds, listeners left out.
func (g *Manager) eachTCP(ctx context.Context, m agent.Member, f func(sockets.Holder, int) error) error {
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
	held, err := sockets.Held(all)
	if err != nil {
		return err
	}
	var errs []error
	err = sockets.Borrow(ctx, held, func(h sockets.Holder, fd int) {
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
