package lab

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// oneWayTable is the packet filter that DropFrom makes.
const oneWayTable = "sslab_oneway"

// DropFrom drops what another host sends to this one from or to the port of the agents; what this host sends goes out as before.
// With refuse, the sender is told by a RST. It replaces what an earlier call has dropped. It may be called from any goroutine.
func (h *Host) DropFrom(from *Host, refuse bool) error {
	return h.filter(func(conn *nftables.Conn) {
		table := conn.AddTable(&nftables.Table{Name: oneWayTable, Family: nftables.TableFamilyIPv4})
		chain := conn.AddChain(&nftables.Chain{
			Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRaw,
		})
		verdict := expr.Any(&expr.Verdict{Kind: expr.VerdictDrop})
		if refuse {
			verdict = &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}
		}
		saddr := from.Addr().As4()
		port := binary.BigEndian.AppendUint16(nil, agentPort)
		for _, offset := range []uint32{0, 2} { // source and destination port
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: saddr[:]},
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: port},
				verdict,
			}})
		}
	})
}

// DropPort drops what arrives for a TCP port of this host, so that whoever connects to it waits for an answer. It replaces what an earlier
// call has dropped.
func (h *Host) DropPort(port uint16) error {
	return h.filter(func(conn *nftables.Conn) {
		table := conn.AddTable(&nftables.Table{Name: oneWayTable, Family: nftables.TableFamilyIPv4})
		chain := conn.AddChain(&nftables.Chain{
			Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRaw,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	})
}

// DropNothing undoes DropFrom, DropPort and DropInvalid.
func (h *Host) DropNothing() error { return h.filter(func(*nftables.Conn) {}) }

// filter replaces the filter by what add adds.
func (h *Host) filter(add func(*nftables.Conn)) error {
	ns, err := netns.GetFromPid(h.Pid())
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == oneWayTable {
			conn.DelTable(t)
		}
	}
	add(conn)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change the packet filter of %s: %w", h.Name, err)
	}
	return nil
}

// DropInvalid drops what belongs to no connection that the host's connection tracking knows, as firewalls do. It replaces what an earlier call has dropped.
func (h *Host) DropInvalid() error {
	return h.filter(func(conn *nftables.Conn) {
		table := conn.AddTable(&nftables.Table{Name: oneWayTable, Family: nftables.TableFamilyIPv4})
		for name, hook := range map[string]*nftables.ChainHook{"in": nftables.ChainHookInput, "out": nftables.ChainHookOutput} {
			chain := conn.AddChain(&nftables.Chain{
				Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter,
			})
			invalid := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitINVALID)
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: invalid, Xor: make([]byte, 4)},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
				&expr.Verdict{Kind: expr.VerdictDrop},
			}})
		}
	})
}
