package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// silence drops every packet of a host's TCP connections from or to a port until the returned function is called. Unlike a cable that
// is cut it leaves nothing behind: packets that wait for an answer to ARP would go out when the cable is mended, to
// a connection that has been restored meanwhile; and the agents' own connections live on.
func silence(h *lab.Host, port int) (end func() error, err error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
	if err != nil {
		return nil, err
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())), nftables.AsLasting())
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	table := conn.AddTable(&nftables.Table{Name: "ssbench", Family: nftables.TableFamilyINet})
	for name, hook := range map[string]*nftables.ChainHook{"in": nftables.ChainHookInput, "out": nftables.ChainHookOutput} {
		chain := conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter,
		})
		for _, offset := range []uint32{0, 2} { // of the source and the destination port (RFC 9293, 3.1)
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, uint16(port))},
				&expr.Verdict{Kind: expr.VerdictDrop},
			}})
		}
	}
	if err := conn.Flush(); err != nil {
		return nil, errors.Join(fmt.Errorf("silence %s: %w", h.Name, err), conn.CloseLasting(), ns.Close())
	}
	return func() error {
		conn.DelTable(table)
		return errors.Join(conn.Flush(), conn.CloseLasting(), ns.Close())
	}, nil
}

// silence drops the packets of the job's connection on a host.
func (j *job) silence(h *lab.Host) (end func()) {
	undo, err := silence(h, j.port)
	if err != nil {
		j.Fatalf("%v", err)
	}
	return func() {
		if err := undo(); err != nil {
			j.Fatalf("end the silence of %s: %v", h.Name, err)
		}
	}
}
