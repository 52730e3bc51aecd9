package rpc

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"ss/api/wire"
)

const (
	// strangersMax is how many connections may be unauthenticated at one time. A handshake takes milliseconds, so a
	// cluster of many hundred hosts stays far below it, and so does what they cost: a descriptor and some 30 KiB each.
	strangersMax = 256
	// handshakeMax is how long a connection may take for TLS and the first frames of HTTP/2. The other end waits as long.
	handshakeMax = wire.HandshakeTimeout
	// headersMax bounds the headers of one call, in bytes. Ours have a few hundred.
	headersMax = 64 << 10
	// callsMax bounds how many calls one connection may have under way. A peer has two for each job and one for each object.
	callsMax = 1024
)

// Door is a listener that strangers cannot block. It bounds how many of its connections are unauthenticated at one time.
// When one too many comes, it closes the oldest of the address that has the most of them. So a single address that opens
// thousands and says nothing displaces its own connections, and no others. The addresses of an IPv6 network count as one.
//
// A connection stops being a stranger when Door's TLS (see guard) has verified its certificate.
type Door struct {
	net.Listener
	max int

	mu        sync.Mutex
	closed    bool
	total     int
	strangers map[netip.Addr][]*stranger // oldest first
	counted   func(total int)            // for tests: called with mu held when total has changed; nil: nobody is told
}

// NewDoor makes a Door of a listener.
func NewDoor(l net.Listener) *Door {
	return &Door{Listener: l, max: strangersMax, strangers: map[netip.Addr][]*stranger{}}
}

// Accept waits for the next connection.
func (d *Door) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s := &stranger{Conn: c, door: d, from: remote(c)}
	if displaced := d.admit(s); displaced != nil {
		_ = displaced.Conn.Close() // it has said nothing that anybody waits for
	}
	return s, nil
}

// Close closes the listener and every connection that is unauthenticated. Those that are authenticated stay.
func (d *Door) Close() error {
	d.mu.Lock()
	d.closed = true
	var all []*stranger
	for _, waiting := range d.strangers {
		all = append(all, waiting...)
	}
	clear(d.strangers)
	d.count(-d.total)
	d.mu.Unlock()
	for _, s := range all {
		_ = s.Conn.Close()
	}
	return d.Listener.Close()
}

// admit notes a stranger and returns the one that has to go for it, if any.
func (d *Door) admit(s *stranger) (displaced *stranger) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return s
	}
	d.strangers[s.from] = append(d.strangers[s.from], s)
	d.count(1)
	if d.total <= d.max {
		return nil
	}
	var most netip.Addr
	for from, waiting := range d.strangers {
		if len(waiting) > len(d.strangers[most]) {
			most = from
		}
	}
	displaced = d.strangers[most][0]
	d.remove(displaced)
	return displaced
}

// count changes how many strangers there are. The caller holds mu.
func (d *Door) count(by int) {
	d.total += by
	if d.counted != nil {
		d.counted(d.total)
	}
}

// remove forgets a stranger, if it still is one. The caller holds mu.
func (d *Door) remove(s *stranger) {
	waiting := d.strangers[s.from]
	for i, w := range waiting {
		if w != s {
			continue
		}
		d.count(-1)
		if len(waiting) == 1 {
			delete(d.strangers, s.from)
			return
		}
		d.strangers[s.from] = append(waiting[:i:i], waiting[i+1:]...)
		return
	}
}

// networkBits is how much of an IPv6 address names the network that it is from. A single host may use all addresses of one.
const networkBits = 64

// remote is the address that a connection comes from, or its network for IPv6. What has none, as a pipe in a test, counts as one address.
func remote(c net.Conn) netip.Addr {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := a.AddrPort().Addr().Unmap()
	if addr.Is4() {
		return addr
	}
	network, err := addr.WithZone("").Prefix(networkBits)
	if err != nil {
		return addr
	}
	return network.Addr()
}

// stranger is a connection of a Door.
type stranger struct {
	net.Conn
	door *Door
	from netip.Addr
}

// Close closes the connection.
func (s *stranger) Close() error {
	s.known()
	return s.Conn.Close()
}

// known ends the connection's being a stranger.
func (s *stranger) known() {
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	s.door.remove(s)
}

// guard is TLS that tells a connection's Door when the other end has shown a valid certificate.
type guard struct {
	credentials.TransportCredentials
}

// ServerHandshake is TLS's own.
func (g guard) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := g.TransportCredentials.ServerHandshake(raw)
	if s, ok := raw.(*stranger); ok && err == nil {
		s.known()
	}
	return c, info, err
}

// Clone copies the guard with its TLS.
func (g guard) Clone() credentials.TransportCredentials {
	return guard{g.TransportCredentials.Clone()}
}

// Stop ends a server's calls and returns when they have ended, or when ctx is over: no peer may keep an agent from
// stopping. What a call has left unfinished then, the agent's next start settles, as after a crash.
func Stop(ctx context.Context, s interface{ Stop() }) error {
	done := make(chan struct{})
	go func() { s.Stop(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// StopMax is how long Stop should be given: handlers of calls that have lost their connection return at once, unless
// they ask other hosts what became of a restore.
const StopMax = 6 * time.Second
