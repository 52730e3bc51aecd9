package memory

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"ss/store/kv"
)

// keptChanges is how many changes a Space remembers.
const keptChanges = 1024

// Space is a database. Its handles are as those of several processes.
type Space struct {
	mu       sync.Mutex
	revision kv.Revision
	records  map[string]map[string]record // by bucket and key
	leases   map[string]*lease
	changes  []kv.Change
	changed  chan struct{} // closed at the next change
}

type record struct {
	value    []byte
	revision kv.Revision
}

// lease is one taking of a lease.
type lease struct {
	holder *DB
	lost   chan struct{}
}

// NewSpace makes an empty database.
func NewSpace() *Space {
	return &Space{records: map[string]map[string]record{}, leases: map[string]*lease{}, changed: make(chan struct{})}
}

// DB is one handle (kv.DB).
type DB struct {
	space *Space
}

// Open makes one more handle.
func (s *Space) Open() *DB { return &DB{space: s} }

// Expire takes a lease from its holder, who lives: it could not renew it in time.
func (s *Space) Expire(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[name]; l != nil {
		close(l.lost)
		delete(s.leases, name)
	}
}

// Clone is a copy of everything but the leases.
func (s *Space) Clone() *Space {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := NewSpace()
	c.revision, c.changes = s.revision, slices.Clone(s.changes)
	for bucket, records := range s.records {
		c.records[bucket] = maps.Clone(records)
	}
	return c
}

// Close gives up the leases.
func (d *DB) Close() error {
	d.space.mu.Lock()
	defer d.space.mu.Unlock()
	maps.DeleteFunc(d.space.leases, func(_ string, l *lease) bool { return l.holder == d })
	return nil
}

// Check finds nothing: memory is as it was written.
func (d *DB) Check(ctx context.Context) error { return ctx.Err() }

// Lost is closed when a lease that this handle took has expired. Of one that it does not hold it is closed already.
func (d *DB) Lost(name string) <-chan struct{} {
	d.space.mu.Lock()
	defer d.space.mu.Unlock()
	if l := d.space.leases[name]; l != nil && l.holder == d {
		return l.lost
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

// View reads the present revision.
func (d *DB) View(ctx context.Context, fn func(kv.Tx) error) (kv.Revision, error) {
	t := &tx{db: d, readOnly: true}
	d.space.mu.Lock()
	t.begin()
	d.space.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return t.at, fn(t)
}

// Update runs fn until what it read is what there is when its writes come.
func (d *DB) Update(ctx context.Context, fn func(kv.Tx) error) (kv.Revision, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		t := &tx{db: d, writes: map[kv.Key][]byte{}, leases: map[string]bool{}}
		d.space.mu.Lock()
		t.begin()
		d.space.mu.Unlock()
		if err := fn(t); err != nil {
			return 0, err
		}
		if revision, ok := d.space.commit(t); ok {
			return revision, nil
		}
	}
}

// commit writes what t has written, unless what it read has changed.
func (s *Space) commit(t *tx) (kv.Revision, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, same := range t.guards {
		if !same(s) {
			return 0, false
		}
	}
	for name, take := range t.leases {
		if take {
			s.leases[name] = &lease{holder: t.db, lost: make(chan struct{})}
		} else {
			delete(s.leases, name)
		}
	}
	if len(t.writes) == 0 {
		return s.revision, true
	}
	s.revision++
	change := kv.Change{Revision: s.revision}
	for k, value := range t.writes {
		if s.records[k.Bucket] == nil {
			s.records[k.Bucket] = map[string]record{}
		}
		if value == nil {
			delete(s.records[k.Bucket], k.Key)
		} else {
			s.records[k.Bucket][k.Key] = record{value, s.revision}
		}
		change.Keys = append(change.Keys, k)
	}
	s.changes = append(s.changes, change)
	if n := len(s.changes) - keptChanges; n > 0 {
		s.changes = slices.Delete(s.changes, 0, n)
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return s.revision, true
}

// Watch yields the changes after a revision.
func (d *DB) Watch(ctx context.Context, after kv.Revision) iter.Seq2[kv.Change, error] {
	return func(yield func(kv.Change, error) bool) {
		for {
			news, next, err := d.space.since(after)
			if err != nil {
				yield(kv.Change{}, err)
				return
			}
			for _, c := range news {
				after = c.Revision
				if !yield(c, nil) {
					return
				}
			}
			select {
			case <-next:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (s *Space) since(after kv.Revision) (news []kv.Change, next <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after > s.revision || after < s.revision && s.changes[0].Revision > after+1 {
		return nil, nil, fmt.Errorf("revision %d: %w", after, kv.ErrCompacted)
	}
	i := slices.IndexFunc(s.changes, func(c kv.Change) bool { return c.Revision > after })
	if i >= 0 {
		news = slices.Clone(s.changes[i:])
	}
	return news, s.changed, nil
}

// tx is a transaction (kv.Tx).
type tx struct {
	db       *DB
	readOnly bool
	at       kv.Revision
	records  map[string]map[string]record // as of at
	held     map[string]*lease            // likewise
	writes   map[kv.Key][]byte            // nil: deleted
	leases   map[string]bool              // taken or dropped
	guards   []func(*Space) bool          // whether what was read is still so
	bounds   kv.Bounds
}

// begin takes the present state. Buckets are copied: a Space changes its own in place.
func (t *tx) begin() {
	s := t.db.space
	t.at, t.held, t.records = s.revision, maps.Clone(s.leases), map[string]map[string]record{}
	for bucket, records := range s.records {
		t.records[bucket] = maps.Clone(records)
	}
}

// Get reads a record.
func (t *tx) Get(bucket, key string) ([]byte, error) {
	if value, ok := t.writes[kv.Key{Bucket: bucket, Key: key}]; ok {
		return slices.Clone(value), nil
	}
	was, there := t.records[bucket][key]
	t.guards = append(t.guards, func(s *Space) bool {
		is, ok := s.records[bucket][key]
		return ok == there && is.revision == was.revision
	})
	return slices.Clone(was.value), nil
}

// List reads a range of records.
func (t *tx) List(bucket, prefix string, limit int) ([]kv.Pair, error) {
	was := t.records[bucket]
	t.guards = append(t.guards, func(s *Space) bool { return sameRange(s.records[bucket], was, prefix) })
	all := map[string][]byte{}
	for key, r := range was {
		all[key] = r.value
	}
	for k, value := range t.writes {
		if k.Bucket != bucket {
			continue
		}
		all[k.Key] = value
		if value == nil {
			delete(all, k.Key)
		}
	}
	var out []kv.Pair
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(key, prefix) {
			out = append(out, kv.Pair{Key: key, Value: slices.Clone(all[key])})
		}
	}
	switch {
	case limit > 0:
		out = out[:min(limit, len(out))]
	case limit < 0:
		out = out[max(0, len(out)+limit):]
	}
	return out, nil
}

func sameRange(a, b map[string]record, prefix string) bool {
	in := func(m map[string]record) map[string]kv.Revision {
		out := map[string]kv.Revision{}
		for key, r := range m {
			if strings.HasPrefix(key, prefix) {
				out[key] = r.revision
			}
		}
		return out
	}
	return maps.Equal(in(a), in(b))
}

// Count counts a bucket's records.
func (t *tx) Count(bucket string) (int, error) {
	all, err := t.List(bucket, "", 0)
	return len(all), err
}

var errReadOnly = errors.New("a transaction that reads cannot write")

// Put writes a record.
func (t *tx) Put(bucket, key string, value []byte) error {
	if t.readOnly {
		return errReadOnly
	}
	t.writes[kv.Key{Bucket: bucket, Key: key}] = append([]byte{}, value...)
	return t.bounds.Put(bucket, key, value)
}

// Delete removes a record.
func (t *tx) Delete(bucket, key string) error {
	if t.readOnly {
		return errReadOnly
	}
	t.writes[kv.Key{Bucket: bucket, Key: key}] = nil
	return t.bounds.Delete(bucket, key)
}

// Holder says who holds a lease.
func (t *tx) Holder(name string) (kv.Hold, error) {
	was := t.held[name]
	t.guards = append(t.guards, func(s *Space) bool { return s.leases[name] == was })
	take, changed := t.leases[name]
	switch {
	case changed && take, !changed && was != nil && was.holder == t.db:
		return kv.Ours, nil
	case changed, was == nil:
		return kv.Free, nil
	}
	return kv.Others, nil
}

// Take takes a free lease.
func (t *tx) Take(name string) error {
	if t.readOnly {
		return errReadOnly
	}
	if hold, err := t.Holder(name); err != nil || hold != kv.Free {
		return fmt.Errorf("lease %s: %w", name, kv.ErrHeld)
	}
	t.leases[name] = true
	return nil
}

// Drop gives a lease back.
func (t *tx) Drop(name string) error {
	if t.readOnly {
		return errReadOnly
	}
	if hold, err := t.Holder(name); err != nil || hold != kv.Ours {
		return err
	}
	t.leases[name] = false
	return nil
}

// Space is the database that the handle is on.
func (d *DB) Space() *Space { return d.space }
