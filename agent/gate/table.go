package gate

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// ownerFlag is NFT_TABLE_F_OWNER: the table goes when the netlink socket that made it is closed.
	ownerFlag = 0x2
	// criuMark is SOCCR_MARK, on the packets that CRIU makes itself while it restores a socket.
	criuMark = 0xC114
	// tableBuffer is for the batch of a transaction and for its acknowledgements, one for each message.
	tableBuffer = 64 << 20
	// afterNAT is a priority of the input hook at which addresses are the socket's (NF_IP_PRI_NAT_SRC is 100).
	afterNAT = 200
)

// table is the nft table of one Manager and the netlink socket that owns it. The caller serialises.
type table struct {
	nft     *nftables.Conn
	nl      *netlink.Conn // nft's own socket
	t       *nftables.Table
	in, out *nftables.Chain
}

// openTable makes the table, in place of one that an earlier agent left.
func openTable(netNS int, name string) (*table, error) {
	t := &table{t: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
	if err := removeLeftover(netNS, t.t); err != nil {
		return nil, err
	}
	nft, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(netNS), nftables.WithSockOptions(t.prepareSocket))
	if err != nil {
		return nil, fmt.Errorf("netlink socket for nftables: %w", err)
	}
	t.nft = nft
	if err := t.create(); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// removeLeftover deletes a table of our name that no living process owns: kernels before 5.12 keep a dead agent's.
func removeLeftover(netNS int, t *nftables.Table) error {
	nft, err := nftables.New(nftables.WithNetNSFd(netNS))
	if err != nil {
		return fmt.Errorf("netlink socket for nftables: %w", err)
	}
	tables, err := nft.ListTablesOfFamily(t.Family)
	if err != nil {
		return fmt.Errorf("list nft tables (does the kernel have CONFIG_NF_TABLES_INET?): %w", err)
	}
	for _, old := range tables {
		if old.Name != t.Name {
			continue
		}
		nft.DelTable(t)
		err := nft.Flush()
		switch {
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("nft table inet %s belongs to another process: stop the other agent, or use another suffix: %w", t.Name, err)
		case err != nil && !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("remove the leftover nft table inet %s: %w", t.Name, err)
		}
	}
	return nil
}

func (t *table) prepareSocket(nl *netlink.Conn) error {
	t.nl = nl
	if err := nl.SetReadBuffer(tableBuffer); err != nil {
		return fmt.Errorf("receive buffer: %w", err)
	}
	if err := nl.SetWriteBuffer(tableBuffer); err != nil {
		return fmt.Errorf("send buffer: %w", err)
	}
	if err := nl.SetOption(netlink.CapAcknowledge, true); err != nil {
		return fmt.Errorf("netlink options: %w", err)
	}
	// nftables asks for an echo of every rule. The kernel packs echoes as it likes, which makes it
	// impossible to tell from their number which answers are still to come. So only acknowledgements get through.
	errorType := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, uint16(netlink.Error)))
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 2}, // nlmsg_type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(errorType), SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return fmt.Errorf("assemble the socket filter: %w", err)
	}
	return nl.SetBPF(filter)
}

// create makes the table and its base chains.
func (t *table) create() error {
	err := t.createOwned(ownerFlag)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		err = t.createOwned(0) // before Linux 5.12
	}
	if err != nil {
		return fmt.Errorf("make the nft table inet %s: %w", t.t.Name, err)
	}
	accept := nftables.ChainPolicyAccept
	base := nftables.Chain{Table: t.t, Type: nftables.ChainTypeFilter, Policy: &accept}
	in, out := base, base
	in.Name, in.Hooknum, in.Priority = "input", nftables.ChainHookInput, nftables.ChainPriorityRef(afterNAT)
	out.Name, out.Hooknum, out.Priority = "output", nftables.ChainHookOutput, nftables.ChainPriorityRaw
	t.in, t.out = t.nft.AddChain(&in), t.nft.AddChain(&out)
	if err := t.flush(); err != nil {
		return fmt.Errorf("make the base chains of the nft table inet %s: %w", t.t.Name, err)
	}
	return nil
}

// createOwned makes the table by hand: nftables v0.3 sends no table flags.
func (t *table) createOwned(flags uint32) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(t.t.Name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: be32(flags)},
	})
	if err != nil {
		return err
	}
	header := func(family byte, res uint16) []byte {
		return []byte{family, unix.NFNETLINK_V0, byte(res >> 8), byte(res)}
	}
	edge := func(typ netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: typ, Flags: netlink.Request},
			Data:   header(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	_, err = t.nl.SendMessages([]netlink.Message{
		edge(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append(header(unix.NFPROTO_INET, 0), attrs...),
		},
		edge(unix.NFNL_MSG_BATCH_END),
	})
	if err != nil {
		return err
	}
	_, err = t.nl.Receive()
	return err
}

// flush sends what has been asked of t.nft as one transaction.
func (t *table) flush() error {
	err := t.nft.Flush()
	if err != nil {
		err = errors.Join(err, t.resync())
	}
	return err
}

// resync reads the answers that a failed Flush left unread, which the next one would take for its own:
// all that come before the answer to a request made here.
func (t *table) resync() error {
	req, err := t.nl.Send(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN,
			Flags: netlink.Request | netlink.Acknowledge,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	for err == nil {
		var msgs []netlink.Message
		var answer *netlink.OpError
		msgs, err = t.nl.Receive()
		if errors.As(err, &answer) && (answer.Sequence != 0 || errors.Is(err, unix.ENOBUFS)) {
			if answer.Sequence == req.Header.Sequence {
				return nil
			}
			err = nil
		}
		for _, m := range msgs {
			if m.Header.Sequence == req.Header.Sequence {
				return nil
			}
		}
	}
	return fmt.Errorf("read leftover netlink answers: %w", err)
}

// try reports whether the kernel can carry exprs out, in a rule that no packet meets and that is gone
// again before the transaction ends.
func (t *table) try(exprs ...expr.Any) error {
	c := t.nft.AddChain(&nftables.Chain{Table: t.t, Name: "probe"})
	t.nft.AddRule(&nftables.Rule{Table: t.t, Chain: c, Exprs: exprs})
	t.nft.DelChain(c)
	return t.flush()
}

// change is what one transaction does to the ruleset.
type change struct {
	parts   []*part               // all that are there afterwards
	added   []*part               // those of them that are new
	removed []*part               // those that go
	actions map[string][]expr.Any // new actions, by name
	gone    []string              // names of actions that go
}

// apply carries c out, whole or not at all. The base chains send packets through c.parts then, and through nothing else.
func (t *table) apply(c change) error {
	for name, exprs := range c.actions {
		t.setAction(name, exprs)
	}
	for _, p := range c.added {
		if err := t.addPart(p); err != nil {
			return errors.Join(err, t.abort())
		}
	}
	for _, base := range []*nftables.Chain{t.in, t.out} {
		t.nft.FlushChain(base)
		if len(c.parts) > 0 {
			t.addRule(base, "", forTCP()...)
			t.addRule(base, "", forMark(criuMark)...)
		}
	}
	for _, p := range c.parts {
		for _, e := range p.entries {
			t.addRule(e.base, p.comment, &expr.Verdict{Kind: expr.VerdictJump, Chain: e.chain.Name})
		}
	}
	t.remove(c.removed, c.gone)
	return t.flush()
}

// abort throws away what has been asked of t.nft and not been flushed: with it goes a request that
// cannot be met, so that the kernel refuses all of it.
func (t *table) abort() error {
	t.nft.DelTable(&nftables.Table{Name: t.t.Name + "-none", Family: t.t.Family})
	if err := t.flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// close lets the kernel remove the table.
func (t *table) close() error {
	t.nft.DelTable(t.t) // where it has no owner
	err := t.nft.Flush()
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, t.nft.CloseLasting())
}

// forTCP ends a base chain for all that is not TCP.
func forTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// forMark ends a base chain for packets with the mark.
func forMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}
