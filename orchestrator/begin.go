package orchestrator

import (
	"context"
	"errors"
	"time"

	"ss/store"
)

// collectWait bounds how long an attempt waits for a collection that another ssctl is at. It is for a collection that ends soon; one that
// does not is a conflict as any other.
const collectWait = time.Minute

// begin notes that something is about to begin of which there can be one of a job at a time.
func (c *Cluster) begin(ctx context.Context, a store.Attempt) (store.Attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, collectWait)
	defer cancel()
	for told := false; ; told = true {
		at, err := c.Catalogue.BeginAttempt(a)
		if !errors.Is(err, store.ErrCollecting) || ctx.Err() != nil {
			return at, err
		}
		if !told {
			c.Noticef("%v; waiting", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(askAgain):
		}
	}
}

// Alone does something while no snapshot or restore of the job can be on.
func (c *Cluster) Alone(ctx context.Context, job string, do func() error) error {
	at, err := c.begin(ctx, store.Attempt{Kind: store.KindCollect, Job: job, Hosts: []string{}})
	if err != nil {
		return err
	}
	return errors.Join(do(), c.Catalogue.EndAttempt(at.ID))
}

// endStale forgets the attempts whose ssctl has died: nobody asks for them any more. What became of a restore is not lost with it. Its hosts keep the
// signed statement, and whoever asks them next adopts it (catchUp).
func (c *Cluster) endStale(attempts []store.Attempt) error {
	var errs []error
	for _, at := range attempts {
		if at.Live {
			continue
		}
		if err := c.Catalogue.EndAttempt(at.ID); !errors.Is(err, store.ErrConflict) { // else somebody has begun it again
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
