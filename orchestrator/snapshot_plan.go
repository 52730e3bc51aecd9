package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"

	"ss/fault"
	"ss/marker"
	"ss/store"
)

// planSnapshot finds who takes part, and writes the intent down.
func (c *Cluster) planSnapshot(ctx context.Context, opt SnapshotOptions) (*attempt, error) {
	cluster, err := c.Catalogue.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.Catalogue.Advance(ctx); err != nil {
		return nil, err
	}
	job, jobKey, err := c.ensureKey(ctx, opt.Job)
	if err != nil {
		return nil, err
	}
	vaults := job.EffectiveVaults(cluster)
	copies := HostCopies(job.Policy.EffectiveCopies(), len(vaults)) - 1
	s, err := c.surveyFor(ctx, job, copies)
	if err != nil {
		return nil, err
	}
	if err := Current(s.statuses); err != nil {
		return nil, err
	}
	if err := c.Resolve(ctx, s.statuses); err != nil {
		return nil, err
	}
	before := job
	if job, err = c.Catalogue.Job(ctx, opt.Job); err != nil { // where its members are may have been settled by now
		return nil, err
	}
	if s.members, err = c.entitled(ctx, job, s.members); err != nil {
		return nil, err
	}
	roster, err := takeRoster(job, s, opt.Without)
	if err != nil {
		return nil, c.notWhole(ctx, before, s, err)
	}
	a := &attempt{
		c: c, opt: opt, zero: time.Now(), lines: map[marker.HostID]SnapshotLine{}, events: make(chan marker.Event, 64),
		done: make(chan struct{}), reports: map[string]HostReport{}, failures: map[marker.HostID]error{},
		heard: map[marker.HostID]bool{},
		job:   job, jobKey: jobKey, vaults: vaults, copies: copies, survey: s, roster: roster,
	}
	if err := a.choose(s.statuses); err != nil {
		return nil, err
	}
	return a, a.intend(ctx)
}

// choose sorts the hosts into those that take part and those that may hold copies. takeRoster has refused a host of the job that does not answer: the cut
// would lack its members.
func (a *attempt) choose(all []HostStatus) error {
	var silent []string
	for _, h := range all {
		if h.Err != nil {
			silent = append(silent, h.Name)
			continue
		}
		a.all = append(a.all, h)
		if len(a.roster.members[h.Name]) > 0 {
			a.hosts = append(a.hosts, h)
		}
	}
	others := len(a.all) - 1
	switch {
	case others >= a.copies:
		return nil
	case others+len(silent) >= a.copies:
		return fault.New(fault.Unreachable, fmt.Sprintf("%s needed for copies; %s", neededHosts(a.copies), answering(others)),
			"ssctl host list says why, of "+strings.Join(silent, ", "))
	}
	return fault.New(fault.Refused, fmt.Sprintf("%s needed for copies; the cluster has %s", neededHosts(a.copies), few(others)),
		fmt.Sprintf("add one with ssctl host add, or see ssctl job set %s --copies and --vault", a.opt.Job))
}

// neededHosts says of how many hosts beside a host itself copies are wanted: "1 other host is", "2 other hosts are".
func neededHosts(n int) string {
	return english.Plural(n, "other host", "") + " " + english.PluralWord(n, "is", "are")
}

// answering says how few hosts answer: "none answers", "only 1 answers", "only 2 answer".
func answering(n int) string {
	return few(n) + " " + english.PluralWord(max(n, 1), "answers", "answer")
}

func few(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprintf("only %d", n)
}

func (a *attempt) intend(ctx context.Context) error {
	initiator := a.opt.Initiator
	ids := a.ids()
	if initiator == "" {
		initiator = string(ids[0])
	}
	if !slices.Contains(ids, marker.HostID(initiator)) {
		return fault.New(fault.NotFound, fmt.Sprintf("the initiator %q has no member of the job", initiator), fmt.Sprintf("choose one of %v", ids))
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	at, err := a.c.begin(ctx, store.Attempt{Kind: store.KindSnapshot, Job: a.opt.Job, Hosts: names})
	if err != nil {
		return err
	}
	a.at = at
	a.key = attemptKey{Job: marker.JobID(a.opt.Job), Snapshot: marker.SnapshotID(at.ID), Epoch: marker.Epoch(at.Epoch)}
	timeout, standstill := a.opt.Timeout, time.Duration(0)
	switch {
	case timeout == 0 && a.opt.Stop:
		timeout = DefaultTimeout
	case timeout == 0:
		standstill = DefaultTimeout
	}
	prepare := prepareTimeout + a.opt.Settle
	if timeout > 0 {
		prepare = min(prepare, timeout)
	}
	a.core = marker.NewCoordinator(marker.Config{
		Key: marker.Key(a.key), Participants: ids, Initiator: marker.HostID(initiator), Stop: a.opt.Stop,
		Lease: millis(lease), Settle: millis(settle), PrepareTimeout: millis(prepare), Standstill: millis(standstill), Timeout: millis(timeout),
		AbortTimeout: millis(abortTimeout), FinishTimeout: millis(finishTimeout),
	})
	return nil
}

func millis(d time.Duration) marker.Millis { return marker.Millis(d.Milliseconds()) }

func (a *attempt) ids() []marker.HostID {
	var ids []marker.HostID
	for _, h := range a.hosts {
		ids = append(ids, marker.HostID(h.Name))
	}
	slices.Sort(ids)
	return ids
}

func (a *attempt) participants(hosts []HostStatus) []Participant {
	var out []Participant
	for _, h := range hosts {
		out = append(out, h.participant())
	}
	return out
}

// spareHolders is how many hosts more than are wanted a host is told of for its copies. All of them would be all hosts of the cluster, for each host.
const spareHolders = 16

// copiesFor orders the hosts that may hold a copy of h's images.
func (a *attempt) copiesFor(h HostStatus) []Participant {
	var others []Candidate
	byName := map[string]Participant{}
	for _, o := range a.all {
		if o.Name != h.Name {
			others = append(others, Candidate{o.Name, o.Info.FreeBytes})
			byName[o.Name] = o.participant()
		}
	}
	names := OrderHolders(a.opt.Job, h.Name, others, a.roster.rss[h.Name])
	var out []Participant
	for _, name := range names[:min(len(names), a.copies+spareHolders)] {
		out = append(out, byName[name])
	}
	return out
}
