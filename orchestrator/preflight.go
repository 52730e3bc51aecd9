package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ss/fault"
	"ss/marker"
	"ss/store"
)

// CheckOptions is what the one who checks a job may choose.
type CheckOptions struct {
	Job       string
	Remap     map[string]string
	RemapAddr map[netip.Addr]netip.Addr
	Holdings  bool // list what the members hold
}

// CheckResult is what a check has found.
type CheckResult struct {
	Job      string
	Hosts    []CheckedHost   // those of the job and of its targets, by name
	Members  []CheckedMember // by host and name
	Moved    map[netip.Addr]netip.Addr
	Problems []Problem
}

// CheckedHost is what matters of a host.
type CheckedHost struct {
	HostStatus
	Clock time.Duration // how far its clock is ahead of this one's
	Error time.Duration // by how much that may be wrong: half of what the question took
}

// CheckedMember is what a member holds.
type CheckedMember struct {
	Host, Name string
	Processes  int
	RSS        int64  // bytes
	Holdings   []byte // JSON, see docs/json.md; nil if it was not asked for
}

// CheckQuestion is what a check asks of one host.
type CheckQuestion struct {
	Job      string
	Open     Open // without Members, no member is looked at
	Holdings bool
	Coming   []CheckComing // members of other hosts that would be restored there
	Moved    map[netip.Addr]netip.Addr
}

// CheckComing is one member on its way to another host, in the words of its host's answer.
type CheckComing struct {
	Host, Member     string
	Needs, Processor []byte
}

// CheckAnswer is what one host answers.
type CheckAnswer struct {
	Problems  []string
	Members   []CheckAnswerMember
	Clock     time.Time
	Processor []byte
}

// CheckAnswerMember is what the host says of one member.
type CheckAnswerMember struct {
	CheckedMember
	Needs []byte
}

// clockTolerance is how far clocks of hosts may differ before a check calls it a fault: certificates and the times of cuts go by them.
const clockTolerance = 5 * time.Second

// clockGrain is how precisely a difference of clocks is told: a question takes milliseconds, so less means nothing.
const clockGrain = 100 * time.Millisecond

// Check finds all that would keep a snapshot of the job from succeeding, or a restore with the given remaps, and stops no member. What it finds is an
// error of kind fault.Refused, and stands in the result.
func (c *Cluster) Check(ctx context.Context, opt CheckOptions) (CheckResult, error) {
	k := check{c: c, opt: opt, answers: map[string]CheckAnswer{}, res: CheckResult{Job: opt.Job, Moved: map[netip.Addr]netip.Addr{}}}
	err := k.run(ctx)
	if err == nil && len(k.res.Problems) > 0 {
		var lines []string
		for _, f := range k.res.Problems {
			lines = append(lines, f.Host+": "+f.Text)
		}
		err = fault.New(fault.Refused, fault.Problems(lines), "nothing was touched")
	}
	if err != nil {
		return k.res, &fault.Error{Op: "check", Job: opt.Job, Err: err}
	}
	return k.res, nil
}

// check is one check under way.
type check struct {
	c       *Cluster
	opt     CheckOptions
	res     CheckResult
	att     *attempt // what a snapshot would begin with
	hosts   map[string]HostStatus
	mu      sync.Mutex
	answers map[string]CheckAnswer
}

func (k *check) add(host, format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := Problem{Host: host, Text: fmt.Sprintf(format, args...)}
	if !slices.Contains(k.res.Problems, f) {
		k.res.Problems = append(k.res.Problems, f)
	}
}

func (k *check) run(ctx context.Context) error {
	if err := k.plan(ctx); err != nil {
		return err
	}
	if err := k.lookAtHosts(ctx); err != nil {
		return err
	}
	if err := k.each(ctx, k.att.hosts, k.memberQuestion, k.takeMembers); err != nil {
		return err
	}
	if len(k.opt.Remap) > 0 {
		if err := k.planRemap(); err != nil {
			return err
		}
		if err := k.each(ctx, k.targets(), k.comingQuestion, func(HostStatus, CheckAnswer) {}); err != nil {
			return err
		}
	}
	slices.SortStableFunc(k.res.Problems, func(a, b Problem) int { return compareText(a.Host, b.Host) })
	return nil
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// plan finds who would take part, as planSnapshot does. It begins no attempt and draws no key. What the hosts say in the survey goes into the catalogue, as
// with every survey.
func (k *check) plan(ctx context.Context) error {
	cluster, err := k.c.Catalogue.Cluster(ctx)
	if err != nil {
		return err
	}
	job, err := k.c.Catalogue.Job(ctx, k.opt.Job)
	if err != nil {
		return err
	}
	vaults := job.EffectiveVaults(cluster)
	s, err := k.c.survey(ctx, k.opt.Job)
	if err != nil {
		return err
	}
	if s.members, err = k.c.entitled(ctx, job, s.members); err != nil {
		return err
	}
	roster, err := takeRoster(job, s, nil)
	if err != nil {
		return k.c.notWhole(ctx, job, s, err)
	}
	k.att = &attempt{c: k.c, opt: SnapshotOptions{Job: k.opt.Job}, job: job, vaults: vaults,
		copies: HostCopies(job.Policy.EffectiveCopies(), len(vaults)) - 1, survey: s, roster: roster}
	k.att.key = attemptKey{Job: marker.JobID(k.opt.Job), Snapshot: "check"}
	k.hosts = map[string]HostStatus{}
	for _, h := range s.statuses {
		k.hosts[h.Name] = h
	}
	if err := k.att.choose(s.statuses); fault.Is(err, fault.Refused) {
		k.add("the cluster", "%v", err)
	} else if err != nil {
		return err
	}
	return k.checkRemap()
}

func (k *check) checkRemap() error {
	for from, to := range k.opt.Remap {
		if len(k.att.roster.members[from]) == 0 {
			return fault.New(fault.NotFound, fmt.Sprintf("the job has no member on a host %q", from), "see ssctl ps "+k.opt.Job)
		}
		h, ok := k.hosts[to]
		if !ok {
			return fault.New(fault.NotFound, fmt.Sprintf("there is no host %q to move members to", to), "see ssctl host list")
		}
		if h.Err != nil {
			return unanswered(to, h.Err, "choose another host")
		}
	}
	return nil
}

// lookAtHosts asks the hosts that matter for their clocks, and judges what they have said of themselves.
func (k *check) lookAtHosts(ctx context.Context) error {
	names := map[string]bool{}
	for _, h := range k.att.hosts {
		names[h.Name] = true
	}
	for _, to := range k.opt.Remap {
		names[to] = true
	}
	var all []HostStatus
	for _, name := range slices.Sorted(maps.Keys(names)) {
		all = append(all, k.hosts[name])
	}
	var mu sync.Mutex
	clocks := map[string]CheckedHost{}
	began := time.Now()
	err := k.each(ctx, all, func(HostStatus) CheckQuestion { return CheckQuestion{Job: k.opt.Job} }, func(h HostStatus, a CheckAnswer) {
		mu.Lock()
		defer mu.Unlock()
		took := time.Since(began)
		clocks[h.Name] = CheckedHost{HostStatus: h, Clock: a.Clock.Sub(began.Add(took / 2)), Error: took / 2}
	})
	if err != nil {
		return err
	}
	for _, h := range all {
		ch := clocks[h.Name]
		k.res.Hosts = append(k.res.Hosts, ch)
		if h.Info.CRIUError != "" && len(k.att.roster.members[h.Name]) == 0 { // the others say it themselves
			k.add(h.Name, "%s", h.Info.CRIUError)
		}
		if ch.Clock.Abs() > clockTolerance+ch.Error {
			k.add(h.Name, "its clock differs from this one's by %v: set it, as certificates and the times of cuts go by clocks", ch.Clock.Round(clockGrain))
		}
	}
	return nil
}

// each asks hosts, all at once.
func (k *check) each(ctx context.Context, hosts []HostStatus, question func(HostStatus) CheckQuestion, take func(HostStatus, CheckAnswer)) error {
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			a, err := k.c.AgentOf(h.Host)
			if err != nil {
				errs[i] = err
				return
			}
			ans, err := a.Check(ctx, question(h))
			if err != nil {
				errs[i] = err
				return
			}
			for _, p := range ans.Problems {
				k.add(h.Name, "%s", p)
			}
			take(h, ans)
		})
	}
	wg.Wait()
	for _, err := range errs { // hosts answer in the order of their names, whichever was first
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *check) memberQuestion(h HostStatus) CheckQuestion {
	return CheckQuestion{Job: k.opt.Job, Holdings: k.opt.Holdings, Open: k.att.openFor(h, k.att.participants(k.att.hosts))}
}

func (k *check) takeMembers(h HostStatus, ans CheckAnswer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answers[h.Name] = ans
	for _, m := range ans.Members {
		m.Host = h.Name
		k.res.Members = append(k.res.Members, m.CheckedMember)
	}
	slices.SortFunc(k.res.Members, func(a, b CheckedMember) int { return compareText(a.Host+"\x00"+a.Name, b.Host+"\x00"+b.Name) })
}

// planRemap plans what becomes of addresses, as a restore of a cut of this instant would.
func (k *check) planRemap() error {
	r := &restore{c: k.c, hosts: k.hosts, plan: RestorePlan{Moved: k.res.Moved}}
	for _, h := range k.att.hosts {
		ch := store.CutHost{Host: h.Name}
		for _, a := range h.Info.Addrs {
			ch.Addrs = append(ch.Addrs, a.String())
		}
		r.plan.Cut.Hosts = append(r.plan.Cut.Hosts, ch)
		r.plan.Cut.Channels = append(r.plan.Cut.Channels, channelsOf(h.Name, k.answers[h.Name])...)
		to := k.opt.Remap[h.Name]
		if to == "" {
			to = h.Name
		}
		r.plan.Parts = append(r.plan.Parts, PlannedPart{From: h.Name, To: to})
	}
	if err := r.planAddrs(k.opt.RemapAddr); err != nil {
		return err
	}
	k.res.Problems = append(k.res.Problems, r.plan.Problems...)
	return nil
}

// channelsOf are the connections of a host's members, as far as their addresses go.
func channelsOf(host string, ans CheckAnswer) []store.CutChannel {
	var out []store.CutChannel
	for _, m := range ans.Members {
		var needs struct {
			Needs struct {
				Objects struct {
					Sockets []struct {
						Local, Remote string
					} `json:"sockets"`
				} `json:"objects"`
			} `json:"needs"`
		}
		if json.Unmarshal(m.Needs, &needs) != nil {
			continue // the target says that it cannot read it
		}
		for _, s := range needs.Needs.Objects.Sockets {
			if s.Remote != "" {
				out = append(out, store.CutChannel{FromHost: host, FromAddr: s.Local, ToAddr: s.Remote})
			}
		}
	}
	return out
}

// targets are the hosts that members of others would come to, by name.
func (k *check) targets() []HostStatus {
	var out []HostStatus
	for _, to := range slices.Compact(slices.Sorted(maps.Values(k.opt.Remap))) {
		out = append(out, k.hosts[to])
	}
	return out
}

func (k *check) comingQuestion(h HostStatus) CheckQuestion {
	q := CheckQuestion{Job: k.opt.Job, Moved: k.res.Moved}
	for from, to := range k.opt.Remap {
		if to != h.Name {
			continue
		}
		ans := k.answers[from]
		for _, m := range ans.Members {
			q.Coming = append(q.Coming, CheckComing{Host: from, Member: m.Name, Needs: m.Needs, Processor: ans.Processor})
		}
	}
	return q
}
