package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"ss/agent/proc"
)

// target is this host and all that is to come to it. R1 plans it as a whole: every member that comes is compared with what lives
// here and stays, and with every other that comes. The same plan, with the members of a fresh dump as those that come, says
// whether a cut can be put back in place.
type target struct {
	a        *Agent
	networks []netip.Prefix
	moved    map[netip.Addr]netip.Addr
	lives    HostObjects
	coming   []arrival
	found    []string
}

// arrival is one member on its way to a target.
type arrival struct {
	source string // the host that it was dumped on
	member Member
	meta   MemberMeta
}

// planTarget lists everything that would keep the members from being restored on this host. It touches nothing.
func (a *Agent) planTarget(ctx context.Context, job string, moved map[netip.Addr]netip.Addr, coming []arrival) ([]string, error) {
	t := target{a: a, moved: moved, coming: coming}
	var err error
	if t.networks, err = interfacePrefixes(); err != nil {
		return nil, err
	}
	if t.lives, err = a.cfg.Cells.Objects(ctx, job); err != nil {
		return nil, err
	}
	t.names()
	t.pids()
	t.paths()
	t.files()
	if err := t.sockets(ctx); err != nil {
		return nil, err
	}
	t.unixNames()
	t.terminals()
	return t.found, nil
}

// add notes what stands in a member's way, once.
func (t *target) add(c arrival, format string, args ...any) {
	text := c.member.Name + ": " + fmt.Sprintf(format, args...)
	if !slices.Contains(t.found, text) {
		t.found = append(t.found, text)
	}
}

// names looks for two members of one name: a host keeps each below its name.
func (t *target) names() {
	seen := map[string]string{}
	for _, c := range t.coming {
		if other, ok := seen[c.member.Name]; ok {
			t.add(c, "members of this name come from %s and from %s: restore them to different hosts", other, c.source)
		}
		seen[c.member.Name] = c.source
	}
}

// pids looks for process numbers that this host's kernel does not give.
func (t *target) pids() {
	limit, err := strconv.Atoi(proc.Sysctl("kernel/pid_max"))
	if err != nil {
		return // a kernel that does not say numbers as many as it likes
	}
	for _, c := range t.coming {
		if n := len(c.meta.Needs.Pids); n > 0 {
			if top := slices.Max(c.meta.Needs.Pids); top >= limit {
				t.add(c, "it has a process numbered %d, and this host numbers them below %d: set sysctl kernel.pid_max=%d", top, limit, top+1)
			}
		}
	}
}

// terminals looks for numbers of pseudoterminals that are in use here, or that two members want.
func (t *target) terminals() {
	taken := map[int]string{}
	for _, p := range t.lives.Terminals {
		if !p.Ours {
			taken[p.Number] = "is open here"
		}
	}
	for _, c := range t.coming {
		for _, n := range c.meta.Needs.Objects.Terminals {
			if by, ok := taken[n]; ok {
				t.add(c, "the terminal /dev/pts/%d %s: end what uses it, or restore to another host", n, by)
			}
		}
		for _, n := range c.meta.Needs.Objects.Terminals {
			taken[n] = fmt.Sprintf("is %s's of %s", c.member.Name, c.source)
		}
	}
}
