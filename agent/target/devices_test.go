package target

import (
	"net"
	"strings"
	"testing"
)

// TestDevices: CRIU binds a packet socket by the number of its device.
func TestDevices(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		device NeededDevice
		want   string
	}{
		{NeededDevice{lo.Index, "lo"}, ""},
		{NeededDevice{lo.Index, "eth7"}, "here that is lo"},
		{NeededDevice{1 << 30, "eth7"}, "none of that number"},
		{NeededDevice{1 << 30, ""}, ""},
	} {
		p := plan{Target: Target{Coming: []Arrival{{Source: "hostA", Member: "a", Needs: Needs{Objects: NeededObjects{Devices: []NeededDevice{tt.device}}}}}}}
		p.devices()
		text := strings.Join(p.found, "\n")
		if !strings.Contains(text, tt.want) || (tt.want == "") != (text == "") {
			t.Errorf("%+v: %q", tt.device, text)
		}
	}
}
