package kv

import (
	"context"
	"errors"
	"iter"
)

// What can be wrong, for errors.Is.
var (
	// ErrHeld: the lease belongs to somebody else, who lives.
	ErrHeld = errors.New("the lease is held")
	// ErrLocked: others kept the database locked for too long.
	ErrLocked = errors.New("catalogue is locked")
	// ErrCorrupt: the database is not what was written. Nothing was changed.
	ErrCorrupt = errors.New("damaged")
	// ErrNotFound: there is no database.
	ErrNotFound = errors.New("not found")
	// ErrTooLarge: a value or a transaction is beyond the bounds.
	ErrTooLarge = errors.New("too large")
	// ErrCompacted: the changes since that revision are not known any more. Read everything, and watch from there.
	ErrCompacted = errors.New("older changes are forgotten")
)

// The bounds of a transaction. etcd's defaults are 128 operations and 1.5 MiB for a request.
const (
	MaxValue  = 1 << 20 // bytes of one value
	MaxWrites = 128     // records that one transaction puts or deletes
	MaxBytes  = 5 << 18 // bytes of all its values, 1.25 MiB
)

// Revision counts the transactions that changed something; 0 before the first.
type Revision uint64

// Pair is a record.
type Pair struct {
	Key   string
	Value []byte
}

// Hold says who holds a lease.
type Hold int

// The answers to Tx.Holder.
const (
	Free   Hold = iota // nobody: it was never taken, was dropped, or its holder has died
	Ours               // this handle
	Others             // another handle, of this process or another one, that lives
)

// Tx is one transaction: what it reads is from one instant, and what it writes happens at that instant, or not at all.
type Tx interface {
	// Get returns a value; nil means that there is none. The bytes are the caller's.
	Get(bucket, key string) ([]byte, error)
	// List returns the records whose keys begin with prefix, in the keys' order: the first limit of them, or the last -limit, or all (0).
	List(bucket, prefix string, limit int) ([]Pair, error)
	// Count says how many records a bucket has.
	Count(bucket string) (int, error)
	// Put writes a value. What is beyond the bounds makes the error wrap ErrTooLarge.
	Put(bucket, key string, value []byte) error
	// Delete removes a record. A missing record is not an error.
	Delete(bucket, key string) error

	// Holder says who holds a lease.
	Holder(lease string) (Hold, error)
	// Take takes a lease that is free, as of the end of this transaction. Else the error wraps ErrHeld.
	Take(lease string) error
	// Drop gives a lease back that is ours, as of the end of this transaction. Of any other it does nothing.
	Drop(lease string) error
}

// DB is one handle on a database. Several goroutines may use it, and other handles are at work beside it, in other processes, too.
//
// A handle keeps the leases that it took alive until they are dropped, it is closed, or its process ends, however it ends.
type DB interface {
	// View runs fn in a transaction that reads. fn must not write.
	View(ctx context.Context, fn func(Tx) error) (Revision, error)
	// Update runs fn in a transaction that is durable when Update returns nil, and has not happened when fn fails. fn may run several times: what
	// it read may have changed before it could be written. When it is the end itself that fails (a full disk, a connection) either may be
	// the case. The Revision is that of the change; that of the last one if nothing was written.
	Update(ctx context.Context, fn func(Tx) error) (Revision, error)
	// Lost returns a channel that is closed when a lease that this handle took is not its own any more without being dropped. A guard in a
	// transaction (Tx.Holder) is what counts: this is for giving up early.
	Lost(lease string) <-chan struct{}
	// Watch yields every change after a revision, one transaction each, in order, until ctx ends or the caller stops. Whoever watches from the
	// revision of a View misses nothing. An error is the last that it yields; it wraps ErrCompacted if older changes are forgotten.
	Watch(ctx context.Context, after Revision) iter.Seq2[Change, error]
	// Check reads everything and says what is wrong with it. It changes nothing.
	Check(ctx context.Context) error
	// Close gives up the leases, as the end of the process does.
	Close() error
}

// Change is what one transaction has changed.
type Change struct {
	Revision Revision
	Keys     []Key // put or deleted
}

// Key names a record.
type Key struct {
	Bucket string `json:"bucket"`
	Key    string `json:"key"`
}
