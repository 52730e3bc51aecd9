package wire

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
)

// A host that is dead does not answer at all, and a restore waits dialTimeout, which covers one repetition of a
// lost SYN, before it believes that. A kernel answers however busy its host is; the agent's part of a TLS
// handshake may take until HandshakeTimeout.
const (
	dialTimeout      = 2 * time.Second
	HandshakeTimeout = 10 * time.Second
)

// WithDialer makes connections whose end is dead fail soon, and gives those to busy hosts time. Callers set
// grpc.ConnectParams.MinConnectTimeout to HandshakeTimeout.
func WithDialer() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout}
		return d.DialContext(ctx, "tcp", addr)
	})
}
