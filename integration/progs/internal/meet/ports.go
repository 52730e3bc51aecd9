package meet

import "net"

// FreePorts returns n different loopback addresses on which nobody listens, for tests. It calls fatal's Fatalf if there are none.
func FreePorts(fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}, n int) []string {
	fatal.Helper()
	var addrs []string
	for range n {
		// All are held until the last is found, so that no two are the same.
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fatal.Fatalf("find a free port: %v", err)
			return nil
		}
		defer listener.Close()
		addrs = append(addrs, listener.Addr().String())
	}
	return addrs
}
