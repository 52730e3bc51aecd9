package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"sync"

	"ss/store/kv"
	"ss/store/kv/bolt"
)

// FileName is the catalogue's file in the cluster's folder.
const FileName = bolt.FileName

// Catalogue is a cluster's catalogue: the rules, over a database that keeps the records. It may be used from several goroutines, and beside other
// handles and processes. It holds nothing between calls but the leases of the attempts begun through it.
type Catalogue struct {
	// Where says which machine and folder this program runs in, for people: it tells where a lease is held, and who uses two copies of a catalogue. Change it
	// before the first call only.
	Where string

	db kv.DB

	mu   sync.Mutex
	mark Mark // the generation that this handle's first change made; zero before
}

// New is a handle on the catalogue that a database holds.
func New(db kv.DB) *Catalogue { return &Catalogue{db: db} }

// Init makes the catalogue of a new cluster in an empty database. In another one the error wraps ErrConflict.
func Init(ctx context.Context, db kv.DB, cluster Cluster) (*Catalogue, error) {
	_, err := db.Update(ctx, func(tx kv.Tx) error {
		if old, err := tx.Get(bucketMeta, keyLayout); err != nil || old != nil {
			return errors.Join(err, fmt.Errorf("there is a catalogue already: %w", ErrConflict))
		}
		return layOut(tx, cluster)
	})
	if err != nil {
		return nil, fmt.Errorf("create catalogue: %w", err)
	}
	return New(db), nil
}

// Create makes the catalogue of a new cluster in the file of a folder, whole or not at all. The folder is made 0700 if
// it is missing. Where one exists the error wraps ErrConflict.
func Create(dir string, cluster Cluster) (*Catalogue, error) {
	db, err := bolt.Create(dir, func(tx kv.Tx) error { return layOut(tx, cluster) })
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%w: %w", err, ErrConflict)
	}
	if err != nil {
		return nil, fmt.Errorf("create catalogue: %w", err)
	}
	return New(db), nil
}

// Open finds the catalogue in the file of a folder and checks it. Where there is none the error wraps ErrNotFound. One of an older layout is taken
// over: what it says is in a new file then, and the old one stays beside it under another name.
func Open(ctx context.Context, dir string) (*Catalogue, error) {
	db, err := bolt.Open(dir)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("no cluster in %s: make one with \"ssctl init\", or say where it is: %w", dir, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open catalogue: %w", err)
	}
	if err := takeOver(ctx, db); err != nil {
		return nil, err
	}
	c := New(db)
	return c, c.view(ctx, func(kv.Tx) error { return nil })
}

// Close gives up the attempts begun through c: they stay in the catalogue and are stale.
func (c *Catalogue) Close() error { return c.db.Close() }

// Cluster is what the catalogue belongs to.
func (c *Catalogue) Cluster(ctx context.Context) (cluster Cluster, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		cluster, err = need[Cluster](tx, bucketMeta, keyCluster)
		return err
	})
	return cluster, err
}

// Check reads everything, the database's pages and every record, and says what is wrong with them. It changes nothing.
func (c *Catalogue) Check(ctx context.Context) error {
	if err := c.db.Check(ctx); err != nil {
		return err
	}
	return c.view(ctx, func(tx kv.Tx) error { return errors.Join(checkRecords(tx)...) })
}

// Revision counts the changes that were made to the catalogue.
func (c *Catalogue) Revision(ctx context.Context) (kv.Revision, error) {
	return c.db.View(ctx, func(kv.Tx) error { return nil })
}

// Watch yields what others and this handle change after a revision, until ctx ends (kv.DB.Watch).
func (c *Catalogue) Watch(ctx context.Context, after kv.Revision) iter.Seq2[kv.Change, error] {
	return c.db.Watch(ctx, after)
}

// view runs fn in a transaction that reads. Others may read at the same time.
func (c *Catalogue) view(ctx context.Context, fn func(kv.Tx) error) error {
	_, err := c.db.View(ctx, func(tx kv.Tx) error {
		if err := checkLayout(tx); err != nil {
			return err
		}
		if err := c.exchanged(tx); err != nil {
			return err
		}
		return fn(tx)
	})
	return err
}

// update runs fn in a transaction that is durable when update returns nil, and has not happened when
// fn fails. When it is the commit itself that fails (a full or dying disk) either may be the case. fn may run several times: each time it
// begins from what it reads.
func (c *Catalogue) update(ctx context.Context, fn func(kv.Tx) error) error {
	var made Mark
	_, err := c.db.Update(ctx, func(tx kv.Tx) (err error) {
		if err := checkLayout(tx); err != nil {
			return err
		}
		if err := c.exchanged(tx); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		made, err = c.advance(tx)
		return err
	})
	if err == nil && made.Generation != 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.mark = made
	}
	return err
}

// holder names this process, for people.
func (c *Catalogue) holder() string {
	if c.Where == "" {
		return fmt.Sprintf("process %d", os.Getpid())
	}
	return fmt.Sprintf("process %d of %s", os.Getpid(), c.Where)
}
