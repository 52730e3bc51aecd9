package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dustin/go-humanize/english"

	"ss/fault"
	"ss/marker"
	"ss/store"
	"ss/store/keys"
)

// SnapshotOptions is what the caller may choose for a cut.
type SnapshotOptions struct {
	Job       string
	Stop      bool
	Initiator string // "" takes the first host by name
	Label     string
	Without   []string      // members that have ended otherwise than well, and that the cut may lack
	Settle    time.Duration // the longest that members get to accept connections before they are frozen (M1a); they run meanwhile
	Timeout   time.Duration // of the whole attempt, up to the commit; 0: see DefaultTimeout
}

// The protocol's limits.
const (
	// DefaultTimeout is how long an attempt may take until all members run again (marker.Config.Standstill). What comes after that, storing their images on other hosts and in
	// vaults, harms nobody and takes as long as it takes; not so with Stop, where the members stand still meanwhile.
	DefaultTimeout = 10 * time.Minute
	// DefaultSettle is ample for a server that accepts what comes to it.
	DefaultSettle  = 2 * time.Second
	lease          = 5 * time.Second       // M11: how long a host holds a snapshot without hearing of us
	settle         = 25 * time.Millisecond // M5a: the longest that a recorded host waits for markers before it dumps
	prepareTimeout = 60 * time.Second      // M1: checks, and the start of every CRIU
	abortTimeout   = 30 * time.Second      // M10: for all acknowledgements of an abort
	finishTimeout  = 30 * time.Second      // for all acknowledgements of a commit
	// unsettledTries is how often an attempt is made that meets connections just being made or ended.
	unsettledTries = 12
)

// Snapshot takes a cut of a job (M1–M12 of docs/protocol.md). Cancelling ctx aborts it, and Snapshot returns when every host
// that could be asked runs again.
func (c *Cluster) Snapshot(ctx context.Context, opt SnapshotOptions) (store.Cut, error) {
	before := ""
	for try := 1; ; try++ {
		cut, err := c.snapshotOnce(ctx, opt)
		// A connection that one program has closed, and the other has not heard of it, is gone the next time. One that leads outside is still there.
		if o, ok := errors.AsType[outside](err); ok && o.Error() != before && try < unsettledTries {
			before = o.Error()
			c.Noticef("a connection was closing or leads outside the job; trying again")
			continue
		}
		if !fault.Is(err, fault.Unsettled) {
			return cut, err
		}
		if try == unsettledTries {
			return cut, &fault.Error{Kind: fault.RolledBack, Op: "snapshot", Job: opt.Job, Err: err,
				Next: fmt.Sprintf("%d attempts found unfinished connections; the job runs on: try again", try)}
		}
		c.Noticef("%s; trying again", beingMade(err))
	}
}

// beingMade is what a host found being made, without the remedy, which is being applied.
func beingMade(err error) string {
	for f := (*fault.Error)(nil); errors.As(err, &f); err = f.Err {
		if f.Kind == fault.Unsettled && f.Err != nil && !fault.Is(f.Err, fault.Unsettled) {
			return f.Err.Error()
		}
	}
	return "a connection was being made"
}

func (c *Cluster) snapshotOnce(ctx context.Context, opt SnapshotOptions) (store.Cut, error) {
	began := time.Now()
	a, err := c.planSnapshot(ctx, opt)
	if err != nil {
		return store.Cut{}, &fault.Error{Op: "snapshot", Job: opt.Job, Err: err}
	}
	a.began = began
	defer a.close()
	a.open(ctx)
	outcome := a.drive(ctx)
	if !outcome.Committed {
		return store.Cut{}, errors.Join(a.failure(outcome, a.endedMeanwhile(ctx)), c.Catalogue.EndAttempt(noted(ctx), a.key.snapshotID()))
	}
	for _, h := range outcome.Unknown {
		c.Noticef("%s: commit not confirmed; its agent will finish it", h)
	}
	for _, n := range outcome.Notes {
		c.Noticef("%s", n)
	}
	if opt.Stop {
		a.stopped(ctx, outcome)
	}
	a.latecomers(ctx)
	// The cut exists, and the job runs. What comes now can be made up for later.
	c.publish(ctx, a.cut, a.manifest, a.all)
	c.Retain(context.WithoutCancel(ctx), opt.Job, a.all)
	return a.cut, nil
}

// latecomers takes in what hosts without members said after the plan was made: which are back, and what they claim to have (F5).
func (a *attempt) latecomers(ctx context.Context) {
	statuses, members := a.survey.lately()
	if err := errors.Join(a.c.heard(ctx, statuses), a.c.stand(ctx, statuses)); err != nil {
		a.c.Noticef("could not record the late answers of %s: %v", english.Plural(len(statuses), "host", ""), err)
	}
	if _, err := a.c.entitled(ctx, a.job, members); err != nil {
		a.c.Noticef("%v", err)
	}
}

// attempt is one attempt at a cut, on the coordinator's side. The goroutine of drive owns it.
type attempt struct {
	c     *Cluster
	opt   SnapshotOptions
	key   attemptKey
	at    store.Attempt // it holds the lease on the job
	hosts []HostStatus  // the participants
	all   []HostStatus  // every registered host that answers: where copies may go
	job   store.Job
	// What becomes of each host's images: so many other hosts hold a copy, and all the vaults.
	jobKey keys.Job
	copies int
	vaults []string
	survey survey
	roster roster

	began time.Time
	zero  time.Time // of the coordinator's clock

	lines  map[marker.HostID]SnapshotLine
	events chan marker.Event
	done   chan struct{}
	reads  sync.WaitGroup

	mu       sync.Mutex
	reports  map[string]HostReport
	failures map[marker.HostID]error
	heard    map[marker.HostID]bool // hosts that have said something: they may have touched the job

	core    marker.Coordinator
	started bool
	cut     store.Cut
	// manifest is that of cut, made before the commit; nil if it could not be made.
	manifest []byte
}

type attemptKey marker.Key

func (k attemptKey) snapshotID() string { return string(k.Snapshot) }

// open opens the line to every participant. A line that cannot be opened is an event like any other.
func (a *attempt) open(ctx context.Context) {
	// An interrupted snapshot still has an abort to send: the lines outlive ctx.
	ctx = context.WithoutCancel(ctx)
	participants := a.participants(a.hosts)
	for _, h := range a.hosts {
		id := marker.HostID(h.Name)
		line, err := a.openOne(ctx, h, participants)
		if err != nil {
			a.fail(id, err)
			a.reads.Add(1)
			go func() {
				defer a.reads.Done()
				a.post(marker.LineLost{Host: id, Reason: err.Error()})
			}()
			continue
		}
		a.lines[id] = line
		a.reads.Add(1)
		go func() {
			defer a.reads.Done()
			a.read(id, line)
		}()
	}
}

func (a *attempt) openOne(ctx context.Context, h HostStatus, participants []Participant) (SnapshotLine, error) {
	agent, err := a.c.AgentOf(h.Host)
	if err != nil {
		return nil, err
	}
	open := a.openFor(h, participants)
	open.Copies, open.CopiesWanted, open.Vaults, open.JobKey = a.copiesFor(h), a.copies, a.vaults, a.jobKey
	return agent.Snapshot(ctx, open)
}

// openFor is what a host must know of the members and of the other hosts.
func (a *attempt) openFor(h HostStatus, participants []Participant) Open {
	return Open{Key: marker.Key(a.key), Participants: participants, Members: a.roster.members[h.Name], Restored: a.job.Restored,
		Settle: a.opt.Settle, Outside: a.job.Policy.Outside}
}

func (a *attempt) post(ev marker.Event) {
	select {
	case a.events <- ev:
	case <-a.done:
	}
}

func (a *attempt) fail(host marker.HostID, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failures[host] == nil {
		a.failures[host] = err
	}
}

// read turns what comes over one line into events until the line is gone.
func (a *attempt) read(id marker.HostID, line SnapshotLine) {
	stores := false
	for {
		in, err := line.Recv()
		if err == nil {
			a.mu.Lock()
			a.heard[id] = true
			a.mu.Unlock()
		}
		switch {
		case err != nil:
			select {
			case <-a.done:
			default:
				a.fail(id, err)
				a.post(marker.LineLost{Host: id, Reason: err.Error()})
			}
			return
		case in.Message != nil:
			a.post(marker.Received{Message: *in.Message})
		case in.Failure != nil:
			a.fail(id, told{in.Failure})
		case in.Report != nil:
			a.mu.Lock()
			a.reports[string(id)] = *in.Report
			a.mu.Unlock()
		case in.Progress != nil:
			if in.Progress.Storing && !stores {
				stores = true
				a.post(marker.Stores{Host: id})
			}
			a.progressed(string(id), *in.Progress)
		}
	}
}

func (a *attempt) progressed(host string, p Progress) {
	if a.c.Progress != nil {
		p.Host = host
		a.c.Progress(p)
	}
}

// drive steps the coordinator until the attempt is over.
func (a *attempt) drive(ctx context.Context) marker.Outcome {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	interrupted, lost := ctx.Done(), a.c.Catalogue.Lost(a.at.Job)
	if out := a.step(ctx, marker.Begin{}); out != nil {
		return *out
	}
	for {
		if d := a.core.Deadline(); d > 0 {
			timer.Reset(time.Duration(d-a.now()) * time.Millisecond)
		} else {
			timer.Stop()
		}
		var ev marker.Event
		select {
		case ev = <-a.events:
		case <-timer.C:
			ev = marker.Tick{Now: a.now()}
		case <-lost:
			lost = nil
			ev = marker.JobLost{Reason: a.c.whyLost(ctx, a.at)}
		case <-interrupted:
			interrupted = nil
			ev = marker.Interrupt{Reason: context.Cause(ctx).Error()}
		}
		if out := a.step(ctx, marker.Tick{Now: a.now()}); out != nil {
			return *out
		}
		if out := a.step(ctx, ev); out != nil {
			return *out
		}
	}
}

func (a *attempt) now() marker.Millis { return millis(time.Since(a.zero)) }

// step applies one event and does the work of its Ready. A non-nil Outcome ends the attempt.
func (a *attempt) step(ctx context.Context, ev marker.Event) *marker.Outcome {
	core, ready, err := a.core.Step(ev)
	if err != nil {
		return &marker.Outcome{Reason: err.Error(), Cause: marker.CauseConfig}
	}
	a.core = core
	if ready.Commit != nil {
		// M9: from the instant that this transaction is durable, the cut exists.
		a.cut = a.build(*ready.Commit)
		a.manifest, _ = a.c.cutFile(noted(ctx), a.cut) // publish says why there is none
		next := marker.Event(marker.CommitDone{})
		if err := a.c.Catalogue.CommitCut(noted(ctx), a.cut); err != nil {
			next = marker.CommitFailed{Reason: err.Error()}
		}
		return a.step(ctx, next)
	}
	for _, m := range ready.Messages {
		if m.Type == marker.MsgStart {
			a.started = true
		}
		line := a.lines[m.To]
		if line == nil {
			continue // its LineLost is on the way
		}
		if err := line.Send(m); err != nil {
			a.fail(m.To, err)
			a.reads.Add(1)
			go func() {
				defer a.reads.Done()
				a.post(marker.LineLost{Host: m.To, Reason: err.Error()})
			}()
		}
	}
	return ready.Outcome
}

// build makes the catalogue's record of the cut.
func (a *attempt) build(commit marker.Commit) store.Cut {
	a.mu.Lock()
	defer a.mu.Unlock()
	cut := store.Cut{ID: a.key.snapshotID(), Job: a.opt.Job, Epoch: uint64(a.key.Epoch), Time: time.Now().UTC(), Label: a.opt.Label, Stopped: a.opt.Stop,
		Key: a.job.Key, KeyID: a.job.KeyID, EndedWell: a.roster.endedWell, Without: a.roster.without}
	prepared := time.Duration(0)
	for _, h := range a.hosts {
		rep := a.reports[h.Name]
		ch := store.CutHost{Host: h.Name, Manifest: rep.Manifest, Copies: rep.Copies, Vaults: rep.Vaults, Phases: rep.Phases,
			NewBytes: rep.NewBytes, WroteBytes: rep.WroteBytes, MovedBytes: rep.MovedBytes}
		for _, addr := range h.Info.Addrs {
			ch.Addrs = append(ch.Addrs, addr.String())
		}
		for _, m := range rep.Members {
			ch.Members = append(ch.Members, store.CutMember{
				Name: m.Member.Name, Command: m.Member.Command, Env: m.Member.Env, Dir: m.Member.Dir, Log: m.Member.Log, Folders: m.Member.Folders, Aliases: m.Member.Aliases, Names: m.Member.Names,
				Pid: m.Member.Pid, ImageBytes: m.ImageBytes, FrozenMs: m.FrozenMs, StallMs: m.StallMs, Memory: m.Memory, MemoryFrozen: m.Member.MemoryFrozen,
			})
		}
		prepared = max(prepared, time.Duration(rep.RunningMs*float64(time.Millisecond)))
		cut.CRIUVersion = rep.CRIU
		cut.Hosts = append(cut.Hosts, ch)
	}
	cut.TotalMs = float64((a.zero.Sub(a.began) + prepared).Microseconds()) / 1000
	for _, ch := range commit.Channels {
		cut.Channels = append(cut.Channels, store.CutChannel{
			FromHost: string(ch.From), FromMember: ch.FromMember, FromAddr: ch.FromAddr,
			ToHost: string(ch.To), ToMember: ch.ToMember, ToAddr: ch.ToAddr,
			InTransit: ch.InTransit, SndUna: ch.SndUna, RcvNxt: ch.RcvNxt, WriteSeq: ch.WriteSeq,
		})
	}
	cut.Ends = changedEnds(commit)
	return cut
}

// changedEnds are the ends that a restore puts back otherwise than they were.
func changedEnds(commit marker.Commit) []store.CutEnd {
	var out []store.CutEnd
	add := func(ends []marker.End, as string) {
		for _, e := range ends {
			out = append(out, store.CutEnd{Host: string(e.Host), Member: e.Member, Local: e.Local, Remote: e.Remote, As: as})
		}
	}
	add(commit.Outside, store.EndClosed)
	add(commit.Unheard, store.EndConnecting)
	return out
}

// stopped takes the members that were ended with the cut off the catalogue. Of a host that has not said that it finished, they stay.
func (a *attempt) stopped(ctx context.Context, outcome marker.Outcome) {
	var done []string
	for _, h := range a.hosts {
		if !slices.Contains(outcome.Unknown, marker.HostID(h.Name)) {
			done = append(done, h.Name)
		}
	}
	if err := a.c.Catalogue.ClearHosts(noted(ctx), a.opt.Job, a.job.Restored, done...); err != nil {
		a.c.Noticef("could not remove ended members from the catalogue: %v", err)
	}
}

// close hangs up.
func (a *attempt) close() {
	close(a.done)
	for _, id := range slices.Sorted(maps.Keys(a.lines)) {
		_ = a.lines[id].Close() // nothing more is said on it
	}
	a.reads.Wait()
}
