package store

import (
	"context"
	"fmt"
	"slices"
)

// SetPolicy changes a job's policy, which is validated, and returns what it is now. Where change fails, or makes one that cannot be (ErrInvalid),
// nothing is changed. change runs within the transaction: it must not use the catalogue.
func (c *Catalogue) SetPolicy(ctx context.Context, job string, change func(*Policy) error) (Policy, error) {
	var policy Policy
	err := c.changeJob(ctx, job, false, func(j *Job) error {
		if err := change(&j.Policy); err != nil {
			return err
		}
		if err := j.Policy.validate(); err != nil {
			return fmt.Errorf("policy of job %q: %w", job, err)
		}
		policy = j.Policy
		return nil
	})
	if err != nil {
		return Policy{}, err
	}
	return policy, nil
}

// EnsureKey returns the job with its wrapped key. Where it has none, draw makes one, which is durable before EnsureKey returns; of
// several at once one wins, and the others are forgotten. draw may use the catalogue. What it returns must not be empty: a key that
// was not written down is lost, and what it encrypted with it.
func (c *Catalogue) EnsureKey(ctx context.Context, job string, draw func() (wrapped, id string, err error)) (Job, error) {
	j, err := c.Job(ctx, job)
	if err != nil || j.Key != "" {
		return j, err
	}
	wrapped, id, err := draw()
	if err != nil {
		return Job{}, fmt.Errorf("draw the key of job %q: %w", job, err)
	}
	if wrapped == "" || id == "" {
		return Job{}, fmt.Errorf("draw the key of job %q: it is empty: %w", job, ErrInvalid)
	}
	err = c.changeJob(ctx, job, false, func(j *Job) error {
		if j.Key == "" {
			j.Key, j.KeyID = wrapped, id
		}
		return nil
	})
	if err != nil {
		return Job{}, fmt.Errorf("keep the key of job %q: %w", job, err)
	}
	return c.Job(ctx, job)
}

// EffectiveVaults are the job's vaults, or else the cluster's.
func (j Job) EffectiveVaults(c Cluster) []string {
	if j.Policy.Vaults == nil {
		return slices.Clone(c.Vaults)
	}
	return slices.Clone(j.Policy.Vaults)
}

// EffectiveCopies is never less than 1.
func (p Policy) EffectiveCopies() int {
	if p.Copies == 0 {
		return DefaultCopies
	}
	return max(1, p.Copies)
}
