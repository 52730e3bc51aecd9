package pack

import (
	"context"
	"errors"
	"io"
)

// Sizes.
const (
	ChunkSize     = 4 << 10
	SegmentChunks = 64
	// TargetSize is the length at which a pack is ended, in bytes.
	TargetSize = 32 << 20

	segmentSize = SegmentChunks * ChunkSize
	// maxPackSize and maxPackChunks bound a pack, for writers and readers.
	maxPackSize   = 1 << 30
	maxPackChunks = 1 << 18
)

// Errors; test with errors.Is.
var (
	ErrDamaged        = errors.New("damaged")                     // bytes are not what was written
	ErrUnknownVersion = errors.New("unknown version of the form") // written by a newer program
	ErrKey            = errors.New("another key")                 // the object was written under another job's key
)

// Object is an immutable object that is named by its digest.
type Object struct {
	Digest string // SHA-256 of its bytes, hex
	Size   int64
	CRC32C uint32 // of its bytes (RFC 3720, B.4): a quick look for what disks do
}

// PackRef is a pack as an index refers to it.
type PackRef struct { //nolint:revive // pack.Ref would be a reference to anything
	Object
	Chunks int // that it holds
}

// Sink takes new packs. *blob.Dir is one, but for the type that Create returns.
type Sink interface {
	Create(ctx context.Context) (Incoming, error)
}

// Incoming is an object in the making.
type Incoming interface {
	io.Writer
	Commit(name string) error // durably
	Discard() error
}

// Source opens packs for reading. Its readers are used by many goroutines.
type Source interface {
	Open(digest string) (r interface {
		io.ReaderAt
		io.Closer
	}, err error)
}

// DamageError says which pack is damaged. It wraps ErrDamaged.
type DamageError struct {
	Digest string
	Detail string
}

func (e *DamageError) Error() string { return "pack " + e.Digest + ": " + e.Detail }
func (e *DamageError) Unwrap() error { return ErrDamaged }
