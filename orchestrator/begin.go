package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"ss/store"
	"ss/store/kv"
)

// collectWait bounds how long an attempt waits for a collection that another ssctl is at. It is for a collection that ends soon; one that
// does not is a conflict as any other.
const collectWait = time.Minute

// begin notes that something is about to begin of which there can be one of a job at a time.
func (c *Cluster) begin(ctx context.Context, a store.Attempt) (store.Attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, collectWait)
	defer cancel()
	var busy error
	for {
		revision, err := c.Catalogue.Revision(ctx)
		if err != nil {
			return store.Attempt{}, cmp.Or(busy, err)
		}
		at, err := c.Catalogue.BeginAttempt(ctx, a)
		if !errors.Is(err, store.ErrCollecting) || ctx.Err() != nil {
			return at, err
		}
		if busy == nil {
			c.Noticef("%v; waiting", err)
		}
		busy = err
		if err := c.await(ctx, revision); err != nil {
			return store.Attempt{}, err
		}
	}
}

// lookAgain is how long await waits at most: that an ssctl has died changes nothing in the catalogue.
const lookAgain = time.Second

// await waits until the catalogue has changed since a revision.
func (c *Cluster) await(ctx context.Context, since kv.Revision) error {
	ctx, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	for _, err := range c.Catalogue.Watch(ctx, since) {
		return err
	}
	return nil
}

// guardTimeout bounds the question who holds a job's lease.
const guardTimeout = 5 * time.Second

// nextJobLost is what to do after the lease on a job was lost.
const nextJobLost = "see with ssctl ps and ssctl list what the other ssctl has made of it; when it is done, try again"

// whyLost says of an attempt that has lost the lease on its job who holds it now.
func (c *Cluster) whyLost(ctx context.Context, at store.Attempt) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guardTimeout)
	defer cancel()
	err := c.Catalogue.Guard(ctx, at)
	if err == nil { // the database says both: the word that counts less made us give up
		err = fmt.Errorf("the lease on job %q was lost", at.Job)
	}
	return err.Error()
}

// Alone does something while no snapshot or restore of the job can be on.
func (c *Cluster) Alone(ctx context.Context, job string, do func() error) error {
	at, err := c.begin(ctx, store.Attempt{Kind: store.KindCollect, Job: job, Hosts: []string{}})
	if err != nil {
		return err
	}
	return errors.Join(do(), c.Catalogue.EndAttempt(noted(ctx), at.ID))
}

// endStale forgets the attempts whose ssctl has died: nobody asks for them any more. What became of a restore is not lost with it. Its hosts keep the
// signed statement, and whoever asks them next adopts it (catchUp).
func (c *Cluster) endStale(ctx context.Context, attempts []store.Attempt) error {
	var errs []error
	for _, at := range attempts {
		if at.Live {
			continue
		}
		if err := c.Catalogue.EndAttempt(noted(ctx), at.ID); !errors.Is(err, store.ErrConflict) { // else somebody has begun it again
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
