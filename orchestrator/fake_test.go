package orchestrator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"ss/fault"
	"ss/store"
	"ss/store/images"
	"ss/store/keys"
	"ss/store/tombstone"
)

// fakeHost is an agent that keeps image sets in memory. What it does not implement panics.
type fakeHost struct {
	Agent
	name    string
	cluster string // whose admins it believes
	peers   map[string]*fakeHost
	vaults  map[string]*fakeHost // by URL: what is in them

	mu        sync.Mutex
	sets      map[images.Key][]memFile
	committed map[images.Key]bool
	cuts      map[string][]byte
	graves    map[string][]byte // tombstones, by their ids
	epochs    map[images.Key]uint64
	mark      store.Mark
	away      bool   // it does not answer
	tag       string // what an import's files begin with here: two sets are never the same
	calls     []string
	members   []Member
	standings []Standing
}

func (h *fakeHost) Members(_ context.Context, job string) (out []Member, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.members {
		if job == "" || m.Job == job {
			m.Host = h.name
			out = append(out, m)
		}
	}
	return out, nil
}

// at is where something is to be done: here, or in a vault.
func (h *fakeHost) at(vault string) (*fakeHost, error) {
	if vault == "" {
		return h, nil
	}
	if v := h.vaults[vault]; v != nil {
		return v, nil
	}
	return nil, errors.New("no such vault")
}

func (h *fakeHost) VerifyImages(_ context.Context, req VerifyRequest) (Verified, error) {
	h, err := h.at(req.Vault)
	if err != nil {
		return Verified{}, err
	}
	if h.files(req.Key) == nil {
		return Verified{}, fault.New(fault.NotFound, "no such set", "")
	}
	if !h.has(req.Key, req.Digest) {
		return Verified{}, fault.New(fault.Integrity, "ring/objects/0: another digest", "")
	}
	return Verified{Files: len(h.files(req.Key))}, nil
}

// PushImages replaces nothing that is in a vault.
func (h *fakeHost) PushImages(_ context.Context, key images.Key, digest, vault string) (Moved, error) {
	v, err := h.at(vault)
	if err != nil || !h.has(key, digest) {
		return Moved{}, fmt.Errorf("not here, or not there: %w", err)
	}
	if v.files(key) == nil {
		v.put(key, h.files(key))
	}
	return Moved{Objects: 1}, nil
}

func (h *fakeHost) called(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, fmt.Sprintf(format, args...))
}

func (h *fakeHost) Info(_ context.Context, word Word) (HostInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return HostInfo{}, fault.New(fault.Unreachable, h.name+" is away", "")
	}
	info := HostInfo{Host: h.name, FreeBytes: 1 << 40, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Standings: h.standings}
	for k := range h.sets {
		if !h.committed[k] {
			info.InDoubt = append(info.InDoubt, InDoubt{k, h.epochs[k]})
		}
	}
	if word.Mark.Generation > h.mark.Generation && (h.mark.Generation == 0 || slices.ContainsFunc(word.History, h.mark.Same)) {
		h.mark = word.Mark
	}
	info.Catalogue = h.mark
	return info, nil
}

func digestOf(files []memFile) string {
	sum := sha256.New()
	for _, f := range files {
		fmt.Fprintf(sum, "%s %d\n%s", f.Path, f.Size, f.data)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func (h *fakeHost) Inventory(_ context.Context, vault, job string) (Inventory, error) {
	h, err := h.at(vault)
	if err != nil {
		return Inventory{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var inv Inventory
	for k, files := range h.sets {
		if job == "" || k.Job == job {
			inv.Sets = append(inv.Sets, HeldSet{Key: k, Digest: digestOf(files), Committed: h.committed[k], Epoch: h.epochs[k]})
		}
	}
	for _, data := range h.graves {
		inv.Tombstones = append(inv.Tombstones, HeldCut{Manifest: data})
	}
	for id, data := range h.cuts {
		inv.Cuts = append(inv.Cuts, HeldCut{Job: "ring", Snapshot: id, Manifest: data})
	}
	return inv, nil
}

// RemoveImages does what agents do: what is committed goes with a tombstone only.
func (h *fakeHost) RemoveImages(_ context.Context, r Removal) error {
	h, err := h.at(r.Vault)
	if err != nil {
		return err
	}
	h.called("remove %s/%s", r.Job, r.Snapshot)
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Tombstone == nil {
		return h.removeOrphans(r)
	}
	t, err := tombstone.Decode(r.Tombstone, plainSigner{h.cluster})
	if err != nil {
		return err
	}
	if r.Forget {
		delete(h.graves, t.ID())
		return nil
	}
	h.graves[t.ID()] = r.Tombstone
	for k, files := range h.sets {
		if t.Covers(k.Job, k.Snapshot, k.Host, digestOf(files)) {
			delete(h.sets, k)
			delete(h.committed, k)
		}
	}
	if f, err := store.DecodeCutFile(h.cuts[r.Snapshot], plainSigner{h.cluster}); err != nil || buriedBy([]grave{{t, nil}}, f.Cut) {
		delete(h.cuts, r.Snapshot)
	}
	return nil
}

// removeOrphans is called with mu held.
func (h *fakeHost) removeOrphans(r Removal) error {
	kept := h.cuts[r.Snapshot] != nil && !r.Replace
	for k := range h.sets {
		if k.Job != r.Job || k.Snapshot != r.Snapshot {
			continue
		}
		if kept || h.committed[k] && r.Vault == "" {
			kept = true
			continue
		}
		delete(h.sets, k)
	}
	if kept {
		return fault.New(fault.Refused, "of a cut that exists", "")
	}
	delete(h.cuts, r.Snapshot)
	return nil
}

// lose is what a broken disk does.
func (h *fakeHost) lose(job, snapshot string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.sets {
		if k.Job == job && k.Snapshot == snapshot {
			delete(h.sets, k)
			delete(h.committed, k)
		}
	}
	delete(h.cuts, snapshot)
}

func (h *fakeHost) Collect(_ context.Context, vault, job string, dry bool) (Garbage, error) {
	h, err := h.at(vault)
	if err != nil {
		return Garbage{}, err
	}
	h.called("collect %s %v", job, dry)
	return Garbage{}, nil
}

func (h *fakeHost) ResolveImages(_ context.Context, committed, aborted []images.Key) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range committed {
		h.committed[k] = true
	}
	for _, k := range aborted {
		delete(h.sets, k)
	}
	return nil
}

func (h *fakeHost) PutCut(_ context.Context, vault, _, snapshot string, manifest []byte) error {
	h, err := h.at(vault)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cuts[snapshot] = manifest
	for k := range h.sets {
		if k.Snapshot == snapshot {
			h.committed[k] = true
		}
	}
	return nil
}

func (h *fakeHost) FetchImages(_ context.Context, key images.Key, digest string, from Sources) (Moved, error) {
	h.called("fetch %s", key)
	if h.has(key, digest) {
		return Moved{}, nil
	}
	for _, p := range from.Hosts {
		if peer := h.peers[p.Name]; peer != nil && peer.has(key, digest) {
			h.put(key, peer.files(key))
			return Moved{Objects: 1}, nil
		}
	}
	for _, url := range from.Vaults {
		if v := h.vaults[url]; v != nil && v.has(key, digest) {
			h.put(key, v.files(key))
			return Moved{Objects: 1}, nil
		}
	}
	return Moved{}, errors.New("nobody has it")
}

func (h *fakeHost) files(key images.Key) []memFile {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sets[key]
}

func (h *fakeHost) put(key images.Key, files []memFile) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sets[key] = files
}

func (h *fakeHost) has(key images.Key, digest string) bool {
	files := h.files(key)
	return files != nil && digestOf(files) == digest
}

func (h *fakeHost) ExportImages(_ context.Context, key images.Key, digest string, _ keys.Job, _ Sources) (FileReader, error) {
	if !h.has(key, digest) {
		return nil, errors.New("not here")
	}
	return &memReader{files: h.files(key)}, nil
}

func (h *fakeHost) ImportImages(_ context.Context, open ImportOpen) (FileWriter, error) {
	return &memWriter{host: h, open: open, files: []memFile{file("", string(open.Meta))}}, nil
}

// memWriter makes a set on a fakeHost and its first copies.
type memWriter struct {
	host  *fakeHost
	open  ImportOpen
	files []memFile
}

func (w *memWriter) Next(f PlainFile) error {
	w.files = append(w.files, memFile{PlainFile: f})
	return nil
}

func (w *memWriter) Write(p []byte) (int, error) {
	f := &w.files[len(w.files)-1]
	f.data = append(f.data, p...)
	return len(p), nil
}

func (w *memWriter) Finish() (Imported, error) {
	for i := range w.files {
		w.files[i].data = append([]byte(w.host.tag), w.files[i].data...)
	}
	got := Imported{Digest: digestOf(w.files), Copies: []string{w.host.name}}
	w.host.put(w.open.Key, w.files)
	return got, nil
}

func (w *memWriter) Close() error { return nil }

// plainSigner signs with a hash and the cluster's name.
type plainSigner struct{ cluster string }

func (s plainSigner) Sign(data []byte) (signature, certificate []byte, err error) {
	sum := sha256.Sum256(append([]byte(s.cluster), data...))
	return sum[:], []byte(s.cluster), nil
}

func (s plainSigner) VerifySigned(data, signature, certificate []byte) error {
	if want, _, _ := s.Sign(data); !bytes.Equal(want, signature) || string(certificate) != s.cluster {
		return errors.New("another signature")
	}
	return nil
}

func (s plainSigner) SignStatement(kind string, body []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%s|%s|%s", s.cluster, kind, body), nil
}

func (s plainSigner) OpenStatement(kind string, statement []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(statement, []byte(s.cluster+"|"+kind+"|"))
	if !ok {
		return nil, errors.New("another signature")
	}
	return body, nil
}

func (plainSigner) SignRemovedHosts(store.RemovedHosts) ([]byte, error) { return nil, nil }
func (plainSigner) OpenRemovedHosts([]byte) (store.RemovedHosts, error) {
	return store.RemovedHosts{}, nil
}

// fakeCluster is a cluster of fakeHosts with a catalogue of its own.
type fakeCluster struct {
	*Cluster
	dir     string
	id      string
	hosts   map[string]*fakeHost
	vaults  map[string]*fakeHost
	notices []string
}

func newFakeCluster(t *testing.T, id string, names ...string) *fakeCluster {
	t.Helper()
	identity, recipient, err := keys.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cat, err := store.Create(dir, store.Cluster{ID: id, Recipients: []string{recipient}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	f := &fakeCluster{dir: dir, id: id, hosts: map[string]*fakeHost{}, vaults: map[string]*fakeHost{}}
	for i, name := range names {
		f.hosts[name] = f.newHost(name)
		if err := cat.AddHost(store.Host{Name: name, Addr: fmt.Sprintf("192.0.2.%d:7070", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	f.Cluster = &Cluster{Catalogue: cat, Signer: plainSigner{id}, Verifier: plainSigner{id}, Statements: plainSigner{id},
		Identities: func() ([]string, error) { return []string{identity}, nil },
		Dial: func(h Host) (Agent, error) {
			if a := f.hosts[h.Name]; a != nil {
				return a, nil
			}
			return nil, io.ErrClosedPipe
		},
		Notice: func(text string) {
			mu.Lock()
			defer mu.Unlock()
			f.notices = append(f.notices, text)
		},
	}
	return f
}

func (f *fakeCluster) newHost(name string) *fakeHost {
	return &fakeHost{name: name, cluster: f.id, peers: f.hosts, vaults: f.vaults, sets: map[images.Key][]memFile{}, committed: map[images.Key]bool{}, cuts: map[string][]byte{},
		graves: map[string][]byte{}, epochs: map[images.Key]uint64{}}
}

// addCut makes a cut of a job, with images of each host on itself and on the copies.
func (f *fakeCluster) addCut(t *testing.T, job string, hosts []string, copies ...string) store.Cut {
	t.Helper()
	if err := f.Catalogue.AddMember(job, hosts[0], hosts[0]+"-1"); err != nil {
		t.Fatal(err)
	}
	j, _, err := f.ensureKey(job)
	if err != nil {
		t.Fatal(err)
	}
	at, err := f.Catalogue.BeginAttempt(store.Attempt{Kind: store.KindSnapshot, Job: job, Hosts: hosts})
	if err != nil {
		t.Fatal(err)
	}
	cut := exampleCut()
	cut.ID, cut.Job, cut.Epoch, cut.Hosts, cut.Key, cut.KeyID = at.ID, job, at.Epoch, nil, j.Key, j.KeyID
	for _, h := range hosts {
		files := exampleSet(h)
		ch := store.CutHost{Host: h, Manifest: digestOf(files), Members: []store.CutMember{{Name: h + "-1"}, {Name: h + "-2"}}}
		for _, holder := range append([]string{h}, copies...) {
			if !slices.Contains(ch.Copies, holder) {
				ch.Copies = append(ch.Copies, holder)
				key := images.Key{Job: job, Snapshot: at.ID, Host: h}
				f.hosts[holder].put(key, files)
				f.hosts[holder].epochs[key] = at.Epoch
				f.hosts[holder].committed[key] = true
			}
		}
		cut.Hosts = append(cut.Hosts, ch)
	}
	if err := f.Catalogue.CommitCut(cut); err != nil {
		t.Fatal(err)
	}
	statuses, err := f.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.publish(t.Context(), cut, statuses)
	return cut
}

// holdersOf lists who has any set of a cut.
func (f *fakeCluster) holdersOf(id string) []string {
	var out []string
	for name, h := range f.hosts {
		h.mu.Lock()
		for k := range h.sets {
			if k.Snapshot == id && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
		h.mu.Unlock()
	}
	slices.Sort(out)
	return out
}
