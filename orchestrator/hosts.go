package orchestrator

import (
	"fmt"
	"slices"
	"strings"

	"ss/fault"
	"ss/store"
)

// RemoveHost forgets a host that has no members. One that alone holds a part of a cut stays: nobody could restore it any more.
func (c *Cluster) RemoveHost(name string) error {
	if _, err := c.Catalogue.Host(name); err != nil {
		return err
	}
	cuts, err := c.Catalogue.Cuts("")
	if err != nil {
		return err
	}
	if only := onlyOn(name, cuts); len(only) > 0 {
		return fault.New(fault.Conflict, fmt.Sprintf("host %s alone holds images of %s", name, strings.Join(only, ", ")),
			"add hosts and run ssctl repair, or remove the cuts; if the host is gone for good, ssctl host rm "+name+" --lost")
	}
	return c.Catalogue.RemoveHost(name)
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
func (c *Cluster) LoseHost(name string) ([]string, error) { return c.Catalogue.LoseHost(name) }
