package names_test

import (
	"net/netip"
	"strings"
	"testing"

	"ss/names"
)

func TestNoAgentAt(t *testing.T) {
	for addr, want := range map[string]string{
		"0.0.0.0": "unspecified", "::": "unspecified", "::ffff:0.0.0.0": "unspecified", "255.255.255.255": "broadcast", "::ffff:255.255.255.255": "broadcast",
		"224.0.0.1": "multicast", "239.255.255.255": "multicast", "ff02::1": "multicast", "ff02::1%eth0": "multicast", "fe80::1": "without a zone",
		"fe80::1%eth0": "", "169.254.1.2": "", "10.0.0.1": "", "10.0.0.255": "", "127.0.0.1": "", "::1": "", "fd00::1": "", "2001:db8::1": "", "::ffff:10.0.0.1": "",
	} {
		if got := names.NoAgentAt(netip.MustParseAddr(addr)); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}
