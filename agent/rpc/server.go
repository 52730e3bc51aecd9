package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"ss/agent"
	"ss/agent/custody"
	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/restoration"
)

// Policy says which role may call what. A method that is not in it is denied to everyone.
func Policy() identity.Policy {
	admin := []identity.Role{identity.RoleAdmin}
	reader := []identity.Role{identity.RoleAdmin, identity.RoleObserver}
	peer := []identity.Role{identity.RoleAgent}
	anyone := []identity.Role{identity.RoleAdmin, identity.RoleObserver, identity.RoleAgent}
	return identity.Policy{
		ssv1.Agent_Info_FullMethodName:          reader,
		ssv1.Agent_Members_FullMethodName:       reader,
		ssv1.Agent_Inventory_FullMethodName:     reader,
		ssv1.Agent_Run_FullMethodName:           admin,
		ssv1.Agent_Attach_FullMethodName:        admin,
		ssv1.Agent_Stand_FullMethodName:         admin,
		ssv1.Agent_Kill_FullMethodName:          admin,
		ssv1.Agent_ForgetJob_FullMethodName:     admin,
		ssv1.Agent_Logs_FullMethodName:          admin, // an observer may not read what members say
		ssv1.Agent_Check_FullMethodName:         admin, // it says what members hold
		ssv1.Agent_Snapshot_FullMethodName:      admin,
		ssv1.Agent_Restore_FullMethodName:       admin,
		ssv1.Agent_RestoreWord_FullMethodName:   admin,
		ssv1.Agent_RemoveImages_FullMethodName:  admin,
		ssv1.Agent_ResolveImages_FullMethodName: admin,
		ssv1.Agent_VerifyImages_FullMethodName:  admin, // it carries a job's key
		ssv1.Agent_PutCut_FullMethodName:        admin,
		ssv1.Agent_FetchImages_FullMethodName:   admin,
		ssv1.Agent_PushImages_FullMethodName:    admin,
		ssv1.Agent_Collect_FullMethodName:       admin,
		ssv1.Agent_ExportImages_FullMethodName:  admin,
		ssv1.Agent_ImportImages_FullMethodName:  admin,

		ssv1.Peer_Deliver_FullMethodName:      peer,
		ssv1.Peer_PutObject_FullMethodName:    peer,
		ssv1.Peer_SettleImages_FullMethodName: peer,
		ssv1.Peer_GetObject_FullMethodName:    peer,
		ssv1.Peer_StatObject_FullMethodName:   peer,
		ssv1.Peer_ListObjects_FullMethodName:  peer,
		ssv1.Peer_AskRestore_FullMethodName:   peer,
		ssv1.Peer_Receives_FullMethodName:     peer,
		ssv1.Peer_Stand_FullMethodName:        peer,
		ssv1.Peer_Exchange_FullMethodName:     peer,

		healthpb.Health_Check_FullMethodName: anyone,
		healthpb.Health_Watch_FullMethodName: anyone,
	}
}

// NewServer makes the agent's gRPC server: mutual TLS, the Policy, health. It is to serve a Door.
func NewServer(a *agent.Agent, held *custody.Holder, creds *identity.Credentials, version string) *grpc.Server {
	policy := Policy()
	unary, stream := wire.ServerProtocol("the agent of "+a.Host(), callerName)
	s := grpc.NewServer(
		grpc.Creds(guard{credentials.NewTLS(creds.Server())}),
		grpc.ConnectionTimeout(handshakeMax),
		grpc.MaxHeaderListSize(headersMax),
		grpc.MaxConcurrentStreams(callsMax),
		grpc.ChainUnaryInterceptor(creds.Unary(), policy.Unary(), unary, wire.SpeakableUnary),
		grpc.ChainStreamInterceptor(creds.Stream(), policy.Stream(), stream, wire.SpeakableStream),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 5 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(64<<20),
		grpc.WaitForHandlers(true), // a line that ends has a restore to settle
	)
	ssv1.RegisterAgentServer(s, &agentServer{a: a, images: held, version: version})
	ssv1.RegisterPeerServer(s, &peerServer{a: a, images: held, objects: held.ForPeers()})
	h := health.NewServer()
	h.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s, h)
	return s
}

// callerName is what a call's errors call the one that calls.
func callerName(ctx context.Context) string {
	id, err := identity.FromContext(ctx)
	switch {
	case err != nil:
		return "the caller"
	case id.Role == identity.RoleAgent:
		return "the agent of " + id.Name
	default:
		return "this ssctl"
	}
}

type agentServer struct {
	ssv1.UnimplementedAgentServer
	a       *agent.Agent
	images  *custody.Holder
	version string
}

func (s *agentServer) Info(ctx context.Context, req *ssv1.InfoRequest) (*ssv1.InfoResponse, error) {
	mark := s.a.Heard()
	if isAdmin(ctx) {
		mark = s.a.Hear(fromWord(req))
	}
	i, err := s.a.Info(ctx)
	if err != nil {
		return nil, wire.Status(err)
	}
	resp := &ssv1.InfoResponse{
		Host: i.Host, Version: s.version, Kernel: i.Kernel, Addrs: wire.ToAddrs(i.Addrs), Criu: i.CRIU, CriuError: i.CRIUError, Memory: i.Memory,
		Gate: i.Gate, FreeBytes: i.FreeBytes, Networks: wire.ToNetworks(i.Networks),
	}
	for _, k := range i.InDoubt {
		key := toImageKey(k.Key)
		key.Epoch = k.Epoch
		resp.InDoubt = append(resp.InDoubt, key)
	}
	resp.Damage, resp.Catalogue = toDamage(i.Damage), toMark(mark)
	resp.RemovedHosts = s.a.Removed()
	for _, a := range i.SetAside {
		resp.SetAside = append(resp.SetAside, &ssv1.SetAside{Job: a.Job, File: a.File, Detail: a.Detail, Next: a.Next})
	}
	for _, st := range i.Standings {
		resp.Standings = append(resp.Standings, toStanding(st))
	}
	return resp, nil
}

func (s *agentServer) Members(ctx context.Context, req *ssv1.MembersRequest) (*ssv1.MembersResponse, error) {
	members, err := s.a.Members(ctx, req.GetJob())
	if err != nil {
		return nil, wire.Status(err)
	}
	resp := &ssv1.MembersResponse{}
	for _, m := range members {
		if !isAdmin(ctx) {
			m.Env = nil // often a secret
		}
		pm := toMember(m.Member)
		pm.Rss, pm.Channels, pm.LogBytes = m.RSS, int32(m.Channels), m.LogBytes
		resp.Members = append(resp.Members, pm)
	}
	return resp, nil
}

func (s *agentServer) Run(ctx context.Context, req *ssv1.RunRequest) (*ssv1.RunResponse, error) {
	m, err := fromMember(&ssv1.Member{
		Job: req.GetJob(), Name: req.GetName(), Command: req.GetCommand(), Env: req.GetEnv(), Dir: req.GetDir(), Log: req.GetLog(), Folders: req.GetFolders(),
		Aliases: req.GetAliases(), Names: req.GetNames(), MemoryFrozen: req.GetMemoryFrozen(),
	})
	if err != nil {
		return nil, wire.Status(err)
	}
	m.Epoch = req.GetEpoch()
	if m, err = s.a.Run(ctx, m); err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.RunResponse{Member: toMember(m), Notices: s.a.MissingFolders(m)}, nil
}

func (s *agentServer) Attach(ctx context.Context, req *ssv1.AttachRequest) (*ssv1.AttachResponse, error) {
	m, err := s.a.Attach(ctx, agent.Member{
		Job: req.GetJob(), Name: req.GetName(), Tree: agent.Tree{Pid: int(req.GetPid())}, Epoch: req.GetEpoch(), MemoryFrozen: req.GetMemoryFrozen(),
	})
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.AttachResponse{Member: toMember(m)}, nil
}

func (s *agentServer) Kill(ctx context.Context, req *ssv1.KillRequest) (*ssv1.KillResponse, error) {
	killed, err := s.a.Kill(ctx, req.GetJob())
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.KillResponse{Killed: killed}, nil
}

func (s *agentServer) Stand(ctx context.Context, req *ssv1.StandRequest) (*ssv1.StandResponse, error) {
	got, err := s.a.Stand(ctx, "", fromStanding(req.GetStanding()))
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.StandResponse{Standing: toStanding(got)}, nil
}

func (s *agentServer) ForgetJob(ctx context.Context, req *ssv1.ForgetJobRequest) (*ssv1.ForgetJobResponse, error) {
	if err := s.a.ForgetJob(ctx, req.GetJob()); err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.ForgetJobResponse{}, nil
}

// Logs streams a log in pieces. gRPC holds the reading of it back while the other side does not take them.
func (s *agentServer) Logs(req *ssv1.LogsRequest, stream grpc.ServerStreamingServer[ssv1.LogsResponse]) error {
	opt := agent.LogOptions{Follow: req.GetFollow(), Tail: req.GetTail()}
	begin := func(modified time.Time) error {
		return stream.Send(&ssv1.LogsResponse{ModifiedUnixMs: unixMs(modified)})
	}
	send := func(data []byte) error { return stream.Send(&ssv1.LogsResponse{Data: data}) }
	err := s.a.Logs(stream.Context(), req.GetJob(), req.GetMember(), opt, begin, send)
	if err != nil {
		return wire.Status(err)
	}
	return nil
}

func (s *agentServer) ResolveImages(ctx context.Context, req *ssv1.ResolveImagesRequest) (*ssv1.ResolveImagesResponse, error) {
	if err := s.images.Resolve(ctx, fromImageKeys(req.GetCommitted()), fromImageKeys(req.GetAborted())); err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.ResolveImagesResponse{}, nil
}

// Check looks at members and at this host, and changes nothing.
func (s *agentServer) Check(ctx context.Context, req *ssv1.CheckRequest) (*ssv1.CheckResponse, error) {
	known := s.a.Participants(req.GetJob(), participantsDigest(req.GetOpen()))
	if lacks, err := wire.QuestionLacks(req, known != nil); err != nil || lacks {
		return &ssv1.CheckResponse{Lacks: lacks}, err
	}
	q, err := fromQuestion(req, known)
	if err != nil {
		return nil, wire.Status(err)
	}
	a, err := s.a.Preflight(ctx, q)
	if err != nil {
		return nil, wire.Status(err)
	}
	return toAnswer(a), nil
}

// Snapshot carries an attempt's messages both ways until the coordinator hangs up.
func (s *agentServer) Snapshot(stream grpc.BidiStreamingServer[ssv1.SnapshotRequest, ssv1.SnapshotResponse]) error {
	var list []agent.Participant
	opened, err := wire.ReceiveOpen(stream, func(o *ssv1.SnapshotOpen) bool {
		list = s.a.Participants(o.GetKey().GetJob(), participantsDigest(o))
		return list != nil
	})
	if err != nil {
		return err
	}
	open, err := fromOpen(opened, list)
	if err != nil {
		return wire.Status(err)
	}
	at, err := s.a.Join(open)
	if err != nil {
		return wire.Status(err)
	}
	defer at.Hangup()
	for _, m := range opened.Early {
		at.Receive(wire.FromMessage(m))
	}
	gone := make(chan struct{})
	go func() {
		for {
			req, err := stream.Recv()
			if err != nil {
				close(gone)
				return
			}
			if m := req.GetMessage(); m != nil {
				at.Receive(wire.FromMessage(m))
			}
		}
	}()
	for {
		select {
		case <-at.Wake():
			for _, o := range at.Take() {
				if err := stream.Send(toOut(o)); err != nil {
					return err
				}
			}
		case <-gone: // the coordinator has closed its side, or is gone: either way it hears no more
			return nil
		}
	}
}

// Restore carries the orders and reports of one host's part of a restore until the coordinator hangs up.
func (s *agentServer) Restore(stream grpc.BidiStreamingServer[ssv1.RestoreRequest, ssv1.RestoreResponse]) error {
	var known []agent.Participant
	p, sent, err := wire.ReceivePlan(stream, func(p *ssv1.RestorePlan) bool {
		known = s.a.Participants(p.GetKey().GetJob(), participantsDigest(p))
		return known != nil
	})
	if err != nil {
		return err
	}
	plan, err := fromPlan(p, known, sent)
	if err != nil {
		return wire.Status(err)
	}
	line, err := s.a.StartRestore(plan)
	if err != nil {
		return wire.Status(err)
	}
	defer line.Hangup(stream.Context())
	// The plan itself is answered, so that the caller knows that this host holds the job.
	if err := stream.Send(&ssv1.RestoreResponse{}); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			if m := req.GetMessage(); m != nil {
				line.Receive(wire.FromRestoreMessage(m))
			}
		}
	}()
	for {
		select {
		case <-line.Wake():
			for _, o := range line.Take() {
				if err := stream.Send(toRestoreOut(o)); err != nil {
					return err
				}
			}
		case <-gone: // the coordinator has closed its side, or is gone: either way it hears no more
			return nil
		}
	}
}

// RestoreWord takes an order of an admin whose line to this host has ended, and answers with where the host stands.
func (s *agentServer) RestoreWord(ctx context.Context, req *ssv1.RestoreWordRequest) (*ssv1.RestoreResponse, error) {
	m := wire.FromRestoreMessage(req.GetMessage())
	m.From = restoration.CoordinatorHost
	out, err := s.a.AnswerRestore(ctx, req.GetJob(), m)
	if err != nil {
		return nil, wire.Status(err)
	}
	return toRestoreOut(out), nil
}
