package orchestrator

import (
	"slices"
	"testing"

	"ss/store"
)

// TestHostCopies: a vault is a copy, and the host itself is one; at least one host holds what it recorded.
func TestHostCopies(t *testing.T) {
	for _, tt := range []struct{ copies, vaults, want int }{
		{1, 0, 1}, {2, 0, 2}, {3, 0, 3}, {2, 1, 1}, {3, 1, 2}, {2, 2, 1}, {1, 1, 1}, {1, 5, 1}, {4, 2, 2},
	} {
		if got := HostCopies(tt.copies, tt.vaults); got != tt.want {
			t.Errorf("%d copies, %d vaults: %d hosts, want %d", tt.copies, tt.vaults, got, tt.want)
		}
	}
}

// TestOrderPutsTightHostsLast: room comes before rank, and among those with room, and among those without, rank decides.
func TestOrderPutsTightHostsLast(t *testing.T) {
	names := []string{"hostA", "hostB", "hostC", "hostD", "hostE"}
	var hosts []Candidate
	for i, n := range names {
		hosts = append(hosts, Candidate{n, int64(100 * (i % 2))})
	}
	got := OrderHolders("job", "hostA", hosts, 50)
	if len(got) != 4 || slices.Contains(got, "hostA") {
		t.Fatalf("%v: the source must not hold its own copy", got)
	}
	if want := rank("job", "hostA", []string{"hostB", "hostD"}); !slices.Equal(got[:2], want) {
		t.Errorf("with room: %v, want %v", got[:2], want)
	}
	if want := rank("job", "hostA", []string{"hostC", "hostE"}); !slices.Equal(got[2:], want) {
		t.Errorf("without room: %v, want %v", got[2:], want)
	}
}

// TestHoldersNamesEachOnce: whoever holds two parts of a cut is one holder.
func TestHoldersNamesEachOnce(t *testing.T) {
	hosts, vaults := Holders(store.Cut{Hosts: []store.CutHost{
		{Host: "b", Copies: []string{"b", "a"}, Vaults: []string{"file:///v"}}, {Host: "a", Copies: []string{"a", "c"}, Vaults: []string{"file:///v"}},
	}})
	if !slices.Equal(hosts, []string{"a", "b", "c"}) || !slices.Equal(vaults, []string{"file:///v"}) {
		t.Errorf("%v, %v", hosts, vaults)
	}
}

// TestOnlyOn: a host that alone holds a part of a cut is found; one of two holders, or one beside a vault, is not.
func TestOnlyOn(t *testing.T) {
	cuts := []store.Cut{
		{ID: "alone", Hosts: []store.CutHost{{Copies: []string{"a", "b"}}, {Copies: []string{"a"}}}},
		{ID: "two", Hosts: []store.CutHost{{Copies: []string{"a", "b"}}}},
		{ID: "vault", Hosts: []store.CutHost{{Copies: []string{"a"}, Vaults: []string{"file:///v"}}}},
		{ID: "nobody", Hosts: []store.CutHost{{}}},
	}
	if got := onlyOn("a", cuts); !slices.Equal(got, []string{"alone"}) {
		t.Errorf("%v, want alone", got)
	}
}
