package agent

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"ss/agent/custody/custodytest"
	"ss/fault"
	"ss/marker"
	"ss/restoration"
	"ss/store/images"
)

// restless are cells with one member of each of two jobs. They note who was healed, thawed and killed.
type restless struct {
	noCells
	did *deeds
}

// deeds are what was done to members. A restore that goes on does it beside the test.
type deeds struct {
	mu   sync.Mutex
	list []string
}

func (d *deeds) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = nil
}

func (d *deeds) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list)
}

func (d *deeds) has(what string) bool { return slices.Contains(d.all(), what) }

func (c restless) Members(context.Context) ([]Member, error) {
	return []Member{{Job: "job", Name: "hostA-1", State: Running}, {Job: "other", Name: "hostA-2", State: Running}}, nil
}
func (c restless) Heal(_ context.Context, m Member) error { return c.note("heal", m) }
func (c restless) Thaw(_ context.Context, m Member) error { return c.note("thaw", m) }
func (c restless) Kill(_ context.Context, m Member) error { return c.note("kill", m) }
func (c restless) Forget(context.Context, Member) error   { return nil }
func (c restless) note(what string, m Member) error {
	c.did.mu.Lock()
	defer c.did.mu.Unlock()
	c.did.list = append(c.did.list, what+" "+m.Job)
	return nil
}

// restart starts an agent in the state folder of another, which is closed.
func restart(t *testing.T, cfg Config) *testAgent {
	t.Helper()
	var store *images.Store
	cfg.Images, store = newHolder(t, cfg.StateDir, nil)
	cfg.Quiet = nil
	a, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatalf("the agent does not start: %v", err)
	}
	return &testAgent{Agent: a, images: store}
}

func shut(t *testing.T, a *testAgent) {
	t.Helper()
	if err := a.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// withCut makes a state folder with a committed set of aKey's job and a journal of each phase that a start acts on, and returns how to start in it.
func withCut(t *testing.T, did *deeds) (Config, string) {
	t.Helper()
	a := newAgent(t)
	cfg := a.cfg
	cfg.Cells, cfg.Gates = restless{did: did}, openGates{}
	custodytest.Seal(t, a.images, aKey, custodytest.NewKey(t))
	if err := a.images.Commit(aKey); err != nil {
		t.Fatal(err)
	}
	return cfg, a.journal.path("job")
}

// TestEveryBitOfAJournal: whatever bit of a job's journal is another one, the agent starts, the cut's images stay, the job is set aside with its members thawed, and
// the other job goes on.
func TestEveryBitOfAJournal(t *testing.T) {
	var did deeds
	cfg, path := withCut(t, &did)
	j := journal{dir: filepath.Dir(path)}
	key := marker.Key{Job: "job", Snapshot: "cut", Epoch: 1}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, phase := range []marker.Phase{marker.Preparing, marker.Complete, marker.Finishing} {
		if err := j.put(marker.Entry{Key: key, Phase: phase}); err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			bad := slices.Clone(whole)
			bit := rng.IntN(len(bad) * 8)
			bad[bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			did.forget()
			a := restart(t, cfg)
			checkSetAside(t, a, path)
			if !did.has("thaw job") || did.has("kill job") || did.has("kill other") {
				t.Fatalf("phase %d, bit %d: %v", phase, bit, did.all())
			}
			shut(t, a)
		}
	}
}

func checkSetAside(t *testing.T, a *testAgent, path string) {
	t.Helper()
	info, err := a.Info(t.Context())
	if err != nil || len(info.SetAside) != 1 || info.SetAside[0].Job != "job" || info.SetAside[0].File != path || !strings.Contains(info.SetAside[0].Next, "ssctl kill job") {
		t.Fatalf("%+v, %v", info.SetAside, err)
	}
	sets, err := a.images.Sets()
	if err != nil || len(sets) != 1 || !sets[0].Committed {
		t.Fatalf("%+v, %v", sets, err)
	}
	if _, err := a.lockJob("job", "snapshot x"); !fault.Is(err, fault.Integrity) || !strings.Contains(err.Error(), "set aside") {
		t.Fatalf("the job goes on: %v", err)
	}
	release, err := a.lockJob("other", "snapshot x")
	if err != nil {
		t.Fatalf("the other job does not: %v", err)
	}
	release()
}

// TestKillClearsASetAsideJob: what the message advises works.
func TestKillClearsASetAsideJob(t *testing.T) {
	var did deeds
	cfg, path := withCut(t, &did)
	note := filepath.Join(cfg.StateDir, "restore", "job"+noteSeparator+"r1.json")
	for _, p := range []string{path, note} {
		if err := os.WriteFile(p, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	work := filepath.Join(cfg.StateDir, "restore", "r1")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	shut(t, restart(t, cfg)) // what is set aside is there after a second start, too
	a := restart(t, cfg)
	defer shut(t, a)
	if info, err := a.Info(t.Context()); err != nil || len(info.SetAside) != 2 {
		t.Fatalf("%+v, %v", info.SetAside, err)
	}
	if _, err := os.Stat(work); err != nil {
		t.Errorf("the restore's work folder: %v", err)
	}
	if _, err := a.Kill(t.Context(), "job"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, note, work} {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is there", p)
		}
	}
	if info, err := a.Info(t.Context()); err != nil || len(info.SetAside) != 0 {
		t.Fatalf("%+v, %v", info.SetAside, err)
	}
	release, err := a.lockJob("job", "snapshot x")
	if err != nil {
		t.Fatal(err)
	}
	release()
	if sets, err := a.images.Sets(); err != nil || len(sets) != 1 {
		t.Errorf("%v, %v", sets, err)
	}
}

// TestEveryBitOfANote: a damaged note of a restore ends nothing and lets nothing begin.
func TestEveryBitOfANote(t *testing.T) {
	var did deeds
	cfg, _ := withCut(t, &did)
	a := restart(t, cfg)
	plan := RestorePlan{ID: "r1", Key: marker.Key{Job: "job", Snapshot: "cut", Epoch: 2}, Participants: participants("hostA"), Targets: 1}
	r := &Restoration{a: a.Agent, plan: plan, dir: filepath.Join(cfg.StateDir, "restore", plan.ID)}
	if err := r.note(restoration.Entry{ID: "r1", Phase: restoration.Fencing}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(r.noteFile())
	if err != nil {
		t.Fatal(err)
	}
	shut(t, a)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 60 {
		bad := slices.Clone(whole)
		bit := rng.IntN(len(bad) * 8)
		bad[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(r.noteFile(), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		did.forget()
		a := restart(t, cfg)
		checkSetAside(t, a, r.noteFile())
		if len(did.all()) != 0 {
			t.Fatalf("bit %d: %v", bit, did.all())
		}
		shut(t, a)
	}
	if err := os.WriteFile(r.noteFile(), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	a = restart(t, cfg)
	defer shut(t, a)
	await(t, func() bool { return did.has("kill job") })
	if did.has("kill other") {
		t.Errorf("the whole note: %v", did.all())
	}
}

// TestJournalOfAnOlderProgram: one without a checksum is read.
func TestJournalOfAnOlderProgram(t *testing.T) {
	var did deeds
	cfg, path := withCut(t, &did)
	text := `{"Key":{"Job":"job","Snapshot":"cut","Epoch":7},"Phase":0,"Stop":false,"Fence":9,"Ends":null,"Doubt":null}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := restart(t, cfg)
	defer shut(t, a)
	if info, err := a.Info(t.Context()); err != nil || len(info.SetAside) != 0 {
		t.Fatalf("%+v, %v", info.SetAside, err)
	}
}
