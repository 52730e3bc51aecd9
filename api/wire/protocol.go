package wire

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"ss/fault"
)

// Protocol is the version of what agents and ssctl say to each other. It changes when one side would take what the other
// says for something else. Programs from before there was a version count as 1. 3: errors travel in the status' details.
// 4: a snapshot is opened with the digest of the list of participants. 5: so is a restore, and a check.
const Protocol = 5

// protocolKey is the metadata in which each side says its version: with every call, and with every answer.
const protocolKey = "ss-protocol"

// healthService is any health checker's, which knows nothing of our versions.
const healthService = "/grpc.health.v1.Health/"

func protocolOf(md metadata.MD) int {
	for _, v := range md.Get(protocolKey) {
		if n, err := strconv.Atoi(v); err == nil && n > 0 {
			return n
		}
	}
	return 1
}

// mismatch says which of the two programs to upgrade; nil if both speak the same version.
func mismatch(self string, own int, other string, theirs int) error {
	if own == theirs {
		return nil
	}
	older := other
	if theirs > own {
		older = self
	}
	return &fault.Error{Kind: fault.Outdated, Next: "upgrade " + older,
		Err: fmt.Errorf("%s speaks version %d of the protocol and %s speaks version %d", self, own, other, theirs)}
}

// ServerProtocol makes a server refuse callers of another version, with a sentence that says what to upgrade, and tell everyone its own. self
// is what the server calls itself, caller what it calls the one that calls.
func ServerProtocol(self string, caller func(context.Context) string) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	mine := metadata.Pairs(protocolKey, strconv.Itoa(Protocol))
	check := func(ctx context.Context, method string) error {
		md, _ := metadata.FromIncomingContext(ctx)
		if strings.HasPrefix(method, healthService) || protocolOf(md) == Protocol {
			return nil
		}
		return Status(mismatch(self, Protocol, caller(ctx), protocolOf(md)))
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := grpc.SetHeader(ctx, mine); err != nil {
			return nil, err
		}
		if err := check(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
	stream := func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := s.SetHeader(mine); err != nil {
			return err
		}
		if err := check(s.Context(), info.FullMethod); err != nil {
			return err
		}
		return handler(srv, s)
	}
	return unary, stream
}

// WithProtocol makes a client tell its version with every call, and refuse a server of another one. Before the first call on a connection it asks
// for the server's version alone, so that a server of before there was a version gets no call that it would carry out. self is what the client
// calls itself, host the name of the host that it calls.
func WithProtocol(self, host string) []grpc.DialOption {
	c := &clientProtocol{self: self, other: "the agent of " + host}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(c.unary), grpc.WithChainStreamInterceptor(c.stream)}
}

// clientProtocol is one connection's.
type clientProtocol struct {
	self, other string
	known       atomic.Bool // the server has said our version, and was not lost since
}

func (c *clientProtocol) check(md metadata.MD) error {
	err := mismatch(c.self, Protocol, c.other, protocolOf(md))
	c.known.Store(err == nil)
	return Status(err)
}

func (c *clientProtocol) outgoing(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, protocolKey, strconv.Itoa(Protocol))
}

// lost notes that the server may be another one when it is reached the next time.
func (c *clientProtocol) lost(err error) {
	if status.Code(err) == codes.Unavailable {
		c.known.Store(false)
	}
}

// meet asks the server for its version, if it is not known. Every gRPC server of ours answers health checks.
func (c *clientProtocol) meet(ctx context.Context, conn *grpc.ClientConn, method string, opts []grpc.CallOption) error {
	if c.known.Load() || strings.HasPrefix(method, healthService) {
		return nil
	}
	var md metadata.MD
	_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, append(slices.Clone(opts), grpc.Header(&md))...)
	if err != nil {
		return err
	}
	return c.check(md)
}

func (c *clientProtocol) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := c.meet(ctx, conn, method, waiting(opts)); err != nil {
		return err
	}
	var md metadata.MD
	err := invoke(c.outgoing(ctx), method, req, reply, conn, append(opts, grpc.Header(&md))...)
	if err != nil {
		c.lost(err)
		return err
	}
	if strings.HasPrefix(method, healthService) {
		return nil // its caller looks at the version
	}
	return c.check(md)
}

func (c *clientProtocol) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := c.meet(ctx, conn, method, waiting(opts)); err != nil {
		return nil, err
	}
	s, err := open(c.outgoing(ctx), desc, conn, method, opts...)
	if err != nil {
		c.lost(err)
		return nil, err
	}
	return &checkedStream{ClientStream: s, c: c}, nil
}

// waiting are those of a call's options that say whether it waits for a connection.
func waiting(opts []grpc.CallOption) []grpc.CallOption {
	var out []grpc.CallOption
	for _, o := range opts {
		if w, ok := o.(grpc.FailFastCallOption); ok {
			out = append(out, w)
		}
	}
	return out
}

// checkedStream looks at the server's version before its first answer is used.
type checkedStream struct {
	grpc.ClientStream
	c    *clientProtocol
	once sync.Once
	err  error
}

// RecvMsg receives an answer, or says that the server is of another version.
func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil {
		s.c.lost(err)
		return err
	}
	s.once.Do(func() {
		md, err := s.Header()
		if err == nil {
			err = s.c.check(md)
		} else {
			err = fmt.Errorf("read the version of the protocol: %w", err)
		}
		s.err = err
	})
	return s.err
}
