package upkeep

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"ss/orchestrator"
)

// Usage is what image sets take, place by place.
type Usage struct {
	Places []PlaceUsage
	Silent map[string]error // hosts and vaults that could not be asked
}

// PlaceUsage is what the jobs take on one host or in one vault.
type PlaceUsage struct {
	Where string
	Vault bool
	Free  int64 // of a host: bytes of room for images
	Jobs  []orchestrator.JobUsage
}

// UsageOf asks every host and vault what the images of a job ("": of all) take there.
func UsageOf(ctx context.Context, c *orchestrator.Cluster, job string) (Usage, error) {
	cluster, err := c.Catalogue.Cluster(ctx)
	if err != nil {
		return Usage{}, err
	}
	jobs, err := c.Catalogue.Jobs(ctx)
	if err != nil {
		return Usage{}, err
	}
	if job != "" {
		if _, err := c.Catalogue.Job(ctx, job); err != nil {
			return Usage{}, err
		}
	}
	cuts, err := c.Catalogue.Cuts(ctx, "")
	if err != nil {
		return Usage{}, err
	}
	s, err := c.TakeCensus(ctx, job, orchestrator.VaultsOf(cluster, jobs, cuts))
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Silent: s.Silent}
	for _, h := range s.Statuses {
		if inv, ok := s.Hosts[h.Name]; ok {
			u.Places = append(u.Places, PlaceUsage{Where: h.Name, Free: h.Info.FreeBytes, Jobs: byJob(inv.Usage)})
		}
	}
	for _, v := range slices.Sorted(maps.Keys(s.Vaults)) {
		u.Places = append(u.Places, PlaceUsage{Where: v, Vault: true, Jobs: byJob(s.Vaults[v].Usage)})
	}
	return u, nil
}

func byJob(in []orchestrator.JobUsage) []orchestrator.JobUsage {
	return slices.SortedFunc(slices.Values(in), func(a, b orchestrator.JobUsage) int { return cmp.Compare(a.Job, b.Job) })
}
