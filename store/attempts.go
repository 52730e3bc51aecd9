package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"ss/store/kv"
)

// An attempt holds the lease on its job: one attempt of a job at a time. The database gives a lease up when its holder dies, so whether
// an attempt is stale is known, not guessed from times and process numbers; and what an attempt commits is guarded by its lease, so that one whose
// lease was lost, and taken by another, commits nothing.

// lease is what is written of a lease that is held.
type lease struct {
	Attempt string    `json:"attempt"`
	Holder  string    `json:"holder"` // process, machine and folder, for people
	Since   time.Time `json:"since"`
}

// leaseOf names the lease on a job.
func leaseOf(job string) string { return job }

// live says whether an attempt holds the lease on its job.
func live(tx kv.Tx, a Attempt) (bool, error) {
	hold, err := tx.Holder(leaseOf(a.Job))
	if err != nil || hold == kv.Free {
		return false, err
	}
	l, _, err := get[lease](tx, bucketLeases, a.Job)
	return l.Attempt == a.ID, err
}

// guard refuses what an attempt does that has not the lease on its job any more.
func guard(tx kv.Tx, a Attempt) error {
	hold, err := tx.Holder(leaseOf(a.Job))
	if err != nil {
		return err
	}
	l, _, err := get[lease](tx, bucketLeases, a.Job)
	switch {
	case err != nil:
		return err
	case l.Attempt == a.ID && hold == kv.Ours:
		return nil
	case l.Attempt == a.ID || l.Attempt == "":
		return fmt.Errorf("the lease on job %q was lost: %w", a.Job, ErrConflict)
	}
	return fmt.Errorf("the lease on job %q was lost; attempt %s of %s has it since %s: %w", a.Job, l.Attempt, l.Holder, l.Since.Format("15:04:05"), ErrConflict)
}

// release gives back the lease of an attempt that ends.
func release(tx kv.Tx, a Attempt) error {
	l, ok, err := get[lease](tx, bucketLeases, a.Job)
	if err != nil || !ok || l.Attempt != a.ID {
		return err // another attempt has it
	}
	return errors.Join(tx.Drop(leaseOf(a.Job)), remove(tx, bucketLeases, a.Job))
}

// BeginAttempt notes that a snapshot, a restore or a collection is about to begin, takes the lease on its job, draws its epoch and its id, and
// returns when that is durable. The caller gives Kind, Job, Hosts and Phase, and an ID only if the
// cut is to have one that it had elsewhere; if that is taken, the error wraps ErrConflict. While another attempt has the
// lease, the error wraps ErrConflict and names who holds it, of a collection ErrCollecting, too; one whose ssctl has died does not count, and stays in
// Attempts until EndAttempt, or until another begins with its id.
func (c *Catalogue) BeginAttempt(ctx context.Context, a Attempt) (Attempt, error) {
	if !slices.Contains([]string{KindSnapshot, KindRestore, KindCollect}, a.Kind) {
		return Attempt{}, fmt.Errorf("begin attempt: kind %q: %w", a.Kind, ErrInvalid)
	}
	given := a
	err := c.update(ctx, func(tx kv.Tx) (err error) {
		a = given
		if _, err := need[Job](tx, bucketJobs, a.Job); err != nil {
			return err
		}
		if err := forgetStale(tx, a.ID); err != nil {
			return err
		}
		if err := takeJob(tx, a.Job); err != nil {
			return err
		}
		if a.Epoch, err = drawEpoch(tx, a.Job); err != nil {
			return err
		}
		a.Started, a.Pid, a.Live = now(), os.Getpid(), true
		a.Hosts = sorted(slices.Clone(a.Hosts))
		if a.ID, err = attemptID(tx, a); err != nil {
			return err
		}
		if err := put(tx, bucketLeases, a.Job, lease{Attempt: a.ID, Holder: c.holder(), Since: a.Started}); err != nil {
			return err
		}
		return put(tx, bucketAttempts, a.ID, a)
	})
	if err != nil {
		return Attempt{}, fmt.Errorf("begin %s of job %q: %w", a.noun(), a.Job, err)
	}
	return a, nil
}

// takeJob takes the lease on a job, or says who holds it.
func takeJob(tx kv.Tx, job string) error {
	err := tx.Take(leaseOf(job))
	if !errors.Is(err, kv.ErrHeld) {
		return err
	}
	l, ok, lerr := get[lease](tx, bucketLeases, job)
	if lerr != nil || !ok {
		return errors.Join(lerr, fmt.Errorf("%w: %w", err, ErrConflict))
	}
	o, _, err := get[Attempt](tx, bucketAttempts, l.Attempt)
	if err != nil {
		return err
	}
	return underWay(o, l, job)
}

// underWay says that an attempt has the lease on a job.
func underWay(a Attempt, l lease, job string) error {
	conflict := ErrConflict
	if a.Kind == KindCollect {
		conflict = ErrCollecting
	}
	return fmt.Errorf("a %s of job %q is under way (%s, since %s, %s): wait for its end: %w", a.noun(), job, l.Attempt, l.Since.Format("15:04:05"), l.Holder, conflict)
}

// notRestoring refuses what must not be done while a restore has the lease on a job.
func notRestoring(tx kv.Tx, job string) error {
	l, ok, err := get[lease](tx, bucketLeases, job)
	if err != nil || !ok {
		return err
	}
	a, ok, err := get[Attempt](tx, bucketAttempts, l.Attempt)
	if err != nil || !ok || a.Kind != KindRestore {
		return err
	}
	on, err := live(tx, a)
	if err != nil || !on {
		return err // its ssctl has died
	}
	return underWay(a, l, job)
}

// Guard returns nil while an attempt of this handle holds the lease on its job. Else the error wraps ErrConflict and names who holds it, if anybody does.
func (c *Catalogue) Guard(ctx context.Context, a Attempt) error {
	return c.view(ctx, func(tx kv.Tx) error { return guard(tx, a) })
}

// Lost returns a channel that is closed when the lease on a job that an attempt of this handle holds is lost. The attempt can commit nothing then.
func (c *Catalogue) Lost(job string) <-chan struct{} { return c.db.Lost(leaseOf(job)) }

// EndAttempt forgets an attempt that did not commit, once its hosts run again. One that has ended
// already is not an error. One that another living ssctl is at makes the error wrap ErrConflict.
func (c *Catalogue) EndAttempt(ctx context.Context, id string) error {
	began := false
	err := c.update(ctx, func(tx kv.Tx) error {
		a, ok, err := get[Attempt](tx, bucketAttempts, id)
		if began = ok; err != nil || !ok {
			return err
		}
		on, err := live(tx, a)
		if err != nil {
			return err
		}
		if hold, err := tx.Holder(leaseOf(a.Job)); err != nil {
			return err
		} else if on && hold == kv.Others {
			l, _, err := get[lease](tx, bucketLeases, a.Job)
			return errors.Join(err, fmt.Errorf("attempt %s belongs to another ssctl that is at work (%s): %w", id, l.Holder, ErrConflict))
		}
		return errors.Join(release(tx, a), noteEnded(tx, a), remove(tx, bucketAttempts, id))
	})
	if err != nil {
		return fmt.Errorf("end attempt: %w", err)
	}
	if !began {
		return nil
	}
	return c.sweep(ctx, id) // it may have staged records of a cut that it did not commit
}

// Attempts lists what has begun and not ended, oldest first.
func (c *Catalogue) Attempts(ctx context.Context) (attempts []Attempt, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		if attempts, err = all[Attempt](tx, bucketAttempts, ""); err != nil {
			return err
		}
		for i := range attempts {
			if attempts[i].Live, err = live(tx, attempts[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return attempts, err
}

// forgetStale removes the attempt of an id if its ssctl has died: what it began, an import, is begun again.
func forgetStale(tx kv.Tx, id string) error {
	if id == "" {
		return nil
	}
	a, ok, err := get[Attempt](tx, bucketAttempts, id)
	if err != nil || !ok {
		return err
	}
	if on, err := live(tx, a); err != nil || on {
		return err
	}
	return remove(tx, bucketAttempts, id)
}

// attemptID is the id that an attempt comes with, that of a cut which was taken elsewhere, or else a fresh one.
func attemptID(tx kv.Tx, a Attempt) (string, error) {
	if a.ID == "" {
		return freeID(tx, a.Started)
	}
	if err := validName("snapshot", a.ID); err != nil {
		return "", err
	}
	for _, bucket := range []string{bucketCuts, bucketAttempts} {
		if there, err := exists(tx, bucket, a.ID); err != nil {
			return "", err
		} else if there {
			return "", fmt.Errorf("there is a %s of the id %s already: %w", nounOf[bucket], a.ID, ErrConflict)
		}
	}
	return a.ID, nil
}

// noun is what people call it.
func (a Attempt) noun() string {
	if a.Kind == KindCollect {
		return "collection"
	}
	return a.Kind
}

func attemptsOf(tx kv.Tx, job string) ([]Attempt, error) {
	attempts, err := all[Attempt](tx, bucketAttempts, "")
	return slices.DeleteFunc(attempts, func(a Attempt) bool { return a.Job != job }), err
}
