package bolt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"go.etcd.io/bbolt"

	"ss/store/kv"
)

const (
	// bucketChanges has what each of the last transactions changed: revision, 16 hex digits → JSON list of keys.
	bucketChanges = "changes"
	// keptChanges is how many of them are kept.
	keptChanges = 1024
)

// tx is a transaction (kv.Tx).
type tx struct {
	btx       *bbolt.Tx
	db        *DB
	changed   []kv.Key
	bounds    kv.Bounds
	unbounded bool
	leases    map[string]*held // taken in this transaction; nil: dropped
}

// Get reads a record.
func (t *tx) Get(bucket, key string) ([]byte, error) {
	b := t.btx.Bucket([]byte(bucket))
	if b == nil {
		return nil, nil
	}
	return bytes.Clone(b.Get([]byte(key))), nil
}

// List reads a range of records.
func (t *tx) List(bucket, prefix string, limit int) ([]kv.Pair, error) {
	b := t.btx.Bucket([]byte(bucket))
	if b == nil {
		return nil, nil
	}
	var out []kv.Pair
	c := b.Cursor()
	if limit < 0 && prefix == "" {
		for k, v := c.Last(); k != nil && len(out) < -limit; k, v = c.Prev() {
			out = append(out, kv.Pair{Key: string(k), Value: bytes.Clone(v)})
		}
		slices.Reverse(out)
		return out, nil
	}
	for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		if out = append(out, kv.Pair{Key: string(k), Value: bytes.Clone(v)}); len(out) == limit {
			break
		}
	}
	if limit < 0 {
		out = out[max(0, len(out)+limit):]
	}
	return out, nil
}

// Count counts a bucket's records.
func (t *tx) Count(bucket string) (int, error) {
	b := t.btx.Bucket([]byte(bucket))
	if b == nil {
		return 0, nil
	}
	return b.Stats().KeyN, nil
}

// Put writes a record.
func (t *tx) Put(bucket, key string, value []byte) error {
	if !t.unbounded {
		if err := t.bounds.Put(bucket, key, value); err != nil {
			return err
		}
	}
	b, err := t.btx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return err
	}
	t.changed = append(t.changed, kv.Key{Bucket: bucket, Key: key})
	return b.Put([]byte(key), value)
}

// Delete removes a record.
func (t *tx) Delete(bucket, key string) error {
	if !t.unbounded {
		if err := t.bounds.Delete(bucket, key); err != nil {
			return err
		}
	}
	b, err := t.btx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return err
	}
	t.changed = append(t.changed, kv.Key{Bucket: bucket, Key: key})
	return b.Delete([]byte(key))
}

// revision is that of the last change.
func (t *tx) revision() kv.Revision {
	b := t.btx.Bucket([]byte(bucketChanges))
	if b == nil {
		return 0
	}
	k, _ := b.Cursor().Last()
	n, err := strconv.ParseUint(string(k), 16, 64)
	if err != nil {
		return 0
	}
	return kv.Revision(n)
}

// log writes down what the transaction changed.
func (t *tx) log() (kv.Revision, error) {
	last := t.revision()
	if len(t.changed) == 0 {
		return last, nil
	}
	keys := t.changed
	if t.unbounded {
		keys = nil // whoever makes a new file tells nobody what is in it
	}
	data, err := json.Marshal(keys)
	if err != nil {
		return 0, err
	}
	b, err := t.btx.CreateBucketIfNotExists([]byte(bucketChanges))
	if err != nil {
		return 0, err
	}
	if err := b.Put([]byte(revisionKey(last+1)), data); err != nil {
		return 0, err
	}
	if last >= keptChanges {
		err = b.Delete([]byte(revisionKey(last + 1 - keptChanges)))
	}
	return last + 1, err
}

func revisionKey(r kv.Revision) string { return fmt.Sprintf("%016x", uint64(r)) }
