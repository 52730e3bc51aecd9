package orchestrator

import (
	"context"
	"io"

	"ss/marker"
	"ss/store/archive"
	"ss/store/images"
	"ss/store/keys"
)

// ImageHolder is what an agent does with image sets: its own, and those in a vault that it reaches for us. Where a method takes a
// vault, "" means the agent's own host.
type ImageHolder interface {
	ImageStore
	ImageMover
}

// ImageStore is what an agent does with image sets where they are.
type ImageStore interface {
	// Inventory lists what is held there of a job ("": of all).
	Inventory(ctx context.Context, vault, job string) (Inventory, error)
	// VerifyImages reads every byte of a whole set, and with the job's key, on a host, the connections in it. Of a vault only digests are compared.
	VerifyImages(ctx context.Context, req VerifyRequest) (Verified, error)
	// RemoveImages removes a snapshot's sets and its manifest. Their objects go with the next Collect. Without a tombstone, what belongs to a cut
	// stays, and the error is fault.Refused.
	RemoveImages(ctx context.Context, r Removal) error
	// ResolveImages tells the outcome of attempts that the host does not know the outcome of.
	ResolveImages(ctx context.Context, committed, aborted []images.Key) error
	// PutCut keeps the signed manifest of a cut that exists. The cut's sets there are in doubt no more.
	PutCut(ctx context.Context, vault, job, snapshot string, manifest []byte) error
	// Collect removes the objects of a job ("": of all, on a host only) that no set refers to; with dry it counts them.
	Collect(ctx context.Context, vault, job string, dry bool) (Garbage, error)
}

// ImageMover moves image sets to and from hosts and vaults, and out of the cluster and in.
type ImageMover interface {
	// FetchImages makes a set whole on the agent's host: what is missing or damaged comes from the sources.
	FetchImages(ctx context.Context, key images.Key, digest string, from Sources) (Moved, error)
	// PushImages puts a set that the agent's host holds into a vault.
	PushImages(ctx context.Context, key images.Key, digest, vault string) (Moved, error)
	// ExportImages reads the plain files of a set, which the agent takes from its host or from the sources.
	ExportImages(ctx context.Context, key images.Key, digest string, jobKey keys.Job, from Sources) (FileReader, error)
	// ImportImages makes a set of plain files, as if it had been dumped on the agent's host. It is in doubt until someone tells.
	ImportImages(ctx context.Context, open ImportOpen) (FileWriter, error)
}

// Sources are the places that a set may be had from.
type Sources struct {
	Hosts  []Participant
	Vaults []string
}

// Removal says what is to be removed of a snapshot, and on whose word.
type Removal struct {
	Vault         string // URL; "": the agent's host
	Job, Snapshot string
	Tombstone     []byte // as it was signed; nil: only what belongs to no cut
	Forget        bool   // the tombstone itself
	Replace       bool   // in a vault: what goes is put there again
}

// InDoubt is a set of which its host does not know whether its cut exists.
type InDoubt struct {
	images.Key
	Epoch uint64 // of its attempt; 0 where its manifest is damaged
}

// Inventory is what a host or vault holds.
type Inventory struct {
	Sets       []HeldSet
	Cuts       []HeldCut
	Usage      []JobUsage
	Damage     []Damage
	Tombstones []HeldCut // of cuts that were removed: Manifest is the signed tombstone
}

// HeldSet is an image set that is whole there, as far as its manifest says.
type HeldSet struct {
	Key         images.Key
	Digest      string
	Committed   bool
	Bytes       int64 // of its files
	ObjectBytes int64 // of the objects that it refers to, as do others perhaps
	Epoch       uint64
}

// HeldCut is a cut's signed manifest (store.DecodeCutFile).
type HeldCut struct {
	Job, Snapshot string
	Manifest      []byte
}

// JobUsage is what a job takes there.
type JobUsage struct {
	Job     string
	Sets    int
	Logical int64 // bytes of the files of all sets
	Stored  int64 // bytes of the objects
}

// VerifyRequest says which set is to be read, and how thoroughly.
type VerifyRequest struct {
	Key      images.Key
	Digest   string
	JobKey   *keys.Job // nil: only the digests are compared
	ReadData bool      // decode every chunk and compare it with its name
	Vault    string
}

// Verified is what an agent found in a whole image set.
type Verified struct {
	Ends  []marker.End
	Bytes int64
	Files int
}

// Moved is what it took to make a copy whole.
type Moved struct {
	Objects int
	Bytes   int64
}

// Garbage is what no set refers to.
type Garbage struct {
	Objects int
	Bytes   int64
}

// PlainFile is the head of a file in an export or import.
type PlainFile = archive.File

// FileReader reads one file after another.
type FileReader interface {
	archive.Source
	io.Closer
}

// FileWriter writes one file after another.
type FileWriter interface {
	// Next begins a file, whose Size bytes are written then.
	Next(f PlainFile) error
	io.Writer
	// Finish has the host make the set of what it got, durable and on all its copies.
	Finish() (Imported, error)
	// Close gives up what is not finished.
	io.Closer
}

// ImportOpen is what a host must know of a set that it is to make.
type ImportOpen struct {
	Key    images.Key
	Epoch  uint64
	Meta   []byte // as the export had it
	JobKey keys.Job
	Vaults []string // that get a copy, too
}

// Imported is the set that was made.
type Imported struct {
	Digest string
	Copies []string
	Vaults []string
}
