package orchestrator

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"ss/fault"
	"ss/store"
)

// roster is who takes part in a snapshot.
type roster struct {
	members   map[string][]string // by host: those that run, sorted
	endedWell []string            // those that have done their work, sorted
	without   []string            // those that have ended otherwise, and are left out by their owner's word
	rss       map[string]int64    // by host: memory of those that run, in bytes
}

// count is how many members take part.
func (r roster) count() int {
	n := 0
	for _, members := range r.members {
		n += len(members)
	}
	return n
}

// takeRoster decides who takes part: the members that are placed, and live, on their host's own word. Where a host is silent the
// catalogue's word counts. A member that has ended otherwise than well makes it refuse, unless without names it: a cut that lacks it
// would look like a whole one. s has the members that entitled has left. It is a pure function.
func takeRoster(j store.Job, s survey, without []string) (roster, error) {
	r := roster{members: map[string][]string{}, rss: map[string]int64{}}
	for _, name := range without {
		if _, _, ok := j.Where(name); !ok {
			return r, fault.New(fault.NotFound, fmt.Sprintf("job %s has no member %s that could be left out", j.Name, name), "see ssctl ps "+j.Name)
		}
	}
	var lacking, names []string
	for _, host := range slices.Sorted(maps.Keys(j.Placement)) {
		for _, p := range j.Placement[host] {
			lack, err := r.add(host, p, s, slices.Contains(without, p.Name))
			if err != nil {
				return r, err
			}
			if lack != "" {
				lacking, names = append(lacking, lack), append(names, "--without "+p.Name)
			}
		}
	}
	if len(lacking) > 0 {
		return r, fault.New(fault.Refused, strings.Join(lacking, "; "),
			"a cut would not be the whole job: restore the last one that is, or leave out what has ended with "+strings.Join(names, " "))
	}
	if len(r.members) == 0 {
		return r, fault.New(fault.NotFound, "no member of the job runs", "start one with ssctl run "+j.Name)
	}
	return r, nil
}

// add takes one placed member in. lack says how it is missing.
func (r *roster) add(host string, p store.Placed, s survey, leftOut bool) (lack string, err error) {
	now, there, silent := s.word(host, p)
	switch {
	case there && now.State == store.PlacedRunning && leftOut:
		return "", fault.New(fault.Refused, fmt.Sprintf("%s still runs on %s, and only a member that has ended can be left out", p.Name, host), "end it first, or take the snapshot with it")
	case silent != nil && now.State != store.PlacedEnded:
		return "", unanswered(host, silent, fmt.Sprintf("%s is there: a cut needs every host of the job", p.Name))
	case there && now.State == store.PlacedRunning:
		r.members[host] = append(r.members[host], p.Name)
		r.rss[host] += s.rss(host, p.Name)
	case now.EndedWell():
		r.endedWell = append(r.endedWell, p.Name)
	case now.State == store.PlacedStarting: // it is not there: its start has failed, or is not done yet
	case leftOut:
		r.without = append(r.without, p.Name)
	case now.State == store.PlacedEnded:
		return fmt.Sprintf("%s on %s has ended (%s)", p.Name, host, now.Exit), nil
	default:
		return fmt.Sprintf("host %s has no member %s any more", host, p.Name), nil
	}
	return "", nil
}

// word is what is known of a placed member: what its host says, and where that is silent, or knows nothing of it, what the catalogue
// has. there says that it is the host's own word, silent why the host has none.
func (s survey) word(host string, p store.Placed) (now store.Placed, there bool, silent error) {
	i := slices.IndexFunc(s.statuses, func(h HostStatus) bool { return h.Name == host })
	if i < 0 {
		return p, false, fmt.Errorf("host %s is not registered any more", host)
	}
	if err := s.statuses[i].Err; err != nil {
		return p, false, err
	}
	for _, m := range s.members {
		if m.Host == host && m.Name == p.Name {
			return PlacedOf(m), true, nil
		}
	}
	return p, false, nil
}

func (s survey) rss(host, member string) int64 {
	i := slices.IndexFunc(s.members, func(m Member) bool { return m.Host == host && m.Name == member })
	return s.members[i].RSS
}
