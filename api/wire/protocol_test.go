package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	ssv1 "ss/api/proto/ss/v1"
	"ss/fault"
)

// infoServer counts the calls that it carries out.
type infoServer struct {
	ssv1.UnimplementedAgentServer
	carried *atomic.Int32
}

func (i infoServer) Info(context.Context, *ssv1.InfoRequest) (*ssv1.InfoResponse, error) {
	i.carried.Add(1)
	return &ssv1.InfoResponse{Host: "hostB"}, nil
}

func (i infoServer) Snapshot(s ssv1.Agent_SnapshotServer) error {
	i.carried.Add(1)
	if _, err := s.Recv(); err != nil {
		return err
	}
	return s.Send(&ssv1.SnapshotResponse{})
}

// pair connects a client with a server over memory. Carried counts the calls that the server carries out.
func pair(t *testing.T, server []grpc.ServerOption, client []grpc.DialOption) (c ssv1.AgentClient, carried *atomic.Int32) {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	s := grpc.NewServer(server...)
	carried = new(atomic.Int32)
	ssv1.RegisterAgentServer(s, infoServer{carried: carried})
	healthpb.RegisterHealthServer(s, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-served })
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) })
	conn, err := grpc.NewClient("passthrough:///b", append(client, dial, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return ssv1.NewAgentClient(conn), carried
}

// calls makes a unary call and one over a stream.
func calls(c ssv1.AgentClient) [2]error {
	_, unary := c.Info(context.Background(), &ssv1.InfoRequest{})
	s, err := c.Snapshot(context.Background())
	if err == nil {
		err = s.Send(&ssv1.SnapshotRequest{})
	}
	if err == nil || errors.Is(err, io.EOF) { // io.EOF: the call is over already, and Recv tells why
		_, err = s.Recv()
	}
	return [2]error{unary, err}
}

func today() []grpc.ServerOption {
	unary, stream := ServerProtocol("the agent of hostB", func(context.Context) string { return "this ssctl" })
	return []grpc.ServerOption{grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream)}
}

// TestProtocolVersions: two of one version talk; of two versions, whichever end is the older, the call is refused with what to upgrade.
func TestProtocolVersions(t *testing.T) {
	equal, _ := pair(t, today(), WithProtocol("this ssctl", "hostB"))
	for i, err := range calls(equal) {
		if err != nil {
			t.Errorf("call %d between equals: %v", i, err)
		}
	}
	refused := func(words string, server []grpc.ServerOption, client []grpc.DialOption) {
		t.Helper()
		c, carried := pair(t, server, client)
		for i, err := range calls(c) {
			err = Error("hostB", err)
			if !fault.Is(err, fault.Outdated) || !strings.Contains(err.Error(), words) {
				t.Errorf("call %d: %v, want %q", i, err, words)
			}
		}
		if n := carried.Load(); n != 0 {
			t.Errorf("%d calls of another version were carried out", n)
		}
	}
	// An ssctl of before says nothing of its version, and prints what the agent answers.
	refused("speaks version 1; upgrade this ssctl", today(), nil)
	// Neither does an agent of before.
	refused("speaks version 1; upgrade the agent of hostB", nil, WithProtocol("this ssctl", "hostB"))
	// Tomorrow's, both ways.
	future := metadata.Pairs(protocolKey, "99")
	refused("upgrade this ssctl", []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			if err := grpc.SetHeader(ctx, future); err != nil {
				return nil, err
			}
			return h(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			if err := s.SetHeader(future); err != nil {
				return err
			}
			return h(srv, s)
		}),
	}, WithProtocol("this ssctl", "hostB"))
}
