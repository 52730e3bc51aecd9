package orchestrator

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/fault"
	"ss/store"
)

// bystanderGrace is how long a snapshot waits for hosts that have no member of the job, once those that have some answered: long
// enough for a host that is up, so that copies go where those of the last cut are.
const bystanderGrace = 100 * time.Millisecond

// survey is what hosts say of themselves and of their members of a job.
type survey struct {
	statuses []HostStatus     // of every registered host, by name
	members  []Member         // of those that answered
	missing  map[string]error // hosts that did not answer, or not to both questions
	answers  chan surveyed    // every host's, as it comes; those that await does not take stay for lately
}

// surveyed is one host's answer.
type surveyed struct {
	host    int
	status  HostStatus
	members []Member
}

// survey asks every host for its state and for its members of a job, at once, and waits for all of them: one that is dead is waited
// for once.
func (c *Cluster) survey(ctx context.Context, job string) (survey, error) {
	return c.surveyUntil(ctx, job, func(survey) time.Duration { return -1 })
}

// surveyFor asks as survey does, and waits for the hosts of the job only. The others get bystanderGrace, and more than that only as
// long as there are fewer than copies hosts that could hold a copy. One that the catalogue knows to be silent gets nothing.
func (c *Cluster) surveyFor(ctx context.Context, j store.Job, copies int) (survey, error) {
	return c.surveyUntil(ctx, j.Name, func(s survey) time.Duration {
		up, awaited := 0, false
		for _, h := range s.statuses {
			switch {
			case h.Err == nil:
				up++
			case !errors.Is(h.Err, errNotYet):
			case slices.ContainsFunc(j.Placement[h.Name], func(p store.Placed) bool { return !p.EndedWell() }):
				return -1
			case h.Silent.IsZero():
				awaited = true
			}
		}
		switch {
		case up-1 < copies:
			return -1
		case awaited:
			return bystanderGrace
		}
		return 0
	})
}

// errNotYet stands, until then, for the answer of a host that was not waited for.
var errNotYet = fault.New(fault.Unreachable, "it has not answered yet, and was not waited for", "")

// surveyUntil asks every host and returns when all have answered, or when enough says so: after each answer it returns how long to
// wait for the next one, negative for as long as it takes.
func (c *Cluster) surveyUntil(ctx context.Context, job string, enough func(survey) time.Duration) (survey, error) {
	hosts, err := c.Catalogue.Hosts(ctx)
	if err != nil {
		return survey{}, err
	}
	word, err := c.word(ctx)
	if err != nil {
		return survey{}, err
	}
	s := survey{statuses: make([]HostStatus, len(hosts)), missing: map[string]error{}, answers: make(chan surveyed, len(hosts))}
	for i, h := range hosts {
		s.statuses[i] = HostStatus{Host: h, Err: errNotYet}
		go func() { s.answers <- c.surveyOne(ctx, i, h, word, job) }()
	}
	s.await(len(hosts), enough)
	for _, h := range s.statuses {
		if h.Err != nil {
			s.missing[h.Name] = h.Err
		}
	}
	SortMembers(s.members)
	c.tellAhead(s.statuses)
	return s, errors.Join(c.heard(ctx, s.statuses), c.learn(ctx, s.members), c.stand(ctx, s.statuses), c.mergeRemovedHosts(ctx, s.statuses))
}

// await takes answers until all are there or enough says so.
func (s *survey) await(hosts int, enough func(survey) time.Duration) {
	var over <-chan time.Time
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for range hosts {
		switch d := enough(*s); {
		case d == 0:
			return
		case d > 0 && over == nil:
			timer.Reset(d)
			over = timer.C
		}
		select {
		case a := <-s.answers:
			s.take(a)
		case <-over:
			return
		}
	}
}

// lately lists the hosts that were not waited for and have answered since, well or not, and the members that they name.
func (s *survey) lately() (statuses []HostStatus, members []Member) {
	for {
		select {
		case a := <-s.answers:
			statuses = append(statuses, a.status)
			if a.status.Err == nil {
				members = append(members, a.members...)
			}
		default:
			return statuses, members
		}
	}
}

func (s *survey) take(a surveyed) {
	s.statuses[a.host] = a.status
	if a.status.Err == nil {
		s.members = append(s.members, a.members...)
	}
}

func (c *Cluster) surveyOne(ctx context.Context, i int, h store.Host, word Word, job string) surveyed {
	a := surveyed{host: i}
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { a.members, err = c.MembersOf(ctx, h, job) })
	a.status = c.greet(ctx, h, word)
	wg.Wait()
	if a.status.Err == nil {
		a.status.Err = err
	}
	return a
}

// heard writes down which hosts have fallen silent, and which are back. Only changes are written.
func (c *Cluster) heard(ctx context.Context, statuses []HostStatus) error {
	changed := map[string]bool{}
	for _, h := range statuses {
		switch {
		case h.Err == nil && !h.Silent.IsZero():
			changed[h.Name] = false
		case h.Silent.IsZero() && !errors.Is(h.Err, errNotYet) && fault.Is(h.Err, fault.Unreachable) && ctx.Err() == nil:
			changed[h.Name] = true
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return c.Catalogue.SetSilent(noted(ctx), changed)
}

// Hosts asks every registered host, all at once.
func (c *Cluster) Hosts(ctx context.Context) ([]HostStatus, error) {
	hosts, err := c.Catalogue.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	word, err := c.word(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]HostStatus, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { out[i] = c.greet(ctx, h, word) })
	}
	wg.Wait()
	c.tellAhead(out)
	return out, errors.Join(c.heard(ctx, out), c.stand(ctx, out), c.mergeRemovedHosts(ctx, out))
}

// Members lists the members of a job, or of all: those of the hosts that answer, and of the others what the catalogue has there.
// missing names the hosts that did not answer.
func (c *Cluster) Members(ctx context.Context, job string) (members []Member, missing map[string]error, err error) {
	if err := c.standFirst(ctx); err != nil {
		return nil, nil, err
	}
	hosts, err := c.Catalogue.Hosts(ctx)
	if err != nil {
		return nil, nil, err
	}
	missing = map[string]error{}
	statuses := make([]HostStatus, len(hosts))
	got := make([][]Member, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			statuses[i].Host = h
			got[i], statuses[i].Err = c.MembersOf(ctx, h, job)
		})
	}
	wg.Wait()
	for _, h := range statuses {
		if h.Err != nil {
			missing[h.Name] = h.Err
		}
	}
	if err := c.heard(ctx, statuses); err != nil {
		return nil, nil, err
	}
	members = slices.Concat(got...)
	if err := c.learn(ctx, members); err != nil {
		return nil, nil, err
	}
	unseen, err := c.unseen(ctx, job, missing)
	members = append(members, unseen...)
	SortMembers(members)
	return members, missing, errors.Join(err, c.markSuperseded(ctx, members))
}

// unseen lists the members that the catalogue has on hosts that do not answer.
func (c *Cluster) unseen(ctx context.Context, job string, missing map[string]error) ([]Member, error) {
	if len(missing) == 0 {
		return nil, nil
	}
	jobs, err := c.Catalogue.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := c.Catalogue.Hosts(ctx) // again: since when each is silent was written down meanwhile
	if err != nil {
		return nil, err
	}
	var out []Member
	for _, j := range jobs {
		if job != "" && j.Name != job {
			continue
		}
		for _, h := range hosts {
			if missing[h.Name] == nil {
				continue
			}
			for _, p := range j.Placement[h.Name] {
				out = append(out, Member{Host: h.Name, Job: j.Name, Name: p.Name, State: StateUnreachable, Since: h.Silent, Exit: p.Exit})
			}
		}
	}
	return out, nil
}

// learn writes down what hosts say of members that the catalogue has there: they run, or how they ended. That is what counts when such
// a host falls silent. Only changes are written.
func (c *Cluster) learn(ctx context.Context, members []Member) error {
	byJob := map[string][]Member{}
	for _, m := range members {
		byJob[m.Job] = append(byJob[m.Job], m)
	}
	for _, name := range slices.Sorted(maps.Keys(byJob)) {
		seen := map[string]map[string]store.Placed{}
		for _, m := range byJob[name] {
			if seen[m.Host] == nil {
				seen[m.Host] = map[string]store.Placed{}
			}
			seen[m.Host][m.Name] = PlacedOf(m)
		}
		if err := c.Catalogue.SeeMembers(noted(ctx), name, seen); err != nil {
			return err
		}
	}
	return nil
}

// PlacedOf is what the catalogue keeps of a member that its host tells of.
func PlacedOf(m Member) store.Placed {
	p := store.Placed{Name: m.Name}
	if m.State != StateRunning {
		p.State, p.Exit = store.PlacedEnded, m.Exit
	}
	return p
}

// SortMembers sorts by job, host and name.
func SortMembers(members []Member) {
	slices.SortFunc(members, func(a, b Member) int {
		return strings.Compare(a.Job+"\x00"+a.Host+"\x00"+a.Name, b.Job+"\x00"+b.Host+"\x00"+b.Name)
	})
}
