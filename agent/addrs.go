package agent

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// interfacePrefixes are all addresses of this host with the lengths of their networks' prefixes, loopback and link-local ones too.
func interfacePrefixes() ([]netip.Prefix, error) {
	ifs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list this host's addresses: %w", err)
	}
	var out []netip.Prefix
	for _, ia := range ifs {
		p, err := netip.ParsePrefix(ia.String())
		if err != nil {
			continue
		}
		bits := p.Bits()
		if p.Addr().Is4In6() {
			bits -= 96
		}
		out = append(out, netip.PrefixFrom(p.Addr().Unmap().WithZone(""), bits))
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(out), nil
}

// localNetworks are the addresses under which other hosts may reach this one, with the lengths of their networks' prefixes.
func localNetworks() ([]netip.Prefix, error) {
	all, err := interfacePrefixes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p netip.Prefix) bool { return p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() }), nil
}

func addrsOf(networks []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, p := range networks {
		out = append(out, p.Addr())
	}
	return slices.Compact(out)
}
