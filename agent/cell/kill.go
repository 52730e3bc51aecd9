package cell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"ss/agent"
	"ss/agent/proc"
	"ss/agent/sockets"
	"ss/store/sealed"
)

// Kill ends the whole tree, frozen or not, waits until it is gone, and removes cell, cgroup and
// state. What its sockets leave in the kernel (FIN-WAIT and so on) is destroyed. Killing what is
// not there is no error.
//
// The kernel says goodbye for each connection (FIN or RST) as the sockets close: with a closed gate
// these packets are held like any other, and must not be let go toward restored peers.
func (g *Manager) Kill(ctx context.Context, m agent.Member) error {
	unlock, err := g.lock(ctx, m)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = g.record(m)
	if errors.Is(err, ErrUnknown) {
		return nil // a cgroup of that name, if there is one, is somebody else's
	}
	if err == nil || errors.Is(err, sealed.ErrDamaged) || errors.Is(err, sealed.ErrUnknownVersion) { // its folder is there, so it is ours
		err = g.discard(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("kill %s/%s: %w", m.Job, m.Name, err)
	}
	return nil
}

// Forget removes the last traces of an ended member. ErrRunning if it has not ended; forgetting
// what is not there is no error.
func (g *Manager) Forget(ctx context.Context, m agent.Member) error {
	unlock, err := g.lock(ctx, m)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := g.record(m)
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	if err != nil {
		return err // also where it is damaged: Kill ends and forgets it
	}
	now, err := g.inspect(r)
	if err != nil {
		return err
	}
	if now.State != agent.Exited {
		return fmt.Errorf("forget %s/%s: %w", m.Job, m.Name, ErrRunning)
	}
	return g.discard(ctx, m)
}

// discard ends and removes all there is of m, which has a record. The caller holds its lock.
func (g *Manager) discard(ctx context.Context, m agent.Member) error {
	gr := g.cg.group(m.Job, m.Name)
	live, err := gr.live()
	if err != nil {
		return err
	}
	// Of sockets that can't be listed nothing is destroyed; that is not a reason to let the tree live.
	conns, _ := sockets.Connections(live, gr.id())
	var init proc.Identity
	err = readState(g.dir(m.Job, m.Name), initFile, &init)
	if errors.Is(err, sealed.ErrDamaged) {
		init, err = initOf(live)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	known := err == nil
	if err := gr.kill(ctx); err != nil {
		return err
	}
	if known {
		if err := g.endInit(ctx, init); err != nil {
			return err
		}
	}
	if err := sockets.Destroy(conns); err != nil {
		return err
	}
	if err := gr.remove(); err != nil {
		return err
	}
	return g.removeDir(m.Job, m.Name)
}

// initOf finds the PID 1 of the cell that these processes live in, where init.json does not say it any more: the parent of the tree's root, if it is the
// first process of a PID namespace of its own. fs.ErrNotExist if there is none: a cell without processes ends by itself.
func initOf(live []int) (proc.Identity, error) {
	for _, pid := range proc.Tops(live) {
		s, err := proc.ReadStat(pid)
		if err != nil {
			continue
		}
		if p, err := proc.NSPids(s.Parent); err == nil && len(p) > 1 && p[len(p)-1] == 1 {
			return proc.Identify(s.Parent)
		}
	}
	return proc.Identity{}, fs.ErrNotExist
}
