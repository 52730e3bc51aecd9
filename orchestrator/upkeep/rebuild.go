package upkeep

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"ss/fault"
	"ss/orchestrator"
	"ss/store"
	"ss/store/images"
	"ss/store/tombstone"
)

// Rebuilder makes the catalogue again from what hosts and vaults hold.
type Rebuilder struct {
	Place      Place  // of the catalogue
	Where      string // machine and folder, for people (store.Catalogue.Where)
	Dial       func(orchestrator.Host) (orchestrator.Agent, error)
	Verifier   store.Verifier
	Statements orchestrator.Statements
	Progress   func(orchestrator.Progress)
	Notice     func(text string)
	Hosts      []store.Host // to begin with; more are found in what they hold, and in the catalogue that is replaced
	Vaults     []string     // likewise
	// Replace puts a catalogue that is there aside, under a name with the time in it. What can be read of it counts as what a host holds does.
	Replace bool
}

// RebuildResult is what was found.
type RebuildResult struct {
	Rebuilt store.Rebuilt
	Remarks []string // what a person should know: what is missing, and what may be
	Asked   []string // hosts and vaults that answered
	Aside   string   // where the catalogue that was replaced is now
}

// Rebuild asks the hosts and vaults, and every one that their manifests name, what they hold, and writes a catalogue of it. Only manifests that
// an admin of this cluster signed count, and cuts of which a tombstone says that they were removed do not.
func (b *Rebuilder) Rebuild(ctx context.Context) (RebuildResult, error) {
	fail := func(res RebuildResult, err error) (RebuildResult, error) {
		return res, &fault.Error{Op: "catalog rebuild", Err: err}
	}
	g := &gathering{b: b, c: &orchestrator.Cluster{Dial: b.Dial, Notice: b.Notice, Progress: b.Progress}, held: store.Held{}, asked: map[string]bool{}, unknown: map[string]error{}}
	if b.Place.Taken() {
		if !b.Replace {
			return fail(RebuildResult{}, &fault.Error{Kind: fault.Conflict, Err: fmt.Errorf("there is a catalogue in %s", b.Place),
				Next: "--replace puts it aside, and takes in what can be read of it"})
		}
		if err := g.takeOld(ctx); err != nil {
			return fail(RebuildResult{}, err)
		}
	}
	if err := g.gather(ctx); err != nil {
		return fail(RebuildResult{}, err)
	}
	g.bury()
	res := RebuildResult{Asked: slices.Sorted(maps.Keys(g.asked))}
	res.Rebuilt, res.Remarks = store.Reconcile(g.files, g.held)
	for _, where := range slices.Sorted(maps.Keys(g.unknown)) {
		res.Remarks = append(res.Remarks, fmt.Sprintf("%s could not be asked: %v", where, g.unknown[where]))
	}
	if len(g.files) == 0 && g.old.Cluster.ID == "" {
		return fail(res, &fault.Error{Kind: fault.NotFound, Err: errors.New("no host or vault that answered holds a cut's manifest"),
			Next: "give more of them with --host NAME=IP:PORT and --vault URL"})
	}
	res.Remarks = append(res.Remarks, g.complete(&res.Rebuilt)...)
	res.Remarks = append(res.Remarks, g.place(ctx, &res.Rebuilt)...)
	g.ahead(res.Rebuilt.Jobs)
	var err error
	res.Aside, err = b.Place.Write(ctx, b.Where, res.Rebuilt, b.Replace)
	if err != nil {
		return fail(res, err)
	}
	b.announce(ctx)
	return res, nil
}

// ahead takes the jobs' epochs beyond those that were drawn under an earlier rebuild. Such a one begins where this one would if no cut was taken since, and agents
// have seen epochs from there on. The generation that they know has grown with it.
func (g *gathering) ahead(jobs []store.Job) {
	const most = 1 << 61 // nobody comes that far, and an archive may say so
	for i := range jobs {
		if jobs[i].Epoch < most {
			jobs[i].Epoch += min(g.seen, most)
		}
	}
}

// announce shows the new catalogue's generation to every host, so that whoever goes on with another copy is told.
func (b *Rebuilder) announce(ctx context.Context) {
	cat, err := b.Place.Open(ctx)
	if err == nil {
		defer cat.Close()
		_, err = (&orchestrator.Cluster{Catalogue: cat, Dial: b.Dial, Notice: b.Notice}).Hosts(ctx)
	}
	if err != nil && b.Notice != nil {
		b.Notice(fmt.Sprintf("the hosts are not told of the new catalogue yet: %v; the next command tells them", err))
	}
}

// complete adds what the manifests do not say: hosts that answered where they were said to be (they may have moved, or be newer than every manifest), jobs
// that have no cut yet, tombstones, and how far the new catalogue must be ahead.
func (g *gathering) complete(r *store.Rebuilt) (remarks []string) {
	if r.Cluster.ID == "" {
		r.Cluster = g.old.Cluster
	}
	for _, h := range slices.Concat(g.old.Hosts, g.b.Hosts) {
		i := slices.IndexFunc(r.Hosts, func(o store.Host) bool { return o.Name == h.Name })
		given := slices.ContainsFunc(g.b.Hosts, func(o store.Host) bool { return o.Name == h.Name && o.Addr == h.Addr })
		switch {
		case i >= 0 && (given || g.asked[h.Name]):
			r.Hosts[i].Addr = h.Addr
		case i < 0 && (given || g.asked[h.Name]):
			if h.Added.IsZero() {
				h.Added = time.Now()
			}
			r.Hosts = append(r.Hosts, h)
		}
	}
	for _, j := range g.old.Jobs {
		i := slices.IndexFunc(r.Jobs, func(o store.Job) bool { return o.Name == j.Name })
		if i >= 0 {
			r.Jobs[i].Epoch = max(r.Jobs[i].Epoch, j.Epoch+store.EpochMargin)
			if r.Jobs[i].Policy.Keep != j.Policy.Keep { // which of the two was meant nobody can say, and no cut goes by a rule that was not
				r.Jobs[i].Policy.Keep = store.Keep{}
				remarks = append(remarks, fmt.Sprintf("job %s keeps all cuts now: the catalogue that was there had other rules than the newest manifest; say which with ssctl job set %s", j.Name, j.Name))
			}
			continue
		}
		j.Epoch += store.EpochMargin
		r.Jobs = append(r.Jobs, j)
	}
	var places []string
	for _, h := range r.Hosts {
		places = append(places, h.Name)
	}
	for place := range g.asked {
		if orchestrator.IsVault(place) {
			places = append(places, place)
		}
	}
	for i := range g.removed {
		g.removed[i].Holders, g.removed[i].Pending = places, places
	}
	for _, old := range g.old.Cuts {
		for i := range r.Cuts {
			r.Cuts[i].Pinned = r.Cuts[i].Pinned || r.Cuts[i].ID == old.ID && old.Pinned
		}
	}
	r.Removed, r.Seen = g.removed, g.seen
	return remarks
}

// gathering is what was found so far.
type gathering struct {
	b        *Rebuilder
	c        *orchestrator.Cluster
	statuses []orchestrator.HostStatus
	asked    map[string]bool // who answered
	unknown  map[string]error

	files   []store.CutFile
	held    store.Held
	old     store.Rebuilt // what can be read of the catalogue that is replaced
	graves  []orchestrator.Grave
	removed []store.Removed
	seen    uint64 // the newest generation of a catalogue that anybody has seen
}

// takeOld reads what can be read of the catalogue that is to be replaced. A copy that is only old is whole; of one that is damaged, its hosts are
// looked for.
func (g *gathering) takeOld(ctx context.Context) error {
	cat, err := g.b.Place.Open(ctx)
	if err == nil {
		defer cat.Close()
		if err = cat.Check(ctx); err == nil {
			return g.takeWhole(ctx, cat)
		}
	}
	if errors.Is(err, store.ErrUnknownVersion) || errors.Is(err, store.ErrLocked) {
		return err
	}
	g.c.Noticef("the catalogue in %s is damaged (%v): it is put aside", g.b.Place, err)
	g.old.Hosts = g.b.Place.Salvage()
	return nil
}

func (g *gathering) takeWhole(ctx context.Context, cat *store.Catalogue) (err error) {
	attempts, err := cat.Attempts(ctx)
	if err != nil {
		return err
	}
	for _, at := range attempts {
		if at.Live {
			return fault.New(fault.Conflict, fmt.Sprintf("another ssctl is at work with this catalogue (%s of job %s, process %d)", at.Kind, at.Job, at.Pid), "wait for its end")
		}
	}
	if g.old.Cluster, err = cat.Cluster(ctx); err != nil {
		return err
	}
	if g.old.Hosts, err = cat.Hosts(ctx); err != nil {
		return err
	}
	if g.old.Jobs, err = cat.Jobs(ctx); err != nil {
		return err
	}
	if g.old.Cuts, err = cat.Cuts(ctx, ""); err != nil {
		return err
	}
	mark, err := cat.Mark(ctx)
	if err != nil {
		return err
	}
	g.seen = mark.Generation
	removed, err := cat.Tombstones(ctx)
	for _, r := range removed {
		g.addGrave(r.Statement)
	}
	for _, cut := range g.old.Cuts { // one whose manifest has reached nobody is known to this catalogue only
		i := slices.IndexFunc(g.old.Jobs, func(j store.Job) bool { return j.Name == cut.Job })
		if i < 0 {
			continue
		}
		g.files = append(g.files, store.CutFile{Signed: cut.Time, Cluster: g.old.Cluster, Job: g.old.Jobs[i], Epoch: cut.Epoch, Hosts: g.old.Hosts, Cut: cut})
	}
	return err
}

func (g *gathering) addGrave(statement []byte) {
	if g.b.Statements == nil {
		return
	}
	t, err := tombstone.Decode(statement, g.b.Statements)
	if err != nil || slices.ContainsFunc(g.graves, func(o orchestrator.Grave) bool { return o.Cut == t.Cut && o.ID() == t.ID() }) {
		return
	}
	g.graves = append(g.graves, orchestrator.Grave{Tombstone: t, Statement: statement})
	g.removed = append(g.removed, store.Removed{Cut: t.Cut, Job: t.Job, ID: t.ID(), Statement: statement})
}

// bury leaves out what tombstones say was removed.
func (g *gathering) bury() {
	g.files = slices.DeleteFunc(g.files, func(f store.CutFile) bool { return orchestrator.BuriedBy(g.graves, f.Cut) })
	maps.DeleteFunc(g.held, func(s store.Set, _ store.Holders) bool {
		return slices.ContainsFunc(g.graves, func(gr orchestrator.Grave) bool { return gr.Covers(gr.Job, s.Cut, s.Host, s.Manifest) })
	})
}

// gather asks until nobody new is named.
func (g *gathering) gather(ctx context.Context) error {
	given := slices.Concat(g.b.Hosts, g.old.Hosts) // the first of a name counts
	hosts, vaults := slices.Clone(given), slices.Concat(g.b.Vaults, orchestrator.VaultsOf(g.old.Cluster, g.old.Jobs, g.old.Cuts))
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
		hosts, vaults = append(hosts, given...), append(vaults, g.b.Vaults...)
	}
	if len(g.asked) == 0 {
		var errs []error
		for _, where := range slices.Sorted(maps.Keys(g.unknown)) {
			errs = append(errs, g.unknown[where])
		}
		return &fault.Error{Kind: fault.Unreachable, Err: errors.Join(append(errs, errors.New("no host answers"))...),
			Next: "give one that does with --host NAME=IP:PORT; vaults are reached by way of a host, too"}
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
	return hosts, orchestrator.VaultsOf(clusterVaults, jobs, cuts)
}

func (g *gathering) host(ctx context.Context, h store.Host) {
	g.c.Doing(h.Name, "asking")
	st := orchestrator.HostStatus{Host: h}
	var inv orchestrator.Inventory
	st.Info, st.Err = g.c.Ask(ctx, h, orchestrator.Word{})
	if st.Err == nil {
		var a orchestrator.Agent
		if a, st.Err = g.c.AgentOf(h); st.Err == nil {
			ctx, cancel := context.WithTimeout(ctx, orchestrator.VaultTimeout)
			defer cancel()
			inv, st.Err = a.Inventory(ctx, "", "")
		}
	}
	g.statuses = append(g.statuses, st)
	if st.Err != nil {
		g.unknown[h.Name] = st.Err
		return
	}
	g.seen = max(g.seen, st.Info.Catalogue.Generation)
	g.take(h.Name, inv, g.held.AddCopy)
}

func (g *gathering) vault(ctx context.Context, v string) {
	g.c.Doing(v, "asking")
	ctx, cancel := context.WithTimeout(ctx, orchestrator.VaultTimeout)
	defer cancel()
	var inv orchestrator.Inventory
	err := g.c.OnVault(ctx, g.statuses, nil, func(a orchestrator.Agent) (err error) {
		inv, err = a.Inventory(ctx, v, "")
		return err
	})
	if err != nil {
		g.unknown[v] = err
		return
	}
	g.take(v, inv, g.held.AddVault)
}

func (g *gathering) take(where string, inv orchestrator.Inventory, add func(store.Set, string)) {
	g.asked[where] = true
	for _, s := range inv.Sets {
		add(setOf(s.Key, s.Digest), where)
	}
	for _, t := range inv.Tombstones {
		g.addGrave(t.Manifest)
	}
	for _, held := range inv.Cuts {
		f, err := store.DecodeCutFile(held.Manifest, g.b.Verifier)
		switch {
		case err != nil:
			g.c.Noticef("%s: the manifest of %s/%s is ignored: %v", where, held.Job, held.Snapshot, err)
		case f.Cut.ID != held.Snapshot || f.Job.Name != held.Job:
			g.c.Noticef("%s: the manifest of %s/%s is that of %s/%s, and is ignored", where, held.Job, held.Snapshot, f.Job.Name, f.Cut.ID)
		default:
			g.files = append(g.files, f)
		}
	}
}

func setOf(k images.Key, digest string) store.Set {
	return store.Set{Cut: k.Snapshot, Host: k.Host, Manifest: digest}
}
