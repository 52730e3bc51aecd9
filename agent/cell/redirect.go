package cell

import (
	"context"
	"errors"

	"ss/agent"
	"ss/agent/alias"
)

// Redirect has the connections that m opens from now on go where m's Aliases say, and has m told the addresses that its Names say. It is called when CRIU has made the sockets of a restored member,
// whose addresses are new ones already, and before any program of it runs.
func (g *Manager) Redirect(ctx context.Context, m agent.Member) error {
	if len(m.Aliases) == 0 && len(m.Names) == 0 {
		return nil
	}
	unlock, err := g.lock(ctx, m)
	if err != nil {
		return err
	}
	defer unlock()
	gr := g.cg.group(m.Job, m.Name)
	if gr.v2 == "" {
		return errors.New("redirect old addresses: no cgroup v2 hierarchy is mounted on this host")
	}
	return alias.Set(gr.v2, m.Aliases, m.Names)
}
