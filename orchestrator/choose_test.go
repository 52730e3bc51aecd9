package orchestrator

import (
	"errors"
	"strings"
	"testing"

	"ss/fault"
	"ss/store"
)

// TestChoose: which hosts take part, which may hold copies, and what is refused because there are too few of these.
func TestChoose(t *testing.T) {
	host := func(name string, err error) HostStatus { return HostStatus{Host: store.Host{Name: name}, Err: err} }
	dead := errors.New("no answer")
	running := map[string][]string{"hostA": {"hostA-1"}, "hostB": {"hostB-1"}}
	for name, tt := range map[string]struct {
		all  []HostStatus
		take int // hosts that take part
		kind fault.Kind
		want string // of the error
	}{
		"all answer":                {[]HostStatus{host("hostA", nil), host("hostB", nil), host("hostC", nil)}, 2, fault.Failed, ""},
		"a bystander is silent":     {[]HostStatus{host("hostA", nil), host("hostB", nil), host("hostC", dead)}, 2, fault.Failed, ""},
		"nobody to hold copies":     {[]HostStatus{host("hostB", nil)}, 0, fault.Refused, "1 other host is needed for copies; the cluster has none"},
		"nobody answers to do that": {[]HostStatus{host("hostB", nil), host("hostC", dead)}, 0, fault.Unreachable, "1 other host is needed for copies; none answers"},
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
			if !fault.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want kind %d, %q", err, tt.kind, tt.want)
			}
		})
	}
}
