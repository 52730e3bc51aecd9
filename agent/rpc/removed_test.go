package rpc

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ss/agent/custody"
	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/store/blob"
)

// TestARemovedHostIsNobody: a host that was removed is refused from the next call on, over a connection that it has as over a new one, and is not dialled; the
// certificate that it gets when it is added again counts, and the old one does not. Only an admin can say so, and an older list changes nothing.
func TestARemovedHostIsNobody(t *testing.T) {
	h := serveAgent(t)
	ctx := t.Context()
	admin := issue(t, h.authority, identity.RoleAdmin, "admin")
	bundle, err := h.authority.Issue(identity.RoleAgent, "hostC")
	if err != nil {
		t.Fatal(err)
	}
	lost, err := bundle.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.authority.Issue(identity.RoleAgent, "hostC")
	if err != nil {
		t.Fatal(err)
	}
	serial, err := again.Serial()
	if err != nil {
		t.Fatal(err)
	}
	list := func(version uint64, hosts map[string]string) []byte {
		s, err := admin.SignRemoved(identity.Removed{Version: version, Hosts: hosts})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	to := custody.Peer{Host: "hostA", Endpoint: h.addr}
	reach := func(c *identity.Credentials) error {
		p := NewPeers(c)
		defer p.Close()
		return p.Reach(ctx, to)
	}
	open := NewPeers(lost)
	defer open.Close()
	read := func() error {
		_, err := open.Objects(to).Stat(ctx, objectName([]byte("x")))
		return err
	}
	if err := read(); !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("before it is removed: %v", err)
	}

	// What an agent signs, or what belongs to another cluster, does not count.
	forged := bytes.Replace(list(9, map[string]string{"hostB": ""}), []byte("hostB"), []byte("hostA"), 1)
	h.agent.TakeRemoved(forged)
	if h.agent.Removed() != nil {
		t.Fatal("a forged list is taken")
	}
	info := ssv1.NewAgentClient(h.as(t, identity.RoleAdmin, "admin"))
	if _, err := info.Info(ctx, &ssv1.InfoRequest{RemovedHosts: list(3, map[string]string{"hostC": ""})}); err != nil {
		t.Fatal(err)
	}
	if err := read(); status.Code(errors.Unwrap(err)) != codes.Unauthenticated && !strings.Contains(err.Error(), "removed from the cluster") {
		t.Errorf("over the connection that it had: %v", err)
	}
	if err := reach(lost); err == nil {
		t.Error("over a new one it is let in")
	}
	if err := reach(issue(t, h.authority, identity.RoleAgent, "hostB")); err != nil {
		t.Errorf("another host: %v", err)
	}

	// Peers pass the list on, in both directions, and then dial the removed one no more.
	ignorant := issue(t, h.authority, identity.RoleAgent, "hostD")
	p := NewPeers(ignorant)
	defer p.Close()
	p.Take = func(s []byte) {
		if _, err := ignorant.TakeRemoved(s); err != nil {
			t.Error(err)
		}
	}
	if err := p.Reach(ctx, to); err != nil || !bytes.Equal(ignorant.Removed(), h.agent.Removed()) {
		t.Errorf("hostD has not heard of it: %v", err)
	}

	// Added again.
	h.agent.TakeRemoved(list(4, map[string]string{"hostC": serial}))
	h.agent.TakeRemoved(list(2, map[string]string{})) // an older list
	fresh, err := again.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	if err := reach(fresh); err != nil {
		t.Errorf("with its new certificate: %v", err)
	}
	if err := reach(lost); err == nil {
		t.Error("with its old certificate it is let in")
	}
}

// TestQuotaOfUnknownJobs: a host takes little under jobs of which it has no word, and what no set refers to goes at once; of a job that it has heard of it
// takes all.
func TestQuotaOfUnknownJobs(t *testing.T) {
	h := serveAgent(t)
	ctx := t.Context()
	o := h.objects(t, "hostB")
	put := func(fill byte, size int) error {
		data := bytes.Repeat([]byte{fill}, size)
		return o.Put(ctx, objectName(data), bytes.NewReader(data), int64(size))
	}
	if err := put(1, 50<<20); !errors.Is(err, blob.ErrDenied) {
		t.Errorf("50 MiB: %v", err)
	}
	if err := put(2, 10<<20); err != nil {
		t.Errorf("10 MiB: %v", err)
	}
	if err := put(3, 10<<20); !errors.Is(err, blob.ErrDenied) {
		t.Errorf("10 MiB more: %v", err)
	}
	if g, err := h.held.Collect(context.Background(), "", "", false); err != nil || g.Objects != 1 || g.Bytes != 10<<20 {
		t.Errorf("collected %+v, %v", g, err)
	}
	if _, err := ssv1.NewAgentClient(h.as(t, identity.RoleAdmin, "admin")).Info(ctx, &ssv1.InfoRequest{
		Mark: &ssv1.CatalogueMark{Generation: 1, Nonce: "a"}, Jobs: []string{"another", "job"}}); err != nil {
		t.Fatal(err)
	}
	if err := put(4, 20<<20); err != nil {
		t.Errorf("20 MiB of a job that it has heard of: %v", err)
	}
	if g, err := h.held.Collect(context.Background(), "", "", false); err != nil || g.Objects != 0 {
		t.Errorf("what a peer is about to use is collected: %+v, %v", g, err)
	}
}
