package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"ss/api/identity"
)

// doorServer is a server behind a Door that lets in max strangers.
type doorServer struct {
	*hostAgent
	door   *Door
	served chan error
}

func serveDoor(t *testing.T, max int) *doorServer {
	t.Helper()
	h := serveAgent(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	d := &doorServer{hostAgent: h, door: NewDoor(l), served: make(chan error, 1)}
	d.door.max = max
	go func() { d.served <- h.server.Serve(d.door) }()
	t.Cleanup(func() { _ = d.door.Close() })
	return d
}

// knock opens a connection from an address of this machine and says nothing.
func (d *doorServer) knock(t *testing.T, from string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := dialer.DialContext(t.Context(), "tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// strangersAre returns when the door counts that many strangers.
func (d *doorServer) strangersAre(t *testing.T, want int) {
	t.Helper()
	there := make(chan struct{}, 1)
	d.door.mu.Lock()
	d.door.counted = func(total int) {
		if total == want {
			select {
			case there <- struct{}{}:
			default:
			}
		}
	}
	d.door.counted(d.door.total)
	d.door.mu.Unlock()
	select {
	case <-there:
	case <-time.After(callTimeout):
		d.door.mu.Lock()
		defer d.door.mu.Unlock()
		t.Fatalf("%d strangers, want %d", d.door.total, want)
	}
}

// gone waits until the other end has closed a connection.
func gone(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(callTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the connection from %s was not closed: %v", c.LocalAddr(), err)
	} else if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		t.Fatalf("the connection from %s was not closed: %v", c.LocalAddr(), err)
	}
}

// TestDoorDisplaces: an address that opens too many connections loses its own oldest, and nobody else's.
func TestDoorDisplaces(t *testing.T) {
	d := serveDoor(t, 4)
	other := d.knock(t, "127.0.0.2")
	d.strangersAre(t, 1)
	var flood []net.Conn
	for i := range 20 {
		flood = append(flood, d.knock(t, "127.0.0.3"))
		d.strangersAre(t, min(i+2, 4))
	}
	for _, c := range flood[:17] {
		gone(t, c)
	}
	// The others are there: only a connection that lives can be told anything.
	for _, c := range append(flood[17:], other) {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			t.Errorf("the connection from %s is closed", c.LocalAddr())
		}
	}
}

// pretend is a connection from an address of which this machine has none.
type pretend struct {
	net.Conn
	from net.TCPAddr
}

func (p pretend) RemoteAddr() net.Addr { return &p.from }

// TestDoorCountsNetworks: a host that uses one IPv6 address of its network after the other displaces its own connections. Addresses in IPv4, and
// the same written as IPv6, are one each.
func TestDoorCountsNetworks(t *testing.T) {
	d := NewDoor(nil)
	d.max = 4
	knock := func(from string) *stranger {
		t.Helper()
		c, other := net.Pipe()
		t.Cleanup(func() { c.Close(); other.Close() })
		p := pretend{Conn: c, from: net.TCPAddr{IP: net.ParseIP(from), Port: 1}}
		return &stranger{Conn: p, door: d, from: remote(p)}
	}
	var innocent []*stranger
	for _, from := range []string{"192.0.2.1", "::ffff:192.0.2.2", "2001:db8:0:2::1"} {
		s := knock(from)
		innocent = append(innocent, s)
		if displaced := d.admit(s); displaced != nil {
			t.Fatalf("%s displaces %s", from, displaced.from)
		}
	}
	for i := range 300 {
		s := knock(fmt.Sprintf("2001:db8:0:1:%x:%x::%x", i*7, i, i+1))
		if displaced := d.admit(s); slices.Contains(innocent, displaced) {
			t.Fatalf("address %d of one network displaces %s", i, displaced.from)
		}
	}
}

// TestDoorLetsIn: in the midst of a flood, from their own address too, those with a certificate are served, and leave the count.
func TestDoorLetsIn(t *testing.T) {
	d := serveDoor(t, 16)
	end := make(chan struct{})
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		var conns []net.Conn
		for len(conns) < 3000 {
			select {
			case <-end:
				return
			default:
			}
			c, err := net.Dial("tcp", d.addr)
			if err != nil {
				continue // the descriptor limit of this test's own process
			}
			defer c.Close()
			conns = append(conns, c)
		}
	}()
	for range 20 {
		creds := issue(t, d.authority, identity.RoleAdmin, "admin")
		conn := d.dial(t, credentials.NewTLS(creds.Client(identity.RoleAgent, "hostA")))
		ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
		if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Error(err)
		}
		cancel()
		conn.Close()
	}
	close(end)
	<-flooded
	d.strangersAre(t, 0)
}

// TestDoorStops: strangers do not keep a server from stopping, whatever they have said so far.
func TestDoorStops(t *testing.T) {
	d := serveDoor(t, 16)
	silent := d.knock(t, "127.0.0.1")
	began := d.knock(t, "127.0.0.1")
	if _, err := began.Write([]byte{22, 3, 1, 0, 200, 1}); err != nil { // the first bytes of a handshake (RFC 8446, 5.1)
		t.Fatal(err)
	}
	d.strangersAre(t, 2)
	// One that is not a stranger, and keeps the server waiting for HTTP/2's first bytes.
	creds := issue(t, d.authority, identity.RoleAgent, "hostB")
	known := tls.Client(d.knock(t, "127.0.0.1"), tlsConfig(creds))
	if err := known.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.strangersAre(t, 2)
	if err := d.door.Close(); err != nil {
		t.Fatal(err)
	}
	gone(t, silent)
	gone(t, began)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := Stop(ctx, d.server); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a connection that is half open was to hold the server up: %v", err)
	}
	known.Close()
	if err := Stop(t.Context(), d.server); err != nil {
		t.Error(err)
	}
}

func tlsConfig(creds *identity.Credentials) *tls.Config {
	c := creds.Client(identity.RoleAgent, "hostA")
	c.NextProtos = []string{"h2"}
	return c
}
