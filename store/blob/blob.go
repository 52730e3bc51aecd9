package blob

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors of every backend; test with errors.Is.
var (
	ErrNotFound = errors.New("no such object")
	ErrExists   = errors.New("another object has that name") // Put of other bytes (another size) under a name that is taken
	ErrDenied   = errors.New("not allowed")                  // credentials, a role, a mode: asking again will not help
	ErrFull     = errors.New("no room")                      // disk full, quota
	ErrDamaged  = errors.New("not what was written")         // found by the backend itself
	ErrInvalid  = errors.New("not a name")
)

// Info is what a backend knows of an object without reading it.
type Info struct {
	Name string
	Size int64
	Time time.Time // when it was written
}

// Reader reads objects. Implementations are safe for concurrent use.
type Reader interface {
	// Get reads n bytes from off on, all to the end if n is negative. The caller closes what it gets, which ends the transfer
	// early if it is not at its end. Where the object ends before off+n (or before off) the reader says io.ErrUnexpectedEOF,
	// never plain EOF. A backend cannot know whether the bytes are those that were put: who reads compares digests.
	Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error)
	// Stat says whether an object is there. The error wraps ErrNotFound where it is not.
	Stat(ctx context.Context, name string) (Info, error)
	// List yields the objects whose name begins with prefix, by name. It ends at the first error, which is yielded.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
}

// Writer writes objects. Implementations are safe for concurrent use.
type Writer interface {
	// Put stores size bytes of r under name: whole and durable when it returns nil. After an error there is nothing, or, where
	// the very last of it failed, the whole object; putting it again decides. An object of that name and size that is there
	// already is kept, and r perhaps not read; one of another size makes the error wrap ErrExists. r that ends early, or has
	// more, is an error. No name may be a folder of another: with a/b there, a is refused by some backends.
	Put(ctx context.Context, name string, r io.Reader, size int64) error
}

// Remover removes objects.
type Remover interface {
	// Remove removes an object, durably. A missing object is not an error.
	Remove(ctx context.Context, name string) error
}

// Store is a whole backend.
type Store interface {
	Reader
	Writer
	Remover
}

// RemovePartials removes from a vault what was begun more than olderThan ago and never got its name, as its processes were killed: see the
// methods of that name. A Store that is neither a folder nor in S3 has nothing of the kind.
func RemovePartials(ctx context.Context, s Store, olderThan time.Duration) error {
	switch s := s.(type) {
	case *Dir:
		return s.RemovePartials(olderThan)
	case *S3:
		return s.RemovePartials(ctx, olderThan)
	}
	return nil
}
