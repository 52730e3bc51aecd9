package orchestrator

import (
	"context"
	"errors"
	"fmt"

	"ss/fault"
	"ss/store"
	"ss/store/keys"
)

// ensureKey returns a job and its key. A job that has none gets one now.
func (c *Cluster) ensureKey(ctx context.Context, job string) (store.Job, keys.Job, error) {
	cluster, err := c.Catalogue.Cluster(ctx)
	if err != nil {
		return store.Job{}, keys.Job{}, err
	}
	j, err := c.Catalogue.EnsureKey(ctx, job, func() (wrapped, id string, err error) { return drawKey(cluster) })
	if err != nil {
		return store.Job{}, keys.Job{}, err
	}
	k, err := c.openKey(j.Name, j.Key, j.KeyID)
	return j, k, err
}

func drawKey(cluster store.Cluster) (wrapped, id string, err error) {
	if len(cluster.Recipients) == 0 {
		return "", "", fault.New(fault.Refused, "the cluster has no recipient that a job's key could be wrapped to: an older ssctl made it", "make a new cluster with ssctl init")
	}
	k := keys.Open
	if !cluster.Open {
		if k, err = keys.New(); err != nil {
			return "", "", err
		}
	}
	wrapped, err = k.Wrap(cluster.Recipients...)
	return wrapped, k.ID(), err
}

// CutKey is the key that a cut's images are encrypted with.
func (c *Cluster) CutKey(cut store.Cut) (keys.Job, error) {
	return c.openKey(cut.Job, cut.Key, cut.KeyID)
}

// partKeys are the keys that the parts of a cut are encrypted with. A part of another snapshot may have a key of its own.
func (c *Cluster) partKeys(cut store.Cut) (map[store.PartID]keys.Job, error) {
	opened, parts := map[string]keys.Job{}, map[store.PartID]keys.Job{}
	for _, part := range cut.Hosts {
		wrapped, id := cut.Key, cut.KeyID
		if part.KeyID != "" {
			wrapped, id = part.Key, part.KeyID
		}
		k, ok := opened[id]
		if !ok {
			var err error
			if k, err = c.openKey(cut.Job, wrapped, id); err != nil {
				return nil, err
			}
			opened[id] = k
		}
		parts[cut.PartID(part)] = k
	}
	return parts, nil
}

// openKey unwraps a job's key. The one that everybody knows needs nobody's identity.
func (c *Cluster) openKey(job, wrapped, id string) (keys.Job, error) {
	if id == keys.Open.ID() {
		return keys.Open, nil
	}
	const next = "put the cluster's images.key back into its folder, or give --identity FILE (SSCTL_IDENTITY) with a recovery identity"
	if wrapped == "" {
		return keys.Job{}, fault.New(fault.NotFound, fmt.Sprintf("the catalogue has no key for the images of job %s", job), "ssctl catalog rebuild finds it again, if a host or vault holds its cuts")
	}
	if c.Identities == nil {
		return keys.Job{}, fault.New(fault.Denied, "no configured identity can decrypt the job's key", next)
	}
	identities, err := c.Identities()
	if err != nil {
		return keys.Job{}, &fault.Error{Kind: fault.Denied, Err: fmt.Errorf("open the key of job %s: %w", job, err), Next: next}
	}
	k, err := keys.Unwrap(wrapped, identities...)
	if errors.Is(err, keys.ErrUnwrap) {
		return keys.Job{}, &fault.Error{Kind: fault.Denied, Err: fmt.Errorf("open the key of job %s: %w", job, err), Next: next}
	}
	if err != nil {
		return keys.Job{}, fmt.Errorf("open the key of job %s: %w", job, err)
	}
	if k.ID() != id {
		return keys.Job{}, fault.New(fault.Integrity, fmt.Sprintf("the key of job %s is %s, and the catalogue says %s", job, k.ID(), id), "ssctl catalog rebuild, in another folder, finds what the hosts and vaults hold")
	}
	return k, nil
}

// Encrypted says whether a job's images are secret: by its key, or if it has none yet, by what new jobs of the cluster get.
func Encrypted(j store.Job, cluster store.Cluster) bool {
	if j.KeyID == "" {
		return !cluster.Open
	}
	return j.KeyID != keys.Open.ID()
}
