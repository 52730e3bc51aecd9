package orchestrator

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"ss/fault"
	"ss/store"
)

// addrChoice is what becomes of one address of one part: to is the same address where it stays.
type addrChoice struct {
	source, target string
	from, to       netip.Addr
	used           bool // a channel of that part has it
	asked          bool // with --remap-addr
}

// planAddrs plans what becomes of the addresses of all parts. Images name an address and not a host, so one address has one fate
// in the whole job.
func (r *restore) planAddrs(asked map[netip.Addr]netip.Addr) error {
	var choices []addrChoice
	known := map[netip.Addr]bool{}
	for _, p := range r.plan.Parts {
		i := slices.IndexFunc(r.plan.Cut.Hosts, func(ch store.CutHost) bool { return ch.Host == p.From })
		addrs, err := parseAddrs(r.plan.Cut.Hosts[i].Addrs)
		if err != nil {
			return err
		}
		for _, from := range addrs {
			known[from] = true
			choice, err := r.chooseAddr(p, addrs, from, asked)
			if err != nil {
				return err
			}
			if choice.to.IsValid() {
				choices = append(choices, choice)
			}
		}
	}
	for from := range asked {
		if !known[from] {
			return fault.New(fault.NotFound, fmt.Sprintf("no host of the cut had the address %s", from), "ssctl show "+r.plan.Cut.ID+" lists the addresses")
		}
	}
	r.settleAddrs(choices)
	return nil
}

// chooseAddr says what becomes of an address. It is never moved by guess onto another network: it stays where the target has it, and
// else goes to the target's address on the same network, or from the address under which the source was reached to the one under which the
// target is. The choice's to is invalid where none of that leads to one address; that is a fault if a channel uses the address.
func (r *restore) chooseAddr(p PlannedPart, all []netip.Addr, from netip.Addr, asked map[netip.Addr]netip.Addr) (addrChoice, error) {
	target := r.hosts[p.To]
	c := addrChoice{source: p.From, target: p.To, from: from, used: r.uses(p.From, from)}
	if to, ok := asked[from]; ok {
		if !slices.Contains(target.Info.Addrs, to) {
			return c, fault.New(fault.Usage, fmt.Sprintf("%s does not have the address %s, which %s is to become", p.To, to, from), "it has "+joinAddrs(target.Info.Addrs))
		}
		if to.Is4() != from.Is4() {
			return c, fault.New(fault.Usage, fmt.Sprintf("%s cannot become %s: one is IPv4 and one IPv6", from, to), "")
		}
		c.to, c.asked = to, true
		return c, nil
	}
	if slices.Contains(target.Info.Addrs, from) {
		c.to = from
		return c, nil
	}
	reached := addrOf(target.Addr)
	same := sameNetwork(from, target.Info.Networks)
	switch {
	case len(same) == 1:
		c.to = same[0]
	case slices.Contains(same, reached):
		c.to = reached
	case len(same) == 0 && r.reachedUnder(p.From, all, from) && reached.Is4() == from.Is4() && slices.Contains(target.Info.Addrs, reached):
		c.to = reached
	case c.used:
		why := fmt.Sprintf("%s, which is on none of its networks (%s)", from, joinNetworks(target.Info.Networks))
		if len(same) > 1 {
			why = fmt.Sprintf("%s, which may become any of %s, which are on one network", from, joinAddrs(same))
		}
		r.plan.Problems = append(r.plan.Problems, Problem{p.To, fmt.Sprintf("connections of %s use the address %s; give --remap-addr %s=ADDRESS", p.From, why, from)})
	}
	return c, nil
}

// settleAddrs writes the moves down. Two parts that need different fates of one address cannot both be had.
func (r *restore) settleAddrs(choices []addrChoice) {
	// Those that count come first: what was asked for, then what a channel uses.
	slices.SortStableFunc(choices, func(a, b addrChoice) int { return b.weight() - a.weight() })
	settled := map[netip.Addr]addrChoice{}
	for _, c := range choices {
		before, ok := settled[c.from]
		if !ok {
			settled[c.from] = c
			if c.to != c.from {
				r.plan.Moved[c.from] = c.to
			}
			continue
		}
		if before.to != c.to && before.used && c.used {
			r.plan.Problems = append(r.plan.Problems, Problem{c.target, fmt.Sprintf("connections of %s and of %s use the same address %s, which would become %s on %s and %s on %s: restore both parts to hosts where it becomes the same",
				before.source, c.source, c.from, before.to, before.target, c.to, c.target)})
		}
	}
}

// aliases are where the addresses are after the restore that the job's programs may know: those that it moves, and those that earlier restores
// have moved, wherever they are now. What an address meant to the job already it goes on to mean. An address that several hosts of the cut had, as
// that of a bridge within each, belongs to none of them.
func aliases(cut store.Cut, moved map[netip.Addr]netip.Addr) store.Aliases {
	out, owned := store.Aliases{}, owners(cut)
	for from, to := range moved {
		if owned[from.String()] == 1 {
			out[from.String()] = to.String()
		}
	}
	for _, h := range cut.Hosts {
		for _, m := range h.Members {
			for from, to := range m.Aliases {
				if a, err := netip.ParseAddr(to); err == nil && moved[a].IsValid() {
					to = moved[a].String()
				}
				out[from] = to
			}
		}
	}
	maps.DeleteFunc(out, func(from, to string) bool { return from == to })
	return out
}

// nameAddrs are under which addresses the job's programs know those that are in use after the restore: those of their home. So a program that is
// told where its peer is can connect there, as often as hosts exchange their parts. Where two addresses become one, that of a part that
// stays keeps its name.
func nameAddrs(cut store.Cut, moved map[netip.Addr]netip.Addr) store.Aliases {
	known := store.Aliases{} // from the addresses of the cut to their names
	for addr := range owners(cut) {
		known[addr] = addr
	}
	for _, h := range cut.Hosts {
		for _, m := range h.Members {
			for addr, name := range m.Names {
				if known[addr] != "" {
					known[addr] = name
				}
			}
		}
	}
	out, stays := store.Aliases{}, map[string]bool{}
	for _, addr := range slices.Sorted(maps.Keys(known)) {
		now := addr
		if a, err := netip.ParseAddr(addr); err == nil && moved[a].IsValid() {
			now = moved[a].String()
		}
		if _, taken := out[now]; !taken || now == addr || known[addr] == now && !stays[now] {
			out[now], stays[now] = known[addr], now == addr
		}
	}
	maps.DeleteFunc(out, func(addr, name string) bool { return addr == name })
	return out
}

// owners counts the hosts of a cut that have an address.
func owners(cut store.Cut) map[string]int {
	out := map[string]int{}
	for _, h := range cut.Hosts {
		for _, a := range h.Addrs {
			out[a]++
		}
	}
	return out
}

func (c addrChoice) weight() int {
	switch {
	case c.asked:
		return 2
	case c.used:
		return 1
	}
	return 0
}

// reachedUnder says whether an address is the one under which a source host was reached: the one that it is registered with, or, of a host that
// is registered no more, its only one of the family.
func (r *restore) reachedUnder(source string, all []netip.Addr, a netip.Addr) bool {
	if h, ok := r.hosts[source]; ok && slices.Contains(all, addrOf(h.Addr)) {
		return addrOf(h.Addr) == a
	}
	return !slices.ContainsFunc(all, func(o netip.Addr) bool { return o != a && o.Is4() == a.Is4() })
}

// uses tells whether a channel of the cut has the address at its end on that host.
func (r *restore) uses(host string, a netip.Addr) bool {
	at := func(addr string) bool {
		ap, err := netip.ParseAddrPort(addr)
		return err == nil && ap.Addr().Unmap() == a
	}
	return slices.ContainsFunc(r.plan.Cut.Channels, func(ch store.CutChannel) bool {
		return ch.FromHost == host && at(ch.FromAddr) || ch.ToHost == host && at(ch.ToAddr)
	})
}

// sameNetwork are the addresses of a host whose network has a in it.
func sameNetwork(a netip.Addr, networks []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, n := range networks {
		if n.Contains(a) && !slices.Contains(out, n.Addr()) {
			out = append(out, n.Addr())
		}
	}
	return out
}

// addrOf is the address of an endpoint, the zero value if it names a host in another way.
func addrOf(endpoint string) netip.Addr {
	ap, err := netip.ParseAddrPort(endpoint)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func parseAddrs(in []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range in {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("address %q in the catalogue: %w", s, err)
		}
		out = append(out, a)
	}
	return out, nil
}

func joinAddrs(in []netip.Addr) string {
	var s []string
	for _, a := range in {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}

func joinNetworks(in []netip.Prefix) string {
	var s []string
	for _, p := range in {
		s = append(s, p.String())
	}
	return strings.Join(s, ", ")
}
