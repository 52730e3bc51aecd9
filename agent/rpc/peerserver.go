package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"ss/agent"
	"ss/agent/custody"
	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/fault"
	"ss/restoration"
)

// peerServer serves other agents. What they say of themselves is held against their certificate.
type peerServer struct {
	ssv1.UnimplementedPeerServer
	a       *agent.Agent
	images  *custody.Holder
	objects custody.Objects
}

// caller is the host whose agent calls.
func caller(ctx context.Context) (string, error) {
	id, err := identity.FromContext(ctx)
	return id.Name, err
}

// mine refuses a caller that speaks for another host.
func mine(ctx context.Context, host string) error {
	name, err := caller(ctx)
	if err != nil {
		return err
	}
	if name != host {
		return fault.New(fault.Denied, fmt.Sprintf("the agent of %s may not speak for %s", name, host), "")
	}
	return nil
}

func (s *peerServer) Deliver(ctx context.Context, req *ssv1.DeliverRequest) (*ssv1.DeliverResponse, error) {
	m := wire.FromMessage(req.GetMessage())
	if err := mine(ctx, string(m.From)); err != nil {
		return nil, wire.Status(err)
	}
	s.a.Deliver(m)
	return &ssv1.DeliverResponse{}, nil
}

func (s *peerServer) SettleImages(ctx context.Context, req *ssv1.SettleImagesRequest) (*ssv1.SettleImagesResponse, error) {
	key := fromImageKey(req.GetKey())
	if err := mine(ctx, key.Host); err != nil {
		return nil, wire.Status(err)
	}
	if err := s.images.SettleCopy(key, req.GetCommitted()); err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.SettleImagesResponse{}, nil
}

func (s *peerServer) AskRestore(ctx context.Context, req *ssv1.AskRestoreRequest) (*ssv1.AskRestoreResponse, error) {
	host, err := caller(ctx)
	if err != nil {
		return nil, wire.Status(err)
	}
	m := wire.FromRestoreMessage(req.GetMessage())
	m.From = restoration.HostID(host)
	out, err := s.a.AnswerRestore(ctx, req.GetJob(), m)
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.AskRestoreResponse{Message: wire.ToRestoreMessage(out.Message)}, nil
}

func (s *peerServer) Receives(ctx context.Context, req *ssv1.ReceivesRequest) (*ssv1.ReceivesResponse, error) {
	var ways []agent.Conn
	for _, w := range req.GetWays() {
		from, err1 := netip.ParseAddrPort(w.GetFrom())
		to, err2 := netip.ParseAddrPort(w.GetTo())
		if err := errors.Join(err1, err2); err != nil {
			return nil, wire.Status(&fault.Error{Kind: fault.Usage, Err: err})
		}
		ways = append(ways, agent.Conn{Local: from, Remote: to})
	}
	received, err := s.a.Receives(ctx, req.GetJob(), ways)
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.ReceivesResponse{Received: received}, nil
}

func (s *peerServer) Stand(ctx context.Context, req *ssv1.StandRequest) (*ssv1.StandResponse, error) {
	host, err := caller(ctx)
	if err != nil {
		return nil, wire.Status(err)
	}
	got, err := s.a.Stand(ctx, host, fromStanding(req.GetStanding()))
	if err != nil {
		return nil, wire.Status(err)
	}
	return &ssv1.StandResponse{Standing: toStanding(got)}, nil
}

func (s *peerServer) Exchange(_ context.Context, req *ssv1.ExchangeRequest) (*ssv1.ExchangeResponse, error) {
	s.a.TakeRemoved(req.GetRemovedHosts())
	return &ssv1.ExchangeResponse{RemovedHosts: s.a.Removed()}, nil
}
