package cell

import (
	"context"
	"fmt"

	"ss/agent"
	"ss/agent/alias"
)

// Redirect has the connections that m opens from now on go where m's Aliases say, and has m told the addresses that its Names say. It is called when CRIU has made the sockets of a restored member,
// whose addresses are new ones already, and before any program of it runs.
func (g *Manager) Redirect(ctx context.Context, m agent.Member) error {
	unlock, err := g.lock(ctx, m)
	if err != nil {
		return err
	}
	defer unlock()
	return redirect(g.cg.group(m.Job, m.Name), m)
}

func redirect(gr group, m agent.Member) error {
	if len(m.Aliases) == 0 && len(m.Names) == 0 {
		return nil
	}
	if gr.v2 == "" {
		return fmt.Errorf("%w: no cgroup v2 hierarchy is mounted on this host", agent.ErrNoRedirect)
	}
	if err := alias.Set(gr.v2, m.Aliases, m.Names); err != nil {
		return fmt.Errorf("%w: %w", agent.ErrNoRedirect, err)
	}
	return nil
}
