package upkeep

import (
	"slices"
	"testing"

	"ss/orchestrator"
	"ss/store/images"
)

// ranked orders hosts that hold copies of hostA's images.
func ranked(hosts ...string) []string {
	var all []orchestrator.Candidate
	for _, h := range hosts {
		all = append(all, orchestrator.Candidate{Name: h})
	}
	return orchestrator.OrderHolders("job", "hostA", all, 0)
}

// TestPlanRepair: who gets a copy, who counts, and what is beyond help.
func TestPlanRepair(t *testing.T) {
	up := []orchestrator.Candidate{{Name: "hostA", Free: 1 << 30}, {Name: "hostB", Free: 1 << 30}, {Name: "hostC", Free: 1 << 30}}
	const v, w = "file:///v", "s3://w/x"
	part := func(p repairPart) repairPart {
		p.Key, p.Digest, p.Bytes = images.Key{Job: "job", Snapshot: "s", Host: "hostA"}, "d", 1<<20
		return p
	}
	second := ranked("hostB", "hostC")
	for name, tt := range map[string]struct {
		part    repairPart
		silent  []string
		up      []orchestrator.Candidate
		state   RepairState
		fetch   []string
		push    []string
		missing int
	}{
		"whole":                               {part: repairPart{Held: []string{"hostA", "hostB"}, WantHosts: 2}, state: StateWhole},
		"more than wanted stays":              {part: repairPart{Held: []string{"hostA", "hostB", "hostC"}, WantHosts: 1}, state: StateWhole},
		"the second copy is gone":             {part: repairPart{Copies: []string{"hostA", "hostX"}, Held: []string{"hostA"}, WantHosts: 2}, state: StateRepaired, fetch: second[:1]},
		"the images' own host comes first":    {part: repairPart{Held: []string{"hostB"}, WantHosts: 2}, state: StateRepaired, fetch: []string{"hostA"}},
		"a silent holder is not replaced":     {part: repairPart{Copies: []string{"hostA", "hostD"}, Held: []string{"hostA"}, WantHosts: 2}, silent: []string{"hostD"}, state: StateUnconfirmed},
		"enough without the silent one":       {part: repairPart{Copies: []string{"hostA", "hostB", "hostD"}, Held: []string{"hostA", "hostB"}, WantHosts: 2}, silent: []string{"hostD"}, state: StateWhole},
		"one silent, one to make":             {part: repairPart{Copies: []string{"hostA", "hostD"}, Held: []string{"hostA"}, WantHosts: 3}, silent: []string{"hostD"}, state: StateUnconfirmed, fetch: second[:1]},
		"silent but no holder does not count": {part: repairPart{Copies: []string{"hostA"}, Held: []string{"hostA"}, WantHosts: 2}, silent: []string{"hostD"}, state: StateRepaired, fetch: second[:1]},
		"three of three":                      {part: repairPart{Held: []string{"hostA"}, WantHosts: 3}, state: StateRepaired, fetch: second},
		"too few hosts":                       {part: repairPart{Held: []string{"hostA"}, WantHosts: 5}, state: StateShort, fetch: second, missing: 2},
		"nobody has it":                       {part: repairPart{Copies: []string{"hostX"}, WantHosts: 2}, state: StateLost},
		"only the silent have it":             {part: repairPart{Copies: []string{"hostD"}, WantHosts: 2}, silent: []string{"hostD"}, state: StateSilent},
		"only a silent vault has it":          {part: repairPart{Vaults: []string{v}, WantHosts: 1, WantVaults: []string{v}}, silent: []string{v}, state: StateSilent},
		"only a vault has it":                 {part: repairPart{Vaults: []string{v}, HeldIn: []string{v}, WantHosts: 1, WantVaults: []string{v}}, state: StateRepaired, fetch: []string{"hostA"}},
		"a vault, and a silent host":          {part: repairPart{Copies: []string{"hostD"}, HeldIn: []string{v}, WantHosts: 1, WantVaults: []string{v, w}}, silent: []string{"hostD"}, state: StateRepaired, fetch: []string{"hostA"}, push: []string{w}},
		"the vault lacks it":                  {part: repairPart{Held: []string{"hostA"}, WantHosts: 1, WantVaults: []string{v, w}, HeldIn: []string{w}}, state: StateRepaired, push: []string{v}},
		"the vault is silent, and had it":     {part: repairPart{Held: []string{"hostA"}, WantHosts: 1, WantVaults: []string{v}, Vaults: []string{v}}, silent: []string{v}, state: StateUnconfirmed},
		"the vault is silent, and had it not": {part: repairPart{Held: []string{"hostA"}, WantHosts: 1, WantVaults: []string{v}}, silent: []string{v}, state: StateShort, missing: 1},
		"a vault that is not wanted any more": {part: repairPart{Held: []string{"hostA", "hostB"}, HeldIn: []string{v}, WantHosts: 2}, state: StateWhole},
		"no host is up but the holder":        {part: repairPart{Held: []string{"hostA"}, WantHosts: 2}, up: up[:1], state: StateShort, missing: 1},
	} {
		t.Run(name, func(t *testing.T) {
			silent := map[string]bool{}
			for _, s := range tt.silent {
				silent[s] = true
			}
			if tt.up == nil {
				tt.up = up
			}
			got := planRepair([]repairPart{part(tt.part)}, tt.up, silent)[0]
			if got.State != tt.state || !slices.Equal(got.Fetch, tt.fetch) || !slices.Equal(got.Push, tt.push) || got.Missing != tt.missing {
				t.Errorf("%s, fetch %v, push %v, %d missing; want %s, %v, %v, %d", got.State, got.Fetch, got.Push, got.Missing, tt.state, tt.fetch, tt.push, tt.missing)
			}
			for _, h := range slices.Concat(got.Fetch, got.Spare) {
				if slices.Contains(got.Held, h) {
					t.Errorf("%s has it already", h)
				}
			}
		})
	}
}
