package inventory

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEmptyBehind has an empty datagram wait behind others. It is found as often as it is looked for, nothing is taken away, and SO_PEEK_OFF is as it was.
func TestEmptyBehind(t *testing.T) {
	for _, c := range []struct {
		name     string
		kind     int
		messages []string
		ended    bool
		refused  bool
	}{
		{"none", unix.SOCK_DGRAM, nil, false, false},
		{"datagrams", unix.SOCK_DGRAM, []string{"one", "two", "three"}, false, false},
		{"the first", unix.SOCK_DGRAM, []string{"", "two"}, false, true},
		{"between", unix.SOCK_DGRAM, []string{"one", "", "three"}, false, true},
		{"the last", unix.SOCK_SEQPACKET, []string{"one", "two", ""}, false, true},
		{"packets", unix.SOCK_SEQPACKET, []string{"one", "two"}, false, false},
		{"packets and the end", unix.SOCK_SEQPACKET, []string{"one", "two"}, true, false},
		{"the end", unix.SOCK_SEQPACKET, nil, true, false},
		{"between, and the end", unix.SOCK_SEQPACKET, []string{"one", "", "three"}, true, true},
		{"a stream", unix.SOCK_STREAM, []string{"one", "", "three"}, false, false},
	} {
		for _, off := range []int{-1, 2} {
			t.Run(c.name, func(t *testing.T) {
				s, err := unix.Socketpair(unix.AF_UNIX, c.kind|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(s[0])
				defer unix.Close(s[1])
				for _, m := range c.messages {
					if err := unix.Sendto(s[0], []byte(m), 0, nil); err != nil {
						t.Fatal(err)
					}
				}
				if c.ended {
					if err := unix.Shutdown(s[0], unix.SHUT_RDWR); err != nil {
						t.Fatal(err)
					}
				}
				if err := unix.SetsockoptInt(s[1], unix.SOL_SOCKET, unix.SO_PEEK_OFF, off); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if why := emptyBehind(s[1]); (why != "") != c.refused {
						t.Errorf("%q", why)
					}
				}
				var refusal *Refusal
				if _, err := TakeFrozen(t.Context(), []int{os.Getpid()}); errors.As(err, &refusal) != c.refused || c.refused && !strings.Contains(err.Error(), "empty datagram") {
					t.Error(err)
				}
				if now, err := unix.GetsockoptInt(s[1], unix.SOL_SOCKET, unix.SO_PEEK_OFF); now != off || err != nil {
					t.Errorf("SO_PEEK_OFF is %d, %v", now, err)
				}
				if c.kind == unix.SOCK_STREAM {
					return
				}
				var b [9]byte
				for _, m := range c.messages {
					if n, _, err := unix.Recvfrom(s[1], b[:], unix.MSG_DONTWAIT); err != nil || string(b[:n]) != m {
						t.Errorf("%q, %v in the place of %q", b[:n], err, m)
					}
				}
				if why := emptyBehind(s[1]); why != "" {
					t.Errorf("%q, when all was read", why)
				}
			})
		}
	}
}
