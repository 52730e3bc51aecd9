package identity

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// KindRemoved is the kind of the signed statement that the list of removed hosts is.
const KindRemoved = "hosts removed"

// Removed is the list of hosts that were removed from the cluster. Whoever has a certificate of one of them is nobody, although it has not
// expired.
type Removed struct {
	Schema  int    `json:"schema"`  // 1
	Version uint64 `json:"version"` // of two lists the higher counts
	// Hosts maps the name of each host that was ever removed to the serial number, in hex, of the one certificate of it that counts: the one that
	// it got when it was added again. "" where it was not.
	Hosts map[string]string `json:"hosts"`
}

// SignRemoved makes a list for everyone to see. Only an admin can.
func (c *Credentials) SignRemoved(r Removed) ([]byte, error) {
	r.Schema = 1
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("list of removed hosts: %w", err)
	}
	return c.SignStatement(KindRemoved, body)
}

// OpenRemoved reads a list that an admin of this cluster signed.
func (c *Credentials) OpenRemoved(statement []byte) (Removed, error) {
	body, err := c.OpenStatement(KindRemoved, statement)
	if err != nil {
		return Removed{}, err
	}
	var r Removed
	if err := json.Unmarshal(body, &r); err != nil {
		return Removed{}, fmt.Errorf("list of removed hosts: %w: %w", err, ErrIdentity)
	}
	if r.Schema != 1 {
		return Removed{}, fmt.Errorf("list of removed hosts has schema %d, this program knows 1: use a newer one: %w", r.Schema, ErrIdentity)
	}
	return r, nil
}

// removedHosts is the newest list that a holder knows.
type removedHosts struct {
	mu        sync.RWMutex
	list      Removed
	statement []byte
}

// TakeRemoved makes a list count, from the next handshake and the next call on, if an admin signed it and it is newer than the one that is known. It says
// whether it was.
func (c *Credentials) TakeRemoved(statement []byte) (bool, error) {
	r, err := c.OpenRemoved(statement)
	if err != nil {
		return false, err
	}
	c.removed.mu.Lock()
	defer c.removed.mu.Unlock()
	if r.Version <= c.removed.list.Version {
		return false, nil
	}
	c.removed.list, c.removed.statement = r, bytes.Clone(statement)
	return true, nil
}

// Removed is the newest list that is known, signed; nil if none is.
func (c *Credentials) Removed() []byte {
	c.removed.mu.RLock()
	defer c.removed.mu.RUnlock()
	return c.removed.statement
}

// checkRemoved refuses the certificate of a host that was removed.
func (c *Credentials) checkRemoved(id Identity, cert *x509.Certificate) error {
	if id.Role != RoleAgent || c.removed == nil {
		return nil
	}
	c.removed.mu.RLock()
	defer c.removed.mu.RUnlock()
	counts, listed := c.removed.list.Hosts[id.Name]
	if listed && counts != SerialOf(cert) {
		return fmt.Errorf("host %q was removed from the cluster, and this certificate of it counts no more; ssctl host add %s makes another: %w", id.Name, id.Name, ErrIdentity)
	}
	return nil
}

// SerialOf is a certificate's serial number as a list of removed hosts has it.
func SerialOf(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

// Serial is the serial number of the bundle's certificate.
func (b Bundle) Serial() (string, error) {
	cert, err := parseCert(b.CertPEM)
	if err != nil {
		return "", fmt.Errorf("certificate of %s: %w", b.Identity.Name, err)
	}
	return SerialOf(cert), nil
}

// stillThere refuses a call over a connection that a host made before it was removed.
func (c *Credentials) stillThere(ctx context.Context) error {
	id, err := FromContext(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	p, _ := peer.FromContext(ctx)
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		if err := c.checkRemoved(id, info.State.VerifiedChains[0][0]); err != nil {
			return status.Error(codes.Unauthenticated, err.Error())
		}
	}
	return nil
}

// Unary refuses calls of removed hosts.
func (c *Credentials) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := c.stillThere(ctx); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// Stream refuses streams of removed hosts, and ends at its next message one that a host has when it is removed.
func (c *Credentials) Stream() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := c.stillThere(stream.Context()); err != nil {
			return err
		}
		return handler(srv, watched{stream, c})
	}
}

type watched struct {
	grpc.ServerStream
	c *Credentials
}

func (w watched) RecvMsg(m any) error {
	if err := w.c.stillThere(w.Context()); err != nil {
		return err
	}
	return w.ServerStream.RecvMsg(m)
}

func (w watched) SendMsg(m any) error {
	if err := w.c.stillThere(w.Context()); err != nil {
		return err
	}
	return w.ServerStream.SendMsg(m)
}
