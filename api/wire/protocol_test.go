package wire

import (
	"context"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	ssv1 "ss/api/proto/ss/v1"
	"ss/fault"
)

type infoServer struct{ ssv1.UnimplementedAgentServer }

func (infoServer) Info(context.Context, *ssv1.InfoRequest) (*ssv1.InfoResponse, error) {
	return &ssv1.InfoResponse{Host: "hostB"}, nil
}

func (infoServer) Snapshot(s ssv1.Agent_SnapshotServer) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	return s.Send(&ssv1.SnapshotResponse{})
}

// pair connects a client with a server over memory.
func pair(t *testing.T, server []grpc.ServerOption, client []grpc.DialOption) ssv1.AgentClient {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	s := grpc.NewServer(server...)
	ssv1.RegisterAgentServer(s, infoServer{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-served })
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) })
	conn, err := grpc.NewClient("passthrough:///b", append(client, dial, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return ssv1.NewAgentClient(conn)
}

// calls makes a unary call and one over a stream.
func calls(c ssv1.AgentClient) [2]error {
	_, unary := c.Info(context.Background(), &ssv1.InfoRequest{})
	s, err := c.Snapshot(context.Background())
	if err == nil {
		err = s.Send(&ssv1.SnapshotRequest{})
	}
	if err == nil {
		_, err = s.Recv()
	}
	return [2]error{unary, err}
}

func today() []grpc.ServerOption {
	unary, stream := ServerProtocol("the agent of hostB")
	return []grpc.ServerOption{grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream)}
}

// TestProtocolVersions: two of one version talk; of two versions, whichever end is the older, the call is refused with what to upgrade.
func TestProtocolVersions(t *testing.T) {
	for i, err := range calls(pair(t, today(), WithProtocol("this ssctl", "hostB"))) {
		if err != nil {
			t.Errorf("call %d between equals: %v", i, err)
		}
	}
	refused := func(c ssv1.AgentClient, words string) {
		t.Helper()
		for i, err := range calls(c) {
			err = Error("hostB", err)
			if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), words) {
				t.Errorf("call %d: %v, want %q", i, err, words)
			}
		}
	}
	// An ssctl of before says nothing of its version, and prints what the agent answers.
	refused(pair(t, today(), nil), "speaks version 1; upgrade the caller")
	// Neither does an agent of before.
	refused(pair(t, nil, WithProtocol("this ssctl", "hostB")), "speaks version 1; upgrade the agent of hostB")
	// Tomorrow's, both ways.
	future := metadata.Pairs(protocolKey, "99")
	refused(pair(t, []grpc.ServerOption{
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
	}, WithProtocol("this ssctl", "hostB")), "upgrade this ssctl")
}
