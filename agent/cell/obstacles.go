package cell

import (
	"context"
	"errors"
	"fmt"

	"ss/agent"
	"ss/agent/obstacles"
)

// Obstacles lists what CRIU could not dump of m, as obstacles.Find does. A member that is not here has none.
func (g *Manager) Obstacles(ctx context.Context, m agent.Member) ([]string, error) {
	gr, err := g.existing(m)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found, err := obstacles.Find(ctx, obstacles.Member{
		Procs:    gr.procs,
		Frozen:   gr.frozen,
		IsMember: g.cg.member,
		Others: func() ([]int, error) {
			all, _, err := g.allProcs(m.Job)
			return all, err
		},
	})
	if err != nil {
		return nil, fmt.Errorf("look for what CRIU could not dump of %s/%s: %w", m.Job, m.Name, err)
	}
	return found, nil
}
