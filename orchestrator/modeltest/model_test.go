package modeltest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"ss/agent"
	"ss/agent/custody"
	"ss/agent/rpc"
	"ss/api/identity"
	"ss/fault"
	"ss/orchestrator"
	"ss/orchestrator/remote"
	"ss/orchestrator/upkeep"
	"ss/store"
	"ss/store/images"
	"ss/store/keys"
)

// TestNoCatalogueRemovesACommittedCut runs random commands with several copies of a cluster's folder, over real agents on real sockets and image stores,
// without members: snapshots that commit, that die before or after the commit, or that come to nothing, rm, gc, retention, pins, repair, export and import,
// folders copied, put back (within a command too) and rebuilt, agents restarted and away. After each, a model says which cuts are committed and which of them somebody has asked
// to remove: each of the others has every part somewhere. MODEL_COMMANDS sets how many commands (1,000 is what issue D asks; CI runs fewer), MODEL_SEED
// which. It is played with catalogues in files, as ssctl has them, and with catalogues in memory.
func TestNoCatalogueRemovesACommittedCut(t *testing.T) {
	for name, c := range map[string]catalogues{"files": files{}, "memory": spaces{}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, c)
		})
	}
}

func play(t *testing.T, c catalogues) {
	commands, seed := number(t, "MODEL_COMMANDS", 250), number(t, "MODEL_SEED", 1)
	m := newModel(t, uint64(seed), c)
	for i := range commands {
		what := m.step(t)
		if lost := m.lost(); len(lost) > 0 {
			t.Fatalf("seed %d, command %d, %s: %v are gone, and nobody asked for that; before it:\n  %v", seed, i, what, lost, m.history)
		}
	}
	m.everyoneIsBack(t)
	t.Logf("seed %d: %v; %d cuts committed, %d removed on request", seed, m.count, len(m.committed), len(m.asked))
	for _, needed := range []string{"snapshot", "rm", "gc", "put back", "rebuild", "refused: not the newest", "import"} {
		if commands >= 250 && m.count[needed] == 0 {
			t.Errorf("it never came to %q: %v", needed, m.count)
		}
	}
	if len(m.asked) == 0 || len(m.committed) == len(m.asked) {
		t.Errorf("%d cuts, %d removed: it proves nothing", len(m.committed), len(m.asked))
	}
}

func number(t *testing.T, name string, def int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Parts of a host on which nothing lives. What they embed is nil: what gets further than it should ends the test.
type (
	noCells struct{ agent.Cells }
	noGates struct{ agent.Gates }
	noCRIU  struct{ agent.Checkpointer }
)

func (noCells) Members(context.Context) ([]agent.Member, error) { return nil, nil }
func (noGates) Mode() string                                    { return "drop" }
func (noGates) OpenAll(context.Context, string) error           { return nil }
func (noGates) Block(context.Context, []agent.Block) error      { return nil }
func (noCRIU) Check(context.Context) (string, error)            { return "4.2", nil }

// modelHost is a host with a real agent and a real server.
type modelHost struct {
	name, dir, addr string
	creds           *identity.Credentials
	agent           *agent.Agent
	images          *images.Store
	server          *grpc.Server
	served          chan error
}

func (h *modelHost) up(t *testing.T) {
	t.Helper()
	var err error
	if h.images, err = images.Open(filepath.Join(h.dir, "images"), images.Options{}); err != nil {
		t.Fatal(err)
	}
	peers, log := rpc.NewPeers(h.creds), slog.New(slog.DiscardHandler)
	held, err := custody.New(custody.Config{Host: h.name, Store: h.images, Dir: filepath.Join(h.dir, "images"), Staging: filepath.Join(h.dir, "staging"),
		Scratch: filepath.Join(h.dir, "scratch"), Peers: peers, Ends: noCRIU{}, Verifier: h.creds, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	h.agent, err = agent.New(context.Background(), agent.Config{Host: h.name, StateDir: h.dir, Cells: noCells{}, Gates: noGates{}, CRIU: noCRIU{},
		Peers: peers, Log: log, Verifier: h.creds, Members: h.creds, Images: held})
	if err != nil {
		t.Fatal(err)
	}
	addr := h.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	h.server = rpc.NewServer(h.agent, held, h.creds, "model")
	h.served = make(chan error, 1)
	go func() { h.served <- h.server.Serve(l) }()
}

func (h *modelHost) down(t *testing.T) {
	t.Helper()
	h.server.Stop()
	<-h.served
	if err := h.agent.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	h.server = nil
}

// part is one host's part of a committed cut.
type part struct {
	key    images.Key
	digest string
}

type model struct {
	catalogues
	rng      *rand.Rand
	dir      string
	admin    *identity.Credentials
	key      keys.Job
	identity string
	hosts    []*modelHost
	folders  []string // of ssctl
	backups  []string // copies of a catalogue
	archives []string

	committed map[string][]part // by cut and epoch
	asked     map[string]bool
	count     map[string]int
	history   []string
	refused   string // folder in which the last command was refused, as its catalogue is not the newest
}

const modelJob = "ring"

func newModel(t *testing.T, seed uint64, c catalogues) *model {
	t.Helper()
	m := &model{catalogues: c, rng: rand.New(rand.NewPCG(seed, 7)), dir: t.TempDir(), committed: map[string][]part{}, asked: map[string]bool{}, count: map[string]int{}}
	authority, err := identity.CreateAuthority(filepath.Join(m.dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	issue := func(role identity.Role, name string) *identity.Credentials {
		b, err := authority.Issue(role, name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.Credentials()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	m.admin = issue(identity.RoleAdmin, "admin")
	for _, name := range []string{"hostA", "hostB", "hostC"} {
		h := &modelHost{name: name, dir: filepath.Join(m.dir, name), creds: issue(identity.RoleAgent, name)}
		if err := os.Mkdir(h.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		h.up(t)
		m.hosts = append(m.hosts, h)
	}
	t.Cleanup(func() {
		for _, h := range m.hosts {
			if h.server != nil {
				h.down(t)
			}
		}
	})
	first := m.folder(t)
	var recipient string
	if m.identity, recipient, err = keys.NewIdentity(); err != nil {
		t.Fatal(err)
	}
	cat, err := m.create(t, first, store.Cluster{ID: authority.Cluster(), Recipients: []string{recipient}})
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	for _, h := range m.hosts {
		if err := cat.AddHost(t.Context(), store.Host{Name: h.name, Addr: h.addr}); err != nil {
			t.Fatal(err)
		}
	}
	if m.key, err = keys.New(); err != nil {
		t.Fatal(err)
	}
	if err := cat.AddMember(t.Context(), modelJob, "hostA", "hostA-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := cat.EnsureKey(t.Context(), modelJob, func() (string, string, error) {
		wrapped, err := m.key.Wrap(recipient)
		return wrapped, m.key.ID(), err
	}); err != nil {
		t.Fatal(err)
	}
	m.copy(t, first, m.folder(t)) // a second admin, from the beginning
	return m
}

func (m *model) folder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(m.dir, fmt.Sprintf("admin%d", len(m.folders)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m.folders = append(m.folders, dir)
	return dir
}

// command runs do as one ssctl would, in one of the folders.
func (m *model) command(t *testing.T, dir string, do func(*orchestrator.Cluster) error) error {
	t.Helper()
	cat, err := m.place(dir).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	cat.Where = dir
	d := remote.NewDialer(m.admin)
	defer d.Close()
	return do(&orchestrator.Cluster{Catalogue: cat, Dial: d.Dial, Signer: m.admin, Verifier: m.admin, Statements: remote.Statements{Credentials: m.admin},
		Identities: func() ([]string, error) { return []string{m.identity}, nil }})
}

func (m *model) pick(n int) int { return m.rng.IntN(n) }

func cutKey(id string, epoch uint64) string { return fmt.Sprintf("%s/%d", id, epoch) }

// step runs one random command and says which.
func (m *model) step(t *testing.T) string {
	t.Helper()
	dir := m.folders[m.pick(len(m.folders))]
	var what string
	var err error
	n := m.pick(100)
	if m.refused != "" && m.pick(2) == 0 { // an admin that is told of a newer one often does what the message says
		dir, n = m.refused, 90
	}
	m.refused = ""
	switch {
	case n < 26:
		what, err = m.snapshot(t, dir)
	case n < 36:
		what, err = m.remove(t, dir)
	case n < 50:
		what, err = m.collect(t, dir)
	case n < 56:
		what, err = m.policy(t, dir)
	case n < 62:
		what, err = m.pin(t, dir)
	case n < 68:
		what, err = "repair", m.command(t, dir, func(c *orchestrator.Cluster) error {
			_, err := upkeep.Repair(t.Context(), c, upkeep.RepairOptions{})
			return err
		})
	case n < 74:
		what, err = m.export(t, dir)
	case n < 80:
		what, err = m.importAgain(t, dir)
	case n < 85:
		what = m.backup(t, dir)
	case n < 90:
		what = m.putBack(t, dir)
	case n < 94:
		what, err = m.rebuild(t, dir)
	default:
		what = m.host(t)
	}
	m.count[what]++
	if err != nil {
		m.count["failed"]++
		if fault.Is(err, fault.Conflict) && strings.Contains(err.Error(), "not the newest") {
			m.count["refused: not the newest"]++
			m.refused = dir
		}
	}
	m.history = append(m.history, fmt.Sprintf("%s in %s: %v", what, filepath.Base(dir), err))
	return what
}

// snapshot does what ssctl and agents do in a snapshot, as far as the catalogue and the images are concerned, and may die on the way.
func (m *model) snapshot(t *testing.T, dir string) (string, error) {
	what := "snapshot"
	die := m.pick(9) // 0: aborted, 1: ssctl dies before the commit, 2: and after it, before anyone is told, 3: then an older copy is put in the catalogue's place
	err := m.command(t, dir, func(c *orchestrator.Cluster) error {
		statuses, err := c.Hosts(t.Context())
		if err != nil {
			return err
		}
		for _, h := range statuses {
			if h.Ahead != nil {
				return fault.New(fault.Conflict, "this catalogue is not the newest", "")
			}
		}
		sources := m.running()
		if len(sources) < 2 {
			return errors.New("too few hosts")
		}
		at, err := c.Catalogue.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: modelJob, Hosts: []string{sources[0].name}})
		if err != nil {
			return err
		}
		job, err := c.Catalogue.Job(t.Context(), modelJob)
		if err != nil {
			return err
		}
		cut := store.Cut{ID: at.ID, Job: modelJob, Epoch: at.Epoch, Time: time.Now(), Key: job.Key, KeyID: job.KeyID, CRIUVersion: "4.2"}
		var parts []part
		for i, h := range sources[:1+m.pick(len(sources)-1)] {
			man := m.seal(t, h, at)
			key := images.Key{Job: modelJob, Snapshot: at.ID, Host: h.name}
			other := sources[(i+1)%len(sources)]
			if _, err := other.images.Fetch(t.Context(), key, man.Digest, false, []images.Source{{Name: h.name, Reader: h.images.ForPeers()}}); err != nil {
				t.Fatal(err)
			}
			cut.Hosts = append(cut.Hosts, store.CutHost{Host: h.name, Manifest: man.Digest, Members: []store.CutMember{{Name: h.name + "-1"}}, Copies: []string{h.name, other.name}})
			parts = append(parts, part{key, man.Digest})
		}
		switch die {
		case 0:
			what = "snapshot aborted"
			return c.Catalogue.EndAttempt(t.Context(), at.ID)
		case 1:
			what = "snapshot died"
			return nil
		}
		if err := c.Catalogue.CommitCut(t.Context(), cut); err != nil {
			return err
		}
		m.committed[cutKey(cut.ID, cut.Epoch)] = parts
		switch {
		case die == 2:
			what = "snapshot died after the commit"
			return nil
		case die == 3 && len(m.backups) > 0:
			what = "snapshot, put back after the commit"
			m.putBack(t, dir)
		}
		_, err = upkeep.Repair(t.Context(), c, upkeep.RepairOptions{Of: cut.ID}) // hands the manifest out
		return err
	})
	return what, err
}

func (m *model) running() []*modelHost {
	up := slices.DeleteFunc(slices.Clone(m.hosts), func(h *modelHost) bool { return h.server == nil })
	m.rng.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
	return up
}

func (m *model) seal(t *testing.T, h *modelHost, at store.Attempt) images.Manifest {
	t.Helper()
	p, err := h.images.Begin(images.Key{Job: modelJob, Snapshot: at.ID, Host: h.name})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := p.Dir(h.name + "-1")
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "images"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "images", "core-1.img"), []byte(at.ID+h.name), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	meta := fmt.Sprintf(`{"criu":"4.2","members":{"%s-1":{"needs":{},"files":null}}}`, h.name)
	sealed, err := p.Seal(t.Context(), images.Info{Epoch: at.Epoch, Meta: []byte(meta), JobKey: m.key})
	if err != nil {
		t.Fatal(err)
	}
	return sealed.Manifest
}

// anyCut is a cut that the folder's catalogue has; nil if it has none.
func (m *model) anyCut(t *testing.T, c *orchestrator.Cluster) (*store.Cut, error) {
	cuts, err := c.Catalogue.Cuts(t.Context(), "")
	if err != nil || len(cuts) == 0 {
		return nil, err
	}
	return &cuts[m.pick(len(cuts))], nil
}

func (m *model) remove(t *testing.T, dir string) (string, error) {
	err := m.command(t, dir, func(c *orchestrator.Cluster) error {
		cut, err := m.anyCut(t, c)
		if err != nil || cut == nil {
			return err
		}
		gone, err := c.Remove(t.Context(), cut.ID, m.pick(2) == 0)
		if err == nil {
			m.asked[cutKey(gone.ID, gone.Epoch)] = true
		}
		return err
	})
	return "rm", err
}

// collect runs gc. What its retention names must be what the policy of this catalogue does not keep of what it knows.
func (m *model) collect(t *testing.T, dir string) (string, error) {
	err := m.command(t, dir, func(c *orchestrator.Cluster) error {
		job, err := c.Catalogue.Job(t.Context(), modelJob)
		if err != nil {
			return err
		}
		cuts, err := c.Catalogue.Cuts(t.Context(), modelJob)
		if err != nil {
			return err
		}
		allowed := map[string]bool{}
		for _, cut := range store.Expired(cuts, job.Policy.Keep) {
			allowed[cut.ID] = true
		}
		dry := m.pick(4) == 0
		res, err := upkeep.GC(t.Context(), c, dry)
		for _, cut := range res.Expired {
			if !allowed[cut.ID] || cut.Pinned || cut.Imported != nil {
				t.Errorf("retention removes %s, which the policy keeps", cut.ID)
			}
			if !dry {
				m.asked[cutKey(cut.ID, cut.Epoch)] = true
			}
		}
		return err
	})
	return "gc", err
}

func (m *model) policy(t *testing.T, dir string) (string, error) {
	return "job set", m.command(t, dir, func(c *orchestrator.Cluster) error {
		_, err := c.Catalogue.SetPolicy(t.Context(), modelJob, func(p *store.Policy) error {
			p.Keep = store.Keep{Last: []int{0, 3, 8}[m.pick(3)]}
			return nil
		})
		return err
	})
}

func (m *model) pin(t *testing.T, dir string) (string, error) {
	return "pin", m.command(t, dir, func(c *orchestrator.Cluster) error {
		cut, err := m.anyCut(t, c)
		if err != nil || cut == nil {
			return err
		}
		_, err = c.Pin(t.Context(), cut.ID, m.pick(2) == 0)
		return err
	})
}

func (m *model) export(t *testing.T, dir string) (string, error) {
	file := filepath.Join(m.dir, fmt.Sprintf("%d.tar", len(m.archives)))
	err := m.command(t, dir, func(c *orchestrator.Cluster) error {
		cut, err := m.anyCut(t, c)
		if err != nil {
			return err
		}
		if cut == nil {
			return errors.New("no cut")
		}
		_, err = c.Export(t.Context(), orchestrator.ExportOptions{Cut: cut.ID, File: file})
		return err
	})
	if err == nil {
		m.archives = append(m.archives, file)
	}
	return "export", err
}

func (m *model) importAgain(t *testing.T, dir string) (string, error) {
	if len(m.archives) == 0 {
		return "nothing", nil
	}
	file := m.archives[m.pick(len(m.archives))]
	return "import", m.command(t, dir, func(c *orchestrator.Cluster) error {
		res, err := c.Import(t.Context(), orchestrator.ImportOptions{File: file})
		if err != nil {
			return err
		}
		var parts []part
		for _, h := range res.Cut.Hosts {
			parts = append(parts, part{images.Key{Job: modelJob, Snapshot: res.Cut.ID, Host: h.Host}, h.Manifest})
		}
		m.committed[cutKey(res.Cut.ID, res.Cut.Epoch)] = parts
		return nil
	})
}

func (m *model) backup(t *testing.T, dir string) string {
	to := filepath.Join(m.dir, fmt.Sprintf("backup%d", len(m.backups)))
	m.copy(t, dir, to)
	m.backups = append(m.backups, to)
	return "backup"
}

// putBack puts an older catalogue into a folder: this one's or another's.
func (m *model) putBack(t *testing.T, dir string) string {
	if len(m.backups) == 0 {
		return "nothing"
	}
	m.copy(t, m.backups[m.pick(len(m.backups))], dir)
	return "put back"
}

func (m *model) rebuild(t *testing.T, dir string) (string, error) {
	d := remote.NewDialer(m.admin)
	defer d.Close()
	b := upkeep.Rebuilder{Place: m.place(dir), Where: dir, Dial: d.Dial, Verifier: m.admin, Statements: remote.Statements{Credentials: m.admin}, Replace: true}
	_, err := b.Rebuild(t.Context())
	return "rebuild", err
}

// host restarts an agent, or takes it away or back.
func (m *model) host(t *testing.T) string {
	h := m.hosts[m.pick(len(m.hosts))]
	switch {
	case h.server == nil:
		h.up(t)
		return "host back"
	case m.pick(3) == 0:
		h.down(t)
		h.up(t)
		return "agent restarted"
	case len(m.running()) == len(m.hosts):
		h.down(t)
		return "host away"
	}
	return "nothing"
}

// lost lists the parts of committed cuts that nobody has asked to remove, and that are nowhere.
func (m *model) lost() []string {
	var out []string
	for key, parts := range m.committed {
		if m.asked[key] {
			continue
		}
		for _, p := range parts {
			if !slices.ContainsFunc(m.hosts, func(h *modelHost) bool {
				man, err := h.images.Manifest(p.key)
				return err == nil && man.Digest == p.digest
			}) {
				out = append(out, key+" of "+p.key.Host)
			}
		}
	}
	slices.Sort(out)
	return out
}

// everyoneIsBack reads every byte of every cut at the end, and has a rebuilt catalogue clean up: what was asked for is gone then, and nothing else.
func (m *model) everyoneIsBack(t *testing.T) {
	t.Helper()
	for _, h := range m.hosts {
		if h.server == nil {
			h.up(t)
		}
	}
	dir := m.folders[0]
	if _, err := m.rebuild(t, dir); err != nil {
		t.Fatal(err)
	}
	for range 3 { // tombstones are shown, seen, and forgotten
		if _, err := m.collect(t, dir); err != nil {
			t.Fatal(err)
		}
	}
	if lost := m.lost(); len(lost) > 0 {
		t.Fatalf("after the last collection: %v", lost)
	}
	for key, parts := range m.committed {
		for _, p := range parts {
			whole := 0
			for _, h := range m.hosts {
				if man, err := h.images.Manifest(p.key); err != nil || man.Digest != p.digest {
					continue
				}
				if _, err := h.images.VerifyData(t.Context(), p.key, p.digest, m.key); err == nil {
					whole++
				}
			}
			if whole == 0 && !m.asked[key] {
				t.Errorf("%s of %s: no copy is whole", key, p.key.Host)
			}
			if whole > 0 && m.asked[key] {
				t.Errorf("%s of %s was to be removed, and %d hold it", key, p.key.Host, whole)
			}
		}
	}
}
