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

// TestNamesFollowEveryMove: the programs of a job know its parts by the addresses of their home, whatever moves there were.
func TestNamesFollowEveryMove(t *testing.T) {
	type step struct{ moved, want map[string]string }
	for name, steps := range map[string][]step{
		"in place":               {{nil, nil}},
		"a move and in place":    {{map[string]string{"1": "3"}, map[string]string{"3": "1"}}, {nil, map[string]string{"3": "1"}}},
		"two moves":              {{map[string]string{"1": "3"}, map[string]string{"3": "1"}}, {map[string]string{"3": "4"}, map[string]string{"4": "1"}}},
		"back at home":           {{map[string]string{"1": "3"}, map[string]string{"3": "1"}}, {map[string]string{"3": "1"}, nil}, {map[string]string{"1": "4"}, map[string]string{"4": "1"}}},
		"a swap and back":        {{map[string]string{"1": "2", "2": "1"}, map[string]string{"2": "1", "1": "2"}}, {map[string]string{"1": "2", "2": "1"}, nil}},
		"onto a part that stays": {{map[string]string{"1": "2"}, nil}, {map[string]string{"2": "4"}, map[string]string{"4": "2"}}},
		"three in a ring": {
			{map[string]string{"1": "2", "2": "3"}, map[string]string{"2": "1", "3": "2"}},
			{map[string]string{"2": "3", "3": "1"}, map[string]string{"3": "1", "1": "2"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			at, names := []string{"10.0.0.1", "10.0.0.2"}, store.Aliases(nil)
			full := func(in map[string]string) map[string]string {
				out := map[string]string{}
				for from, to := range in {
					out["10.0.0."+from] = "10.0.0." + to
				}
				return out
			}
			for i, s := range steps {
				var cut store.Cut
				moved := map[netip.Addr]netip.Addr{}
				for from, to := range full(s.moved) {
					moved[netip.MustParseAddr(from)] = netip.MustParseAddr(to)
				}
				for k, a := range at {
					cut.Hosts = append(cut.Hosts, store.CutHost{Addrs: []string{a}, Members: []store.CutMember{{Names: names}}})
					if to, ok := moved[netip.MustParseAddr(a)]; ok {
						at[k] = to.String()
					}
				}
				if names = nameAddrs(cut, moved); !maps.Equal(map[string]string(names), full(s.want)) {
					t.Fatalf("step %d: %v, want %v", i+1, names, full(s.want))
				}
			}
		})
	}
}
