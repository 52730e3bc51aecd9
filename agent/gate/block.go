package gate

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ss/agent"
)

// blockTableName is the name of the table of blocks; Options.Suffix comes after it.
const blockTableName = "ssblock"

// blockPriority is that of both hooks. A packet's addresses are the wire's there: on output NAT has been done
// (NF_IP_PRI_NAT_DST is -100), on input that of the source has not (NF_IP_PRI_NAT_SRC is 100).
const blockPriority = 0

// Block makes blocks all that there are of them, in one transaction of the kernel: what they describe is dropped, both ways, from its
// return on. The table belongs to no process, so blocks outlive the Manager; without any block there is no table.
func (k *Manager) Block(ctx context.Context, blocks []agent.Block) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("block packets: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return errShutdown
	}
	nft, err := nftables.New(nftables.WithNetNSFd(k.opts.NetNS))
	if err != nil {
		return fmt.Errorf("netlink socket for nftables: %w", err)
	}
	t := &table{nft: nft, t: &nftables.Table{Name: blockTableName + k.opts.Suffix, Family: nftables.TableFamilyINet}}
	there, err := t.exists()
	if err != nil {
		return fmt.Errorf("list nft tables: %w", err)
	}
	if !there && len(blocks) == 0 {
		return nil
	}
	if there {
		nft.DelTable(t.t)
	}
	if len(blocks) > 0 {
		if err := k.layBlocks(t, blocks); err != nil {
			return fmt.Errorf("block packets: %w", err)
		}
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("block packets: nft table inet %s: %w", t.t.Name, err)
	}
	return waitForOldRules()
}

func (t *table) exists() (bool, error) {
	tables, err := t.nft.ListTablesOfFamily(t.t.Family)
	return slices.ContainsFunc(tables, func(o *nftables.Table) bool { return o.Name == t.t.Name }), err
}

// layBlocks adds the table with all that is in it to the transaction.
func (k *Manager) layBlocks(t *table, blocks []agent.Block) error {
	accept := nftables.ChainPolicyAccept
	base := nftables.Chain{Table: t.t, Type: nftables.ChainTypeFilter, Policy: &accept, Priority: nftables.ChainPriorityRef(blockPriority)}
	in, out := base, base
	in.Name, in.Hooknum = "input", nftables.ChainHookInput
	out.Name, out.Hooknum = "output", nftables.ChainHookOutput
	t.t = t.nft.AddTable(t.t)
	t.in, t.out = t.nft.AddChain(&in), t.nft.AddChain(&out)
	for i, b := range blocks {
		if len(b.Cgroups) > 0 && k.noCgroups != nil {
			return fmt.Errorf("the kernel cannot match sockets by cgroup (it takes Linux 5.13 with CONFIG_NFT_SOCKET): %w", k.noCgroups)
		}
		if err := t.addBlock(fmt.Sprintf("b%d", i+1), b); err != nil {
			return err
		}
	}
	return nil
}

// addBlock sends what a block may concern through chains of its own: one for each direction. A block of everyone sends all there.
func (t *table) addBlock(name string, b agent.Block) error {
	p := &part{want: wanted{cgroups: b.Cgroups}}
	for flow, base := range map[flow]*nftables.Chain{fromPeer: t.in, toPeer: t.out} {
		chain := t.nft.AddChain(t.chain(fmt.Sprintf("%s-%s", name, base.Name)))
		if b.Everyone {
			t.addRule(base, "job "+b.Job+", everyone", &expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name})
		}
		for _, family := range []struct {
			name string
			v6   bool
		}{{"from4", false}, {"from6", true}} {
			keys := addrKeys(b.From, family.v6)
			if len(keys) == 0 {
				continue
			}
			kd := kind{name: family.name, v6: family.v6}
			set, err := t.addSet(&part{}, name+"-"+base.Name+"-"+kd.name, kd.keyType(), keys)
			if err != nil {
				return err
			}
			t.addRule(base, "job "+b.Job, lookup(kd, flow, set, expr.VerdictJump, chain.Name)...)
		}
		if err := t.addBlocked(chain, flow, name+"-"+base.Name, b, p); err != nil {
			return err
		}
	}
	return nil
}

func addrKeys(addrs []netip.Addr, v6 bool) [][]byte {
	var keys [][]byte
	seen := map[netip.Addr]bool{}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if a.IsValid() && a.Is6() == v6 && !seen[a] {
			seen[a] = true
			keys = append(keys, a.AsSlice())
		}
	}
	return keys
}

// addBlocked drops in chain what belongs to the job: packets of its listening ports and connections, and of every socket of its cgroups.
func (t *table) addBlocked(chain *nftables.Chain, f flow, name string, b agent.Block, p *part) error {
	drop := &expr.Verdict{Kind: expr.VerdictDrop}
	for _, l := range b.Listen {
		t.addRule(chain, "", localPort(f, unmap(l))...)
	}
	for _, c := range b.Conns {
		t.addRule(chain, "", connection(f, unmap(c.Local), unmap(c.Remote))...)
	}
	if len(p.want.cgroups) == 0 {
		return nil
	}
	var ids [][]byte
	for _, id := range p.want.cgroups {
		ids = append(ids, binaryutil.NativeEndian.PutUint64(id))
	}
	set, err := t.addSet(&part{}, name+"-cgroups", nftables.TypeCGroupV2, ids)
	if err != nil {
		return err
	}
	for level := uint32(1); level <= maxCgroupLevel; level++ {
		t.addRule(chain, "",
			&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: level, Register: register0},
			&expr.Lookup{SourceRegister: register0, SetName: set.Name, SetID: set.ID},
			drop)
	}
	return nil
}

// localPort drops TCP packets from or to a listening address, which may be unspecified.
func localPort(f flow, l netip.AddrPort) []expr.Any {
	exprs := []expr.Any{}
	if !l.Addr().IsUnspecified() {
		exprs = append(exprs, compareAddr(l.Addr(), f == fromPeer)...)
	}
	exprs = append(exprs, comparePort(l.Port(), f == fromPeer)...)
	return append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})
}

// connection drops the packets of one direction of a connection.
func connection(f flow, local, remote netip.AddrPort) []expr.Any {
	exprs := slices.Concat(compareAddr(local.Addr(), f == fromPeer), compareAddr(remote.Addr(), f != fromPeer),
		comparePort(local.Port(), f == fromPeer), comparePort(remote.Port(), f != fromPeer))
	return append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})
}

// compareAddr goes on if the packet's destination, or else its source, is a.
func compareAddr(a netip.Addr, destination bool) []expr.Any {
	family, size, offset := byte(unix.NFPROTO_IPV4), uint32(4), uint32(12) // RFC 791, 3.1
	if a.Is6() {
		family, size, offset = unix.NFPROTO_IPV6, 16, 8 // RFC 8200, 3
	}
	if destination {
		offset += size
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()},
	}
}

// comparePort goes on if it is a TCP packet whose destination port, or else its source port, is port (RFC 9293, 3.1).
func comparePort(port uint16, destination bool) []expr.Any {
	offset := uint32(0)
	if destination {
		offset = 2
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(port >> 8), byte(port)}},
	}
}
