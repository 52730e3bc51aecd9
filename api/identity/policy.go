package identity

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// FromContext says who calls, in a grpc handler behind a Credentials.Server. A connection that was not
// verified has no identity.
func FromContext(ctx context.Context) (Identity, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, fmt.Errorf("not within a call: %w", ErrIdentity)
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return Identity{}, fmt.Errorf("connection from %v is not TLS: %w", p.Addr, ErrIdentity)
	}
	if len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return Identity{}, fmt.Errorf("connection from %v has no verified certificate: %w", p.Addr, ErrIdentity)
	}
	return OfCertificate(info.State.VerifiedChains[0][0])
}

// Policy maps a method's full name ("/ss.v1.Agent/Snapshot") to the roles that may call it. What it does
// not name, nobody may.
type Policy map[string][]Role

// Allow says whether the caller may call method: nil, or a grpc status Unauthenticated or PermissionDenied.
func (p Policy) Allow(ctx context.Context, method string) error {
	id, err := FromContext(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if !slices.Contains(p[method], id.Role) {
		return status.Errorf(codes.PermissionDenied, "%s %q may not call %s", id.Role, id.Name, method)
	}
	return nil
}

// Unary applies the policy to unary calls.
func (p Policy) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := p.Allow(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// Stream applies the policy to streams, before the first message is read.
func (p Policy) Stream() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := p.Allow(stream.Context(), info.FullMethod); err != nil {
			return err
		}
		return handler(srv, stream)
	}
}
