package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"ss/store/internal/disk"
)

// Folders of a set that is not there yet, and of one that is there no more, beside where it is or was:
// names that begin with a dot are no host's.
const (
	partialSuffix = ".partial"
	removedSuffix = ".removed"
)

// Store keeps image sets in a folder: DIR/JOB/SNAPSHOT/HOST. It is safe for concurrent use; each
// Partial and Receiver belongs to one goroutine at a time. One process at a time uses a folder.
type Store struct {
	dir  string
	step func(op, path string) error // see ops.go; nil outside tests

	mu sync.Mutex // over the folders of jobs and snapshots, that prune removes
}

// Set is a whole image set.
type Set struct {
	Key       Key
	Committed bool // its cut exists; where false it is in doubt
}

// Open uses dir, which is made 0700 if it is missing. It refuses one that is open to others.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	if err := disk.PrivateDir(dir); err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	return &Store{dir: dir}, nil
}

func (s *Store) setDir(k Key) string { return filepath.Join(s.dir, k.Job, k.Snapshot, k.Host) }
func (s *Store) partialDir(k Key) string {
	return filepath.Join(s.dir, k.Job, k.Snapshot, "."+k.Host+partialSuffix)
}
func (s *Store) removedDir(k Key) string {
	return filepath.Join(s.dir, k.Job, k.Snapshot, "."+k.Host+removedSuffix)
}

// Space is the number of bytes that can still be written.
func (s *Store) Space() (int64, error) { return disk.Free(s.dir) }

// has says whether there is a whole set of that key.
func (s *Store) has(key Key) error {
	if err := key.validate(); err != nil {
		return err
	}
	info, err := os.Lstat(s.setDir(key))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return fmt.Errorf("no images of %s here: %w", key, ErrNotFound)
	}
	return err
}

// Dir is the folder of a member's images in a whole set, for reading only. Verify the set first.
func (s *Store) Dir(key Key, member string) (string, error) {
	if err := s.has(key); err != nil {
		return "", err
	}
	dir := filepath.Join(s.setDir(key), member)
	if info, err := os.Lstat(dir); !validMember(member) || errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return "", fmt.Errorf("no images of member %q in %s: %w", member, key, ErrNotFound)
	} else if err != nil {
		return "", err
	}
	return dir, nil
}

// Manifest reads a set's manifest. It checks the manifest's form, and not the files.
func (s *Store) Manifest(key Key) (Manifest, error) {
	m, _, err := s.manifest(key)
	if err != nil {
		return Manifest{}, fmt.Errorf("images of %s: %w", key, err)
	}
	return m, nil
}

func (s *Store) manifest(key Key) (Manifest, []byte, error) {
	data, err := s.manifestBytes(key)
	if err != nil {
		return Manifest{}, nil, err
	}
	m, err := decodeManifest(data)
	if err == nil && m.Key() != key {
		err = &IntegrityError{Path: manifestName, Kind: KindManifest, Want: key.String(), Got: m.Key().String()}
	}
	return m, data, err
}

func (s *Store) manifestBytes(key Key) ([]byte, error) {
	if err := s.has(key); err != nil {
		return nil, err
	}
	path := filepath.Join(s.setDir(key), manifestName)
	if info, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, &IntegrityError{Path: manifestName, Kind: KindMissing}
	} else if err == nil && !info.Mode().IsRegular() {
		return nil, &IntegrityError{Path: manifestName, Kind: KindType, Want: "a regular file", Got: info.Mode().Type().String()}
	}
	return disk.ReadSmall(path, maxManifest)
}

// Commit notes that the set's cut exists, and returns when that is durable. Doing it again is no error.
func (s *Store) Commit(key Key) error {
	if err := s.has(key); err != nil {
		return fmt.Errorf("commit images: %w", err)
	}
	err := s.createFile(filepath.Join(s.setDir(key), committedName), nil)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err == nil {
		err = s.syncDir(s.setDir(key))
	}
	if err != nil {
		return fmt.Errorf("commit images of %s: %w", key, err)
	}
	return nil
}

// Remove removes a whole set. It is gone at once for everyone who looks, and the rest is cleaning. A set
// that is not there is no error.
func (s *Store) Remove(key Key) error {
	if err := s.has(key); errors.Is(err, ErrNotFound) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove images: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := s.removedDir(key)
	err := s.removeAll(gone)
	if err == nil {
		err = s.rename(s.setDir(key), gone)
	}
	if err == nil {
		err = s.syncDir(filepath.Dir(gone))
	}
	if err == nil {
		err = errors.Join(s.removeAll(gone), s.prune(key))
	}
	if err != nil {
		return fmt.Errorf("remove images of %s: %w", key, err)
	}
	return nil
}

// Sets lists the whole sets, by key.
func (s *Store) Sets() ([]Set, error) {
	var sets []Set
	err := s.each(func(key Key, suffix string) error {
		if suffix != "" {
			return nil
		}
		_, err := os.Lstat(filepath.Join(s.setDir(key), committedName))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		sets = append(sets, Set{Key: key, Committed: err == nil})
		return nil
	})
	return sets, err
}

// InDoubt lists the whole sets of which nobody has said whether their cut exists.
func (s *Store) InDoubt() ([]Key, error) {
	sets, err := s.Sets()
	var keys []Key
	for _, set := range sets {
		if !set.Committed {
			keys = append(keys, set.Key)
		}
	}
	return keys, err
}

// Partials lists the sets that were begun and are not whole.
func (s *Store) Partials() ([]Key, error) {
	var keys []Key
	err := s.each(func(key Key, suffix string) error {
		if suffix == partialSuffix {
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}

// RemovePartials removes what was begun and never became whole, but for what keep wants to keep (nil:
// nothing), and what is left of a Remove that was interrupted. It is for the start of an agent.
func (s *Store) RemovePartials(keep func(Key) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var stale []Key
	err := s.each(func(key Key, suffix string) error {
		if suffix == "" || suffix == partialSuffix && keep != nil && keep(key) {
			return nil
		}
		stale = append(stale, key)
		return s.removeAll(filepath.Join(filepath.Dir(s.setDir(key)), "."+key.Host+suffix))
	})
	for _, key := range stale {
		err = errors.Join(err, s.prune(key))
	}
	if err != nil {
		return fmt.Errorf("remove partial images: %w", err)
	}
	return s.pruneEmpty()
}

// pruneEmpty removes the folders of jobs and snapshots in which nothing was ever begun.
func (s *Store) pruneEmpty() error {
	snapshots, err := filepath.Glob(filepath.Join(s.dir, "*", "*"))
	if err != nil {
		return err
	}
	jobs, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil {
		return err
	}
	for _, dir := range append(snapshots, jobs...) {
		if disk.ValidName(filepath.Base(dir)) {
			_ = syscall.Rmdir(dir) // fails on one that is not empty, or no folder, which is meant
		}
	}
	return s.syncDir(s.dir)
}

// each calls f for every set, partial set and removed set. What else lies in the folder is not looked at.
func (s *Store) each(f func(key Key, suffix string) error) error {
	jobs, err := names(s.dir)
	if err != nil {
		return err
	}
	for _, job := range jobs {
		if !disk.ValidName(job) {
			continue
		}
		snapshots, err := names(filepath.Join(s.dir, job))
		if err != nil {
			return err
		}
		for _, snapshot := range snapshots {
			hosts, err := names(filepath.Join(s.dir, job, snapshot))
			if err != nil {
				return err
			}
			for _, name := range hosts {
				host, suffix := splitName(name)
				key := Key{job, snapshot, host}
				if key.validate() != nil {
					continue
				}
				if err := f(key, suffix); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// splitName undoes setDir, partialDir and removedDir.
func splitName(name string) (host, suffix string) {
	rest, ok := strings.CutPrefix(name, ".")
	if !ok {
		return name, ""
	}
	for _, suffix := range []string{partialSuffix, removedSuffix} {
		if host, ok := strings.CutSuffix(rest, suffix); ok {
			return host, suffix
		}
	}
	return name, ""
}

// names lists the folders in dir, sorted; none if it is gone.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ns []string
	for _, e := range entries {
		if e.IsDir() {
			ns = append(ns, e.Name())
		}
	}
	return ns, err
}
