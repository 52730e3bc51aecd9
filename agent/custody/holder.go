package custody

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"ss/marker"
	"ss/names"
	"ss/store/blob"
	"ss/store/images"
	"ss/store/tombstone"
)

// ImagesFolder is the folder of CRIU's images in a member's part of an image set.
const ImagesFolder = "images"

// Peer is another host's agent.
type Peer struct {
	Host     string
	Endpoint string
}

// Peers reaches the agents of other hosts. agent/rpc implements it over gRPC.
type Peers interface {
	// Objects are the objects of image sets that another host holds. Errors are those of package blob, and images.ErrMissing.
	Objects(to Peer) Objects
	// SettleImages tells a holder of this host's images that they belong to a cut, or to nothing.
	SettleImages(ctx context.Context, to Peer, key images.Key, committed bool) error
}

// Objects are objects as one agent may use another's: it removes none.
type Objects interface {
	blob.Reader
	blob.Writer
}

// Jobs is what a Holder must know of the work under way on its host. Package agent implements it.
type Jobs interface {
	// Lock takes a job for one operation at a time. what is for people.
	Lock(job, what string) (release func(), err error)
	// UnderWay says whether an attempt or an import that makes the set has not ended.
	UnderWay(key images.Key) bool
	// Known says whether an admin has told this host of the job, or it is at work with it.
	Known(job string) bool
	// Resolved tells an attempt of this host that waits for its outcome what it is, and returns when the attempt has ended.
	Resolved(ctx context.Context, key images.Key, committed bool)
}

// Ends reads the connections in a folder of CRIU's images. Host and Member are left for the caller to fill in.
type Ends interface {
	Ends(dir string) ([]marker.End, error)
}

// Config is what a Holder is made of.
type Config struct {
	Host             string
	Store            *images.Store
	Dir              string // where Store keeps its objects, for what people read and for what is on one disk
	Staging          string // where dumps land, likewise
	Scratch          string // for plain files that nobody needs for long; New empties it
	VaultCredentials string // file (blob.Options); "": the environment
	Peers            Peers
	Ends             Ends
	Verifier         tombstone.Verifier // opens what an admin of the cluster signed
	Log              *slog.Logger

	ScrubRate  int64         // bytes per second; 0: no scrub
	ScrubPause time.Duration // between two rounds
}

// Holder is one host as a holder of image sets. Its methods are safe for concurrent use.
type Holder struct {
	cfg  Config
	jobs Jobs

	mu       sync.Mutex
	fetching map[images.Key]bool // sets that are being brought here, or looked at in passing
}

// New makes a Holder and removes what an earlier one left in passing. Serve must be called before anything else.
func New(cfg Config) (*Holder, error) {
	if err := os.RemoveAll(cfg.Scratch); err != nil {
		return nil, fmt.Errorf("empty the folder for passing files: %w", err)
	}
	if err := os.MkdirAll(cfg.Scratch, 0o700); err != nil {
		return nil, fmt.Errorf("prepare the folder for passing files: %w", err)
	}
	return &Holder{cfg: cfg, fetching: map[images.Key]bool{}}, nil
}

// Serve connects the Holder with the work on its host.
func (h *Holder) Serve(jobs Jobs) {
	h.jobs = jobs
	h.cfg.Store.SetKnown(func(job string) bool { return jobs.Known(job) || h.holdsCut(job) })
}

// holdsCut says whether images of a cut of the job are here.
func (h *Holder) holdsCut(job string) bool {
	sets, err := h.cfg.Store.Sets()
	return err == nil && slices.ContainsFunc(sets, func(s images.Set) bool { return s.Key.Job == job && s.Committed })
}

// ForPeers are this host's objects as other hosts may use them.
func (h *Holder) ForPeers() Objects { return h.cfg.Store.ForPeers() }

// State is what a host reports of its images.
type State struct {
	FreeBytes int64 // for objects
	InDoubt   []InDoubt
	Damage    []images.Damage
}

// InDoubt is a set of which this host does not know whether its cut exists.
type InDoubt struct {
	images.Key
	Epoch uint64 // of its attempt; 0 where its manifest is damaged
}

// State says how much room there is, and what is wrong or unknown.
func (h *Holder) State() (State, error) {
	var s State
	var err error
	if _, s.FreeBytes, err = h.cfg.Store.Space(); err != nil {
		return State{}, fmt.Errorf("free space of the image folder: %w", err)
	}
	if s.Damage, err = h.cfg.Store.Damaged(); err != nil {
		return State{}, fmt.Errorf("list damaged images: %w", err)
	}
	doubt, err := h.inDoubt()
	if err != nil {
		return State{}, err
	}
	for _, key := range doubt {
		m, err := h.cfg.Store.Manifest(key)
		if err != nil { // damaged, or removed since: nobody can say which attempt's it was
			h.cfg.Log.Warn("images in doubt", "error", err)
		}
		s.InDoubt = append(s.InDoubt, InDoubt{key, m.Epoch})
	}
	return s, nil
}

// inDoubt lists the image sets whose outcome this host does not know, and of which nobody here is about to tell: no attempt under way, no fetch, and
// no export that has one here in passing.
func (h *Holder) inDoubt() ([]images.Key, error) {
	keys, err := h.cfg.Store.InDoubt()
	if err != nil {
		return nil, fmt.Errorf("list image sets in doubt: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(keys, func(k images.Key) bool { return h.jobs.UnderWay(k) || h.fetching[k] }), nil
}

// HighestEpoch is the highest epoch of the job's attempts and imports of which images are here; 0 if none are.
func (h *Holder) HighestEpoch(job string) (uint64, error) {
	sets, err := h.cfg.Store.Sets()
	if err != nil {
		return 0, err
	}
	var highest uint64
	for _, s := range sets {
		if s.Key.Job == job {
			highest = max(highest, s.Manifest.Epoch)
		}
	}
	return highest, nil
}

// RemovePartials removes what dumps and imports that came to no end have left.
func (h *Holder) RemovePartials(ctx context.Context) error {
	if err := h.cfg.Store.RemovePartials(ctx); err != nil {
		return fmt.Errorf("remove partial images: %w", err)
	}
	return nil
}

// Begin starts an image set of this host, for a dump to fill and seal.
func (h *Holder) Begin(key images.Key) (*images.Partial, error) { return h.cfg.Store.Begin(key) }

// Staging is the folder that dumps land in.
func (h *Holder) Staging() string { return h.cfg.Store.Staging() }

// Commit marks an image set as one of a cut.
func (h *Holder) Commit(key images.Key) error { return h.cfg.Store.Commit(key) }

// Discard removes the images of an attempt that is rolled back. A set that belongs to a cut stays, whatever the journal says: the journal may
// be damaged, and the cut is not its to remove.
func (h *Holder) Discard(key images.Key) error {
	kept, err := h.cfg.Store.RemoveUncommitted(key)
	if kept {
		h.cfg.Log.Error("a rollback found images of a cut that exists, and left them", "job", key.Job, "snapshot", key.Snapshot)
	}
	return err
}

// Staged makes an error of writing a dump say that its disk is full, if that is so.
func (h *Holder) Staged(err error) error { return DiskFull(h.cfg.Staging, err) }

// Stored makes an error of sealing images say that their disk is full, if that is so.
func (h *Holder) Stored(err error) error { return DiskFull(h.cfg.Dir, err) }

// cleanup gives work that must be done after a cancel its own deadline.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
}

// memberNames are the names of the members of a set, by what its index says of them. They become names of folders.
func memberNames(meta []byte) ([]string, error) {
	var m struct {
		Members map[string]json.RawMessage `json:"members"`
	}
	if err := json.Unmarshal(meta, &m); err != nil {
		return nil, fmt.Errorf("what it says of its members: %w", err)
	}
	for name := range m.Members {
		if !names.Valid(name) {
			return nil, fmt.Errorf("invalid member name %q", name)
		}
	}
	return slices.Sorted(maps.Keys(m.Members)), nil
}
