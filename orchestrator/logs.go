package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/fault"
)

// LogOptions says what of a log is wanted.
type LogOptions struct {
	Follow bool  // go on as it grows, until its member has ended
	Tail   int64 // begin so many bytes before its end, at the beginning of a line; 0: at its beginning
}

// LogSink takes pieces of members' logs. It is called by one goroutine at a time, and keeps nothing of a piece.
type LogSink func(m Member, piece []byte) error

// Logs shows the log of one member, or of all members of a job ("") on the hosts that answer: one after the other, or with
// Follow all at once, as they grow. A member that was ended and forgotten has its log still if it was started without --log.
func (c *Cluster) Logs(ctx context.Context, job, member string, opt LogOptions, sink LogSink) error {
	if _, err := c.Catalogue.Job(ctx, job); err != nil {
		return err
	}
	members, missing, err := c.Members(ctx, job)
	if err != nil {
		return err
	}
	if member != "" {
		members = slices.DeleteFunc(members, func(m Member) bool { return m.Name != member })
		if len(members) == 0 {
			return c.forgottenLog(ctx, job, member, missing, opt, sink)
		}
	}
	members = slices.DeleteFunc(members, func(m Member) bool {
		silent := missing[m.Host] != nil
		if silent {
			c.Noticef("%s on %s: the host does not answer: %v", m.Name, m.Host, missing[m.Host])
		}
		return silent || member == "" && m.Log == ""
	})
	if len(members) == 0 {
		return fault.New(fault.NotFound, "no member of job "+job+" has a log that can be read now", "see ssctl ps "+job)
	}
	return c.pour(ctx, members, opt, sink)
}

// pour shows the logs of members.
func (c *Cluster) pour(ctx context.Context, members []Member, opt LogOptions, sink LogSink) error {
	var mu sync.Mutex
	one := func(m Member) error {
		h, err := c.Catalogue.Host(ctx, m.Host)
		if err != nil {
			return err
		}
		a, err := c.AgentOf(h)
		if err != nil {
			return err
		}
		return a.Logs(ctx, m.Job, m.Name, opt, func(piece []byte) error {
			mu.Lock()
			defer mu.Unlock()
			return sink(m, piece)
		})
	}
	if !opt.Follow {
		for _, m := range members {
			if err := one(m); err != nil {
				return err
			}
		}
		return nil
	}
	errs := make(chan error, len(members))
	for _, m := range members {
		go func() { errs <- one(m) }()
	}
	var first error
	for range members {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

// forgottenLog shows the log of a member that no host has any more, from the host on which it was last written to: it may have lived on
// several.
func (c *Cluster) forgottenLog(ctx context.Context, job, member string, missing map[string]error, opt LogOptions, sink LogSink) error {
	hosts, err := c.Catalogue.Hosts(ctx)
	if err != nil {
		return err
	}
	var last time.Time
	var on string
	var silent []string
	for _, h := range hosts {
		if missing[h.Name] != nil {
			silent = append(silent, h.Name)
			continue
		}
		a, err := c.AgentOf(h)
		if err != nil {
			return err
		}
		switch written, err := a.LogTime(ctx, job, member); {
		case err == nil && (on == "" || written.After(last)):
			last, on = written, h.Name
		case err != nil && !fault.Is(err, fault.NotFound):
			return err
		}
	}
	if on != "" {
		return c.pour(ctx, []Member{{Host: on, Job: job, Name: member}}, LogOptions{Tail: opt.Tail}, sink)
	}
	next := "see ssctl ps " + job
	if len(silent) > 0 {
		next = "these hosts do not answer: " + strings.Join(silent, ", ")
	}
	return fault.New(fault.NotFound, fmt.Sprintf("no host has a log of %s of job %s", member, job), next)
}
