package gate

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

const (
	// elementsPerMessage keeps a list of set elements below the 64 KiB of a netlink attribute.
	elementsPerMessage = 1000
	// maxCgroupLevel bounds how deep below the agent's cgroup root a member's cgroup may lie.
	maxCgroupLevel = 16
	// register0 is NFT_REG32_00, the first of sixteen registers of four bytes.
	register0 = 8
)

// part is what one Close added to the ruleset for one gate.
type part struct {
	id      int
	gate    *gate
	comment string
	want    wanted

	entries []entry
	chains  []*nftables.Chain
	sets    []*nftables.Set
}

// name is that of p's chains and sets, less what tells them apart.
func (p *part) name() string { return fmt.Sprintf("g%d", p.id) }

// entry is a chain that a base chain jumps to.
type entry struct{ base, chain *nftables.Chain }

// flow says which of a packet's two addresses is the peer's.
type flow int

const (
	fromPeer flow = iota
	toPeer
)

// addPart adds sets, chains and rules of p to the transaction.
func (t *table) addPart(p *part) error {
	p.entries, p.chains, p.sets = nil, nil, nil
	if len(p.want.syns) > 0 {
		t.addSYNs(p)
		return nil
	}
	out := t.addPartChain(p, p.name()+"-out")
	p.entries = append(p.entries, entry{t.out, out})
	flows := map[flow]*nftables.Chain{toPeer: out}
	if p.want.self {
		// What a host sends itself passes output and then input. It is held on output, whichever way it goes.
		flows[fromPeer] = out
	} else {
		in := t.addPartChain(p, p.name()+"-in")
		p.entries = append(p.entries, entry{t.in, in})
		flows[fromPeer] = in
	}
	if len(p.want.cgroups) > 0 {
		if err := t.addCgroupChain(p); err != nil {
			return err
		}
	}
	for _, s := range p.want.sets {
		if len(s.keys) == 0 {
			continue
		}
		set, err := t.addSet(p, s.kind.name, s.kind.keyType(), s.keys)
		if err != nil {
			return err
		}
		if s.kind.remoteOnly {
			t.addRule(out, "", lookup(s.kind, toPeer, set, expr.VerdictJump, p.cgroupChain())...)
			continue
		}
		for _, f := range []flow{fromPeer, toPeer} {
			t.addRule(flows[f], "", lookup(s.kind, f, set, expr.VerdictGoto, p.gate.action)...)
		}
	}
	return nil
}

// addSYNs sends SYNs that come for the listeners to the action. Those of connections from this host come in as well.
func (t *table) addSYNs(p *part) {
	in := t.addPartChain(p, p.name()+"-syn")
	p.entries = append(p.entries, entry{t.in, in})
	const tcpFlags, syn, ack = 13, 0x02, 0x10 // RFC 9293, 3.1
	t.addRule(in, "",
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{syn}},
		&expr.Verdict{Kind: expr.VerdictReturn})
	for _, l := range p.want.syns {
		exprs := comparePort(l.Port(), true)
		if !l.Addr().IsUnspecified() {
			exprs = append(compareAddr(l.Addr(), true), exprs...)
		}
		t.addRule(in, "", append(exprs, &expr.Verdict{Kind: expr.VerdictGoto, Chain: p.gate.action})...)
	}
}

// cgroupChain is the name of the chain for packets to the peer's addresses.
func (p *part) cgroupChain() string { return p.name() + "-cgroup" }

// addCgroupChain sends to the action what sockets of the cgroups have sent. A rule can ask for a
// socket's cgroup at one level only, and an id does not say its level: there is a rule for each.
func (t *table) addCgroupChain(p *part) error {
	chain := t.addPartChain(p, p.cgroupChain())
	var ids [][]byte
	for _, id := range p.want.cgroups {
		ids = append(ids, binaryutil.NativeEndian.PutUint64(id))
	}
	set, err := t.addSet(p, "cgroups", nftables.TypeCGroupV2, ids)
	if err != nil {
		return err
	}
	for level := uint32(1); level <= maxCgroupLevel; level++ {
		t.addRule(chain, "",
			&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: level, Register: register0},
			&expr.Lookup{SourceRegister: register0, SetName: set.Name, SetID: set.ID},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: p.gate.action})
	}
	return nil
}

func (t *table) addPartChain(p *part, name string) *nftables.Chain {
	c := t.nft.AddChain(&nftables.Chain{Table: t.t, Name: name})
	p.chains = append(p.chains, c)
	return c
}

func (t *table) addSet(p *part, name string, keyType nftables.SetDatatype, keys [][]byte) (*nftables.Set, error) {
	set := &nftables.Set{
		Table: t.t, Name: p.name() + "-" + name, KeyType: keyType,
		KeyByteOrder: binaryutil.BigEndian, Size: uint32(len(keys)),
	}
	p.sets = append(p.sets, set)
	if err := t.nft.AddSet(set, nil); err != nil {
		return nil, fmt.Errorf("set %s: %w", set.Name, err)
	}
	for len(keys) > 0 {
		n := min(elementsPerMessage, len(keys))
		elements := make([]nftables.SetElement, n)
		for i, k := range keys[:n] {
			elements[i].Key = k
		}
		if err := t.nft.SetAddElements(set, elements); err != nil {
			return nil, fmt.Errorf("set %s: %w", set.Name, err)
		}
		keys = keys[n:]
	}
	return set, nil
}

// remove takes parts out again, and the actions they lead to. No other rule refers to them any more.
func (t *table) remove(parts []*part, actions []string) {
	for _, p := range parts {
		for _, c := range p.chains {
			t.nft.FlushChain(c)
		}
	}
	for _, p := range parts {
		for _, c := range p.chains {
			t.nft.DelChain(c)
		}
		for _, s := range p.sets {
			t.nft.DelSet(s)
		}
	}
	for _, name := range actions {
		t.nft.DelChain(t.chain(name))
	}
}

// setAction makes exprs the one rule of the chain called name, which comes to be if it is not there.
func (t *table) setAction(name string, exprs []expr.Any) {
	c := t.nft.AddChain(t.chain(name))
	t.nft.FlushChain(c)
	t.addRule(c, "", exprs...)
}

func (t *table) chain(name string) *nftables.Chain { return &nftables.Chain{Table: t.t, Name: name} }

func (t *table) addRule(c *nftables.Chain, comment string, exprs ...expr.Any) {
	r := &nftables.Rule{Table: t.t, Chain: c, Exprs: exprs}
	if comment != "" {
		const longest = 127 // of nft
		r.UserData = userdata.AppendString(nil, userdata.TypeComment, comment[:min(longest, len(comment))])
	}
	t.nft.AddRule(r)
}

// kind is one kind of set: which fields of a packet make its key.
type kind struct {
	name       string
	v6         bool
	remotePort bool
	local      bool // the address
	localPort  bool
	remoteOnly bool // the set is of addresses, for the sockets of cgroups
}

func (k kind) keyType() nftables.SetDatatype {
	addr := nftables.TypeIPAddr
	if k.v6 {
		addr = nftables.TypeIP6Addr
	}
	types := []nftables.SetDatatype{addr}
	if k.remotePort {
		types = append(types, nftables.TypeInetService)
	}
	if k.local {
		types = append(types, addr)
	}
	if k.localPort {
		types = append(types, nftables.TypeInetService)
	}
	return nftables.MustConcatSetType(types...)
}

// key makes an element of k's set. Each field fills up to a multiple of four bytes, as registers do.
func (k kind) key(remote, local netip.AddrPort) []byte {
	b := remote.Addr().AsSlice()
	if k.remotePort {
		b = append(b, byte(remote.Port()>>8), byte(remote.Port()), 0, 0)
	}
	if k.local {
		b = append(b, local.Addr().AsSlice()...)
	}
	if k.localPort {
		b = append(b, byte(local.Port()>>8), byte(local.Port()), 0, 0)
	}
	return b
}

// lookup sends packets whose key is in set to chain.
func lookup(k kind, f flow, set *nftables.Set, verdict expr.VerdictKind, chain string) []expr.Any {
	// Offsets in the headers, RFC 791 3.1, RFC 8200 3, RFC 9293 3.1.
	family, size, src, dst := byte(unix.NFPROTO_IPV4), uint32(4), uint32(12), uint32(16)
	if k.v6 {
		family, size, src, dst = unix.NFPROTO_IPV6, 16, 8, 24
	}
	remote, local, remotePort, localPort := src, dst, uint32(0), uint32(2)
	if f == toPeer {
		remote, local, remotePort, localPort = dst, src, 2, 0
	}
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
	}
	register := uint32(register0)
	load := func(base expr.PayloadBase, offset, size uint32) {
		exprs = append(exprs, &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: size})
		register += (size + 3) / 4
	}
	load(expr.PayloadBaseNetworkHeader, remote, size)
	if k.remotePort {
		load(expr.PayloadBaseTransportHeader, remotePort, 2)
	}
	if k.local {
		load(expr.PayloadBaseNetworkHeader, local, size)
	}
	if k.localPort {
		load(expr.PayloadBaseTransportHeader, localPort, 2)
	}
	return append(exprs,
		&expr.Lookup{SourceRegister: register0, SetName: set.Name, SetID: set.ID},
		&expr.Verdict{Kind: verdict, Chain: chain})
}
