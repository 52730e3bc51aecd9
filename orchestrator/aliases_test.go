package orchestrator

import (
	"maps"
	"net/netip"
	"testing"

	"ss/store"
)

// TestAliasesFollowEveryMove: where the addresses of a job's past are after one restore more.
func TestAliasesFollowEveryMove(t *testing.T) {
	for name, tt := range map[string]struct {
		addrs  [][]string // of each host of the cut
		before store.Aliases
		moved  map[string]string
		want   store.Aliases
	}{
		"in place":                        {addrs: [][]string{{"10.0.0.1"}, {"10.0.0.2"}}, want: store.Aliases{}},
		"a move":                          {addrs: [][]string{{"10.0.0.1"}, {"10.0.0.2"}}, moved: map[string]string{"10.0.0.1": "10.0.0.3"}, want: store.Aliases{"10.0.0.1": "10.0.0.3"}},
		"in place after a move":           {addrs: [][]string{{"10.0.0.3"}, {"10.0.0.2"}}, before: store.Aliases{"10.0.0.1": "10.0.0.3"}, want: store.Aliases{"10.0.0.1": "10.0.0.3"}},
		"a second move":                   {addrs: [][]string{{"10.0.0.3"}, {"10.0.0.2"}}, before: store.Aliases{"10.0.0.1": "10.0.0.3"}, moved: map[string]string{"10.0.0.3": "10.0.0.4"}, want: store.Aliases{"10.0.0.1": "10.0.0.4", "10.0.0.3": "10.0.0.4"}},
		"back at home":                    {addrs: [][]string{{"10.0.0.4"}, {"10.0.0.2"}}, before: store.Aliases{"10.0.0.1": "10.0.0.4"}, moved: map[string]string{"10.0.0.4": "10.0.0.1"}, want: store.Aliases{"10.0.0.4": "10.0.0.1"}},
		"a swap":                          {addrs: [][]string{{"10.0.0.1"}, {"10.0.0.2"}}, moved: map[string]string{"10.0.0.1": "10.0.0.2", "10.0.0.2": "10.0.0.1"}, want: store.Aliases{"10.0.0.1": "10.0.0.2", "10.0.0.2": "10.0.0.1"}},
		"a bridge's address":              {addrs: [][]string{{"10.0.0.1", "172.17.0.1"}, {"10.0.0.2", "172.17.0.1"}}, moved: map[string]string{"172.17.0.1": "172.17.0.5"}, want: store.Aliases{}},
		"an old address, in use by a new": {addrs: [][]string{{"10.0.0.3"}, {"10.0.0.1"}}, before: store.Aliases{"10.0.0.1": "10.0.0.3"}, moved: map[string]string{"10.0.0.1": "10.0.0.2"}, want: store.Aliases{"10.0.0.1": "10.0.0.3"}},
	} {
		t.Run(name, func(t *testing.T) {
			var cut store.Cut
			for _, a := range tt.addrs {
				cut.Hosts = append(cut.Hosts, store.CutHost{Addrs: a, Members: []store.CutMember{{Aliases: tt.before}}})
			}
			moved := map[netip.Addr]netip.Addr{}
			for from, to := range tt.moved {
				moved[netip.MustParseAddr(from)] = netip.MustParseAddr(to)
			}
			if got := aliases(cut, moved); !maps.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
