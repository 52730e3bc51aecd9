package orchestrator

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"ss/fault"
	"ss/store"
)

// addrHost is a host of a cluster with networks, reached under the first.
func addrHost(name string, networks ...string) HostStatus {
	h := HostStatus{Host: store.Host{Name: name}, Info: HostInfo{Host: name}}
	for i, n := range networks {
		p := netip.MustParsePrefix(n)
		if i == 0 {
			h.Addr = netip.AddrPortFrom(p.Addr(), 7070).String()
		}
		h.Info.Networks = append(h.Info.Networks, p)
		h.Info.Addrs = append(h.Info.Addrs, p.Addr())
	}
	return h
}

// addrRestore plans a restore of hostA's part, and of hostB's where it was, and of a channel between them over the given address of hostA.
func addrRestore(t *testing.T, hosts []HostStatus, a, b []string, uses, target string) *restore {
	t.Helper()
	cut := store.Cut{ID: "cut", Hosts: []store.CutHost{{Host: "hostA", Addrs: a}, {Host: "hostB", Addrs: b}}}
	from, to := netip.AddrPortFrom(netip.MustParseAddr(uses), 5000).String(), netip.AddrPortFrom(netip.MustParseAddr(b[0]), 9001).String()
	cut.Channels = []store.CutChannel{
		{FromHost: "hostA", FromAddr: from, ToHost: "hostB", ToAddr: to}, {FromHost: "hostB", FromAddr: to, ToHost: "hostA", ToAddr: from},
	}
	r := &restore{hosts: map[string]HostStatus{}, plan: RestorePlan{Cut: cut, Moved: map[netip.Addr]netip.Addr{}}}
	for _, h := range hosts {
		r.hosts[h.Name] = h
	}
	r.plan.Parts = []PlannedPart{{From: "hostA", To: target}, {From: "hostB", To: "hostB"}}
	return r
}

func TestAddressesMoveWithinANetwork(t *testing.T) {
	const docker = "172.17.0.1/16"
	hostB := addrHost("hostB", "10.0.0.2/24", docker)
	type list = []string
	for name, tt := range map[string]struct {
		hosts    []HostStatus
		addrs    list // of hostA in the cut
		uses     string
		target   string
		asked    map[string]string
		moved    map[string]string
		problems list // words of the one fault that is wanted
		kind     fault.Kind
	}{
		"the same network": {
			hosts: []HostStatus{hostB, addrHost("hostC", "10.0.0.3/24", docker)}, addrs: list{"10.0.0.1", "172.17.0.1"}, uses: "10.0.0.1", target: "hostC",
			moved: map[string]string{"10.0.0.1": "10.0.0.3"},
		},
		"the longest common prefix is another network": {
			hosts: []HostStatus{addrHost("hostA", "172.18.0.1/16"), hostB, addrHost("hostC", "192.168.0.3/24", docker)}, addrs: list{"172.18.0.1", "172.19.0.9"},
			uses: "172.19.0.9", target: "hostC", moved: map[string]string{"172.18.0.1": "192.168.0.3"},
			problems: list{"hostC", "172.19.0.9, which is on none of its networks", docker, "--remap-addr 172.19.0.9="},
		},
		"reached under": {
			hosts: []HostStatus{addrHost("hostA", "172.18.0.1/16"), hostB, addrHost("hostC", "192.168.0.3/24", docker)}, addrs: list{"172.18.0.1"},
			uses: "172.18.0.1", target: "hostC", moved: map[string]string{"172.18.0.1": "192.168.0.3"},
		},
		"the only address of a host that is not registered any more": {
			hosts: []HostStatus{hostB, addrHost("hostC", "192.168.0.3/24", docker)}, addrs: list{"10.9.0.1"}, uses: "10.9.0.1", target: "hostC",
			moved: map[string]string{"10.9.0.1": "192.168.0.3"},
		},
		"two on the network, one is reached": {
			hosts: []HostStatus{hostB, addrHost("hostC", "10.0.0.3/24", "10.0.0.33/24")}, addrs: list{"10.0.0.1"}, uses: "10.0.0.1", target: "hostC",
			moved: map[string]string{"10.0.0.1": "10.0.0.3"},
		},
		"two on the network": {
			hosts: []HostStatus{hostB, addrHost("hostC", "192.168.0.3/24", "10.0.0.3/24", "10.0.0.33/24")}, addrs: list{"10.0.0.1"}, uses: "10.0.0.1", target: "hostC",
			moved: map[string]string{}, problems: list{"may become any of 10.0.0.3, 10.0.0.33", "--remap-addr 10.0.0.1="},
		},
		"asked for": {
			hosts: []HostStatus{hostB, addrHost("hostC", "10.0.0.3/24", docker)}, addrs: list{"10.0.0.1"}, uses: "10.0.0.1", target: "hostC",
			asked: map[string]string{"10.0.0.1": "172.17.0.1"}, moved: map[string]string{"10.0.0.1": "172.17.0.1"},
		},
		"asked for what is not there": {
			hosts: []HostStatus{hostB, addrHost("hostC", "10.0.0.3/24")}, addrs: list{"10.0.0.1"}, uses: "10.0.0.1", target: "hostC",
			asked: map[string]string{"10.0.0.1": "10.0.0.4"}, kind: fault.Usage,
		},
		"asked for an address of nobody": {
			hosts: []HostStatus{hostB, addrHost("hostC", "10.0.0.3/24")}, addrs: list{"10.0.0.1"}, uses: "10.0.0.1", target: "hostC",
			asked: map[string]string{"10.0.0.9": "10.0.0.3"}, kind: fault.NotFound,
		},
		"asked for another family": {
			hosts: []HostStatus{hostB, addrHost("hostC", "10.0.0.3/24", "fd00::3/64")}, addrs: list{"10.0.0.1"}, uses: "10.0.0.1", target: "hostC",
			asked: map[string]string{"10.0.0.1": "fd00::3"}, kind: fault.Usage,
		},
		"what nobody uses may have nowhere to go": {
			hosts: []HostStatus{hostB, addrHost("hostC", "10.0.0.3/24")}, addrs: list{"10.0.0.1", "172.17.0.1", "fd00::1"}, uses: "10.0.0.1", target: "hostC",
			moved: map[string]string{"10.0.0.1": "10.0.0.3"},
		},
		"one address of two hosts, which one of them uses": {
			hosts: []HostStatus{hostB, addrHost("hostC", "10.0.0.3/24", "172.17.0.5/16")}, addrs: list{"10.0.0.1", "172.17.0.1"}, uses: "172.17.0.1", target: "hostC",
			moved: map[string]string{"10.0.0.1": "10.0.0.3", "172.17.0.1": "172.17.0.5"},
		},
		"in place": {
			hosts: []HostStatus{addrHost("hostA", "10.0.0.1/24", docker), hostB}, addrs: list{"10.0.0.1", "172.17.0.1"}, uses: "10.0.0.1", target: "hostA",
			moved: map[string]string{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := addrRestore(t, tt.hosts, tt.addrs, list{"10.0.0.2", "172.17.0.1"}, tt.uses, tt.target)
			asked := map[netip.Addr]netip.Addr{}
			for from, to := range tt.asked {
				asked[netip.MustParseAddr(from)] = netip.MustParseAddr(to)
			}
			err := r.planAddrs(asked)
			if tt.kind != fault.Failed {
				if !fault.Is(err, tt.kind) {
					t.Fatalf("%v, want kind %d", err, tt.kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			moved := map[string]string{}
			for from, to := range r.plan.Moved {
				moved[from.String()] = to.String()
			}
			if !maps.Equal(moved, tt.moved) {
				t.Errorf("moved %v, want %v", moved, tt.moved)
			}
			if len(r.plan.Problems) != min(1, len(tt.problems)) {
				t.Fatalf("problems %v", r.plan.Problems)
			}
			for _, word := range tt.problems {
				if f := r.plan.Problems[0]; !strings.Contains(f.Host+": "+f.Text, word) {
					t.Errorf("no %q in %v", word, f)
				}
			}
		})
	}
}
