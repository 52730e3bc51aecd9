package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ss/store/kv"
)

// Latest is the reference to a job's newest cut: of those that were taken here, and only where there is none, of those that were imported.
const Latest = "latest"

// CommitCut makes the cut exist and ends the attempt of the same id, in one durable transaction (M9).
// If the attempt is not in the catalogue any more, is not of this job and epoch, or has lost the job's lease, there is no cut and the error
// wraps ErrConflict. After any other error ask Cut whether it exists before telling anyone.
func (c *Catalogue) CommitCut(ctx context.Context, cut Cut) error {
	ws, err := cutWrites(cut)
	if err != nil {
		return fmt.Errorf("commit cut %s: %w", cut.ID, err)
	}
	if len(batches(ws)) > 1 { // the head alone commits then
		if err := c.stage(ctx, cut, ws[:len(ws)-1]); err != nil {
			return fmt.Errorf("commit cut %s: %w", cut.ID, err)
		}
		ws = ws[len(ws)-1:]
	}
	err = c.update(ctx, func(tx kv.Tx) error {
		a, ok, err := get[Attempt](tx, bucketAttempts, cut.ID)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("its attempt was ended meanwhile: %w", ErrConflict)
		}
		if a.Kind != KindSnapshot || a.Job != cut.Job || a.Epoch != cut.Epoch {
			return fmt.Errorf("its attempt is a %s of job %q, epoch %d, not %q, %d: %w", a.noun(), a.Job, a.Epoch, cut.Job, cut.Epoch, ErrConflict)
		}
		if ok, err := exists(tx, bucketCuts, cut.ID); err != nil || ok {
			return fmt.Errorf("a cut of that id exists: %w", cmp.Or(err, ErrConflict))
		}
		if err := guard(tx, a); err != nil {
			return err
		}
		if err := errors.Join(release(tx, a), remove(tx, bucketAttempts, cut.ID)); err != nil {
			return err
		}
		return putWrites(tx, ws)
	})
	if err != nil {
		return fmt.Errorf("commit cut %s: %w", cut.ID, err)
	}
	return nil
}

// Cuts lists the cuts of a job by epoch, or of all jobs by time if job is empty; oldest first.
func (c *Catalogue) Cuts(ctx context.Context, job string) (cuts []Cut, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		cuts, err = cutsOf(tx, job)
		return err
	})
	return cuts, err
}

// Cut finds the cut that ref means: a whole id, the beginning of only one, or "latest". job, if it is
// not empty, leaves the cuts of other jobs out. The error wraps ErrNotFound or ErrAmbiguous; "latest" is ambiguous
// when several jobs have cuts and none is named.
func (c *Catalogue) Cut(ctx context.Context, job, ref string) (cut Cut, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		cut, err = findCut(tx, job, ref)
		return err
	})
	return cut, err
}

// DeleteCut forgets a cut and keeps its tombstone, in one durable transaction. The id must be whole. Its images are the hosts' to remove,
// afterwards: a cut without images is worse than images without a cut.
func (c *Catalogue) DeleteCut(ctx context.Context, id string, r Removed) error {
	err := c.update(ctx, func(tx kv.Tx) error {
		if _, err := need[cutHead](tx, bucketCuts, id); err != nil {
			return err
		}
		if err := remove(tx, bucketCuts, id); err != nil {
			return err
		}
		return putRemoved(tx, r)
	})
	if err != nil {
		return err
	}
	return c.sweep(ctx, id) // nobody sees these any more
}

func cutsOf(tx kv.Tx, job string) ([]Cut, error) {
	cuts, err := allCuts(tx, "")
	if err != nil {
		return nil, err
	}
	if job != "" {
		cuts = slices.DeleteFunc(cuts, func(c Cut) bool { return c.Job != job })
		// Within a job the epoch says what came first, whatever was done to the clock.
		slices.SortStableFunc(cuts, func(a, b Cut) int { return cmp.Compare(a.Epoch, b.Epoch) })
		return cuts, nil
	}
	slices.SortStableFunc(cuts, func(a, b Cut) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	return cuts, nil
}

func findCut(tx kv.Tx, job, ref string) (Cut, error) {
	of := ""
	if job != "" {
		of = fmt.Sprintf(" of job %q", job)
	}
	if ref == Latest {
		return latestCut(tx, job, of)
	}
	if ref == "" {
		return Cut{}, fmt.Errorf("no cut named: %w", ErrNotFound)
	}
	cuts, err := allCuts(tx, ref)
	if err != nil {
		return Cut{}, err
	}
	if job != "" {
		cuts = slices.DeleteFunc(cuts, func(c Cut) bool { return c.Job != job })
	}
	switch {
	case len(cuts) == 0:
		return Cut{}, fmt.Errorf("no cut %q%s: %w", ref, of, ErrNotFound)
	case len(cuts) == 1 || cuts[0].ID == ref: // a whole id comes before those that it begins
		return cuts[0], nil
	}
	ids := make([]string, len(cuts))
	for i, c := range cuts {
		ids[i] = c.ID
	}
	return Cut{}, fmt.Errorf("cut %q%s may be %s: %w", ref, of, strings.Join(ids, ", "), ErrAmbiguous)
}

func latestCut(tx kv.Tx, job, of string) (Cut, error) {
	cuts, err := cutsOf(tx, job)
	if err != nil {
		return Cut{}, err
	}
	if len(cuts) == 0 {
		return Cut{}, fmt.Errorf("no cut%s yet: %w", of, ErrNotFound)
	}
	var jobs []string
	for _, c := range cuts {
		jobs = append(jobs, c.Job)
	}
	if jobs = sorted(jobs); len(jobs) > 1 {
		return Cut{}, fmt.Errorf("several jobs have cuts (%s): say which with --job: %w", strings.Join(jobs, ", "), ErrAmbiguous)
	}
	return slices.MaxFunc(cuts, compareLatest), nil
}

// compareLatest orders the cuts of a job for who wants the newest. An import is never newer than a cut that was taken here, however
// late it came: it would put an old state in the place of the job's last. Cuts taken here go by their epochs, whatever was done to the
// clock; imports by the time they were taken.
func compareLatest(a, b Cut) int {
	switch {
	case a.Imported == nil && b.Imported == nil:
		return older(a, b)
	case a.Imported == nil:
		return 1
	case b.Imported == nil:
		return -1
	}
	return cmp.Or(a.Time.Compare(b.Time), older(a, b))
}
