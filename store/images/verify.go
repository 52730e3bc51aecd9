package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"ss/internal/disk"
	"ss/store/blob"
	"ss/store/keys"
	"ss/store/pack"
)

// Index reads a set's index, checked against the manifest. digest is what the manifest must have ("": any).
func (s *Store) Index(ctx context.Context, key Key, digest string, k keys.Job) (Manifest, pack.Index, error) {
	m, _, held, err := s.pinned(ctx, key, digest)
	var x pack.Index
	if err == nil {
		defer held.release()
		x, err = readIndex(ctx, s.objects, m, k)
	}
	if err != nil {
		return Manifest{}, pack.Index{}, fmt.Errorf("index of %s: %w", key, err)
	}
	return m, x, nil
}

// Unpack writes a set's plain files, or those that want says (nil: all), into dir, which it makes. Every byte is authenticated; Fetch first.
// After an error nothing is left in dir. The set may be removed meanwhile: what is needed of it stays until the end.
func (s *Store) Unpack(ctx context.Context, key Key, digest string, k keys.Job, dir string, want func(path string) bool) (pack.Index, error) {
	x, err := s.unpack(ctx, key, digest, k, dir, want)
	if err != nil {
		return pack.Index{}, fmt.Errorf("unpack images of %s: %w", key, s.noRoom(err))
	}
	return x, nil
}

func (s *Store) unpack(ctx context.Context, key Key, digest string, k keys.Job, dir string, want func(path string) bool) (pack.Index, error) {
	m, _, held, err := s.pinned(ctx, key, digest)
	if err != nil {
		return pack.Index{}, err
	}
	defer held.release()
	x, err := readIndex(ctx, s.objects, m, k)
	if err != nil {
		return pack.Index{}, s.noted(m.Job, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return pack.Index{}, err
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return pack.Index{}, errors.Join(err, fmt.Errorf("%s is not empty: %w", dir, ErrExists))
	}
	if err := pack.Unpack(ctx, x, k, packs{s, m.Job}, dir, want); err != nil {
		return pack.Index{}, errors.Join(s.noted(m.Job, err), empty(dir))
	}
	return x, nil
}

// empty removes what is in a folder.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// packs opens a job's packs for package pack.
type packs struct {
	s   *Store
	job string
}

// Open is pack.Source's.
func (p packs) Open(digest string) (r interface {
	io.ReaderAt
	io.Closer
}, err error) {
	name := ObjectName(p.job, digest)
	f, _, err := disk.OpenRegular(p.s.objects.Path(name))
	if err != nil {
		return nil, asFault(name, err)
	}
	return f, nil
}

// noted remembers the objects that an error says are damaged, and says it in this package's way.
func (s *Store) noted(job string, err error) error {
	faults := faultsOf(job, err)
	if len(faults) == 0 {
		return err
	}
	var errs []error
	for _, fault := range faults {
		if job, digest, ok := parseObjectName(fault.Object); ok {
			s.note(job, digest, fault)
		}
		errs = append(errs, fault)
	}
	return errors.Join(errs...)
}

// faultsOf finds everything that is damaged in a tree of errors.
func faultsOf(job string, err error) []*IntegrityError {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself, to find all of them
	case nil:
		return nil
	case *IntegrityError:
		return []*IntegrityError{e}
	case *pack.DamageError:
		return []*IntegrityError{{Object: ObjectName(job, e.Digest), Detail: e.Detail}}
	case interface{ Unwrap() []error }:
		var all []*IntegrityError
		for _, inner := range e.Unwrap() {
			all = append(all, faultsOf(job, inner)...)
		}
		return all
	}
	return faultsOf(job, errors.Unwrap(err))
}

// Verify reads every object of a set and compares it with its digest, and the manifest with digest ("": any). It needs no key. The error
// holds an *IntegrityError for each fault.
func (s *Store) Verify(ctx context.Context, key Key, digest string) (Manifest, error) {
	m, _, held, err := s.pinned(ctx, key, digest)
	if err == nil {
		defer held.release()
		err = s.verify(ctx, m)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("verify images of %s: %w", key, err)
	}
	return m, nil
}

func (s *Store) verify(ctx context.Context, m Manifest) error {
	return eachObject(ctx, processors(), m.Objects(), func(ctx context.Context, _ int, ref ObjectRef) error {
		err := sumIn(ctx, s.objects, m.Job, ref, func(int) error { return s.pause(ctx) })
		if isIntegrity(err) {
			s.note(m.Job, ref.Digest, err)
		}
		return err
	})
}

// VerifyData is Verify, and decodes every chunk and compares it with its name.
func (s *Store) VerifyData(ctx context.Context, key Key, digest string, k keys.Job) (Manifest, error) {
	m, _, held, err := s.pinned(ctx, key, digest)
	if err == nil {
		defer held.release()
		err = s.verifyData(ctx, m, k)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("verify images of %s: %w", key, err)
	}
	return m, nil
}

func (s *Store) verifyData(ctx context.Context, m Manifest, k keys.Job) error {
	if err := s.verify(ctx, m); err != nil {
		return err
	}
	x, err := readIndex(ctx, s.objects, m, k)
	if err != nil {
		return s.noted(m.Job, err)
	}
	return s.noted(m.Job, pack.Check(ctx, x, k, packs{s, m.Job}))
}

// VerifyIn reads every object of a set in a vault, as Verify does here. What it finds damaged is healed by removing it there (its name is in the
// *IntegrityError) and pushing the set again.
func VerifyIn(ctx context.Context, v blob.Reader, key Key, digest string) (Manifest, error) {
	m, _, err := readManifest(ctx, v, key, digest)
	if err == nil {
		err = eachObject(ctx, transfers, m.Objects(), func(ctx context.Context, _ int, ref ObjectRef) error {
			return sumIn(ctx, v, m.Job, ref, nil)
		})
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("verify images of %s: %w", key, err)
	}
	return m, nil
}
