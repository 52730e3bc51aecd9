package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"

	"ss/integration/lab"
)

// silence drops every packet to and from a host until the returned function is called. Unlike a cable that is cut it leaves nothing
// behind: packets that wait for an answer to ARP would go out when the cable is mended, to a connection that has been
// restored meanwhile.
func silence(h *lab.Host) (end func() error, err error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
	if err != nil {
		return nil, err
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())), nftables.AsLasting())
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	drop := nftables.ChainPolicyDrop
	table := conn.AddTable(&nftables.Table{Name: "ssbench", Family: nftables.TableFamilyINet})
	for name, hook := range map[string]*nftables.ChainHook{"in": nftables.ChainHookInput, "out": nftables.ChainHookOutput} {
		conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &drop,
		})
	}
	if err := conn.Flush(); err != nil {
		return nil, errors.Join(fmt.Errorf("silence %s: %w", h.Name, err), conn.CloseLasting(), ns.Close())
	}
	return func() error {
		conn.DelTable(table)
		return errors.Join(conn.Flush(), conn.CloseLasting(), ns.Close())
	}, nil
}

// silence is the function of that name for a job.
func (j *job) silence(h *lab.Host) (end func()) {
	undo, err := silence(h)
	if err != nil {
		j.Fatalf("%v", err)
	}
	return func() {
		if err := undo(); err != nil {
			j.Fatalf("end the silence of %s: %v", h.Name, err)
		}
	}
}
