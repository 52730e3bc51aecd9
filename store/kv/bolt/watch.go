package bolt

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"go.etcd.io/bbolt"

	"ss/store/kv"
)

// Watch yields the changes after a revision. It looks at the file whenever that has changed.
func (d *DB) Watch(ctx context.Context, after kv.Revision) iter.Seq2[kv.Change, error] {
	return func(yield func(kv.Change, error) bool) {
		fail := func(err error) { yield(kv.Change{}, fmt.Errorf("watch %s: %w", d.path(), err)) }
		w, err := fsnotify.NewWatcher()
		if err != nil {
			fail(err)
			return
		}
		defer w.Close()
		if err := w.Add(d.dir); err != nil { // the folder: a catalogue that is rebuilt is another file
			fail(err)
			return
		}
		for {
			news, err := d.since(ctx, after)
			if err != nil {
				if ctx.Err() == nil {
					fail(err)
				}
				return
			}
			for _, c := range news {
				after = c.Revision
				if !yield(c, nil) {
					return
				}
			}
			if !d.changed(ctx, w) {
				return
			}
		}
	}
}

// changed waits until the file was written to. It is false when the context ends.
func (d *DB) changed(ctx context.Context, w *fsnotify.Watcher) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case e := <-w.Events:
			if filepath.Base(e.Name) == FileName {
				return true
			}
		case err := <-w.Errors: // events were lost: look
			return err != nil || ctx.Err() == nil
		}
	}
}

func (d *DB) since(ctx context.Context, after kv.Revision) (news []kv.Change, err error) {
	err = d.transact(ctx, false, func(btx *bbolt.Tx) error {
		t := &tx{btx: btx, db: d}
		last := t.revision()
		if after == last {
			return nil
		}
		pairs, err := t.List(bucketChanges, "", 0)
		if err != nil {
			return err
		}
		if after > last || len(pairs) == 0 || pairs[0].Key > revisionKey(after+1) {
			return fmt.Errorf("revision %d: %w", after, kv.ErrCompacted)
		}
		for _, p := range pairs {
			if p.Key <= revisionKey(after) {
				continue
			}
			c := kv.Change{Revision: after + 1 + kv.Revision(len(news))}
			if err := json.Unmarshal(p.Value, &c.Keys); err != nil {
				return fmt.Errorf("change %s: %w: %w", p.Key, err, kv.ErrCorrupt)
			}
			news = append(news, c)
		}
		return nil
	})
	return news, err
}
