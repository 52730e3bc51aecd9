package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ss/store/kv"
)

// A cut is three kinds of records. Its head, which makes it exist, names its parts. A part is what one host contributed to one snapshot; it has an
// identity of its own, so that a cut can be made of parts of several snapshots. Its channels are apart, in pieces: ten thousand of them are 4 MiB.

// PartID is the identity of a part: the snapshot that it was recorded in, and its host. The image set of that name belongs to it.
type PartID struct{ Snapshot, Host string }

func (p PartID) String() string { return p.Snapshot + "/" + p.Host }

// PartID is the identity of one host's part of a cut.
func (c Cut) PartID(h CutHost) PartID { return PartID{cmp.Or(h.Snapshot, c.ID), h.Host} }

// cutHead is the record that makes a cut exist.
type cutHead struct {
	ID          string    `json:"id"`
	Job         string    `json:"job"`
	Epoch       uint64    `json:"epoch"`
	Time        time.Time `json:"time"`
	Label       string    `json:"label,omitempty"`
	Stopped     bool      `json:"stopped"`
	Parts       []string  `json:"parts"`    // their identities
	Channels    int       `json:"channels"` // pieces
	TotalMs     float64   `json:"total_ms"`
	CRIUVersion string    `json:"criu_version"`
	Pinned      bool      `json:"pinned,omitempty"`
	Imported    *Imported `json:"imported,omitempty"`
	EndedWell   []string  `json:"ended_well,omitempty"`
	Without     []string  `json:"without,omitempty"`
	Ends        []CutEnd  `json:"ends,omitempty"`
	Key         string    `json:"key,omitempty"`
	KeyID       string    `json:"key_id,omitempty"`
}

// channelsInPiece is how many channels one record has: a few hundred KiB.
const channelsInPiece = 1000

// write is one record that is to be written.
type write struct {
	bucket, key string
	value       []byte
}

// cutWrites are the records of a cut, the head last.
func cutWrites(cut Cut) ([]write, error) {
	var out []write
	add := func(bucket, key string, v any) error {
		data, err := encode(key, v)
		out = append(out, write{bucket, key, data})
		return err
	}
	h := cutHead{ID: cut.ID, Job: cut.Job, Epoch: cut.Epoch, Time: cut.Time.Round(0).UTC(), Label: cut.Label, Stopped: cut.Stopped, Parts: []string{},
		TotalMs: cut.TotalMs, CRIUVersion: cut.CRIUVersion, Pinned: cut.Pinned, Imported: cut.Imported, EndedWell: cut.EndedWell, Without: cut.Without, Ends: cut.Ends,
		Key: cut.Key, KeyID: cut.KeyID}
	for _, part := range cut.Hosts {
		id := cut.PartID(part).String()
		h.Parts = append(h.Parts, id)
		if err := add(bucketParts, id, part); err != nil {
			return nil, err
		}
	}
	for piece := range slices.Chunk(cut.Channels, channelsInPiece) {
		if err := add(bucketChannels, pieceKey(cut.ID, h.Channels), piece); err != nil {
			return nil, err
		}
		h.Channels++
	}
	return out, add(bucketCuts, cut.ID, h)
}

func pieceKey(cut string, n int) string { return fmt.Sprintf("%s/%06d", cut, n) }

func putWrites(tx kv.Tx, ws []write) error {
	for _, w := range ws {
		if err := tx.Put(w.bucket, w.key, w.value); err != nil {
			return err
		}
	}
	return nil
}

// batches splits records so that each batch fits into a transaction, with some others.
func batches(ws []write) [][]write {
	var out [][]write
	size := 0
	for i, w := range ws {
		if i == 0 || size+len(w.value) > kv.MaxBytes/2 || len(out[len(out)-1]) >= kv.MaxWrites/2 {
			out, size = append(out, nil), 0
		}
		out[len(out)-1] = append(out[len(out)-1], w)
		size += len(w.value)
	}
	return out
}

// putCut writes all records of a cut in one transaction.
func putCut(tx kv.Tx, cut Cut) error {
	ws, err := cutWrites(cut)
	if err != nil {
		return err
	}
	return putWrites(tx, ws)
}

// putPart writes one part of a cut that exists.
func putPart(tx kv.Tx, cut Cut, part CutHost) error {
	return put(tx, bucketParts, cut.PartID(part).String(), part)
}

// putHead writes what a cut says of itself, and nothing of its parts and channels.
func putHead(tx kv.Tx, cut Cut) error {
	ws, err := cutWrites(cut)
	if err != nil {
		return err
	}
	return putWrites(tx, ws[len(ws)-1:])
}

// allCuts reads the cuts whose ids begin with prefix, in the order of their ids.
func allCuts(tx kv.Tx, prefix string) ([]Cut, error) {
	heads, err := all[cutHead](tx, bucketCuts, prefix)
	if err != nil {
		return nil, err
	}
	parts, err := tx.List(bucketParts, prefix, 0)
	if err != nil {
		return nil, err
	}
	pieces, err := tx.List(bucketChannels, prefix, 0)
	if err != nil {
		return nil, err
	}
	partOf, pieceOf := map[string][]byte{}, map[string][]byte{}
	for _, p := range parts {
		partOf[p.Key] = p.Value
	}
	for _, p := range pieces {
		pieceOf[p.Key] = p.Value
	}
	var cuts []Cut
	for _, h := range heads {
		cut, err := h.whole(tx, partOf, pieceOf)
		if err != nil {
			return nil, err
		}
		cuts = append(cuts, cut)
	}
	return cuts, nil
}

// whole puts a cut together. Parts of other snapshots may not be among those that were read.
func (h cutHead) whole(tx kv.Tx, parts, pieces map[string][]byte) (Cut, error) {
	cut := Cut{ID: h.ID, Job: h.Job, Epoch: h.Epoch, Time: h.Time, Label: h.Label, Stopped: h.Stopped, TotalMs: h.TotalMs, CRIUVersion: h.CRIUVersion,
		Pinned: h.Pinned, Imported: h.Imported, EndedWell: h.EndedWell, Without: h.Without, Ends: h.Ends, Key: h.Key, KeyID: h.KeyID}
	lost := func(bucket, key string) (Cut, error) {
		return Cut{}, fmt.Errorf("cut %s: its record %s/%s is missing: %w", h.ID, bucket, key, ErrCorrupt)
	}
	for _, id := range h.Parts {
		data := parts[id]
		if data == nil {
			var err error
			if data, err = tx.Get(bucketParts, id); err != nil {
				return Cut{}, err
			}
		}
		if data == nil {
			return lost(bucketParts, id)
		}
		var part CutHost
		if err := decode(bucketParts, id, data, &part); err != nil {
			return Cut{}, err
		}
		cut.Hosts = append(cut.Hosts, part)
	}
	for n := range h.Channels {
		key := pieceKey(h.ID, n)
		if pieces[key] == nil {
			return lost(bucketChannels, key)
		}
		var piece []CutChannel
		if err := decode(bucketChannels, key, pieces[key], &piece); err != nil {
			return Cut{}, err
		}
		cut.Channels = append(cut.Channels, piece...)
	}
	return cut, nil
}

// needCut reads a cut that must be there.
func needCut(tx kv.Tx, id string) (Cut, error) {
	if _, err := need[cutHead](tx, bucketCuts, id); err != nil {
		return Cut{}, err
	}
	cuts, err := allCuts(tx, id)
	if err != nil {
		return Cut{}, err
	}
	return cuts[0], nil // the shortest id that begins with id is id itself
}

// stage writes what of a cut does not fit into the transaction that commits it: nobody sees it before the head is there.
func (c *Catalogue) stage(ctx context.Context, cut Cut, ws []write) error {
	for _, batch := range batches(ws) {
		err := c.update(ctx, func(tx kv.Tx) error {
			a, ok, err := get[Attempt](tx, bucketAttempts, cut.ID)
			if err != nil || !ok {
				return errors.Join(err, fmt.Errorf("its attempt was ended meanwhile: %w", ErrConflict))
			}
			if err := guard(tx, a); err != nil {
				return err
			}
			return putWrites(tx, batch)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sweep removes the parts and channels of a snapshot that has no cut, in as many transactions as it takes.
func (c *Catalogue) sweep(ctx context.Context, id string) error {
	for left := true; left; {
		err := c.update(ctx, func(tx kv.Tx) error {
			left = false
			if there, err := exists(tx, bucketCuts, id); err != nil || there {
				return err
			}
			for _, bucket := range []string{bucketParts, bucketChannels} {
				pairs, err := tx.List(bucket, id+"/", kv.MaxWrites/3)
				if err != nil {
					return err
				}
				left = left || len(pairs) == kv.MaxWrites/3
				for _, p := range pairs {
					if err := tx.Delete(bucket, p.Key); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("remove the records of snapshot %s: %w", id, err)
		}
	}
	return nil
}

// convertCut reads a cut of a layout that had it in one record.
func convertCut(key string, data []byte) (Cut, error) {
	var cut Cut
	err := decode(bucketCuts, key, data, &cut)
	if err == nil && cut.ID != key {
		err = fmt.Errorf("record %s/%s is of cut %s: %w", bucketCuts, key, cut.ID, ErrCorrupt)
	}
	return cut, err
}
