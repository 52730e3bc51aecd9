package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"

	"go.etcd.io/bbolt"
)

// The buckets. Epochs are apart from jobs so that they outlive them: a job that is removed and made
// anew must not draw an epoch that some agent has seen (M12).
const (
	bucketMeta     = "meta"
	bucketHosts    = "hosts"
	bucketJobs     = "jobs"
	bucketEpochs   = "epochs"
	bucketAttempts = "attempts"
	bucketCuts     = "cuts"
	bucketRemoved  = "removed" // tombstones of cuts
	bucketEnded    = "ended"   // snapshots that ended without a cut, and their epochs
	bucketMarks    = "marks"   // generations that this catalogue has had

	keyLayout  = "layout"
	keySealed  = "layout sealed" // the same with a checksum, from layout 3 on
	keyCluster = "cluster"

	// layout is the version of the catalogue as a whole: of its buckets, and of what their records say. A program that knew
	// fewer fields would lose the others when it writes a record back, so new ones make a new layout. schema is the version of the records' envelope.
	layout = 3
	// oldLayout is read as well: it lacks addedBuckets, which the first change makes, and of members it has nothing but names. Its records say what today's say.
	oldLayout = 2
	schema    = 1
)

var (
	firstBuckets = []string{bucketMeta, bucketHosts, bucketJobs, bucketEpochs, bucketAttempts, bucketCuts}
	addedBuckets = []string{bucketRemoved, bucketEnded, bucketMarks}
)

// envelope is what a record is stored in. The checksum covers the key, a zero byte and the record's
// bytes: bbolt does not notice a flipped bit in a value.
type envelope struct {
	Schema int             `json:"schema"`
	CRC32C string          `json:"crc32c"`
	Record json.RawMessage `json:"record"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key string, record []byte) string {
	sum := crc32.Update(0, castagnoli, append([]byte(key), 0))
	return fmt.Sprintf("%08x", crc32.Update(sum, castagnoli, record))
}

func encode(key string, v any) ([]byte, error) {
	record, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return wrap(key, record), nil
}

func wrap(key string, record []byte) []byte {
	return fmt.Appendf(nil, `{"schema":%d,"crc32c":"%s","record":%s}`, schema, checksum(key, record), record)
}

func decode(bucket, key string, data []byte, v any) error {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("record %s/%s: %w: %w", bucket, key, err, ErrCorrupt)
	}
	if e.Schema != schema {
		return fmt.Errorf("record %s/%s has schema %d, this program knows %d: use a newer ssctl: %w", bucket, key, e.Schema, schema, ErrUnknownVersion)
	}
	if !bytes.Equal(data, wrap(key, e.Record)) {
		return fmt.Errorf("record %s/%s fails its checksum: %w", bucket, key, ErrCorrupt)
	}
	if err := json.Unmarshal(e.Record, v); err != nil {
		return fmt.Errorf("record %s/%s: %w: %w", bucket, key, err, ErrCorrupt)
	}
	return nil
}

// layOut makes the buckets of a new catalogue.
func layOut(tx *bbolt.Tx, cluster Cluster) error {
	for _, name := range slices.Concat(firstBuckets, addedBuckets) {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	if err := putLayout(tx); err != nil {
		return err
	}
	cluster.Created = cluster.Created.Round(0).UTC()
	return put(tx, bucketMeta, keyCluster, cluster)
}

// upgrade makes of a catalogue of the layout before this one a catalogue of this one.
func upgrade(tx *bbolt.Tx) error {
	meta := tx.Bucket([]byte(bucketMeta))
	if string(meta.Get([]byte(keyLayout))) != strconv.Itoa(oldLayout) {
		return nil
	}
	for _, name := range addedBuckets {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	return putLayout(tx)
}

func putLayout(tx *bbolt.Tx) error {
	if err := tx.Bucket([]byte(bucketMeta)).Put([]byte(keyLayout), strconv.AppendInt(nil, layout, 10)); err != nil {
		return err
	}
	return put(tx, bucketMeta, keySealed, layout)
}

// checkLayout refuses a catalogue whose buckets this program does not know.
func checkLayout(tx *bbolt.Tx) error {
	meta := tx.Bucket([]byte(bucketMeta))
	if meta == nil {
		return fmt.Errorf("this is a database, but no catalogue: %w", ErrCorrupt)
	}
	text := string(meta.Get([]byte(keyLayout)))
	version, err := strconv.Atoi(text)
	if err != nil || version < 1 {
		return fmt.Errorf("layout version %q: %w", text, ErrCorrupt)
	}
	sealed, ok, err := get[int](tx, bucketMeta, keySealed)
	if err != nil {
		return err
	}
	if ok && sealed != version {
		return fmt.Errorf("layout version %d, which should be %d: %w", version, sealed, ErrCorrupt)
	}
	if version < oldLayout {
		return fmt.Errorf("layout version %d: it and its images are of a form that this version cannot read; use the ssctl that made it, "+
			"or make a new cluster with \"ssctl init\" in another folder and take the snapshots anew: %w", version, ErrUnknownVersion)
	}
	if version > layout {
		return fmt.Errorf("layout version %d, this program knows %d: use a newer ssctl: %w", version, layout, ErrUnknownVersion)
	}
	names := firstBuckets
	if version == layout {
		names = slices.Concat(firstBuckets, addedBuckets)
	}
	for _, name := range names {
		if tx.Bucket([]byte(name)) == nil {
			return fmt.Errorf("bucket %s is missing: %w", name, ErrCorrupt)
		}
	}
	if version < layout && tx.Writable() {
		return meta.Put([]byte(keyLayout), strconv.AppendInt(nil, layout, 10))
	}
	return nil
}

func put(tx *bbolt.Tx, bucket, key string, v any) error {
	data, err := encode(key, v)
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucket)).Put([]byte(key), data)
}

func remove(tx *bbolt.Tx, bucket, key string) error {
	return tx.Bucket([]byte(bucket)).Delete([]byte(key))
}

// get reads a record; ok says whether there is one.
func get[T any](tx *bbolt.Tx, bucket, key string) (v T, ok bool, err error) {
	b := tx.Bucket([]byte(bucket))
	if b == nil { // of a layout that has not got it yet
		return v, false, nil
	}
	data := b.Get([]byte(key))
	if data == nil {
		return v, false, nil
	}
	err = decode(bucket, key, data, &v)
	return v, true, err
}

// need reads a record that must be there.
func need[T any](tx *bbolt.Tx, bucket, key string) (T, error) {
	v, ok, err := get[T](tx, bucket, key)
	if err == nil && !ok {
		err = fmt.Errorf("no %s %q: %w", nounOf[bucket], key, ErrNotFound)
	}
	return v, err
}

var nounOf = map[string]string{
	bucketMeta: "record", bucketHosts: "host", bucketJobs: "job", bucketEpochs: "epoch", bucketAttempts: "attempt", bucketCuts: "cut",
	bucketRemoved: "tombstone", bucketEnded: "ended attempt", bucketMarks: "generation",
}

// all reads every record of a bucket whose key begins with prefix, in the keys' order.
func all[T any](tx *bbolt.Tx, bucket, prefix string) ([]T, error) {
	var vs []T
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return nil, nil
	}
	cursor := b.Cursor()
	for k, data := cursor.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, data = cursor.Next() {
		var v T
		if err := decode(bucket, string(k), data, &v); err != nil {
			return nil, err
		}
		vs = append(vs, v)
	}
	return vs, nil
}

// checkRecords reads everything there is.
func checkRecords(tx *bbolt.Tx) []error {
	var errs []error
	check := func(bucket string, fresh func() any) {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return
		}
		_ = b.ForEach(func(k, data []byte) error {
			if bucket == bucketMeta && (string(k) == keyLayout || string(k) == keySealed) {
				return nil // checkLayout has looked at them
			}
			if bucket == bucketMeta && string(k) == keyRemovedHosts {
				if err := decode(bucket, string(k), data, new(RemovedHosts)); err != nil {
					errs = append(errs, err)
				}
				return nil
			}
			if err := decode(bucket, string(k), data, fresh()); err != nil {
				errs = append(errs, err)
			}
			return nil
		})
	}
	check(bucketMeta, func() any { return new(Cluster) })
	check(bucketHosts, func() any { return new(Host) })
	check(bucketJobs, func() any { return new(Job) })
	check(bucketEpochs, func() any { return new(uint64) })
	check(bucketAttempts, func() any { return new(Attempt) })
	check(bucketCuts, func() any { return new(Cut) })
	check(bucketRemoved, func() any { return new(Removed) })
	check(bucketEnded, func() any { return new(uint64) })
	check(bucketMarks, func() any { return new(Mark) })
	return errs
}
