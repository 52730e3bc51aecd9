package remote

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/marker"
	"ss/orchestrator"
	"ss/restoration"
)

// maxMessage bounds an answer, in bytes: an inventory has the manifests of all cuts in it.
const maxMessage = 512 << 20

// Dialer keeps one connection per host.
type Dialer struct {
	creds *identity.Credentials

	mu    sync.Mutex
	conns map[orchestrator.Host]*grpc.ClientConn
	lists lists
}

// NewDialer makes a Dialer that shows creds and accepts nothing but the agent of the host that it dials.
func NewDialer(creds *identity.Credentials) *Dialer {
	return &Dialer{creds: creds, conns: map[orchestrator.Host]*grpc.ClientConn{}}
}

// Dial gives the agent of a host. Nothing is sent before the first call.
func (d *Dialer) Dial(h orchestrator.Host) (orchestrator.Agent, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	conn, ok := d.conns[h]
	if !ok {
		var err error
		conn, err = grpc.NewClient("passthrough:///"+h.Endpoint, append(wire.WithProtocol("this ssctl", h.Name),
			grpc.WithTransportCredentials(credentials.NewTLS(d.creds.Client(identity.RoleAgent, h.Name))),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Second, Timeout: 5 * time.Second}),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: wire.HandshakeTimeout}),
			wire.WithDialer(),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		)...)
		if err != nil {
			return nil, wire.Error(h.Name, err)
		}
		d.conns[h] = conn
	}
	return &agent{host: h.Name, client: ssv1.NewAgentClient(conn), lists: &d.lists}, nil
}

// Close ends every connection.
func (d *Dialer) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		_ = c.Close() // the process is about to end, and nothing is under way
	}
	clear(d.conns)
}

type agent struct {
	host   string
	client ssv1.AgentClient
	lists  *lists
}

// lists keeps the last list of participants in the form that it is sent in: all hosts are told its digest, and some the list.
type lists struct {
	mu   sync.Mutex
	last *list
}

type list struct {
	of     []orchestrator.Participant
	hosts  []*ssv1.Participant
	digest marker.Digest
}

// of returns the list, which is made once for a slice that all hosts get.
func (l *lists) of(participants []orchestrator.Participant) *list {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil || !sameSlice(l.last.of, participants) {
		hosts := toParticipants(participants)
		l.last = &list{participants, hosts, wire.ParticipantsDigest(hosts)}
	}
	return l.last
}

// sameSlice says whether both are the same elements in memory, and not only equal ones.
func sameSlice(a, b []orchestrator.Participant) bool {
	return len(a) == len(b) && unsafe.SliceData(a) == unsafe.SliceData(b)
}

// message is the list for a host that lacks it.
func (l *list) message() *ssv1.ParticipantList { return &ssv1.ParticipantList{Participants: l.hosts} }

func (a *agent) Info(ctx context.Context, word orchestrator.Word) (orchestrator.HostInfo, error) {
	r, err := a.client.Info(ctx, toInfoRequest(word))
	if err != nil {
		return orchestrator.HostInfo{}, wire.Error(a.host, err)
	}
	addrs, err := wire.FromAddrs(r.GetAddrs())
	if err != nil {
		return orchestrator.HostInfo{}, err
	}
	info := orchestrator.HostInfo{
		Host: r.GetHost(), Version: r.GetVersion(), Kernel: r.GetKernel(), Addrs: addrs, CRIU: r.GetCriu(), CRIUError: r.GetCriuError(), Memory: r.GetMemory(),
		Gate: r.GetGate(), FreeBytes: r.GetFreeBytes(), Damage: fromDamage(r.GetDamage()),
		Catalogue: fromMark(r.GetCatalogue()), RemovedHosts: r.GetRemovedHosts(),
	}
	if info.Networks, err = wire.FromNetworks(r.GetNetworks()); err != nil {
		return orchestrator.HostInfo{}, err
	}
	for _, a := range r.GetSetAside() {
		info.SetAside = append(info.SetAside, orchestrator.SetAside{Job: a.GetJob(), File: a.GetFile(), Detail: a.GetDetail(), Next: a.GetNext()})
	}
	for _, k := range r.GetInDoubt() {
		info.InDoubt = append(info.InDoubt, orchestrator.InDoubt{Key: fromImageKey(k), Epoch: k.GetEpoch()})
	}
	for _, s := range r.GetStandings() {
		info.Standings = append(info.Standings, fromStanding(s))
	}
	return info, nil
}

func (a *agent) Members(ctx context.Context, job string) ([]orchestrator.Member, error) {
	r, err := a.client.Members(ctx, &ssv1.MembersRequest{Job: job})
	if err != nil {
		return nil, wire.Error(a.host, err)
	}
	var out []orchestrator.Member
	for _, m := range r.GetMembers() {
		out = append(out, a.member(m))
	}
	return out, nil
}

func (a *agent) Run(ctx context.Context, m orchestrator.Member) (orchestrator.Member, error) {
	r, err := a.client.Run(ctx, &ssv1.RunRequest{
		Job: m.Job, Name: m.Name, Command: m.Command, Env: m.Env, Dir: m.Dir, Log: m.Log, Folders: m.Folders, Epoch: m.Epoch,
		Aliases: toAliases(m.Aliases), Names: toAliases(m.Names), MemoryFrozen: m.MemoryFrozen,
	})
	if err != nil {
		return orchestrator.Member{}, wire.Error(a.host, err)
	}
	got := a.member(r.GetMember())
	got.Notices = r.GetNotices()
	return got, nil
}

func (a *agent) Attach(ctx context.Context, m orchestrator.Member) (orchestrator.Member, error) {
	r, err := a.client.Attach(ctx, &ssv1.AttachRequest{Job: m.Job, Name: m.Name, Pid: int32(m.Pid), Epoch: m.Epoch, MemoryFrozen: m.MemoryFrozen})
	if err != nil {
		return orchestrator.Member{}, wire.Error(a.host, err)
	}
	return a.member(r.GetMember()), nil
}

func (a *agent) Stand(ctx context.Context, s orchestrator.Standing) (orchestrator.Standing, error) {
	r, err := a.client.Stand(ctx, &ssv1.StandRequest{Standing: toStanding(s)})
	if err != nil {
		return orchestrator.Standing{}, wire.Error(a.host, err)
	}
	return fromStanding(r.GetStanding()), nil
}

func (a *agent) Kill(ctx context.Context, job string) ([]string, error) {
	r, err := a.client.Kill(ctx, &ssv1.KillRequest{Job: job})
	if err != nil {
		return nil, wire.Error(a.host, err)
	}
	return r.GetKilled(), nil
}

func (a *agent) ForgetJob(ctx context.Context, job string) error {
	_, err := a.client.ForgetJob(ctx, &ssv1.ForgetJobRequest{Job: job})
	return wire.Error(a.host, err)
}

func (a *agent) Logs(ctx context.Context, job, member string, opt orchestrator.LogOptions, take func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream if take fails
	defer cancel()
	stream, err := a.client.Logs(ctx, &ssv1.LogsRequest{Job: job, Member: member, Follow: opt.Follow, Tail: opt.Tail})
	for err == nil {
		var piece *ssv1.LogsResponse
		if piece, err = stream.Recv(); err == nil {
			if terr := take(piece.GetData()); terr != nil {
				return terr
			}
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return wire.Error(a.host, err)
}

func (a *agent) LogTime(ctx context.Context, job, member string) (time.Time, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	stream, err := a.client.Logs(ctx, &ssv1.LogsRequest{Job: job, Member: member, Tail: 1})
	if err != nil {
		return time.Time{}, wire.Error(a.host, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return time.Time{}, wire.Error(a.host, err)
	}
	return time.UnixMilli(first.GetModifiedUnixMs()), nil
}

func (a *agent) Check(ctx context.Context, q orchestrator.CheckQuestion) (orchestrator.CheckAnswer, error) {
	req := &ssv1.CheckRequest{Job: q.Job, Holdings: q.Holdings, Moves: toMoves(q.Moved)}
	list := a.lists.of(q.Open.Participants)
	if len(q.Open.Members) > 0 {
		req.Open = toOpen(q.Open, list.digest)
	}
	for _, c := range q.Coming {
		req.Coming = append(req.Coming, &ssv1.CheckComing{Host: c.Host, Member: c.Member, Needs: c.Needs, Processor: c.Processor})
	}
	r, err := a.client.Check(ctx, req)
	if err == nil && r.GetLacks() {
		req.Participants = list.hosts
		r, err = a.client.Check(ctx, req)
	}
	if err != nil {
		return orchestrator.CheckAnswer{}, wire.Error(a.host, err)
	}
	ans := orchestrator.CheckAnswer{Problems: r.GetProblems(), Clock: time.UnixMicro(r.GetClockUnixUs()), Processor: r.GetProcessor()}
	for _, m := range r.GetMembers() {
		ans.Members = append(ans.Members, orchestrator.CheckAnswerMember{Needs: m.GetNeeds(), CheckedMember: orchestrator.CheckedMember{
			Host: a.host, Name: m.GetName(), Processes: int(m.GetProcesses()), RSS: m.GetRss(), Holdings: m.GetHoldings()}})
	}
	return ans, nil
}

// reason returns why a call has ended of which Send says only that it has (io.EOF): a host may refuse a call before it has read anything, and Recv tells then why.
func reason[T any](sent error, recv func() (T, error)) error {
	if errors.Is(sent, io.EOF) {
		_, sent = recv()
	}
	return sent
}

func (a *agent) Snapshot(ctx context.Context, open orchestrator.Open) (orchestrator.SnapshotLine, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := a.client.Snapshot(ctx)
	list := a.lists.of(open.Participants)
	if err == nil {
		err = reason(stream.Send(&ssv1.SnapshotRequest{Kind: &ssv1.SnapshotRequest_Open{Open: toOpen(open, list.digest)}}), stream.Recv)
	}
	if err != nil {
		cancel()
		return nil, wire.Error(a.host, err)
	}
	return &snapshotLine{host: a.host, agent: a, stream: stream, cancel: cancel, participants: list}, nil
}

type snapshotLine struct {
	host   string
	agent  *agent
	stream grpc.BidiStreamingClient[ssv1.SnapshotRequest, ssv1.SnapshotResponse]
	cancel context.CancelFunc

	participants *list // for a host that lacks the list
	sending      sync.Mutex
}

// Send sends one message. The coordinator's one goroutine calls it, beside Recv.
func (l *snapshotLine) Send(m marker.Message) error {
	return l.send(&ssv1.SnapshotRequest{Kind: &ssv1.SnapshotRequest_Message{Message: wire.ToMessage(m)}})
}

func (l *snapshotLine) send(r *ssv1.SnapshotRequest) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	return wire.Error(l.host, l.stream.Send(r))
}

// Recv waits for the next message. A host that lacks the list of participants gets it meanwhile.
func (l *snapshotLine) Recv() (orchestrator.FromHost, error) {
	r, err := l.stream.Recv()
	for err == nil && r.GetLacks() != nil {
		if err := l.send(&ssv1.SnapshotRequest{Kind: &ssv1.SnapshotRequest_Participants{Participants: l.participants.message()}}); err != nil {
			return orchestrator.FromHost{}, err
		}
		r, err = l.stream.Recv()
	}
	if err != nil {
		return orchestrator.FromHost{}, wire.Error(l.host, err)
	}
	switch {
	case r.GetMessage() != nil:
		m := wire.FromMessage(r.GetMessage())
		return orchestrator.FromHost{Message: &m}, nil
	case r.GetProgress() != nil:
		p := r.GetProgress()
		return orchestrator.FromHost{Progress: &orchestrator.Progress{Phase: p.GetPhase(), Bytes: p.GetBytes(), Total: p.GetTotal(), Storing: p.GetStoring()}}, nil
	case r.GetReport() != nil:
		return orchestrator.FromHost{Report: l.agent.report(r.GetReport())}, nil
	}
	return orchestrator.FromHost{Failure: wire.FromFailure(r.GetFailure())}, nil
}

func (l *snapshotLine) Close() error {
	defer l.cancel()
	if !l.sending.TryLock() { // it hangs in a Send, which cancel ends
		return nil
	}
	defer l.sending.Unlock()
	return wire.Error(l.host, l.stream.CloseSend())
}

func (a *agent) Restore(ctx context.Context, plan orchestrator.HostPlan) (orchestrator.RestoreLine, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := a.client.Restore(ctx)
	list := a.lists.of(plan.Participants)
	if err == nil {
		err = reason(stream.Send(&ssv1.RestoreRequest{Kind: &ssv1.RestoreRequest_Plan{Plan: toPlan(plan, list.digest)}}), stream.Recv)
	}
	var answer *ssv1.RestoreResponse
	if err == nil {
		answer, err = stream.Recv()
	}
	if err == nil && answer.GetLacks() != nil {
		err = reason(stream.Send(&ssv1.RestoreRequest{Kind: &ssv1.RestoreRequest_Participants{Participants: list.message()}}), stream.Recv)
		if err == nil {
			_, err = stream.Recv() // the host holds the job, or says why not
		}
	}
	if err != nil {
		cancel()
		return nil, wire.Error(a.host, err)
	}
	return &restoreLine{host: a.host, stream: stream, cancel: cancel}, nil
}

type restoreLine struct {
	host   string
	stream grpc.BidiStreamingClient[ssv1.RestoreRequest, ssv1.RestoreResponse]
	cancel context.CancelFunc
}

// Send sends one order; the coordinator's one goroutine calls it.
func (l *restoreLine) Send(m restoration.Message) error {
	err := l.stream.Send(&ssv1.RestoreRequest{Kind: &ssv1.RestoreRequest_Message{Message: wire.ToRestoreMessage(m)}})
	return wire.Error(l.host, err)
}

func (l *restoreLine) Recv() (orchestrator.FromTarget, error) {
	r, err := l.stream.Recv()
	if err != nil {
		return orchestrator.FromTarget{}, wire.Error(l.host, err)
	}
	return fromTarget(l.host, r), nil
}

// Hangup closes this side. The host closes the other one.
func (l *restoreLine) Hangup() error { return wire.Error(l.host, l.stream.CloseSend()) }

// Close ends the line at once.
func (l *restoreLine) Close() { l.cancel() }

// RestoreWord sends one order to a host whose line has ended.
func (a *agent) RestoreWord(ctx context.Context, job string, m restoration.Message) (orchestrator.FromTarget, error) {
	r, err := a.client.RestoreWord(ctx, &ssv1.RestoreWordRequest{Job: job, Message: wire.ToRestoreMessage(m)})
	if err != nil {
		return orchestrator.FromTarget{}, wire.Error(a.host, err)
	}
	return fromTarget(a.host, r), nil
}

// fromTarget is a host's report. Which host it is the connection says.
func fromTarget(host string, r *ssv1.RestoreResponse) orchestrator.FromTarget {
	m := wire.FromRestoreMessage(r.GetMessage())
	m.From, m.To = restoration.HostID(host), restoration.CoordinatorHost
	return orchestrator.FromTarget{Message: m, Problems: r.GetProblems(), Notices: r.GetNotices(), Failure: wire.FromFailure(r.GetFailure())}
}
