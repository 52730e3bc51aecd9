package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"ss/names"
	"ss/store/blob"
)

// A tombstone is the signed word that a cut was removed (package tombstone, above this one's head: here it is opaque). It is kept
// beside the cuts, so that images of the cut that turn up later are known for what they are.

// removedFolder holds tombstones, JOB/removed/SNAPSHOT/ID.
const removedFolder = "removed"

// maxTombstone bounds a tombstone, in bytes.
const maxTombstone = 4 << 20

var tombstoneID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// StoredTombstone is a tombstone as it was put.
type StoredTombstone struct {
	Job, Snapshot string
	ID            string // 16 hex digits: of one cut, of all that had the id
	Data          []byte
}

// TombstoneName is the name of a tombstone as a blob.Store has it.
func TombstoneName(job, snapshot, id string) string {
	return job + "/" + removedFolder + "/" + snapshot + "/" + id
}

// parseTombstoneName undoes TombstoneName.
func parseTombstoneName(name string) (t StoredTombstone, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[1] != removedFolder || !names.Valid(parts[0]) || !names.Valid(parts[2]) || !tombstoneID.MatchString(parts[3]) {
		return StoredTombstone{}, false
	}
	return StoredTombstone{Job: parts[0], Snapshot: parts[2], ID: parts[3]}, true
}

// PutTombstone keeps a tombstone here, and returns when that is durable.
func (s *Store) PutTombstone(ctx context.Context, t StoredTombstone) error {
	name := TombstoneName(t.Job, t.Snapshot, t.ID)
	if _, ok := parseTombstoneName(name); !ok || len(t.Data) > maxTombstone {
		return fmt.Errorf("keep tombstone %s, %d bytes: %w", name, len(t.Data), ErrInvalid)
	}
	s.setMu.Lock()
	defer s.setMu.Unlock()
	if err := s.replace(ctx, t.Job, strings.TrimPrefix(name, t.Job+"/"), t.Data); err != nil {
		return fmt.Errorf("keep tombstone %s: %w", name, s.noRoom(err))
	}
	return nil
}

// PutTombstoneIn keeps a tombstone in a vault. One that is there says the same: its name says which cut it is of.
func PutTombstoneIn(ctx context.Context, v blob.Store, t StoredTombstone) error {
	name := TombstoneName(t.Job, t.Snapshot, t.ID)
	if _, ok := parseTombstoneName(name); !ok || len(t.Data) > maxTombstone {
		return fmt.Errorf("keep tombstone %s, %d bytes: %w", name, len(t.Data), ErrInvalid)
	}
	if old, err := readSmall(ctx, v, name, maxTombstone); err == nil && !bytes.Equal(old, t.Data) {
		if err := v.Remove(ctx, name); err != nil { // damaged, or signed again
			return fmt.Errorf("keep tombstone %s: %w", name, err)
		}
	} else if err == nil {
		return nil
	}
	if err := v.Put(ctx, name, bytes.NewReader(t.Data), int64(len(t.Data))); err != nil {
		return fmt.Errorf("keep tombstone %s: %w", name, err)
	}
	return nil
}

// Tombstones lists the tombstones that are here, of one job or ("") of all.
func (s *Store) Tombstones(ctx context.Context, job string) ([]StoredTombstone, error) {
	jobs := []string{job}
	var err error
	if job == "" {
		if jobs, err = s.jobs(); err != nil {
			return nil, err
		}
	}
	var all []StoredTombstone
	for _, job := range jobs {
		of, err := TombstonesIn(ctx, s.objects, job)
		if err != nil {
			return nil, err
		}
		all = append(all, of...)
	}
	return all, nil
}

// TombstonesIn lists the tombstones of a job that a vault or another host holds.
func TombstonesIn(ctx context.Context, r blob.Reader, job string) ([]StoredTombstone, error) {
	var all []StoredTombstone
	for info, err := range r.List(ctx, job+"/"+removedFolder+"/") {
		if err != nil {
			return nil, fmt.Errorf("list tombstones: %w", err)
		}
		t, ok := parseTombstoneName(info.Name)
		if !ok {
			continue
		}
		t.Data, err = readSmall(ctx, r, info.Name, maxTombstone)
		switch {
		case errors.Is(err, blob.ErrNotFound): // forgotten since
			continue
		case isIntegrity(err): // it covers nothing, and whoever has it brings it again
			continue
		case err != nil:
			return nil, fmt.Errorf("list tombstones: %w", err)
		}
		all = append(all, t)
	}
	return all, nil
}

// ForgetTombstone removes a tombstone that every holder of the cut has seen. One that is not there is no error.
func (s *Store) ForgetTombstone(ctx context.Context, job, snapshot, id string) error {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	return ForgetTombstoneIn(ctx, s.objects, job, snapshot, id)
}

// ForgetTombstoneIn does so in a vault.
func ForgetTombstoneIn(ctx context.Context, v blob.Store, job, snapshot, id string) error {
	name := TombstoneName(job, snapshot, id)
	if _, ok := parseTombstoneName(name); !ok {
		return fmt.Errorf("forget tombstone %s: %w", name, ErrInvalid)
	}
	if err := v.Remove(ctx, name); err != nil {
		return fmt.Errorf("forget tombstone %s: %w", name, err)
	}
	return nil
}

// RemoveUncommitted removes a set that belongs to no cut, as Remove does. One that is committed, or of a snapshot whose cut has its signed manifest
// here, stays whatever the caller believes, and kept is true: such a set goes with a tombstone only.
func (s *Store) RemoveUncommitted(key Key) (kept bool, err error) {
	if err := key.validate(); err != nil {
		return false, fmt.Errorf("remove images of %s: %w", key, err)
	}
	removed := false
	defer func() {
		if removed {
			s.forget(key) // not before: see keep
		}
	}()
	s.setMu.Lock()
	defer s.setMu.Unlock()
	ctx := context.Background()
	kept, err = s.ofCut(ctx, key)
	if err == nil && !kept {
		err = s.objects.Remove(ctx, SetName(key))
		removed = err == nil
	}
	if err != nil {
		return kept, fmt.Errorf("remove images of %s: %w", key, err)
	}
	return kept, nil
}

// ofCut says whether anything here says that the set's cut exists: the set's mark, or the cut's manifest, be it damaged.
func (s *Store) ofCut(ctx context.Context, key Key) (bool, error) {
	there, err := s.has(key)
	if err != nil || !there { // a mark without a set is left over
		return false, err
	}
	for _, name := range []string{markName(key), CutName(key.Job, key.Snapshot)} {
		_, err := s.objects.Stat(ctx, name)
		if err == nil || errors.Is(err, blob.ErrDamaged) {
			return true, nil
		}
		if !errors.Is(err, blob.ErrNotFound) {
			return false, err
		}
	}
	return false, nil
}

// RemoveSetsIn removes from a vault the sets of a snapshot that covers says, and returns how many. covers gets the digest of the set's
// manifest, "" where that is damaged. Objects go with the next CollectIn.
func RemoveSetsIn(ctx context.Context, v blob.Store, job, snapshot string, covers func(host, digest string) bool) (int, error) {
	keys, err := keysIn(ctx, v, job)
	n := 0
	for _, key := range keys {
		if key.Snapshot != snapshot {
			continue
		}
		m, _, readErr := readManifest(ctx, v, key, "")
		if errors.Is(readErr, ErrNotFound) {
			continue
		}
		if readErr != nil && !isIntegrity(readErr) {
			return n, readErr
		}
		if readErr != nil {
			m.Digest = ""
		}
		if !covers(key.Host, m.Digest) {
			continue
		}
		if err := v.Remove(ctx, SetName(key)); err != nil {
			return n, fmt.Errorf("remove images of %s from a vault: %w", key, err)
		}
		n++
	}
	return n, err
}
