package gate

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"

	"ss/agent"
)

// A gate whose manager is killed opens by itself.
func TestKilledManagerOpens(t *testing.T) {
	a, b := newHosts(t, "")
	if err := b.manager.Shutdown(); err != nil {
		t.Fatal(err)
	}
	p := connect(t, a, b.listen(t, b.v4), b.v4)
	by := newBystander(t, a, b)
	there, back := startStream(t, p.a, p.b), startStream(t, p.b, p.a)
	there.wait(t, 1000)
	back.wait(t, 1000)
	conn := seenBy(p.b)
	c := startChild(t, b, 0, "manager", conn.Local.String(), conn.Remote.String())
	c.expect(t, "closed")
	stillness(t, by, "closed by the child", p)
	c.kill()
	there.wait(t, 100000)
	back.wait(t, 100000)
	there.finish(t)
	back.finish(t)
	for _, table := range b.tables(t) {
		if strings.HasPrefix(table.Name, tableName) {
			t.Errorf("table %s is left", table.Name)
		}
	}
}

func (h *host) tables(t *testing.T) []*nftables.Table {
	t.Helper()
	nft, err := nftables.New(nftables.WithNetNSFd(h.ns))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := nft.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

// Shutdown opens what is closed and leaves nothing.
func TestShutdownOpens(t *testing.T) {
	a, b := newHosts(t, "")
	p := connect(t, a, b.listen(t, b.v4), b.v4)
	there := startStream(t, p.a, p.b)
	there.wait(t, 1000)
	g := []agent.Gate{{Job: "job", Peer: "b", Conns: []agent.Conn{seenBy(p.a)}}}
	if err := a.manager.Close(ctx, g); err != nil {
		t.Fatal(err)
	}
	if err := a.manager.Shutdown(); err != nil {
		t.Fatal(err)
	}
	there.wait(t, 10000)
	there.finish(t)
	if tables := a.tables(t); len(tables) != 0 {
		t.Errorf("table %s is left", tables[0].Name)
	}
	if err := a.manager.Close(ctx, g); err == nil {
		t.Error("a manager that is shut down closes gates")
	}
	if err := a.manager.Open(ctx, "job", "b"); err != nil {
		t.Errorf("open after shutdown: %v", err)
	}
}

func TestNewRemovesLeftovers(t *testing.T) {
	h := &host{name: "a", ns: newNS(t)}
	nft, err := nftables.New(nftables.WithNetNSFd(h.ns))
	if err != nil {
		t.Fatal(err)
	}
	old := nft.AddTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	policy := nftables.ChainPolicyDrop
	nft.AddChain(&nftables.Chain{
		Table: old, Name: "input", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRaw, Policy: &policy,
	})
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	h.newManager(t, Options{})
	if tables := h.tables(t); len(tables) != 1 {
		t.Errorf("%d tables", len(tables))
	}
	_, err = New(Options{NetNS: h.ns})
	if err == nil || !strings.Contains(err.Error(), "belongs to another process") {
		t.Errorf("a second manager: %v", err)
	}
	h.newManager(t, Options{Suffix: "-second"})
}

// Queue numbers that someone else listens to are passed over; when there is none, Close fails and closes nothing.
func TestQueueNumbers(t *testing.T) {
	h := &host{name: "a", ns: newNS(t)}
	taken, err := openQueue(h.ns, 7000)
	if err != nil {
		t.Fatal(err)
	}
	k := h.newManager(t, Options{FirstQueue: 7000, LastQueue: 7002})
	gate := func(peer string) agent.Gate {
		return agent.Gate{Job: "job", Peer: peer, Conns: []agent.Conn{{
			Local: netip.MustParseAddrPort("10.77.0.1:1"), Remote: netip.MustParseAddrPort("10.77.0.2:2"),
		}}}
	}
	if err := k.Close(ctx, []agent.Gate{gate("b"), gate("c"), gate("d")}); err == nil {
		t.Error("three gates closed with two numbers")
	}
	if n := len(k.gates); n != 0 {
		t.Errorf("%d gates are closed after a failure", n)
	}
	if err := taken.close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(ctx, []agent.Gate{gate("b"), gate("c"), gate("d")}); err != nil {
		t.Error(err)
	}
	// What is closed already can be closed again, with more to hold.
	if err := k.Close(ctx, []agent.Gate{gate("b"), gate("b")}); err != nil {
		t.Error(err)
	}
	if err := k.OpenAll(ctx, "job"); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	h := &host{name: "a", ns: newNS(t)}
	for _, o := range []Options{{Mode: "hold"}, {FirstQueue: 9, LastQueue: 8}} {
		o.NetNS = h.ns
		if k, err := New(o); err == nil {
			t.Errorf("%+v: no error, but a manager: %v", o, k.Shutdown())
		}
	}
	// Whether or not this kernel has nft's queue statement: the best mode is the one that works.
	k, err := New(Options{NetNS: h.ns, Mode: ModeNative})
	best := h.newManager(t, Options{Suffix: "-best"}).Mode()
	if err == nil {
		if err := k.Shutdown(); err != nil {
			t.Error(err)
		}
	}
	if (err == nil) != (best == ModeNative) {
		t.Errorf("mode %s by itself, and forced %s: %v", best, ModeNative, err)
	}
	t.Logf("mode here: %s", best)
}
