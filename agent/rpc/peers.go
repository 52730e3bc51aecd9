package rpc

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"ss/agent"
	"ss/agent/custody"
	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/fault"
	"ss/marker"
	"ss/restoration"
	"ss/store/images"
)

// Peers reaches other agents over gRPC. It implements agent.Peers and custody.Peers.
type Peers struct {
	// Take is called with the list of removed hosts that a peer knows. Set it before the first call only; nil: nobody cares.
	Take func(statement []byte)

	creds *identity.Credentials

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // by host and endpoint
}

// NewPeers makes a Peers that shows creds and accepts nothing but the agent of the host that it dials.
func NewPeers(creds *identity.Credentials) *Peers {
	return &Peers{creds: creds, conns: map[string]*grpc.ClientConn{}}
}

// Close ends every connection.
func (p *Peers) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close() // nothing is under way when the agent stops
	}
	clear(p.conns)
}

func (p *Peers) client(to custody.Peer) (ssv1.PeerClient, error) {
	conn, err := p.conn(to)
	if err != nil {
		return nil, err
	}
	return ssv1.NewPeerClient(conn), nil
}

func (p *Peers) conn(to custody.Peer) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := to.Host + " " + to.Endpoint
	conn, ok := p.conns[id]
	if !ok {
		var err error
		if conn, err = p.dial(to); err != nil {
			return nil, err
		}
		p.conns[id] = conn
	}
	return conn, nil
}

// dial makes a connection. Nothing is sent before the first call.
func (p *Peers) dial(to custody.Peer) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+to.Endpoint, append(wire.WithProtocol("this agent", to.Host),
		grpc.WithTransportCredentials(credentials.NewTLS(p.creds.Client(identity.RoleAgent, to.Host))),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		// A peer's agent that was restarted should be found again at once, not after gRPC's usual two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: wire.HandshakeTimeout,
		}),
		wire.WithDialer(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)...)
	return conn, wire.Error(to.Host, err)
}

// reconnectTimeout is ample for a host that is there: it covers a SYN that is lost, and a handshake.
const reconnectTimeout = 3 * time.Second

// Reach makes the connection and asks the peer whether it serves.
func (p *Peers) Reach(ctx context.Context, to custody.Peer) error {
	conn, err := p.conn(to)
	if err != nil {
		return err
	}
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if status.Code(err) == codes.Unavailable {
		// The connection may be an old one, whose other end was restarted: this call is how that was found out. Or the answer is that of an
		// earlier attempt, after which gRPC waits a while. So the peer is given the time of one attempt more.
		conn.ResetConnectBackoff()
		again, cancel := context.WithTimeout(ctx, reconnectTimeout)
		defer cancel()
		if r, err2 := healthpb.NewHealthClient(conn).Check(again, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err2 == nil || status.Code(err2) != codes.DeadlineExceeded {
			resp, err = r, err2
		}
	}
	if err != nil {
		return wire.Error(to.Host, err)
	}
	if s := resp.GetStatus(); s != healthpb.HealthCheckResponse_SERVING {
		return fault.New(fault.Unreachable, fmt.Sprintf("the agent of %s is %s", to.Host, s), "")
	}
	return p.exchange(ctx, to)
}

// exchange shows a peer the newest list of removed hosts that is known here, and takes its.
func (p *Peers) exchange(ctx context.Context, to custody.Peer) error {
	c, err := p.client(to)
	if err != nil {
		return err
	}
	resp, err := c.Exchange(ctx, &ssv1.ExchangeRequest{RemovedHosts: p.creds.Removed()})
	if status.Code(err) == codes.Unimplemented { // an agent of the version before this one
		return nil
	}
	if err == nil && len(resp.GetRemovedHosts()) > 0 && p.Take != nil {
		p.Take(resp.GetRemovedHosts())
	}
	return wire.Error(to.Host, err)
}

// Deliver hands over a marker message. It waits, as long as ctx allows, for a peer that is not there.
func (p *Peers) Deliver(ctx context.Context, to custody.Peer, m marker.Message) error {
	c, err := p.client(to)
	if err != nil {
		return err
	}
	_, err = c.Deliver(ctx, &ssv1.DeliverRequest{Message: wire.ToMessage(m)}, grpc.WaitForReady(true))
	return wire.Error(to.Host, err)
}

// SettleImages tells a holder what became of this host's images.
func (p *Peers) SettleImages(ctx context.Context, to custody.Peer, key images.Key, committed bool) error {
	c, err := p.client(to)
	if err != nil {
		return err
	}
	_, err = c.SettleImages(ctx, &ssv1.SettleImagesRequest{Key: toImageKey(key), Committed: committed})
	return wire.Error(to.Host, err)
}

// AskRestore asks a peer where it stands in a restore.
func (p *Peers) AskRestore(ctx context.Context, to custody.Peer, job string, m restoration.Message) (restoration.Message, error) {
	c, err := p.client(to)
	if err != nil {
		return restoration.Message{}, err
	}
	resp, err := c.AskRestore(ctx, &ssv1.AskRestoreRequest{Job: job, Message: wire.ToRestoreMessage(m)})
	if err != nil {
		return restoration.Message{}, wire.Error(to.Host, err)
	}
	return wire.FromRestoreMessage(resp.GetMessage()), nil
}

// Receives asks a peer which of the ways end at a member of the job there. An agent of a version that cannot tell is believed to receive all.
func (p *Peers) Receives(ctx context.Context, to custody.Peer, job string, ways []agent.Conn) ([]bool, error) {
	c, err := p.client(to)
	if err != nil {
		return nil, err
	}
	req := &ssv1.ReceivesRequest{Job: job}
	for _, w := range ways {
		req.Ways = append(req.Ways, &ssv1.DatagramWay{From: w.Local.String(), To: w.Remote.String()})
	}
	resp, err := c.Receives(ctx, req)
	if status.Code(err) == codes.Unimplemented {
		return slices.Repeat([]bool{true}, len(ways)), nil
	}
	if err == nil && len(resp.GetReceived()) != len(ways) {
		return nil, fmt.Errorf("%s answers %d questions of %d", to.Host, len(resp.GetReceived()), len(ways))
	}
	return resp.GetReceived(), wire.Error(to.Host, err)
}

// Stand says to a peer what this host knows of a job's last restore, and returns what the peer knows.
func (p *Peers) Stand(ctx context.Context, to custody.Peer, s agent.Standing) (agent.Standing, error) {
	conn, err := p.dial(to)
	if err != nil {
		return agent.Standing{}, err
	}
	defer conn.Close()
	resp, err := ssv1.NewPeerClient(conn).Stand(ctx, &ssv1.StandRequest{Standing: toStanding(s)})
	if err != nil {
		return agent.Standing{}, wire.Error(to.Host, err)
	}
	return fromStanding(resp.GetStanding()), nil
}
