package clustertest

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
	"strings"
	"sync"

	"ss/fault"
	"ss/orchestrator"
	"ss/store"
	"ss/store/images"
	"ss/store/keys"
	"ss/store/tombstone"
)

// The ids of two clusters.
const (
	ClusterA = "0123456789abcdef0123456789abcdef"
	ClusterB = "fedcba9876543210fedcba9876543210"
)

// File is a file of a set.
type File struct {
	orchestrator.PlainFile
	Data []byte
}

// reader is a FileReader over files in memory.
type reader struct {
	files []File
	now   *bytes.Reader
}

func (r *reader) Next() (orchestrator.PlainFile, error) {
	if len(r.files) == 0 {
		return orchestrator.PlainFile{}, io.EOF
	}
	f := r.files[0]
	r.files, r.now = r.files[1:], bytes.NewReader(f.Data)
	return f.PlainFile, nil
}

func (r *reader) Read(p []byte) (int, error) { return r.now.Read(p) }
func (r *reader) Close() error               { return nil }

func file(path, data string) File {
	return File{orchestrator.PlainFile{Path: path, Size: int64(len(data)), Mode: 0o600}, []byte(data)}
}

// ExampleSet is a set with all that there may be in one.
func ExampleSet(host string) []File {
	page := strings.Repeat(host, 700)
	return []File{
		file("", `{"criu":"4.2","members":{}}`),
		file(host+"-1/files.json", "[]"), file(host+"-1/files/0", "log\n"), file(host+"-1/images/core-1.img", page),
		file(host+"-1/images/pages-1.img", page+page), file(host+"-1/images/stats-dump", "stats"), file(host+"-1/images/tmpfs/deep-1.img", ""),
		file(host+"-2/images/core-1.img", "x"),
	}
}

// Host is an agent that keeps image sets in memory. What it does not implement panics.
type Host struct {
	orchestrator.Agent
	Name    string
	Cluster string // whose admins it believes
	Peers   map[string]*Host
	Vaults  map[string]*Host // by URL: what is in them

	mu        sync.Mutex
	Sets      map[images.Key][]File
	Committed map[images.Key]bool
	Cuts      map[string][]byte
	Graves    map[string][]byte // tombstones, by their ids
	Epochs    map[images.Key]uint64
	Mark      store.Mark
	Away      bool   // it does not answer
	Tag       string // what an import's files begin with here: two sets are never the same
	Calls     []string
	Living    []orchestrator.Member
	Standings []orchestrator.Standing
}

// Members lists Living.
func (h *Host) Members(_ context.Context, job string) (out []orchestrator.Member, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.Living {
		if job == "" || m.Job == job {
			m.Host = h.Name
			out = append(out, m)
		}
	}
	return out, nil
}

// Check finds nothing.
func (h *Host) Check(context.Context, orchestrator.CheckQuestion) (orchestrator.CheckAnswer, error) {
	return orchestrator.CheckAnswer{}, nil
}

// at is where something is to be done: here, or in a vault.
func (h *Host) at(vault string) (*Host, error) {
	if vault == "" {
		return h, nil
	}
	if v := h.Vaults[vault]; v != nil {
		return v, nil
	}
	return nil, errors.New("no such vault")
}

// VerifyImages compares digests.
func (h *Host) VerifyImages(_ context.Context, req orchestrator.VerifyRequest) (orchestrator.Verified, error) {
	h, err := h.at(req.Vault)
	if err != nil {
		return orchestrator.Verified{}, err
	}
	if h.Files(req.Key) == nil {
		return orchestrator.Verified{}, fault.New(fault.NotFound, "no such set", "")
	}
	if !h.Has(req.Key, req.Digest) {
		return orchestrator.Verified{}, fault.New(fault.Integrity, "ring/objects/0: another digest", "")
	}
	return orchestrator.Verified{Files: len(h.Files(req.Key))}, nil
}

// PushImages replaces nothing that is in a vault.
func (h *Host) PushImages(_ context.Context, key images.Key, digest, vault string) (orchestrator.Moved, error) {
	v, err := h.at(vault)
	if err != nil || !h.Has(key, digest) {
		return orchestrator.Moved{}, fmt.Errorf("not here, or not there: %w", err)
	}
	if v.Files(key) == nil {
		v.Put(key, h.Files(key))
	}
	return orchestrator.Moved{Objects: 1}, nil
}

// ForgetJob notes that it was called.
func (h *Host) ForgetJob(_ context.Context, job string) error {
	h.called("forget %s", job)
	return nil
}

func (h *Host) called(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Calls = append(h.Calls, fmt.Sprintf(format, args...))
}

// Info takes the word of a catalogue that knows the newest generation.
func (h *Host) Info(_ context.Context, word orchestrator.Word) (orchestrator.HostInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Away {
		return orchestrator.HostInfo{}, fault.New(fault.Unreachable, h.Name+" is away", "")
	}
	info := orchestrator.HostInfo{Host: h.Name, FreeBytes: 1 << 40, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Standings: h.Standings}
	for k := range h.Sets {
		if !h.Committed[k] {
			info.InDoubt = append(info.InDoubt, orchestrator.InDoubt{Key: k, Epoch: h.Epochs[k]})
		}
	}
	if word.Mark.Generation > h.Mark.Generation && (h.Mark.Generation == 0 || slices.ContainsFunc(word.History, h.Mark.Same)) {
		h.Mark = word.Mark
	}
	info.Catalogue = h.Mark
	return info, nil
}

// DigestOf is a set's digest.
func DigestOf(files []File) string {
	sum := sha256.New()
	for _, f := range files {
		fmt.Fprintf(sum, "%s %d\n%s", f.Path, f.Size, f.Data)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Inventory lists all that is held.
func (h *Host) Inventory(_ context.Context, vault, job string) (orchestrator.Inventory, error) {
	h, err := h.at(vault)
	if err != nil {
		return orchestrator.Inventory{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var inv orchestrator.Inventory
	for k, files := range h.Sets {
		if job == "" || k.Job == job {
			inv.Sets = append(inv.Sets, orchestrator.HeldSet{Key: k, Digest: DigestOf(files), Committed: h.Committed[k], Epoch: h.Epochs[k]})
		}
	}
	for _, data := range h.Graves {
		inv.Tombstones = append(inv.Tombstones, orchestrator.HeldCut{Manifest: data})
	}
	for id, data := range h.Cuts {
		inv.Cuts = append(inv.Cuts, orchestrator.HeldCut{Job: "ring", Snapshot: id, Manifest: data})
	}
	return inv, nil
}

// RemoveImages does what agents do: what is committed goes with a tombstone only.
func (h *Host) RemoveImages(_ context.Context, r orchestrator.Removal) error {
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
	t, err := tombstone.Decode(r.Tombstone, Signer{h.Cluster})
	if err != nil {
		return err
	}
	if r.Forget {
		delete(h.Graves, t.ID())
		return nil
	}
	h.Graves[t.ID()] = r.Tombstone
	for k, files := range h.Sets {
		if t.Covers(k.Job, k.Snapshot, k.Host, DigestOf(files)) {
			delete(h.Sets, k)
			delete(h.Committed, k)
		}
	}
	if f, err := store.DecodeCutFile(h.Cuts[r.Snapshot], Signer{h.Cluster}); err != nil || orchestrator.BuriedBy([]orchestrator.Grave{{Tombstone: t}}, f.Cut) {
		delete(h.Cuts, r.Snapshot)
	}
	return nil
}

// removeOrphans is called with mu held.
func (h *Host) removeOrphans(r orchestrator.Removal) error {
	kept := h.Cuts[r.Snapshot] != nil && !r.Replace
	for k := range h.Sets {
		if k.Job != r.Job || k.Snapshot != r.Snapshot {
			continue
		}
		if kept || h.Committed[k] && r.Vault == "" {
			kept = true
			continue
		}
		delete(h.Sets, k)
	}
	if kept {
		return fault.New(fault.Refused, "of a cut that exists", "")
	}
	delete(h.Cuts, r.Snapshot)
	return nil
}

// Lose is what a broken disk does.
func (h *Host) Lose(job, snapshot string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.Sets {
		if k.Job == job && k.Snapshot == snapshot {
			delete(h.Sets, k)
			delete(h.Committed, k)
		}
	}
	delete(h.Cuts, snapshot)
}

// Collect is noted.
func (h *Host) Collect(_ context.Context, vault, job string, dry bool) (orchestrator.Garbage, error) {
	h, err := h.at(vault)
	if err != nil {
		return orchestrator.Garbage{}, err
	}
	h.called("collect %s %v", job, dry)
	return orchestrator.Garbage{}, nil
}

// ResolveImages commits sets, or removes them.
func (h *Host) ResolveImages(_ context.Context, committed, aborted []images.Key) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range committed {
		h.Committed[k] = true
	}
	for _, k := range aborted {
		delete(h.Sets, k)
	}
	return nil
}

// PutCut keeps a cut's manifest.
func (h *Host) PutCut(_ context.Context, vault, _, snapshot string, manifest []byte) error {
	h, err := h.at(vault)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Cuts[snapshot] = manifest
	for k := range h.Sets {
		if k.Snapshot == snapshot {
			h.Committed[k] = true
		}
	}
	return nil
}

// FetchImages copies a set from another host.
func (h *Host) FetchImages(_ context.Context, key images.Key, digest string, from orchestrator.Sources) (orchestrator.Moved, error) {
	h.called("fetch %s", key)
	if h.Has(key, digest) {
		return orchestrator.Moved{}, nil
	}
	for _, p := range from.Hosts {
		if peer := h.Peers[p.Name]; peer != nil && peer.Has(key, digest) {
			h.Put(key, peer.Files(key))
			return orchestrator.Moved{Objects: 1}, nil
		}
	}
	for _, url := range from.Vaults {
		if v := h.Vaults[url]; v != nil && v.Has(key, digest) {
			h.Put(key, v.Files(key))
			return orchestrator.Moved{Objects: 1}, nil
		}
	}
	return orchestrator.Moved{}, errors.New("nobody has it")
}

// Files are those of a set; nil if it is not held.
func (h *Host) Files(key images.Key) []File {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.Sets[key]
}

// Put makes the host hold a set.
func (h *Host) Put(key images.Key, files []File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Sets[key] = files
}

// Has says whether a set is held, whole.
func (h *Host) Has(key images.Key, digest string) bool {
	files := h.Files(key)
	return files != nil && DigestOf(files) == digest
}

// ExportImages reads a set that is held.
func (h *Host) ExportImages(_ context.Context, key images.Key, digest string, _ keys.Job, _ orchestrator.Sources) (orchestrator.FileReader, error) {
	if !h.Has(key, digest) {
		return nil, errors.New("not here")
	}
	return &reader{files: h.Files(key)}, nil
}

// ImportImages makes a set.
func (h *Host) ImportImages(_ context.Context, open orchestrator.ImportOpen) (orchestrator.FileWriter, error) {
	return &writer{host: h, open: open, files: []File{file("", string(open.Meta))}}, nil
}

// writer makes a set on a Host and its first copies.
type writer struct {
	host  *Host
	open  orchestrator.ImportOpen
	files []File
}

func (w *writer) Next(f orchestrator.PlainFile) error {
	w.files = append(w.files, File{PlainFile: f})
	return nil
}

func (w *writer) Write(p []byte) (int, error) {
	f := &w.files[len(w.files)-1]
	f.Data = append(f.Data, p...)
	return len(p), nil
}

func (w *writer) Finish() (orchestrator.Imported, error) {
	for i := range w.files {
		w.files[i].Data = append([]byte(w.host.Tag), w.files[i].Data...)
	}
	got := orchestrator.Imported{Digest: DigestOf(w.files), Copies: []string{w.host.Name}}
	w.host.Put(w.open.Key, w.files)
	return got, nil
}

func (w *writer) Close() error { return nil }
