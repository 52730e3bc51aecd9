package identity

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// who answers a health check with the caller's identity noted.
type who struct {
	*health.Server
	last Identity
}

func (w *who) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	id, err := FromContext(ctx)
	if err != nil {
		return nil, err
	}
	w.last = id
	return w.Server.Check(ctx, req)
}

func serve(t *testing.T, agent *Credentials, p Policy) (addr string, svc *who) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(agent.Server())), grpc.ChainUnaryInterceptor(p.Unary()), grpc.ChainStreamInterceptor(p.Stream()))
	svc = &who{Server: health.NewServer()}
	healthpb.RegisterHealthServer(srv, svc)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return ln.Addr().String(), svc
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials) healthpb.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return healthpb.NewHealthClient(conn)
}

func TestPolicy(t *testing.T) {
	const check, watch, list = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List"
	a := testAuthority(t)
	agent := valid(t, a, RoleAgent, "hostA")
	policy := Policy{check: {RoleAdmin, RoleAgent}, watch: {RoleAdmin, RoleObserver}}
	addr, svc := serve(t, agent, policy)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	for _, role := range Roles() {
		c := dial(t, addr, credentials.NewTLS(valid(t, a, role, "caller").Client(RoleAgent, "hostA")))
		expect := func(method string, err error) {
			t.Helper()
			want := codes.PermissionDenied
			for _, r := range policy[method] {
				if r == role {
					want = codes.OK
				}
			}
			if status.Code(err) != want {
				t.Errorf("%s calls %s: %v, want %v", role, method, err, want)
			}
			if want != codes.OK && (!strings.Contains(err.Error(), string(role)) || !strings.Contains(err.Error(), method)) {
				t.Errorf("refusal names neither role nor method: %v", err)
			}
		}
		svc.last = Identity{}
		_, err := c.Check(ctx, &healthpb.HealthCheckRequest{})
		expect(check, err)
		if want := (Identity{a.cluster, role, "caller"}); err == nil && svc.last != want {
			t.Errorf("handler saw %v, want %v", svc.last, want)
		}
		stream, err := c.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		expect(watch, err)
		_, err = c.List(ctx, &healthpb.HealthListRequest{})
		expect(list, err)
	}
}

func TestNoPlainText(t *testing.T) {
	a := testAuthority(t)
	addr, _ := serve(t, valid(t, a, RoleAgent, "hostA"), Policy{"/grpc.health.v1.Health/Check": Roles()})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := dial(t, addr, insecure.NewCredentials()).Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Fatalf("plain text: %v", err)
	}
	if _, err := FromContext(ctx); err == nil {
		t.Fatal("a bare context has an identity")
	}
	if err := (Policy{"m": Roles()}).Allow(ctx, "m"); status.Code(err) != codes.Unauthenticated {
		t.Fatalf("a bare context: %v", err)
	}
}
