package images

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/time/rate"
)

// Scrub reads one object after another, at most rate bytes per second (0: as fast as it goes), compares each with its digest, puts aside what is damaged, and asks heal for sources
// to get it from again (nil: it stays missing). It returns after one round over all objects that sets refer to; events come through
// report (nil: nobody), after heal had its turn. Damage is not an error.
func (s *Store) Scrub(ctx context.Context, bytesPerSecond int64, heal func(ctx context.Context, set Set) []Source, report func(Damage)) error {
	sc := &scrubbing{s: s, heal: heal, report: report}
	if bytesPerSecond > 0 {
		sc.limiter = rate.NewLimiter(rate.Limit(bytesPerSecond), piece)
	}
	if err := sc.round(ctx); err != nil {
		return fmt.Errorf("scrub images: %w", err)
	}
	return nil
}

// scrubbing is one Scrub under way.
type scrubbing struct {
	s       *Store
	limiter *rate.Limiter // nil: no limit
	heal    func(ctx context.Context, set Set) []Source
	report  func(Damage)
}

func (sc *scrubbing) round(ctx context.Context) error {
	jobs, err := sc.s.jobs()
	for _, job := range jobs {
		if jobErr := sc.job(ctx, job); jobErr != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			err = errors.Join(err, fmt.Errorf("job %s: %w", job, jobErr)) // the others may do
		}
	}
	return err
}

func (sc *scrubbing) job(ctx context.Context, job string) error {
	sets, err := sc.s.sets(ctx, job)
	if err != nil {
		return err
	}
	var refs []ObjectRef
	users := map[string][]Set{} // by digest
	for _, set := range sets {
		if set.Manifest.Schema == 0 {
			sc.manifest(ctx, set)
			continue
		}
		for _, ref := range set.Manifest.Objects() {
			if users[ref.Digest] == nil {
				refs = append(refs, ref)
			}
			users[ref.Digest] = append(users[ref.Digest], set)
		}
	}
	for _, ref := range refs {
		if err := sc.object(ctx, job, ref, users[ref.Digest]); err != nil {
			return err
		}
	}
	return nil
}

// manifest deals with a set whose manifest is damaged. It stays in place until there is another.
func (sc *scrubbing) manifest(ctx context.Context, set Set) {
	_, _, err := readManifest(ctx, sc.s.objects, set.Key, "")
	if isIntegrity(err) {
		sc.damaged(ctx, set.Key.Job, set.Key.Snapshot+"/"+set.Key.Host, err, []Set{set})
	}
}

func (sc *scrubbing) object(ctx context.Context, job string, ref ObjectRef, users []Set) error {
	was, err := sc.s.look(job, ref, func(n int) error {
		if err := sc.s.pause(ctx); err != nil {
			return err
		}
		if sc.limiter == nil || n == 0 {
			return nil
		}
		return sc.limiter.WaitN(ctx, n)
	})
	if !isIntegrity(err) {
		return err
	}
	users = slices.DeleteFunc(slices.Clone(users), func(set Set) bool { // removed since; its objects may be gone too
		there, err := sc.s.has(set.Key)
		return err == nil && !there
	})
	if len(users) == 0 {
		return nil
	}
	if was != nil {
		if err := sc.s.putAside(job, ref.Digest, was); err != nil {
			return err
		}
	}
	sc.damaged(ctx, job, ref.Digest, err, users)
	return nil
}

// damaged notes damage, tries to heal it by way of the sets that need what is damaged, and reports it.
func (sc *scrubbing) damaged(ctx context.Context, job, what string, fault error, users []Set) {
	d := sc.s.note(job, what, fault)
	for _, set := range users {
		if sc.heal == nil || d.Healed {
			break
		}
		if sources := sc.heal(ctx, set); len(sources) > 0 {
			_, err := sc.s.Fetch(ctx, set.Key, set.Manifest.Digest, false, sources)
			d.Healed = err == nil
			if err != nil {
				d.Detail = fault.Error() + "; " + err.Error()
			}
		}
	}
	if sc.report != nil {
		sc.report(d)
	}
}
