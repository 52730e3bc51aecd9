package orchestrator

import (
	"slices"
	"strings"
	"testing"

	"ss/fault"
	"ss/store"
)

// TestTakeRoster: who takes part in a snapshot, on whose word, and what makes it refuse.
func TestTakeRoster(t *testing.T) {
	dead := fault.New(fault.Unreachable, "no answer", "")
	at := func(host, name, state, exit string) Member {
		return Member{Job: "ring", Host: host, Name: name, State: state, Exit: exit, RSS: 7}
	}
	runs := func(host, name string) Member { return at(host, name, StateRunning, "") }
	ended := func(name, exit string) store.Placed {
		return store.Placed{Name: name, State: store.PlacedEnded, Exit: exit}
	}
	type placement = map[string][]store.Placed
	for name, c := range map[string]struct {
		placed  placement
		members []Member
		silent  string // a host that does not answer
		without []string

		want string // "" or what it refuses with
		kind fault.Kind
		part string // who takes part
		well string
		left string
	}{
		"all run": {placed: placement{"hostA": store.Running("hostA-1"), "hostB": store.Running("hostB-1")},
			members: []Member{runs("hostA", "hostA-1"), runs("hostB", "hostB-1")}, part: "hostA:hostA-1 hostB:hostB-1"},
		"one has done its work": {placed: placement{"hostA": store.Running("hostA-1", "hostA-2")},
			members: []Member{runs("hostA", "hostA-1"), at("hostA", "hostA-2", StateExited, store.ExitedWell)}, part: "hostA:hostA-1", well: "hostA-2"},
		"one was killed": {placed: placement{"hostA": store.Running("hostA-1"), "hostB": store.Running("hostB-1")},
			members: []Member{runs("hostA", "hostA-1"), at("hostB", "hostB-1", StateExited, "signal: killed")}, want: "hostB-1 on hostB has ended (signal: killed)", kind: fault.Refused},
		"one has failed": {placed: placement{"hostA": store.Running("hostA-1", "hostA-2")},
			members: []Member{runs("hostA", "hostA-1"), at("hostA", "hostA-2", StateExited, "exit status 1")}, want: "--without hostA-2", kind: fault.Refused},
		"nobody knows how one ended": {placed: placement{"hostA": store.Running("hostA-1", "hostA-2")},
			members: []Member{runs("hostA", "hostA-1"), at("hostA", "hostA-2", StateExited, "ended")}, want: "hostA-2 on hostA has ended (ended)", kind: fault.Refused},
		"one was killed and is left out": {placed: placement{"hostA": store.Running("hostA-1"), "hostB": store.Running("hostB-1")},
			members: []Member{runs("hostA", "hostA-1"), at("hostB", "hostB-1", StateExited, "signal: killed")}, without: []string{"hostB-1"}, part: "hostA:hostA-1", left: "hostB-1"},
		"one is gone from its host": {placed: placement{"hostA": store.Running("hostA-1", "hostA-2")},
			members: []Member{runs("hostA", "hostA-1")}, want: "host hostA has no member hostA-2 any more; a cut would not be the whole job: restore the last one that is, or leave out what has ended with --without hostA-2", kind: fault.Refused},
		"one that is gone is left out": {placed: placement{"hostA": store.Running("hostA-1", "hostA-2")},
			members: []Member{runs("hostA", "hostA-1")}, without: []string{"hostA-2"}, part: "hostA:hostA-1", left: "hostA-2"},
		"one that runs cannot be left out": {placed: placement{"hostA": store.Running("hostA-1", "hostA-2")},
			members: []Member{runs("hostA", "hostA-1"), runs("hostA", "hostA-2")}, without: []string{"hostA-2"}, want: "hostA-2 still runs on hostA", kind: fault.Refused},
		"a stranger cannot be left out": {placed: placement{"hostA": store.Running("hostA-1")},
			members: []Member{runs("hostA", "hostA-1")}, without: []string{"hostB-1"}, want: "no member hostB-1", kind: fault.NotFound},
		"a start that has failed": {placed: placement{"hostA": {{Name: "hostA-1"}, {Name: "hostA-2", State: store.PlacedStarting}}},
			members: []Member{runs("hostA", "hostA-1")}, part: "hostA:hostA-1"},
		"a start whose ssctl was killed": {placed: placement{"hostA": {{Name: "hostA-2", State: store.PlacedStarting}}},
			members: []Member{runs("hostA", "hostA-2")}, part: "hostA:hostA-2"},
		"a host is silent": {placed: placement{"hostA": store.Running("hostA-1"), "hostB": store.Running("hostB-1")},
			members: []Member{runs("hostA", "hostA-1")}, silent: "hostB", want: "hostB-1", kind: fault.Unreachable},
		"a host is silent on which one starts": {placed: placement{"hostA": store.Running("hostA-1"), "hostB": {{Name: "hostB-1", State: store.PlacedStarting}}},
			members: []Member{runs("hostA", "hostA-1")}, silent: "hostB", want: "hostB-1", kind: fault.Unreachable},
		"a host is silent and its member cannot be left out": {placed: placement{"hostA": store.Running("hostA-1"), "hostB": store.Running("hostB-1")},
			members: []Member{runs("hostA", "hostA-1")}, silent: "hostB", without: []string{"hostB-1"}, want: "hostB-1", kind: fault.Unreachable},
		"a silent host's member had done its work": {placed: placement{"hostA": store.Running("hostA-1"), "hostB": {ended("hostB-1", store.ExitedWell)}},
			members: []Member{runs("hostA", "hostA-1")}, silent: "hostB", part: "hostA:hostA-1", well: "hostB-1"},
		"a silent host's member had failed": {placed: placement{"hostA": store.Running("hostA-1"), "hostB": {ended("hostB-1", "exit status 2")}},
			members: []Member{runs("hostA", "hostA-1")}, silent: "hostB", want: "hostB-1 on hostB has ended (exit status 2)", kind: fault.Refused},
		"a silent host had members once": {placed: placement{"hostA": store.Running("hostA-1"), "hostB": {}},
			members: []Member{runs("hostA", "hostA-1")}, silent: "hostB", part: "hostA:hostA-1"},
		"a host claims what is not placed there": {placed: placement{"hostA": store.Running("hostA-1")},
			members: []Member{runs("hostA", "hostA-1"), runs("hostB", "hostA-1"), runs("hostB", "hostB-7")}, part: "hostA:hostA-1"},
		"an old end is known, and it runs again": {placed: placement{"hostA": {ended("hostA-1", "signal: killed")}},
			members: []Member{runs("hostA", "hostA-1")}, part: "hostA:hostA-1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := survey{members: c.members, missing: map[string]error{}}
			for _, h := range []string{"hostA", "hostB"} {
				st := HostStatus{Host: store.Host{Name: h}}
				if h == c.silent {
					st.Err, s.missing[h] = dead, dead
				}
				s.statuses = append(s.statuses, st)
			}
			r, err := takeRoster(store.Job{Name: "ring", Placement: c.placed}, s, c.without)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || fault.KindOf(err) != c.kind {
					t.Fatalf("%v, want %q of kind %d", err, c.want, c.kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var part []string
			for host, members := range r.members {
				part = append(part, host+":"+strings.Join(members, ","))
			}
			slices.Sort(part)
			if got := strings.Join(part, " "); got != c.part || strings.Join(r.endedWell, " ") != c.well || strings.Join(r.without, " ") != c.left {
				t.Errorf("%s take part, %v have ended, %v are left out; want %s, %s, %s", got, r.endedWell, r.without, c.part, c.well, c.left)
			}
		})
	}
}
