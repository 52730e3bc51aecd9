package gate

import (
	"encoding/hex"
	"strings"
	"testing"
)

const (
	ipv4Header = "45000034 00004000 40060000 0a4d0001 0a4d0002"
	ipv6Header = "60000000 0014NN40 fd770000000000000000000000000001 fd770000000000000000000000000002"
	tcpFront   = "04d2 1f90 00000001 00000000 50" // up to the flags
)

func TestIsHandshake(t *testing.T) {
	v6 := func(next string) string { return strings.Replace(ipv6Header, "NN", next, 1) }
	for _, test := range []struct {
		name, packet string
		want         bool
	}{
		{"v4 SYN", ipv4Header + tcpFront + "02 ffff", true},
		{"v4 SYN-ACK", ipv4Header + tcpFront + "12 ffff", true},
		{"v4 SYN with ECN", ipv4Header + tcpFront + "c2 ffff", true},
		{"v4 ACK", ipv4Header + tcpFront + "10 ffff", false},
		{"v4 RST", ipv4Header + tcpFront + "04 ffff", false},
		{"v4 FIN-ACK", ipv4Header + tcpFront + "11 ffff", false},
		{"v4 SYN behind options", "46" + ipv4Header[2:] + "01010101" + tcpFront + "02 ffff", true},
		{"v4 UDP", strings.Replace(ipv4Header, "4006", "4011", 1) + tcpFront + "02 ffff", false},
		{"v4 cut short", ipv4Header + tcpFront, false},
		{"v6 SYN", v6("06") + tcpFront + "02 ffff", true},
		{"v6 PSH-ACK", v6("06") + tcpFront + "18 ffff", false},
		{"v6 SYN behind destination options", v6("3c") + "0600 010400000000" + tcpFront + "02 ffff", true},
		{"v6 SYN behind two headers", v6("00") + "3c00 010400000000" + "0601 010400000000 0000000000000000" + tcpFront + "02 ffff", true},
		{"v6 unknown header", v6("fd") + tcpFront + "02 ffff", false},
		{"v6 header longer than the packet", v6("3c") + "06ff 010400000000", false},
		{"nothing", "", false},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(test.packet, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if got := isHandshake(b); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func FuzzIsHandshake(f *testing.F) {
	for _, s := range []string{ipv4Header + tcpFront + "02ffff", strings.Replace(ipv6Header, "NN", "00", 1) + "0600010400000000"} {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { isHandshake(b) }) // must not panic, whatever comes in
}
