package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ss/fault"
	"ss/store"
)

// RemoveHost forgets a host on which no member lives: on its own word, or where it does not answer, on the catalogue's. One that alone
// holds a part of a cut stays: nobody could restore it any more.
func (c *Cluster) RemoveHost(ctx context.Context, name string) error {
	h, err := c.Catalogue.Host(ctx, name)
	if err != nil {
		return err
	}
	if err := c.deserted(ctx, h); err != nil {
		return err
	}
	cuts, err := c.Catalogue.Cuts(ctx, "")
	if err != nil {
		return err
	}
	if only := onlyOn(name, cuts); len(only) > 0 {
		return fault.New(fault.Conflict, fmt.Sprintf("host %s alone holds images of %s", name, strings.Join(only, ", ")),
			"add hosts and run ssctl repair, or remove the cuts; if the host is gone for good, ssctl host rm "+name+" --lost")
	}
	return c.Catalogue.RemoveHost(ctx, name)
}

// deserted returns nil if no member lives on a host.
func (c *Cluster) deserted(ctx context.Context, h store.Host) error {
	members, err := c.MembersOf(ctx, h, "")
	if err != nil {
		return c.desertedAsKnown(ctx, h.Name, err)
	}
	var living []string
	for _, m := range members {
		if m.State == StateRunning {
			living = append(living, m.Job+"/"+m.Name)
		}
	}
	if len(living) > 0 {
		return fault.New(fault.Conflict, fmt.Sprintf("members still run on host %s: %s", h.Name, strings.Join(living, ", ")), "kill their jobs, or restore them elsewhere, first")
	}
	return nil
}

// desertedAsKnown is deserted for a host that does not answer.
func (c *Cluster) desertedAsKnown(ctx context.Context, host string, silence error) error {
	jobs, err := c.Catalogue.Jobs(ctx)
	if err != nil {
		return err
	}
	var placed []string
	for _, j := range jobs {
		for _, p := range j.Placement[host] {
			placed = append(placed, j.Name+"/"+p.Name)
		}
	}
	if len(placed) > 0 {
		return &fault.Error{Kind: fault.Conflict, Err: fmt.Errorf("host %s has %s, as far as is known, and does not answer: %w", host, strings.Join(placed, ", "), silence),
			Next: "ask again when it does; if it is gone for good, ssctl host rm " + host + " --lost"}
	}
	return nil
}

// onlyOn lists the cuts of which a host is the only holder of a part.
func onlyOn(host string, cuts []store.Cut) []string {
	var out []string
	for _, cut := range cuts {
		if slices.ContainsFunc(cut.Hosts, func(h store.CutHost) bool {
			return len(h.Vaults) == 0 && len(h.Copies) > 0 && !slices.ContainsFunc(h.Copies, func(n string) bool { return n != host })
		}) {
			out = append(out, cut.ID)
		}
	}
	return out
}

// LoseHost forgets a host that is gone for good, with its members and its copies. It returns the cuts that it held images of.
func (c *Cluster) LoseHost(ctx context.Context, name string) ([]string, error) {
	return c.Catalogue.LoseHost(ctx, name)
}
