package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strconv"

	"ss/store/kv"
)

// The buckets. Epochs are apart from jobs so that they outlive them: a job that is removed and made
// again must not draw an epoch that some agent has seen (M12).
const (
	bucketMeta     = "meta"
	bucketHosts    = "hosts"
	bucketJobs     = "jobs"
	bucketEpochs   = "epochs"
	bucketAttempts = "attempts"
	bucketCuts     = "cuts"     // heads
	bucketParts    = "parts"    // by PartID
	bucketChannels = "channels" // by cut and number, in pieces
	bucketRemoved  = "removed"  // tombstones of cuts
	bucketEnded    = "ended"    // snapshots that ended without a cut, and their epochs
	bucketMarks    = "marks"    // generations that this catalogue has had
	bucketLeases   = "leases"   // by job: which attempt holds it

	keyLayout  = "layout"
	keySealed  = "layout sealed" // the same with a checksum, from layout 3 on
	keyCluster = "cluster"

	// layout is the version of the catalogue as a whole: of its buckets, and of what their records say. A program that knew
	// fewer fields would lose the others when it writes a record back, so new ones make a new layout. schema is the version of the records' envelope.
	layout = 4
	// oldestLayout is the oldest that is taken over (takeOver).
	oldestLayout = 2
	schema       = 1
)

// envelope is what a record is stored in. The checksum covers the key, a zero byte and the record's
// bytes: the database does not notice a flipped bit in a value.
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

// layOut writes what a new catalogue has.
func layOut(tx kv.Tx, cluster Cluster) error {
	if err := putLayout(tx); err != nil {
		return err
	}
	cluster.Created = cluster.Created.Round(0).UTC()
	return put(tx, bucketMeta, keyCluster, cluster)
}

func putLayout(tx kv.Tx) error {
	if err := tx.Put(bucketMeta, keyLayout, strconv.AppendInt(nil, layout, 10)); err != nil {
		return err
	}
	return put(tx, bucketMeta, keySealed, layout)
}

// layoutOf reads a catalogue's layout.
func layoutOf(tx kv.Tx) (int, error) {
	text, err := tx.Get(bucketMeta, keyLayout)
	if err != nil {
		return 0, err
	}
	if text == nil {
		return 0, fmt.Errorf("this is a database, but no catalogue: %w", ErrCorrupt)
	}
	version, err := strconv.Atoi(string(text))
	if err != nil || version < 1 {
		return 0, fmt.Errorf("layout version %q: %w", text, ErrCorrupt)
	}
	sealed, ok, err := get[int](tx, bucketMeta, keySealed)
	if err != nil {
		return 0, err
	}
	if ok && sealed != version {
		return 0, fmt.Errorf("layout version %d, which should be %d: %w", version, sealed, ErrCorrupt)
	}
	return version, nil
}

// checkLayout refuses a catalogue whose records this program does not know.
func checkLayout(tx kv.Tx) error {
	version, err := layoutOf(tx)
	switch {
	case err != nil:
		return err
	case version < layout:
		return fmt.Errorf("layout version %d: an older ssctl has put it there meanwhile: %w", version, ErrUnknownVersion)
	case version > layout:
		return fmt.Errorf("layout version %d, this program knows %d: use a newer ssctl: %w", version, layout, ErrUnknownVersion)
	}
	return nil
}

func put(tx kv.Tx, bucket, key string, v any) error {
	data, err := encode(key, v)
	if err != nil {
		return err
	}
	return tx.Put(bucket, key, data)
}

func remove(tx kv.Tx, bucket, key string) error { return tx.Delete(bucket, key) }

// exists says whether there is a record.
func exists(tx kv.Tx, bucket, key string) (bool, error) {
	data, err := tx.Get(bucket, key)
	return data != nil, err
}

// get reads a record; ok says whether there is one.
func get[T any](tx kv.Tx, bucket, key string) (v T, ok bool, err error) {
	data, err := tx.Get(bucket, key)
	if err != nil || data == nil {
		return v, false, err
	}
	err = decode(bucket, key, data, &v)
	return v, true, err
}

// need reads a record that must be there.
func need[T any](tx kv.Tx, bucket, key string) (T, error) {
	v, ok, err := get[T](tx, bucket, key)
	if err == nil && !ok {
		err = fmt.Errorf("no %s %q: %w", nounOf[bucket], key, ErrNotFound)
	}
	return v, err
}

var nounOf = map[string]string{
	bucketMeta: "record", bucketHosts: "host", bucketJobs: "job", bucketEpochs: "epoch", bucketAttempts: "attempt", bucketCuts: "cut", bucketParts: "part", bucketChannels: "piece of channels",
	bucketRemoved: "tombstone", bucketEnded: "ended attempt", bucketMarks: "generation", bucketLeases: "lease",
}

// all reads every record of a bucket whose key begins with prefix, in the keys' order.
func all[T any](tx kv.Tx, bucket, prefix string) ([]T, error) {
	pairs, err := tx.List(bucket, prefix, 0)
	if err != nil {
		return nil, err
	}
	var vs []T
	for _, p := range pairs {
		var v T
		if err := decode(bucket, p.Key, p.Value, &v); err != nil {
			return nil, err
		}
		vs = append(vs, v)
	}
	return vs, nil
}

// trim removes the oldest records of a bucket beyond the last keep.
func trim(tx kv.Tx, bucket string, keep int) error {
	n, err := tx.Count(bucket)
	if err != nil || n <= keep {
		return err
	}
	old, err := tx.List(bucket, "", min(n-keep, trimAtOnce))
	if err != nil {
		return err
	}
	for _, p := range old {
		if err := tx.Delete(bucket, p.Key); err != nil {
			return err
		}
	}
	return nil
}

// trimAtOnce bounds what one transaction removes of a bucket that is too full.
const trimAtOnce = 16

// checkRecords reads everything there is.
func checkRecords(tx kv.Tx) []error {
	var errs []error
	for bucket, fresh := range map[string]func() any{
		bucketMeta: func() any { return new(Cluster) }, bucketHosts: func() any { return new(Host) }, bucketJobs: func() any { return new(Job) },
		bucketEpochs: func() any { return new(uint64) }, bucketAttempts: func() any { return new(Attempt) }, bucketCuts: func() any { return new(cutHead) }, bucketParts: func() any { return new(CutHost) }, bucketChannels: func() any { return new([]CutChannel) },
		bucketRemoved: func() any { return new(Removed) }, bucketEnded: func() any { return new(uint64) }, bucketMarks: func() any { return new(Mark) },
		bucketLeases: func() any { return new(lease) },
	} {
		pairs, err := tx.List(bucket, "", 0)
		errs = append(errs, err)
		for _, p := range pairs {
			switch {
			case bucket == bucketMeta && (p.Key == keyLayout || p.Key == keySealed): // checkLayout has looked at them
			case bucket == bucketMeta && p.Key == keyRemovedHosts:
				errs = append(errs, decode(bucket, p.Key, p.Value, new(RemovedHosts)))
			default:
				errs = append(errs, decode(bucket, p.Key, p.Value, fresh()))
			}
		}
	}
	return errs
}
