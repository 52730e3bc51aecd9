package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ss/fault"
	"ss/store"
	"ss/store/images"
)

// publishTimeout bounds how long a command waits until a cut's manifest is on all its holders.
const publishTimeout = 30 * time.Second

// VaultTimeout bounds a question to a vault that moves no images: it may be far away, and large.
const VaultTimeout = 2 * time.Minute

// cutFile is what is kept of a cut beside its images.
func (c *Cluster) cutFile(ctx context.Context, cut store.Cut) ([]byte, error) {
	cluster, err := c.Catalogue.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	job, err := c.Catalogue.Job(ctx, cut.Job)
	if err != nil {
		return nil, err
	}
	hosts, err := c.Catalogue.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	if c.Signer == nil {
		return nil, errors.New("no signing key configured")
	}
	f := store.CutFile{Schema: 1, Cluster: cluster, Job: job, Epoch: job.Epoch, Hosts: hosts, Cut: cut}
	return f.Encode(c.Signer)
}

// Publish puts a cut's signed manifest on everyone who holds its images, all at once. Without it the catalogue could not be made again,
// and nothing else would be amiss: so it never fails, it says.
func (c *Cluster) Publish(ctx context.Context, cut store.Cut, statuses []HostStatus) {
	c.publish(ctx, cut, nil, statuses)
}

// publish is Publish with a manifest that was made before the commit, for a catalogue that does not tell any more: somebody may have exchanged it for an older
// copy since. nil: there is none.
func (c *Cluster) publish(ctx context.Context, cut store.Cut, early []byte, statuses []HostStatus) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	const remedy = "ssctl repair or gc fixes this"
	manifest, err := c.cutFile(ctx, cut)
	switch {
	case err != nil && early == nil:
		c.Noticef("the manifest of %s was not stored on any holder: %v; %s", cut.ID, err, remedy)
		return
	case err != nil:
		c.Noticef("%s is committed; using the manifest made before the commit: %v", cut.ID, err)
		manifest = early
	}
	hosts, vaults := Holders(cut)
	var wg sync.WaitGroup
	tell := func(where string, put func() error) {
		wg.Go(func() {
			if err := put(); err != nil {
				c.Noticef("the manifest of %s was not stored on %s: %v; %s", cut.ID, where, err, remedy)
			}
		})
	}
	for _, name := range hosts {
		tell(name, func() error {
			a, err := c.Answering(statuses, name)
			if err != nil {
				return err
			}
			return a.PutCut(ctx, "", cut.Job, cut.ID, manifest)
		})
	}
	for _, v := range vaults {
		tell(v, func() error {
			return c.OnVault(ctx, statuses, hosts, func(a Agent) error { return a.PutCut(ctx, v, cut.Job, cut.ID, manifest) })
		})
	}
	wg.Wait()
}

// Answering finds the agent of a registered host that has answered.
func (c *Cluster) Answering(statuses []HostStatus, name string) (Agent, error) {
	i := slices.IndexFunc(statuses, func(h HostStatus) bool { return h.Name == name })
	if i < 0 {
		return nil, fault.New(fault.NotFound, fmt.Sprintf("host %s is not registered any more", name), "")
	}
	if err := statuses[i].Err; err != nil {
		return nil, &fault.Error{Kind: fault.Unreachable, Err: err}
	}
	return c.AgentOf(statuses[i].Host)
}

// OnVault has an answering host do something in a vault: one of the preferred first, then the others, for a vault need not be reachable
// from everywhere.
func (c *Cluster) OnVault(ctx context.Context, statuses []HostStatus, prefer []string, do func(Agent) error) error {
	var up []HostStatus
	for _, h := range statuses {
		if h.Err == nil {
			up = append(up, h)
		}
	}
	if len(up) == 0 {
		return fault.New(fault.Unreachable, "no host answers that could reach the vault", "ssctl host list says why")
	}
	slices.SortStableFunc(up, func(a, b HostStatus) int { return outOf(prefer, a.Name) - outOf(prefer, b.Name) })
	var errs []error
	for _, h := range up {
		a, err := c.AgentOf(h.Host)
		if err == nil {
			err = do(a)
		}
		if err == nil || ctx.Err() != nil || fault.Is(err, fault.Integrity) || fault.Is(err, fault.NotFound) || fault.Is(err, fault.Conflict) {
			return err // it is the vault's own answer, and another way there makes no other
		}
		errs = append(errs, fmt.Errorf("by way of %s: %w", h.Name, err))
	}
	return errors.Join(errs...)
}

func outOf(names []string, name string) int {
	if slices.Contains(names, name) {
		return 0
	}
	return 1
}

// Resolve tells hosts the outcome of attempts that they hold images of and do not know the end of: an
// ssctl died before it could say so.
func (c *Cluster) Resolve(ctx context.Context, hosts []HostStatus) error {
	if slices.ContainsFunc(hosts, func(h HostStatus) bool { return h.Ahead != nil }) {
		return nil // what it has not heard of may be a cut, and what it has may be gone
	}
	attempts, err := c.Catalogue.Attempts(ctx)
	if err != nil {
		return err
	}
	found := map[string]store.Cut{}
	for _, h := range hosts {
		if h.Err != nil || len(h.Info.InDoubt) == 0 {
			continue
		}
		var committed, aborted []images.Key
		for _, k := range h.Info.InDoubt {
			switch cut, err := c.Catalogue.Cut(ctx, "", k.Snapshot); {
			case err == nil && cut.ID == k.Snapshot:
				committed = append(committed, k.Key)
				found[cut.ID] = cut
			case err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrAmbiguous):
				return err
			default:
				// Only what this catalogue began itself is known to have come to nothing.
				ended, err := c.Catalogue.EndedWithoutCut(ctx, k.Snapshot, k.Epoch)
				if err != nil {
					return err
				}
				if ended {
					aborted = append(aborted, k.Key)
				}
			}
		}
		a, err := c.AgentOf(h.Host)
		if err != nil {
			return err
		}
		if err := a.ResolveImages(ctx, committed, aborted); err != nil {
			c.Noticef("images in doubt on %s are not settled: %v", h.Name, err)
		}
	}
	if err := c.endStale(ctx, attempts); err != nil {
		return err
	}
	if err := c.Spread(ctx, hosts, false); err != nil {
		return err
	}
	for _, cut := range found { // whoever died before it could say so has not handed out the manifest either
		c.Publish(ctx, cut, hosts)
	}
	return nil
}
