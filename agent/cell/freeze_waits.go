package cell

import (
	"context"
	"fmt"
	"path/filepath"

	"ss/agent"
	"ss/agent/cell/waits"
)

// waitsFile, in a member's folder, says what its threads waited in when it was last frozen. The agent writes it, and the watcher if the agent dies.
const waitsFile = "waits.json"

func (g *Manager) waits(m agent.Member) waits.Store {
	return waits.Store{Path: filepath.Join(g.dir(m.Job, m.Name), waitsFile)}
}

// observe notes since when threads wait, before the freeze. keep is false if the member was frozen before, and its waits kept.
func (g *Manager) observe(m agent.Member, gr group) (seen waits.Observation, keep bool) {
	if gr.v1 != "" {
		return seen, false // a v1 freezer lets nobody trace what it holds: threads are left as they are
	}
	if frozen, err := gr.frozen(); err == nil && frozen && g.waits(m).Kept() {
		return seen, false
	}
	all, err := gr.procs()
	if err != nil {
		return seen, true // the freeze says what is wrong
	}
	return waits.Observe(all), true
}

// keepWaits sees to it that CRIU interrupts no wait of the frozen member.
func (g *Manager) keepWaits(ctx context.Context, m agent.Member, gr group, seen waits.Observation) error {
	all, err := gr.procs()
	if err != nil {
		return err
	}
	if err := waits.Keep(g.waits(m), all, seen); err != nil {
		return err
	}
	// Each thread that was traced has left the freezer's hands for an instant.
	return gr.freeze(ctx)
}

// giveBackWaits undoes keepWaits, while the member is still frozen.
func (g *Manager) giveBackWaits(m agent.Member, gr group) error {
	frozen, err := gr.frozen()
	if err != nil || !frozen || gr.v1 != "" {
		return err
	}
	all, err := gr.procs()
	if err != nil {
		return err
	}
	if err := waits.GiveBack(g.waits(m), all); err != nil {
		return fmt.Errorf("put threads back into the system calls that they waited in: %w", err)
	}
	return nil
}

// Waits lists the system calls that m's threads stood in when it was frozen last, those that a signal would interrupt.
func (g *Manager) Waits(_ context.Context, m agent.Member) ([]agent.Wait, error) {
	if err := checkNames(m); err != nil {
		return nil, err
	}
	var out []agent.Wait
	for _, c := range g.waits(m).Load().Calls {
		if !c.Interruptible() {
			continue
		}
		if inner, ok := c.Inner(); ok {
			out = append(out, agent.Wait{Thread: inner, Call: c.Nr, Again: c.IP - waits.CallLen, Return: c.IP, Restarts: c.Restarts()})
		}
	}
	return out, nil
}
