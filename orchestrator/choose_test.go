package orchestrator

import (
	"errors"
	"testing"

	"ss/fault"
	"ss/store"
)

// TestChooseLeavesNoMemberOut: who takes part, who may hold copies, and what is not a cut.
func TestChooseLeavesNoMemberOut(t *testing.T) {
	host := func(name string, err error) HostStatus { return HostStatus{Host: store.Host{Name: name}, Err: err} }
	dead := errors.New("no answer")
	running := map[string][]string{"hostA": {"hostA-1"}, "hostB": {"hostB-1"}}
	for name, tt := range map[string]struct {
		all  []HostStatus
		take int // hosts that take part
		kind fault.Kind
	}{
		"all answer":                {[]HostStatus{host("hostA", nil), host("hostB", nil), host("hostC", nil)}, 2, fault.Failed},
		"a bystander is silent":     {[]HostStatus{host("hostA", nil), host("hostB", nil), host("hostC", dead)}, 2, fault.Failed},
		"a host with a member is":   {[]HostStatus{host("hostA", dead), host("hostB", nil), host("hostC", nil)}, 0, fault.Unreachable},
		"nobody to hold copies":     {[]HostStatus{host("hostB", nil)}, 0, fault.Refused},
		"nobody answers to do that": {[]HostStatus{host("hostB", nil), host("hostC", dead)}, 0, fault.Unreachable},
	} {
		t.Run(name, func(t *testing.T) {
			a := &attempt{copies: 1, roster: roster{members: running}}
			err := a.choose(tt.all)
			if tt.kind == fault.Failed {
				if err != nil || len(a.hosts) != tt.take {
					t.Fatalf("%d take part, %v; want %d", len(a.hosts), err, tt.take)
				}
				return
			}
			if !fault.Is(err, tt.kind) {
				t.Fatalf("%v, want kind %d", err, tt.kind)
			}
		})
	}
}
