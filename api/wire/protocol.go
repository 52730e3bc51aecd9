package wire

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Protocol is the version of what agents and ssctl say to each other. It changes when one side would take what the other
// says for something else. Programs from before there was a version count as 1.
const Protocol = 2

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
	return status.Errorf(codes.FailedPrecondition, "%s speaks version %d of the protocol and %s speaks version %d; upgrade %s",
		self, own, other, theirs, older)
}

// ServerProtocol makes a server refuse callers of another version, with a sentence that says what to upgrade, and tell everyone its own. self
// is what the server calls itself.
func ServerProtocol(self string) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	mine := metadata.Pairs(protocolKey, strconv.Itoa(Protocol))
	check := func(ctx context.Context, method string) error {
		md, _ := metadata.FromIncomingContext(ctx)
		if strings.HasPrefix(method, healthService) {
			return nil
		}
		return mismatch(self, Protocol, "the caller", protocolOf(md))
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

// WithProtocol makes a client tell its version with every call, and refuse the answers of a server of another one. self is what the
// client calls itself, host the name of the host that it calls.
func WithProtocol(self, host string) []grpc.DialOption {
	other := "the agent of " + host
	check := func(md metadata.MD) error { return mismatch(self, Protocol, other, protocolOf(md)) }
	unary := func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		var md metadata.MD
		ctx = metadata.AppendToOutgoingContext(ctx, protocolKey, strconv.Itoa(Protocol))
		if err := invoke(ctx, method, req, reply, conn, append(opts, grpc.Header(&md))...); err != nil {
			return err
		}
		return check(md)
	}
	stream := func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx = metadata.AppendToOutgoingContext(ctx, protocolKey, strconv.Itoa(Protocol))
		s, err := open(ctx, desc, conn, method, opts...)
		if err != nil {
			return nil, err
		}
		return &checkedStream{ClientStream: s, check: check}, nil
	}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream)}
}

// checkedStream looks at the server's version before its first answer is used.
type checkedStream struct {
	grpc.ClientStream
	check func(metadata.MD) error
	once  sync.Once
	err   error
}

// RecvMsg receives an answer, or says that the server is of another version.
func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	s.once.Do(func() {
		md, err := s.Header()
		if err == nil {
			err = s.check(md)
		} else {
			err = fmt.Errorf("read the version of the protocol: %w", err)
		}
		s.err = err
	})
	return s.err
}
