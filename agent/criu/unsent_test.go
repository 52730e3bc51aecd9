package criu

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"ss/agent"
	"ss/agent/criu/image"
)

// TestUnsend dumps a connection with bytes in transit and makes them unsent: the ends are the same, the queues are, and the cut's own images do not change.
func TestUnsend(t *testing.T) {
	r, n := newRunner(t), newNamespace(t)
	p, q := n.pair("127.0.0.1", "127.0.0.2")
	send(t, p, 10)
	block(t, q)
	send(t, p, 900)
	fp, fq := handOver(t, p), handOver(t, q)
	eventually(t, "the bytes to be in flight", func() bool {
		ep, _ := kernelEnd(t, fp)
		eq, _ := kernelEnd(t, fq)
		return ep.WriteSeq-eq.RcvNxt == 900
	})
	local, remote := addrs(t, fp)
	c := startIn(t, n, false, []*os.File{fp, fq}, "hold", "1")
	src := dumpCell(t, r, c)
	dst := filepath.Join(t.TempDir(), "rewritten")
	if err := r.Rewrite(src, dst, nil, nil); err != nil {
		t.Fatal(err)
	}
	conn := agent.Conn{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
	other := agent.Conn{Local: conn.Local, Remote: conn.Local}
	if err := r.Unsend(dst, []agent.Transit{{Conn: conn, Bytes: 900}, {Conn: other, Bytes: 77}}); err != nil {
		t.Fatal(err)
	}
	unsent := func(dir string) map[string]uint32 {
		ends, err := r.Ends(dir)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]uint32{}
		for _, e := range ends {
			out[e.Local] = e.Unsent
			out[fmt.Sprint(e.Local, " unacknowledged")] = e.WriteSeq - e.SndUna
		}
		return out
	}
	before, after := unsent(src), unsent(dst)
	if before[local] != 0 || after[local] != 900 || after[remote] != before[remote] || after[local+" unacknowledged"] != 900 {
		t.Errorf("unsent before %v, after %v", before, after)
	}
	for _, e := range []string{src, dst} {
		sockets, err := image.InetSockets(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, sk := range sockets {
			if _, err := image.ReadStream(e, sk.GetIno()); err != nil {
				t.Errorf("%s: %v", e, err)
			}
		}
	}
	if err := r.Unsend(dst, []agent.Transit{{Conn: conn, Bytes: 901}}); err == nil {
		t.Error("more bytes are unsent than there are")
	}
}
