package clustertest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"ss/orchestrator"
	"ss/store"
	"ss/store/images"
	"ss/store/keys"
	"ss/store/kv/memory"
)

// Signer signs with a hash and the cluster's name.
type Signer struct{ ID string }

// Sign signs with a hash.
func (s Signer) Sign(data []byte) (signature, certificate []byte, err error) {
	sum := sha256.Sum256(append([]byte(s.ID), data...))
	return sum[:], []byte(s.ID), nil
}

// VerifySigned checks what Sign made.
func (s Signer) VerifySigned(data, signature, certificate []byte) error {
	if want, _, _ := s.Sign(data); !bytes.Equal(want, signature) || string(certificate) != s.ID {
		return errors.New("another signature")
	}
	return nil
}

// SignStatement signs with the name alone.
func (s Signer) SignStatement(kind string, body []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%s|%s|%s", s.ID, kind, body), nil
}

// OpenStatement checks what SignStatement made.
func (s Signer) OpenStatement(kind string, statement []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(statement, []byte(s.ID+"|"+kind+"|"))
	if !ok {
		return nil, errors.New("another signature")
	}
	return body, nil
}

// SignRemovedHosts signs nothing.
func (Signer) SignRemovedHosts(store.RemovedHosts) ([]byte, error) { return nil, nil }

// OpenRemovedHosts opens nothing.
func (Signer) OpenRemovedHosts([]byte) (store.RemovedHosts, error) {
	return store.RemovedHosts{}, nil
}

// Cluster is a cluster of fakeHosts with a catalogue of its own.
type Cluster struct {
	*orchestrator.Cluster
	Dir     string // of its catalogue; "" for one in memory
	ID      string
	Agents  map[string]*Host
	Vaults  map[string]*Host
	Notices []string

	recipient string
	drawn     time.Time // the last cut's id
	open      func() (*store.Catalogue, error)
}

// Open is the same catalogue as another command opens it.
func (f *Cluster) Open(t *testing.T) *store.Catalogue {
	t.Helper()
	cat, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cat.Close() })
	return cat
}

// New is a cluster of hosts that hold nothing. Its catalogue is in memory.
func New(t *testing.T, id string, names ...string) *Cluster {
	t.Helper()
	space := memory.NewSpace()
	return newCluster(t, id, names, func(c store.Cluster) (*store.Catalogue, error) {
		return store.Init(t.Context(), space.Open(), c)
	}, &Cluster{open: func() (*store.Catalogue, error) { return store.New(space.Open()), nil }})
}

// NewOnDisk is New with a catalogue in a folder, for what is done with its file.
func NewOnDisk(t *testing.T, id string, names ...string) *Cluster {
	t.Helper()
	dir := t.TempDir()
	return newCluster(t, id, names, func(c store.Cluster) (*store.Catalogue, error) { return store.Create(dir, c) },
		&Cluster{Dir: dir, open: func() (*store.Catalogue, error) { return store.Open(t.Context(), dir) }})
}

func newCluster(t *testing.T, id string, names []string, create func(store.Cluster) (*store.Catalogue, error), f *Cluster) *Cluster {
	t.Helper()
	identity, recipient, err := keys.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	cat, err := create(store.Cluster{ID: id, Recipients: []string{recipient}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cat.Close() })
	f.ID, f.Agents, f.Vaults, f.recipient = id, map[string]*Host{}, map[string]*Host{}, recipient
	for i, name := range names {
		f.Agents[name] = f.NewHost(name)
		if err := cat.AddHost(t.Context(), store.Host{Name: name, Addr: fmt.Sprintf("192.0.2.%d:%d", i%250+1, 7070+i/250)}); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	f.Cluster = &orchestrator.Cluster{Catalogue: cat, Signer: Signer{id}, Verifier: Signer{id}, Statements: Signer{id},
		Identities: func() ([]string, error) { return []string{identity}, nil },
		Dial: func(h orchestrator.Host) (orchestrator.Agent, error) {
			if a := f.Agents[h.Name]; a != nil {
				return a, nil
			}
			return nil, io.ErrClosedPipe
		},
		Notice: func(text string) {
			mu.Lock()
			defer mu.Unlock()
			f.Notices = append(f.Notices, text)
		},
	}
	return f
}

// NewHost is one more host, or a vault, that holds nothing.
func (f *Cluster) NewHost(name string) *Host {
	return &Host{Name: name, Cluster: f.ID, Peers: f.Agents, Vaults: f.Vaults, Sets: map[images.Key][]File{}, Committed: map[images.Key]bool{}, Cuts: map[string][]byte{},
		Graves: map[string][]byte{}, Epochs: map[images.Key]uint64{}}
}

// AddCut makes a cut of a job, with images of each host on itself and on the copies.
func (f *Cluster) AddCut(t *testing.T, job string, hosts []string, copies ...string) store.Cut {
	t.Helper()
	if err := f.Catalogue.AddMember(t.Context(), job, hosts[0], hosts[0]+"-1"); err != nil {
		t.Fatal(err)
	}
	j, err := f.Catalogue.EnsureKey(t.Context(), job, func() (wrapped, id string, err error) {
		k, err := keys.New()
		if err != nil {
			return "", "", err
		}
		wrapped, err = k.Wrap(f.recipient)
		return wrapped, k.ID(), err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Ids that are drawn in the same 1/1024 s sort at random, and tests count on cuts' order.
	for time.Since(f.drawn) < 2*time.Millisecond {
		runtime.Gosched()
	}
	at, err := f.Catalogue.BeginAttempt(t.Context(), store.Attempt{Kind: store.KindSnapshot, Job: job, Hosts: hosts})
	if err != nil {
		t.Fatal(err)
	}
	f.drawn = time.Now()
	cut := store.Cut{ID: at.ID, Job: job, Epoch: at.Epoch, Time: time.Date(2026, 11, 22, 10, 45, 2, 5, time.UTC), Key: j.Key, KeyID: j.KeyID}
	for _, h := range hosts {
		files := ExampleSet(h)
		ch := store.CutHost{Host: h, Manifest: DigestOf(files), Members: []store.CutMember{{Name: h + "-1"}, {Name: h + "-2"}}}
		for _, holder := range append([]string{h}, copies...) {
			if !slices.Contains(ch.Copies, holder) {
				ch.Copies = append(ch.Copies, holder)
				key := images.Key{Job: job, Snapshot: at.ID, Host: h}
				f.Agents[holder].Put(key, files)
				f.Agents[holder].Epochs[key] = at.Epoch
				f.Agents[holder].Committed[key] = true
			}
		}
		cut.Hosts = append(cut.Hosts, ch)
	}
	if err := f.Catalogue.CommitCut(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	statuses, err := f.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.Publish(t.Context(), cut, statuses)
	return cut
}

// HoldersOf lists who has any set of a cut.
func (f *Cluster) HoldersOf(id string) []string {
	var out []string
	for name, h := range f.Agents {
		h.mu.Lock()
		for k := range h.Sets {
			if k.Snapshot == id && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
		h.mu.Unlock()
	}
	slices.Sort(out)
	return out
}

// CopyOf is a second copy of a cluster's folder, as an admin keeps one, with the same hosts.
func (f *Cluster) CopyOf(t *testing.T) *Cluster {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(f.Dir, store.FileName))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, store.FileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return f.In(t, dir)
}

// In is the cluster with the catalogue of another folder, or of this one as the next command opens it.
func (f *Cluster) In(t *testing.T, dir string) *Cluster {
	t.Helper()
	cat, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cat.Close() })
	cat.Where = dir
	g := &Cluster{Dir: dir, ID: f.ID, Agents: f.Agents, Vaults: f.Vaults, recipient: f.recipient}
	g.Cluster = &orchestrator.Cluster{Catalogue: cat, Signer: f.Signer, Verifier: f.Verifier, Statements: f.Statements, Identities: f.Identities, Dial: f.Dial,
		Notice: func(text string) { g.Notices = append(g.Notices, text) }}
	return g
}

// CheckThere complains of cuts that nobody holds images of.
func (f *Cluster) CheckThere(t *testing.T, cuts ...store.Cut) {
	t.Helper()
	for _, cut := range cuts {
		if len(f.HoldersOf(cut.ID)) == 0 {
			t.Errorf("cut %s is gone", cut.ID)
		}
	}
}
