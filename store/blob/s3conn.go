package blob

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// newTransport makes connections that end by themselves after idle without a byte in either direction, so that a server
// that died, or a network that swallows packets, does not hold up a transfer; one that is slow may take as long as it does.
func newTransport(idle time.Duration) *http.Transport {
	dialer := net.Dialer{Timeout: min(idle, 10*time.Second), KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &watched{Conn: c, idle: idle}, nil
		},
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     idle / 2,
		TLSHandshakeTimeout: min(idle, 10*time.Second),
		DisableCompression:  true, // an object's bytes are its own
	}
}

// watched is a connection with a deadline that each step pushes on. The transport reads ahead while it writes, so that
// the two share one.
type watched struct {
	net.Conn
	idle time.Duration
}

// Read is net.Conn's.
func (c *watched) Read(p []byte) (int, error) {
	if err := c.push(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// writePiece is how much is written under one deadline.
const writePiece = 64 << 10

// Write is net.Conn's.
func (c *watched) Write(p []byte) (int, error) {
	done := 0
	for {
		if err := c.push(); err != nil {
			return done, err
		}
		n, err := c.Conn.Write(p[done:min(done+writePiece, len(p))])
		done += n
		if err != nil || done == len(p) {
			return done, err
		}
	}
}

func (c *watched) push() error { return c.SetDeadline(time.Now().Add(c.idle)) }

// jitter is between nothing and d, so that many hosts that were told to slow down do not come back all at once.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }
