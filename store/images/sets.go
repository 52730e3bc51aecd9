package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"ss/store/blob"
)

// maxCut bounds the signed manifest of a cut, in bytes.
const maxCut = 16 << 20

// readManifest reads a set's manifest from anywhere and checks its form, that it is the key's, and that it is the one wanted (digest; "": any).
func readManifest(ctx context.Context, r blob.Reader, key Key, digest string) (Manifest, []byte, error) {
	if err := key.validate(); err != nil {
		return Manifest{}, nil, err
	}
	name := SetName(key)
	data, err := readSmall(ctx, r, name, maxManifest)
	if errors.Is(err, blob.ErrNotFound) {
		return Manifest{}, nil, fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	if err != nil {
		return Manifest{}, nil, asFault(name, err)
	}
	m, err := checkManifest(key, data, digest)
	return m, data, err
}

func checkManifest(key Key, data []byte, want string) (Manifest, error) {
	if got := digest(data); want != "" && got != want {
		return Manifest{}, &IntegrityError{Object: SetName(key), Detail: "the manifest's SHA-256 is " + got + ", and should be " + want}
	}
	m, err := DecodeManifest(data)
	var bad *IntegrityError
	if errors.As(err, &bad) {
		bad.Object = SetName(key)
	}
	if err == nil && m.Key() != key {
		err = &IntegrityError{Object: SetName(key), Detail: "the manifest is that of " + m.Key().String()}
	}
	return m, err
}

// pinned reads the manifest of a set that is here, and pins its objects: whatever is removed meanwhile, they stay until the pin is released.
func (s *Store) pinned(ctx context.Context, key Key, digest string) (Manifest, []byte, *pin, error) {
	m, data, err := readManifest(ctx, s.objects, key, digest)
	if err != nil {
		if isIntegrity(err) {
			s.note(key.Job, key.Snapshot+"/"+key.Host, err)
		}
		return Manifest{}, nil, nil, err
	}
	held := s.pins.pin(m.names()...)
	// Only if it is still there have the objects been referred to until they were pinned.
	there, err := s.has(key)
	if err == nil && !there {
		err = fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	if err != nil {
		held.release()
		return Manifest{}, nil, nil, err
	}
	return m, data, held, nil
}

// Manifest reads a set's manifest. It checks its form, and not the objects.
func (s *Store) Manifest(key Key) (Manifest, error) {
	m, _, err := readManifest(context.Background(), s.objects, key, "")
	if err != nil {
		return Manifest{}, fmt.Errorf("images of %s: %w", key, err)
	}
	return m, nil
}

// has says whether there is a set of that key, whole and right or not.
func (s *Store) has(key Key) (bool, error) {
	if err := key.validate(); err != nil {
		return false, err
	}
	_, err := s.objects.Stat(context.Background(), SetName(key))
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return false, nil
	case errors.Is(err, blob.ErrDamaged):
		return true, nil
	}
	return err == nil, err
}

// putManifest makes a set visible, durably. One of that key that is there must be the same, unless replaces.
func (s *Store) putManifest(ctx context.Context, key Key, data []byte, replaces bool) error {
	ctx = context.WithoutCancel(ctx) // from here on it is done or it failed
	s.setMu.Lock()
	defer s.setMu.Unlock()
	if err := s.syncObjects(key.Job); err != nil {
		return err
	}
	name := SetName(key)
	old, err := readSmall(ctx, s.objects, name, maxManifest)
	switch {
	case errors.Is(err, blob.ErrNotFound), err == nil && bytes.Equal(old, data):
		return s.objects.Put(ctx, name, bytes.NewReader(data), int64(len(data))) // also where it is there: perhaps not durably yet
	case err == nil && !replaces:
		if _, bad := checkManifest(key, old, ""); !isIntegrity(bad) {
			return fmt.Errorf("another set of %s is there: %w", key, ErrExists)
		}
	}
	was, err := os.Lstat(s.objects.Path(name))
	if err != nil {
		return err
	}
	if err := s.copyAside(key.Job, name, was); err != nil {
		return err
	}
	return s.replace(ctx, key.Job, setsFolder+"/"+key.Snapshot+"/"+key.Host, data)
}

// syncObjects makes the names of a job's objects durable. An object that was found here may be one that somebody else is putting at this moment, who has
// not come to that yet; and a manifest must not outlive what it refers to.
func (s *Store) syncObjects(job string) error {
	for _, dir := range []string{s.dir, filepath.Join(s.dir, job), filepath.Join(s.dir, job, objectsFolder)} {
		if err := s.syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// Commit notes that the set's cut exists, and returns when that is durable. Doing it again is not an error.
func (s *Store) Commit(key Key) error {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	there, err := s.has(key)
	if err == nil && !there {
		err = ErrNotFound
	}
	if err == nil {
		err = s.objects.Put(context.Background(), markName(key), bytes.NewReader(nil), 0)
	}
	if err != nil {
		return fmt.Errorf("commit images of %s: %w", key, s.noRoom(err))
	}
	return nil
}

// Remove removes a whole set: gone at once for everyone who looks. Its objects go with the next Collect. A set that is not there is no error.
func (s *Store) Remove(key Key) error {
	err := key.validate()
	if err == nil {
		err = s.remove(key)
	}
	if err != nil {
		return fmt.Errorf("remove images of %s: %w", key, err)
	}
	return nil
}

// remove takes the mark away first: one without its set would commit whatever comes under that key later.
func (s *Store) remove(key Key) error {
	defer s.forget(key) // not before: see keep
	s.setMu.Lock()
	defer s.setMu.Unlock()
	ctx := context.Background()
	if err := s.objects.Remove(ctx, markName(key)); err != nil {
		return err
	}
	return s.objects.Remove(ctx, SetName(key))
}

// keysIn lists the keys of a job's sets that r holds, by key.
func keysIn(ctx context.Context, r blob.Reader, job string) ([]Key, error) {
	var keys []Key
	prefix := ""
	if job != "" {
		prefix = job + "/" + setsFolder + "/"
	}
	for info, err := range r.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		if key, ok := parseSetName(info.Name); ok {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys, nil
}

// keys lists the sets that are here, of one job or ("") of all.
func (s *Store) keys(ctx context.Context, job string) ([]Key, error) {
	if job != "" {
		return keysIn(ctx, s.objects, job)
	}
	jobs, err := s.jobs() // not List with an empty prefix: that lists every object
	var keys []Key
	for _, job := range jobs {
		of, err := keysIn(ctx, s.objects, job)
		if err != nil {
			return nil, err
		}
		keys = append(keys, of...)
	}
	return keys, err
}

// Sets lists the whole sets, by key.
func (s *Store) Sets() ([]Set, error) { return s.sets(context.Background(), "") }

func (s *Store) sets(ctx context.Context, job string) ([]Set, error) {
	keys, err := s.keys(ctx, job)
	if err != nil {
		return nil, err
	}
	var sets []Set
	for _, key := range keys {
		set := Set{Key: key}
		if set.Committed, err = s.committed(ctx, key); err != nil {
			return nil, err
		}
		set.Manifest, _, err = readManifest(ctx, s.objects, key, "")
		switch {
		case errors.Is(err, ErrNotFound):
			continue // removed since
		case isIntegrity(err):
			s.note(key.Job, key.Snapshot+"/"+key.Host, err)
			set.Manifest = Manifest{}
		case err != nil:
			return nil, fmt.Errorf("images of %s: %w", key, err)
		}
		sets = append(sets, set)
	}
	return sets, nil
}

func (s *Store) committed(ctx context.Context, key Key) (bool, error) {
	_, err := s.objects.Stat(ctx, markName(key))
	if errors.Is(err, blob.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// InDoubt lists the whole sets of which nobody has said whether their cut exists.
func (s *Store) InDoubt() ([]Key, error) {
	ctx := context.Background()
	keys, err := s.keys(ctx, "")
	var doubt []Key
	for _, key := range keys {
		committed, err := s.committed(ctx, key)
		if err != nil {
			return nil, err
		}
		if !committed {
			doubt = append(doubt, key)
		}
	}
	return doubt, err
}

// PutCut keeps the signed manifest of a cut; it is opaque here. Another one takes the place of the one before.
func (s *Store) PutCut(ctx context.Context, job, snapshot string, data []byte) error {
	_, _, ok := parseCutName(CutName(job, snapshot))
	if !ok || len(data) > maxCut {
		return fmt.Errorf("keep cut %s of job %q, %d bytes: %w", snapshot, job, len(data), ErrInvalid)
	}
	s.setMu.Lock()
	defer s.setMu.Unlock()
	if err := s.replace(ctx, job, cutsFolder+"/"+snapshot, data); err != nil {
		return fmt.Errorf("keep cut %s of job %s: %w", snapshot, job, s.noRoom(err))
	}
	return nil
}

// Cuts lists the cuts that PutCut has kept: job → snapshot → bytes.
func (s *Store) Cuts(ctx context.Context) (map[string]map[string][]byte, error) {
	cuts := map[string]map[string][]byte{}
	jobs, err := s.jobs()
	if err != nil {
		return nil, err
	}
	for _, job := range jobs {
		for info, err := range s.objects.List(ctx, job+"/"+cutsFolder+"/") {
			if err != nil {
				return nil, err
			}
			_, snapshot, ok := parseCutName(info.Name)
			if !ok {
				continue
			}
			data, err := readSmall(ctx, s.objects, info.Name, maxCut)
			if errors.Is(err, blob.ErrNotFound) {
				continue // removed since
			}
			if err != nil {
				return nil, err
			}
			if cuts[job] == nil {
				cuts[job] = map[string][]byte{}
			}
			cuts[job][snapshot] = data
		}
	}
	return cuts, nil
}

// RemoveCut removes what PutCut has kept. One that is not there is no error.
func (s *Store) RemoveCut(ctx context.Context, job, snapshot string) error {
	if _, _, ok := parseCutName(CutName(job, snapshot)); !ok {
		return fmt.Errorf("remove cut %s of job %q: %w", snapshot, job, ErrInvalid)
	}
	s.setMu.Lock()
	defer s.setMu.Unlock()
	return s.objects.Remove(ctx, CutName(job, snapshot))
}

// Usage is what one job takes here.
type Usage struct {
	Job     string
	Sets    int
	Logical int64 // of the files of all sets
	Stored  int64 // of the objects
}

// Usage lists what the jobs take, by name.
func (s *Store) Usage(ctx context.Context) ([]Usage, error) {
	jobs, err := s.jobs()
	var all []Usage
	for _, job := range jobs {
		sets, err := s.sets(ctx, job)
		if err != nil {
			return nil, err
		}
		u := Usage{Job: job, Sets: len(sets)}
		for _, set := range sets {
			u.Logical += set.Manifest.Bytes
		}
		for info, err := range s.objects.List(ctx, job+"/"+objectsFolder+"/") {
			if err != nil {
				return nil, err
			}
			u.Stored += info.Size
		}
		if u.Sets > 0 || u.Stored > 0 {
			all = append(all, u)
		}
	}
	return all, err
}
