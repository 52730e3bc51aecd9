package remote

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/marker"
	"ss/orchestrator"
	"ss/orchestrator/clustertest"
	"ss/restoration"
)

// crowd is a cluster of many hosts whose messages are the real ones: the orchestrator plans and drives a snapshot through this package, and each host
// steps a participant whose actions succeed at once. A host shares a connection with the next one. All bytes are counted, those among hosts too.
type crowd struct {
	ssv1.UnimplementedAgentServer
	t       *testing.T
	cluster *clustertest.Cluster

	mu       sync.Mutex
	n        int
	hosts    []*crowdHost
	bytes    int
	opens    int // bytes of what opens attempts, with lists of participants
	listings int // lists of participants that were sent
}

type crowdHost struct {
	p    marker.Participant
	t    restoration.Target
	list marker.Digest
	out  func(*ssv1.SnapshotResponse)
}

func crowdName(i int) string { return fmt.Sprintf("host%05d", i) }

func crowdIndex(name string) int {
	var i int
	if _, err := fmt.Sscanf(name, "host%05d", &i); err != nil {
		panic(err)
	}
	return i
}

func crowdAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

// crowdAgent is a host of clustertest that takes part in snapshots.
type crowdAgent struct {
	*clustertest.Host
	line *agent
	addr netip.Addr
}

func (h crowdAgent) Info(ctx context.Context, word orchestrator.Word) (orchestrator.HostInfo, error) {
	info, err := h.Host.Info(ctx, word)
	info.Addrs = []netip.Addr{h.addr, h.addr.Next()}
	return info, err
}

func (h crowdAgent) Snapshot(ctx context.Context, open orchestrator.Open) (orchestrator.SnapshotLine, error) {
	return h.line.Snapshot(ctx, open)
}

func (h crowdAgent) Restore(ctx context.Context, plan orchestrator.HostPlan) (orchestrator.RestoreLine, error) {
	return h.line.Restore(ctx, plan)
}

func (h crowdAgent) Check(ctx context.Context, q orchestrator.CheckQuestion) (orchestrator.CheckAnswer, error) {
	return h.line.Check(ctx, q)
}

func (crowdAgent) PutCut(context.Context, string, string, string, []byte) error { return nil }

func newCrowd(t *testing.T, n int) *crowd {
	w := &crowd{t: t, n: n}
	var names []string
	for i := range n {
		names = append(names, crowdName(i))
		w.hosts = append(w.hosts, &crowdHost{p: marker.NewParticipant(marker.HostID(crowdName(i)), "ring", 0)})
	}
	w.cluster = clustertest.New(t, clustertest.ClusterA, names...)
	client := w.serve()
	all := &lists{}
	w.cluster.Dial = func(h orchestrator.Host) (orchestrator.Agent, error) {
		return crowdAgent{w.cluster.Agents[h.Name], &agent{host: h.Name, client: client, lists: all}, crowdAddr(crowdIndex(h.Name))}, nil
	}
	for _, name := range names {
		if err := w.cluster.Catalogue.AddMember(t.Context(), "ring", name, name+"-1"); err != nil {
			t.Fatal(err)
		}
		w.cluster.Agents[name].Living = []orchestrator.Member{{Host: name, Job: "ring", Name: name + "-1", State: orchestrator.StateRunning}}
	}
	return w
}

// serve is a server for all hosts. Each is known by its member's name.
func (w *crowd) serve() ssv1.AgentClient {
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	ssv1.RegisterAgentServer(s, w)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	w.t.Cleanup(func() { s.Stop(); <-served })
	conn, err := grpc.NewClient("passthrough:///crowd", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return ssv1.NewAgentClient(conn)
}

// counted counts what is received from the coordinator.
type counted struct {
	ssv1.Agent_SnapshotServer
	w *crowd
}

func (c counted) Recv() (*ssv1.SnapshotRequest, error) {
	r, err := c.Agent_SnapshotServer.Recv()
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.bytes += proto.Size(r)
	if r.GetMessage() == nil {
		c.w.opens += proto.Size(r)
	}
	if r.GetParticipants() != nil {
		c.w.listings++
	}
	return r, err
}

// Snapshot is a host's side.
func (w *crowd) Snapshot(s ssv1.Agent_SnapshotServer) error {
	opened, err := wire.ReceiveOpen(counted{s, w}, func(o *ssv1.SnapshotOpen) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return string(w.hosts[memberHost(o)].list[:]) == string(o.GetParticipantsDigest())
	})
	if err != nil {
		return err
	}
	i := memberHost(opened.Open)
	out := make(chan *ssv1.SnapshotResponse, 64)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case r := <-out:
				if err := s.Send(r); err != nil {
					return
				}
			case <-done:
				return
			}
		}
	}()
	w.mu.Lock()
	copy(w.hosts[i].list[:], opened.Open.GetParticipantsDigest())
	w.hosts[i].out = func(r *ssv1.SnapshotResponse) { out <- r }
	for _, m := range opened.Early {
		w.step(i, marker.Received{Message: wire.FromMessage(m)})
	}
	w.mu.Unlock()
	for {
		req, err := (counted{s, w}).Recv()
		if err != nil {
			return nil //nolint:nilerr // the coordinator has hung up
		}
		w.mu.Lock()
		w.step(i, marker.Received{Message: wire.FromMessage(req.GetMessage())})
		w.mu.Unlock()
	}
}

func memberHost(o *ssv1.SnapshotOpen) int { return crowdIndex(o.GetMembers()[0]) }

// step steps one host, and all others to which that leads.
func (w *crowd) step(i int, ev marker.Event) {
	p, ready, err := w.hosts[i].p.Step(ev)
	if err != nil {
		w.t.Error(err)
		return
	}
	w.hosts[i].p = p
	for _, m := range ready.Messages {
		if m.To == marker.CoordinatorHost {
			r := &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Message{Message: wire.ToMessage(m)}}
			w.bytes += proto.Size(r)
			w.hosts[i].out(r)
			continue
		}
		r := &ssv1.DeliverRequest{Message: wire.ToMessage(m)}
		w.bytes += proto.Size(r)
		w.step(crowdIndex(string(m.To)), marker.Received{Message: wire.FromMessage(r.GetMessage())})
	}
	for _, a := range ready.Actions {
		if next := w.end(i, a); next != nil {
			w.step(i, next)
		}
	}
}

// end is how an action ends.
func (w *crowd) end(i int, a marker.Action) marker.Event {
	switch a.Type {
	case marker.ActPrepare:
		return marker.PrepareDone{Key: a.Key}
	case marker.ActHold:
		return marker.HoldDone{Key: a.Key}
	case marker.ActRecord:
		next, last := (i+1)%w.n, (i+w.n-1)%w.n
		return marker.RecordDone{Key: a.Key, Peers: map[marker.HostID][]string{
			marker.HostID(crowdName(next)): {w.channel(i, next)}, marker.HostID(crowdName(last)): {w.channel(last, i)}}}
	case marker.ActDump:
		return marker.DumpDone{Key: a.Key, Ends: w.ends(i)}
	case marker.ActStore:
		report := &ssv1.HostReport{ManifestDigest: fmt.Sprintf("%064d", i), Copies: []string{crowdName(i), crowdName((i + 7) % w.n)},
			Members: []*ssv1.MemberReport{{Member: &ssv1.Member{Job: "ring", Name: crowdName(i) + "-1"}}}}
		r := &ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Report{Report: report}}
		w.bytes += proto.Size(r)
		w.hosts[i].out(r)
		return marker.StoreDone{Key: a.Key}
	case marker.ActFinish:
		return marker.FinishDone{Key: a.Key}
	}
	return nil
}

func (w *crowd) port(i int, port uint16) string {
	return netip.AddrPortFrom(crowdAddr(i), port).String()
}

func (w *crowd) channel(from, to int) string { return w.port(from, 40000) + ">" + w.port(to, 80) }

// ends are those of the connections to the next host and from the last one.
func (w *crowd) ends(i int) []marker.End {
	end := func(local, remote string) marker.End {
		return marker.End{Host: marker.HostID(crowdName(i)), Member: crowdName(i) + "-1", Local: local, Remote: remote, SndUna: 1000, WriteSeq: 1000, RcvNxt: 1000}
	}
	next, last := (i+1)%w.n, (i+w.n-1)%w.n
	return []marker.End{end(w.port(i, 40000), w.port(next, 80)), end(w.port(i, 80), w.port(last, 40000))}
}

// countedTarget counts what a target receives. The statement of where members stand is whole on every host, and not counted.
type countedTarget struct {
	ssv1.Agent_RestoreServer
	w *crowd
}

func (c countedTarget) Recv() (*ssv1.RestoreRequest, error) {
	r, err := c.Agent_RestoreServer.Recv()
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	size := proto.Size(r) - len(r.GetPlan().GetStatement())
	c.w.bytes += size
	if r.GetMessage() == nil {
		c.w.opens += size
	}
	if r.GetParticipants() != nil {
		c.w.listings++
	}
	return r, err
}

// Restore is a target's side. Its actions succeed at once.
func (w *crowd) Restore(s ssv1.Agent_RestoreServer) error {
	in := countedTarget{s, w}
	plan, list, err := wire.ReceivePlan(in, func(p *ssv1.RestorePlan) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return string(w.hosts[crowdIndex(p.GetParts()[0].GetHost())].list[:]) == string(p.GetParticipantsDigest())
	})
	if err != nil {
		return err
	}
	i := crowdIndex(plan.GetParts()[0].GetHost())
	h := w.hosts[i]
	cfg := restoration.Config{ID: restoration.ID(plan.GetId()), Host: restoration.HostID(crowdName(i)), Retry: 500}
	for k := range w.n {
		cfg.Targets = append(cfg.Targets, restoration.HostID(crowdName(k)))
	}
	if list != nil && len(list) != w.n {
		w.t.Errorf("%d participants of %d", len(list), w.n)
	}
	copy(h.list[:], plan.GetParticipantsDigest())
	if h.t, err = restoration.NewTarget(cfg); err != nil {
		return err
	}
	if err := s.Send(&ssv1.RestoreResponse{}); err != nil {
		return err
	}
	for {
		req, err := in.Recv()
		if err != nil {
			return nil //nolint:nilerr // the coordinator has hung up
		}
		for events := []restoration.Event{restoration.Received{Message: wire.FromRestoreMessage(req.GetMessage())}}; len(events) > 0; events = events[1:] {
			var ready restoration.Ready
			if h.t, ready, err = h.t.Step(events[0]); err != nil {
				return err
			}
			for _, m := range ready.Messages {
				if err := s.Send(&ssv1.RestoreResponse{Message: wire.ToRestoreMessage(m)}); err != nil {
					return err
				}
			}
			for _, a := range ready.Actions {
				if next := targetEnd(a); next != nil {
					events = append(events, next)
				}
			}
		}
	}
}

func targetEnd(a restoration.ActionType) restoration.Event {
	return map[restoration.ActionType]restoration.Event{
		restoration.ActCheck: restoration.CheckDone{}, restoration.ActFetch: restoration.FetchDone{}, restoration.ActFence: restoration.FenceDone{},
		restoration.ActRestore: restoration.RestoreDone{}, restoration.ActResume: restoration.ResumeDone{}, restoration.ActStop: restoration.StopDone{},
	}[a]
}

// Check is a host's side. It finds nothing.
func (w *crowd) Check(_ context.Context, req *ssv1.CheckRequest) (*ssv1.CheckResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += proto.Size(req)
	w.opens += proto.Size(req)
	if req.GetParticipants() != nil {
		w.listings++
	}
	known := req.GetOpen() != nil && string(w.hosts[memberHost(req.GetOpen())].list[:]) == string(req.GetOpen().GetParticipantsDigest())
	if lacks, err := wire.QuestionLacks(req, known); err != nil || lacks {
		return &ssv1.CheckResponse{Lacks: lacks}, err
	}
	return &ssv1.CheckResponse{ClockUnixUs: time.Now().UnixMicro()}, nil
}

// measure returns what an operation has sent.
func (w *crowd) measure(do func() error) (bytes, opens, listings int) {
	w.t.Helper()
	w.mu.Lock()
	w.bytes, w.opens, w.listings = 0, 0, 0
	w.mu.Unlock()
	if err := do(); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes, w.opens, w.listings
}

// forget has every host lose the list, as agents do that are started again.
func (w *crowd) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.hosts {
		h.list = marker.Digest{}
	}
}

// snapshot takes a cut and returns what it took.
func (w *crowd) snapshot() (bytes, opens, listings int) {
	w.t.Helper()
	w.mu.Lock()
	w.bytes, w.opens, w.listings = 0, 0, 0
	w.mu.Unlock()
	cut, err := w.cluster.Snapshot(w.t.Context(), orchestrator.SnapshotOptions{Job: "ring"})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(cut.Hosts) != w.n || len(cut.Channels) != 2*w.n {
		w.t.Fatalf("%d hosts and %d channels are in the cut of %d hosts", len(cut.Hosts), len(cut.Channels), w.n)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes, w.opens, w.listings
}

// TestBytesOfSnapshotsGrowLinearly: where hosts know the list of participants, what a snapshot sends to each of them and among them does not grow with
// their number. All messages are measured as they are on the wire. A host gets the list once, and again when anything in it has changed.
func TestBytesOfSnapshotsGrowLinearly(t *testing.T) {
	var last, lastOpens int
	for _, n := range []int{20, 200} {
		w := newCrowd(t, n)
		first, _, listings := w.snapshot()
		if listings != n {
			t.Errorf("%d hosts that know nothing got %d lists of participants", n, listings)
		}
		bytes, opens, listings := w.snapshot()
		if listings != 0 {
			t.Errorf("%d lists of participants were sent to %d hosts that know it", listings, n)
		}
		t.Logf("%d hosts: %d bytes, %d of them to open the attempt; %d bytes while the list was new", n, bytes, opens, first)
		if last != 0 && (bytes > 11*last || opens > 11*lastOpens) {
			t.Errorf("ten times the hosts take %d bytes for %d, and %d for %d to open the attempt", bytes, last, opens, lastOpens)
		}
		last, lastOpens = bytes, opens
	}
}

// TestBytesOfRestoresGrowLinearly: so it is with restores and checks. The signed statement of where all members stand (F1), which a host may have to show to
// any other one, is not counted.
func TestBytesOfRestoresGrowLinearly(t *testing.T) {
	last := map[string]int{}
	for _, n := range []int{20, 200} {
		w := newCrowd(t, n)
		for _, op := range []struct {
			name string
			do   func() error
		}{
			{"check", func() error {
				_, err := w.cluster.Check(t.Context(), orchestrator.CheckOptions{Job: "ring"})
				return err
			}},
			{"restore --dry-run", func() error {
				_, err := w.cluster.Restore(t.Context(), orchestrator.RestoreOptions{Cut: "latest", Job: "ring", DryRun: true})
				return err
			}},
			{"restore", func() error { // last: its members are none of the snapshot's
				_, err := w.cluster.Restore(t.Context(), orchestrator.RestoreOptions{Cut: "latest", Job: "ring"})
				return err
			}},
		} {
			w.snapshot()
			bytes, opens, listings := w.measure(op.do)
			if listings != 0 {
				t.Errorf("%s: %d lists of participants were sent to %d hosts that know it from a snapshot", op.name, listings, n)
			}
			w.forget()
			first, _, listings := w.measure(op.do)
			if listings != n {
				t.Errorf("%s: %d hosts that know nothing got %d lists of participants", op.name, n, listings)
			}
			t.Logf("%s of %d hosts: %d bytes, %d of them to open it; %d bytes while the list was new", op.name, n, bytes, opens, first)
			if l := last[op.name]; l != 0 && opens > 11*l {
				t.Errorf("%s: ten times the hosts take %d bytes for %d to open it", op.name, opens, l)
			}
			last[op.name] = opens
		}
	}
}

// TestChangedListOfParticipants: a host that knows a list gets the new one when one address in it is another.
func TestChangedListOfParticipants(t *testing.T) {
	w := newCrowd(t, 3)
	w.snapshot()
	dial := w.cluster.Dial
	w.cluster.Dial = func(h orchestrator.Host) (orchestrator.Agent, error) {
		a, err := dial(h)
		c := a.(crowdAgent)
		if h.Name == crowdName(1) {
			c.addr = netip.MustParseAddr("10.9.9.9")
		}
		return c, err
	}
	if _, _, listings := w.snapshot(); listings != 3 {
		t.Errorf("after a change of an address %d of 3 hosts got the list", listings)
	}
	if _, _, listings := w.snapshot(); listings != 0 {
		t.Errorf("and %d of 3 hosts got it again", listings)
	}
}
