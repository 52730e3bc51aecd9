package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"ss/fault"
	"ss/store"
	"ss/store/images"
)

// Rebuilder makes the catalogue anew from what hosts and vaults hold.
type Rebuilder struct {
	Dir      string // the cluster's folder
	Dial     func(Host) (Agent, error)
	Verifier store.Verifier
	Progress func(Progress)
	Notice   func(text string)
	Hosts    []store.Host // to begin with; more are found in what they hold
	Vaults   []string     // likewise
}

// RebuildResult is what was found.
type RebuildResult struct {
	Rebuilt store.Rebuilt
	Remarks []string // what a person should know: what is missing, and what may be
	Asked   []string // hosts and vaults that answered
}

// Rebuild asks the hosts and vaults, and every one that their manifests name, what they hold, and writes a catalogue of it. Only manifests that
// an admin of this cluster signed count.
func (b *Rebuilder) Rebuild(ctx context.Context) (RebuildResult, error) {
	if _, err := os.Lstat(filepath.Join(b.Dir, store.FileName)); err == nil {
		return RebuildResult{}, &fault.Error{Kind: fault.Conflict, Op: "catalog rebuild", Err: fmt.Errorf("there is a catalogue in %s", b.Dir),
			Next: "if it is damaged, move " + store.FileName + " away first"}
	}
	g := &gathering{b: b, c: &Cluster{Dial: b.Dial, Notice: b.Notice, Progress: b.Progress}, held: store.Held{}, asked: map[string]bool{}, unknown: map[string]error{}}
	if err := g.gather(ctx); err != nil {
		return RebuildResult{}, &fault.Error{Op: "catalog rebuild", Err: err}
	}
	res := RebuildResult{Asked: slices.Sorted(maps.Keys(g.asked))}
	res.Rebuilt, res.Remarks = store.Reconcile(g.files, g.held)
	for _, where := range slices.Sorted(maps.Keys(g.unknown)) {
		res.Remarks = append(res.Remarks, fmt.Sprintf("%s could not be asked: %v", where, g.unknown[where]))
	}
	if len(g.files) == 0 {
		return res, &fault.Error{Kind: fault.NotFound, Op: "catalog rebuild", Err: errors.New("no host or vault that answered holds a cut's manifest"),
			Next: "give more of them with --host NAME=ADDR and --vault URL"}
	}
	b.addresses(&res.Rebuilt)
	if err := store.CreateRebuilt(b.Dir, res.Rebuilt); err != nil {
		return res, &fault.Error{Op: "catalog rebuild", Err: err}
	}
	return res, nil
}

// addresses puts in the hosts that answered where they were said to be: they may have moved, or be newer than every manifest.
func (b *Rebuilder) addresses(r *store.Rebuilt) {
	for _, h := range b.Hosts {
		i := slices.IndexFunc(r.Hosts, func(o store.Host) bool { return o.Name == h.Name })
		if i < 0 {
			h.Added = time.Now()
			r.Hosts = append(r.Hosts, h)
		} else {
			r.Hosts[i].Addr = h.Addr
		}
	}
}

// gathering is what was found so far.
type gathering struct {
	b        *Rebuilder
	c        *Cluster
	statuses []HostStatus
	asked    map[string]bool // who answered
	unknown  map[string]error

	files []store.CutFile
	held  store.Held
}

// gather asks until nobody new is named.
func (g *gathering) gather(ctx context.Context) error {
	hosts, vaults := slices.Clone(g.b.Hosts), slices.Clone(g.b.Vaults)
	tried := map[string]bool{}
	for progress := true; progress; {
		progress = false
		for _, h := range hosts {
			if tried[h.Name] {
				continue
			}
			tried[h.Name], progress = true, true
			g.host(ctx, h)
		}
		for _, v := range vaults {
			if tried[v] || len(g.asked) == 0 {
				continue
			}
			tried[v], progress = true, true
			g.vault(ctx, v)
		}
		if err := ctx.Err(); err != nil {
			return &fault.Error{Kind: fault.Interrupted, Err: context.Cause(ctx), Next: "nothing was written"}
		}
		hosts, vaults = g.named()
		hosts, vaults = append(hosts, g.b.Hosts...), append(vaults, g.b.Vaults...)
	}
	if len(g.asked) == 0 {
		var errs []error
		for _, where := range slices.Sorted(maps.Keys(g.unknown)) {
			errs = append(errs, g.unknown[where])
		}
		return &fault.Error{Kind: fault.Unreachable, Err: errors.Join(append(errs, errors.New("no host answers"))...),
			Next: "give one that does with --host NAME=ADDR; vaults are reached by way of a host, too"}
	}
	return nil
}

// named lists the hosts and vaults that the manifests name, by what the latest of each says.
func (g *gathering) named() ([]store.Host, []string) {
	var hosts []store.Host
	var jobs []store.Job
	var cuts []store.Cut
	clusterVaults := store.Cluster{}
	files := slices.SortedFunc(slices.Values(g.files), func(a, b store.CutFile) int { return b.Signed.Compare(a.Signed) })
	for _, f := range files {
		hosts = append(hosts, f.Hosts...) // the latest first: gather takes the first of a name
		jobs, cuts = append(jobs, f.Job), append(cuts, f.Cut)
		clusterVaults.Vaults = append(clusterVaults.Vaults, f.Cluster.Vaults...)
	}
	return hosts, vaultsOf(clusterVaults, jobs, cuts)
}

func (g *gathering) host(ctx context.Context, h store.Host) {
	g.c.progress(h.Name, "asking")
	st := HostStatus{Host: h}
	var inv Inventory
	st.Info, st.Err = g.c.ask(ctx, h)
	if st.Err == nil {
		var a Agent
		if a, st.Err = g.c.agent(h); st.Err == nil {
			ctx, cancel := context.WithTimeout(ctx, vaultTimeout)
			defer cancel()
			inv, st.Err = a.Inventory(ctx, "", "")
		}
	}
	g.statuses = append(g.statuses, st)
	if st.Err != nil {
		g.unknown[h.Name] = st.Err
		return
	}
	g.take(h.Name, inv, g.held.AddCopy)
}

func (g *gathering) vault(ctx context.Context, v string) {
	g.c.progress(v, "asking")
	ctx, cancel := context.WithTimeout(ctx, vaultTimeout)
	defer cancel()
	var inv Inventory
	err := g.c.onVault(ctx, g.statuses, nil, func(a Agent) (err error) {
		inv, err = a.Inventory(ctx, v, "")
		return err
	})
	if err != nil {
		g.unknown[v] = err
		return
	}
	g.take(v, inv, g.held.AddVault)
}

func (g *gathering) take(where string, inv Inventory, add func(store.Set, string)) {
	g.asked[where] = true
	for _, s := range inv.Sets {
		add(setOf(s.Key, s.Digest), where)
	}
	for _, held := range inv.Cuts {
		f, err := store.DecodeCutFile(held.Manifest, g.b.Verifier)
		switch {
		case err != nil:
			g.c.notice("%s: the manifest of %s/%s does not count: %v", where, held.Job, held.Snapshot, err)
		case f.Cut.ID != held.Snapshot || f.Job.Name != held.Job:
			g.c.notice("%s: the manifest of %s/%s is that of %s/%s, and does not count", where, held.Job, held.Snapshot, f.Job.Name, f.Cut.ID)
		default:
			g.files = append(g.files, f)
		}
	}
}

func setOf(k images.Key, digest string) store.Set {
	return store.Set{Cut: k.Snapshot, Host: k.Host, Manifest: digest}
}
