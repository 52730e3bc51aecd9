package custody

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"ss/names"
	"ss/store/images"
)

// scrubDelay keeps the first round away from what a host that has just started does.
const scrubDelay = 5 * time.Minute

// Run does what a holder does of its own accord, until ctx ends: it scrubs.
func (h *Holder) Run(ctx context.Context) {
	if h.cfg.ScrubRate > 0 {
		h.scrubRounds(ctx, scrubDelay, h.cfg.ScrubPause)
	}
}

// scrubRounds reads every object that this host holds, over and over, with a pause between two rounds.
func (h *Holder) scrubRounds(ctx context.Context, delay, pause time.Duration) {
	images.YieldToJob()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		err := h.cfg.Store.Scrub(ctx, h.cfg.ScrubRate, h.holdersOf, h.reportDamage)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			h.cfg.Log.Error("scrub", "error", err)
		default:
			h.cfg.Log.Info("scrub: every object read", "took", time.Since(began).Round(time.Second))
		}
		timer.Reset(pause)
	}
}

func (h *Holder) reportDamage(d images.Damage) {
	if d.Healed {
		h.cfg.Log.Info("scrub: damaged object healed from another copy", "job", d.Job, "object", d.Digest, "detail", d.Detail)
		return
	}
	h.cfg.Log.Error("scrub: damaged object", "job", d.Job, "object", d.Digest, "detail", d.Detail, "next", "ssctl repair fetches it from another copy")
}

// holders is what the signed manifest of a cut says of where its images are. Its signature is not looked at here: whoever gives us
// objects is an agent of this cluster, by its certificate, or a vault, and every object must be what its name says. What is signed
// stands in the file as it is, under "cut".
type holders struct {
	Hosts []struct {
		Name string `json:"name"`
		Addr string `json:"addr"`
	} `json:"hosts"`
	Cut struct {
		Hosts []struct {
			Host   string   `json:"host"`
			Copies []string `json:"copies"`
			Vaults []string `json:"vaults"`
		} `json:"hosts"`
	} `json:"cut"`
}

// holdersOf are the other holders of a set, by the manifest of its cut that is kept beside it.
func (h *Holder) holdersOf(ctx context.Context, set images.Set) []images.Source {
	cuts, err := h.cfg.Store.Cuts(ctx)
	if err != nil {
		h.cfg.Log.Error("manifests of cuts", "error", err)
		return nil
	}
	b, ok := cuts[set.Key.Job][set.Key.Snapshot]
	if !ok {
		return nil
	}
	hosts, vaults, err := decodeHolders(b, set.Key.Host)
	if err != nil {
		h.cfg.Log.Error("manifest of a cut", "job", set.Key.Job, "snapshot", set.Key.Snapshot, "error", err)
		return nil
	}
	return h.sources(hosts, vaults)
}

// decodeHolders reads who holds the images of one host's part of a cut.
func decodeHolders(manifest []byte, host string) (hosts []Peer, vaults []string, err error) {
	var file struct {
		Signed holders `json:"cut"`
	}
	if err := json.Unmarshal(manifest, &file); err != nil {
		return nil, nil, err
	}
	h := file.Signed
	for _, part := range h.Cut.Hosts {
		if part.Host != host {
			continue
		}
		vaults = part.Vaults
		for _, p := range h.Hosts {
			if slices.Contains(part.Copies, p.Name) && names.Valid(p.Name) {
				hosts = append(hosts, Peer{Host: p.Name, Endpoint: p.Addr})
			}
		}
	}
	return hosts, vaults, nil
}
