package gate

import (
	"net/netip"

	"ss/agent"
)

// The sets of a gate, each once for either family.
var (
	kindConns  = kind{name: "conns", remotePort: true, local: true, localPort: true}
	kindListen = kind{name: "listen", local: true, localPort: true}
	kindPorts  = kind{name: "ports", localPort: true} // listening on every address
	kindAddrs  = kind{name: "addrs", remoteOnly: true}
)

// wanted is a gate's description as keys of sets.
type wanted struct {
	self    bool
	sets    []wantedSet
	cgroups []uint64
	syns    []netip.AddrPort // listeners whose new connections are held; nothing else is wanted then
}

type wantedSet struct {
	kind kind
	keys [][]byte
	seen map[string]bool
}

// want translates g. host is this host's name.
func want(g agent.Gate, host string) wanted {
	if g.SYNs {
		var w wanted
		for _, l := range g.Listen {
			w.syns = append(w.syns, unmap(l))
		}
		return w
	}
	w := wanted{self: host != "" && g.Peer == host}
	for _, k := range []kind{kindConns, kindListen, kindPorts, kindAddrs} {
		k6 := k
		k.name, k6.name, k6.v6 = k.name+"4", k.name+"6", true
		w.sets = append(w.sets, wantedSet{kind: k, seen: map[string]bool{}}, wantedSet{kind: k6, seen: map[string]bool{}})
	}
	for _, c := range g.Conns {
		w.add(kindConns, unmap(c.Remote), unmap(c.Local))
	}
	addrs := peerAddrs(g, w.self)
	for _, l := range g.Listen {
		for _, a := range addrs {
			w.addListener(a, unmap(l))
		}
	}
	for _, id := range g.Cgroups {
		if id != 0 { // 0: the host has no v2 hierarchy
			w.cgroups = append(w.cgroups, id)
		}
	}
	if len(w.cgroups) > 0 {
		for _, a := range addrs {
			w.add(kindAddrs, netip.AddrPortFrom(a, 0), netip.AddrPort{})
		}
	}
	return w
}

// peerAddrs are the addresses that packets of the gate come from or go to. A host reaches itself by loopback, too.
func peerAddrs(g agent.Gate, self bool) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range g.Addrs {
		if a.IsValid() {
			addrs = append(addrs, a.Unmap().WithZone(""))
		}
	}
	if self {
		addrs = append(addrs, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	}
	return addrs
}

// addListener adds a listening port for packets of the peer's address. A listener on [::] serves both families,
// unless it says otherwise, which cannot be seen here.
func (w *wanted) addListener(peer netip.Addr, l netip.AddrPort) {
	from := netip.AddrPortFrom(peer, 0)
	switch a := l.Addr(); {
	case a.IsUnspecified() && (a.Is6() || peer.Is4()):
		w.add(kindPorts, from, l)
	case !a.IsUnspecified() && a.Is4() == peer.Is4():
		w.add(kindListen, from, l)
	}
}

// add puts a key into the set of the kind, of remote's family.
func (w *wanted) add(k kind, remote, local netip.AddrPort) {
	if !remote.Addr().IsValid() || k.local && remote.Addr().Is4() != local.Addr().Is4() {
		return
	}
	name := k.name + "4"
	if remote.Addr().Is6() {
		name = k.name + "6"
	}
	for i := range w.sets {
		s := &w.sets[i]
		if s.kind.name != name {
			continue
		}
		key := s.kind.key(remote, local)
		if !s.seen[string(key)] {
			s.seen[string(key)] = true
			s.keys = append(s.keys, key)
		}
	}
}

// empty says whether no packet is wanted.
func (w wanted) empty() bool {
	if len(w.syns) > 0 {
		return false
	}
	for _, s := range w.sets {
		if len(s.keys) > 0 {
			return false
		}
	}
	return true
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
