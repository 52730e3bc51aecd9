package store

import (
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// SetCluster changes the cluster's own record, which is validated. Its id is not to be changed. change runs within the
// transaction: it must not use the catalogue. Its error is returned, and nothing is changed.
func (c *Catalogue) SetCluster(change func(*Cluster) error) error {
	return c.update(func(tx *bbolt.Tx) error {
		cluster, err := need[Cluster](tx, bucketMeta, keyCluster)
		if err != nil {
			return err
		}
		id := cluster.ID
		if err := change(&cluster); err != nil {
			return err
		}
		if cluster.ID != id {
			return fmt.Errorf("cluster %s cannot become cluster %s: %w", id, cluster.ID, ErrInvalid)
		}
		if err := cluster.validate(); err != nil {
			return fmt.Errorf("change cluster: %w", err)
		}
		cluster.Created = cluster.Created.Round(0).UTC()
		return put(tx, bucketMeta, keyCluster, cluster)
	})
}

// SetPolicy changes a job's policy, which is validated, and returns what it is now. Where change fails, or makes one that cannot be (ErrInvalid),
// nothing is changed. change runs within the transaction: it must not use the catalogue.
func (c *Catalogue) SetPolicy(job string, change func(*Policy) error) (Policy, error) {
	var policy Policy
	err := c.changeJob(job, false, func(j *Job) error {
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
func (c *Catalogue) EnsureKey(job string, draw func() (wrapped, id string, err error)) (Job, error) {
	j, err := c.Job(job)
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
	err = c.changeJob(job, false, func(j *Job) error {
		if j.Key == "" {
			j.Key, j.KeyID = wrapped, id
		}
		return nil
	})
	if err != nil {
		return Job{}, fmt.Errorf("keep the key of job %q: %w", job, err)
	}
	return c.Job(job)
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
