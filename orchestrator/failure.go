package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/fault"
	"ss/marker"
)

// told is a failure in its host's own words, which name the operation, the host, the job and the snapshot.
type told struct{ error }

// Unwrap gives what the host said.
func (t told) Unwrap() error { return t.error }

// outside is a cut that was refused for connections whose other end nobody has.
type outside struct{ error }

// unanswered is why a host cannot take part: it does not answer, and next says what to do, or it is of another version, and its error says what to upgrade.
func unanswered(host string, err error, next string) error {
	if fault.Is(err, fault.Outdated) {
		return &fault.Error{Kind: fault.Outdated, Err: err}
	}
	return &fault.Error{Kind: fault.Unreachable, Host: host, Err: err, Next: next}
}

// failure says why the attempt did not commit, and which hosts are not known to run again.
func (a *attempt) failure(out marker.Outcome, ended []string) error {
	a.mu.Lock()
	cause, heard := a.failures[out.Blame], a.heard[out.Blame]
	// One that was there and is not any more may be missed by another host first.
	died := slices.ContainsFunc(out.Unknown, func(id marker.HostID) bool { return a.heard[id] })
	a.mu.Unlock()
	if out.Cause == marker.CauseTimeout {
		cause = nil // the host was late before its line broke, or before it said that it gives up
	}
	f := &fault.Error{Op: "snapshot", Job: a.opt.Job, Host: string(out.Blame), Snapshot: a.key.snapshotID(), Err: errors.New(out.Reason)}
	if cause != nil {
		f.Err = cause
	}
	if _, ok := errors.AsType[told](cause); ok {
		f.Op, f.Job, f.Host, f.Snapshot = "", "", "", ""
	}
	switch {
	case out.Cause == marker.CauseInterrupt:
		f.Kind = fault.Interrupted
	case fault.Is(cause, fault.Unsettled), out.Cause == marker.CauseUnread:
		f.Kind = fault.Unsettled
	case out.Cause == marker.CauseConflict, out.Cause == marker.CauseJobLost:
		f.Kind = fault.Conflict
	case out.Cause == marker.CauseCheck:
		f.Kind = fault.Refused
	case out.Cause == marker.CauseOutside:
		f.Kind, f.Err = fault.Refused, outside{f.Err}
	case a.started, out.Cause == marker.CauseUnreachable && heard, fault.Is(cause, fault.Unreachable) && died:
		f.Kind = fault.RolledBack
	case fault.KindOf(cause) != fault.Failed:
		f.Kind = fault.KindOf(cause)
	case out.Cause == marker.CauseUnreachable:
		f.Kind = fault.Unreachable
	case out.Cause == marker.CauseRefused && cause == nil:
		f.Kind = fault.Refused
	default: // what fails while it prepares without being refused (a CRIU that dies, say) was undone as well
		f.Kind = fault.RolledBack
	}
	f.Next = "the job runs on, nothing of this attempt is left"
	if len(ended) > 0 {
		f.Next = "nothing of this attempt is left; " + strings.Join(ended, ", ")
		if len(ended) < a.roster.count() {
			f.Next += "; the other members run on"
		}
	}
	if len(out.Unknown) > 0 {
		f.Next = fmt.Sprintf("these hosts have not confirmed that their members run again: %s; each lets them run by itself within %s", joinHosts(out.Unknown), lease)
		if len(ended) > 0 {
			f.Next += "; " + strings.Join(ended, ", ")
		}
	}
	if out.Cause == marker.CauseJobLost {
		f.Next += "; " + nextJobLost
	}
	if len(out.Notes) > 0 {
		f.Next += "; " + strings.Join(out.Notes, "; ")
	}
	return f
}

// afterTimeout bounds the question, after a snapshot that failed, whether its members live.
const afterTimeout = 3 * time.Second

// endedMeanwhile says which of the members that were to take part have ended since, and how. Of hosts that do not answer it is not known.
func (a *attempt) endedMeanwhile(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterTimeout)
	defer cancel()
	got := make([][]string, len(a.hosts))
	var wg sync.WaitGroup
	for i, h := range a.hosts {
		wg.Go(func() {
			members, err := a.c.MembersOf(ctx, h.Host, a.opt.Job)
			if err != nil {
				return // it is not known; a host that is not known to run again is named anyhow
			}
			for _, name := range a.roster.members[h.Name] {
				n := slices.IndexFunc(members, func(m Member) bool { return m.Name == name })
				switch {
				case n < 0:
					got[i] = append(got[i], fmt.Sprintf("%s on %s is gone", name, h.Name))
				case members[n].State != StateRunning:
					got[i] = append(got[i], fmt.Sprintf("%s on %s has ended (%s)", name, h.Name, members[n].Exit))
				}
			}
		})
	}
	wg.Wait()
	return slices.Concat(got...)
}

func joinHosts(ids []marker.HostID) string {
	var s []string
	for _, id := range ids {
		s = append(s, string(id))
	}
	return strings.Join(s, ", ")
}
