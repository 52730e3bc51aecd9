package wire

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ss/fault"
)

// TestUnreachableIsSaidPlainly: gRPC's wrapping goes, the reason stays.
func TestUnreachableIsSaidPlainly(t *testing.T) {
	for text, want := range map[string]string{
		`connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.2:7070: connect: connection refused"`: "dial tcp 10.0.0.2:7070: connect: connection refused",
		`last connection error: connection error: desc = "transport: authentication handshake failed: EOF"`:              "authentication handshake failed: EOF",
		"error reading from server: read tcp 10.0.0.1:1->10.0.0.2:7070: connection reset by peer":                        "read tcp 10.0.0.1:1->10.0.0.2:7070: connection reset by peer",
		"the agent is stopping": "the agent is stopping",
	} {
		err := Error("hostB", status.Error(codes.Unavailable, text))
		if !fault.Is(err, fault.Unreachable) || !strings.HasPrefix(err.Error(), "host hostB cannot be reached: "+want+";") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
