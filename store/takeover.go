package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"ss/store/kv"
	"ss/store/kv/bolt"
)

// takeOver makes of a catalogue of an older layout one of this layout: a new file with all that it says. The old file stays beside it, as
// catalogue.db.layout-N, for a program that knows no other. An older ssctl at work is waited for by its user: it is named.
func takeOver(ctx context.Context, db *bolt.DB) error {
	version := 0
	_, err := db.View(ctx, func(tx kv.Tx) (err error) {
		version, err = layoutOf(tx)
		return err
	})
	if err != nil || version >= layout {
		return err
	}
	if version < oldestLayout {
		return fmt.Errorf("%s: layout version %d: it and its images are of a form that this version cannot read; use the ssctl that made it, "+
			"or make a new cluster with \"ssctl init\" in another folder and take new snapshots: %w", filepath.Join(db.Dir(), FileName), version, ErrUnknownVersion)
	}
	busy, err := bolt.Busy(filepath.Join(db.Dir(), "attempts")) // where layouts before this one had their locks
	if err != nil {
		return err
	}
	if busy != "" {
		return fmt.Errorf("an older ssctl is at work with this catalogue (it holds %s): wait for its end: %w", busy, ErrLocked)
	}
	err = db.Replace(ctx, fmt.Sprintf("%s.layout-%d", FileName, version), func(old, fresh kv.Tx) error {
		now, err := layoutOf(old)
		if err != nil || now != version {
			return errors.Join(err, fmt.Errorf("layout version %d became %d meanwhile: try again: %w", version, now, ErrLocked))
		}
		return convert(old, fresh)
	})
	if err != nil {
		return fmt.Errorf("take the catalogue over from layout %d: %w", version, err)
	}
	return nil
}

// convert writes what an older catalogue says in this layout. Every record is read: what is damaged stops it.
func convert(old, fresh kv.Tx) error {
	cuts, err := old.List(bucketCuts, "", 0)
	if err != nil {
		return err
	}
	for _, p := range cuts { // a cut was one record
		cut, err := convertCut(p.Key, p.Value)
		if err != nil {
			return err
		}
		if err := putCut(fresh, cut); err != nil {
			return err
		}
	}
	for _, bucket := range []string{bucketMeta, bucketHosts, bucketJobs, bucketEpochs, bucketAttempts, bucketRemoved, bucketEnded, bucketMarks} {
		pairs, err := old.List(bucket, "", 0)
		if err != nil {
			return err
		}
		for _, p := range pairs {
			if err := fresh.Put(bucket, p.Key, p.Value); err != nil {
				return err
			}
		}
	}
	if err := putLayout(fresh); err != nil {
		return err
	}
	return errors.Join(checkRecords(fresh)...)
}
