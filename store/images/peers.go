package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"ss/store/blob"
)

// ForPeers is this store as other agents may use it: objects must be what their names say, a set's manifest comes after its objects, what
// they have asked for or put stays for a while although no set refers to it yet, and nothing is removed. What is not an object, no set and
// no cut, and no tombstone of one, is not shown.
func (s *Store) ForPeers() interface {
	blob.Reader
	blob.Writer
} {
	return &peers{s}
}

type peers struct{ s *Store }

// visible says whether peers may see an object of that name.
func visible(name string) bool {
	if _, _, ok := parseObjectName(name); ok {
		return true
	}
	if _, ok := parseSetName(name); ok {
		return true
	}
	if _, ok := parseTombstoneName(name); ok {
		return true
	}
	_, _, ok := parseCutName(name)
	return ok
}

// check refuses what peers may not see, as if it were not there.
func (p *peers) check(name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	if !visible(name) {
		return fmt.Errorf("%s: %w", name, blob.ErrNotFound)
	}
	return nil
}

// lease keeps an object that a peer counts on.
func (p *peers) lease(name string) {
	if job, _, ok := parseObjectName(name); ok && p.s.knows(job) {
		p.s.pins.lease(name)
	}
}

// Get is blob.Reader's.
func (p *peers) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := p.check(name); err != nil {
		return nil, err
	}
	return p.s.objects.Get(ctx, name, off, n)
}

// Stat is blob.Reader's. It looks a second time where it has found an object: only then it is certain that it stays.
func (p *peers) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := p.check(name); err != nil {
		return blob.Info{}, err
	}
	info, err := p.s.objects.Stat(ctx, name)
	if err != nil {
		return info, err
	}
	p.lease(name)
	return p.s.objects.Stat(ctx, name)
}

// List is blob.Reader's.
func (p *peers) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		for info, err := range p.s.objects.List(ctx, prefix) {
			if err == nil && !visible(info.Name) {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

// Put is blob.Writer's. An object that is not what its name says makes the error wrap blob.ErrDamaged; a set's manifest whose objects
// are not all here, ErrMissing.
func (p *peers) Put(ctx context.Context, name string, r io.Reader, size int64) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	if job, digest, ok := parseObjectName(name); ok {
		if err := p.s.admit(job, size); err != nil {
			return fmt.Errorf("put %s: %w", name, err)
		}
		return p.object(ctx, name, digest, r, size)
	}
	if key, ok := parseSetName(name); ok {
		if err := p.s.admit(key.Job, size); err != nil {
			return fmt.Errorf("put %s: %w", name, err)
		}
		return p.manifest(ctx, key, r, size)
	}
	return fmt.Errorf("put %s: another agent may put objects and sets here, and nothing else: %w", name, blob.ErrDenied)
}

func (p *peers) object(ctx context.Context, name, digest string, r io.Reader, size int64) error {
	if size < 0 || size > maxObject {
		return fmt.Errorf("put %s: %d bytes: %w", name, size, blob.ErrInvalid)
	}
	held := p.s.pins.pin(name)
	defer held.release()
	defer p.lease(name)
	if info, err := p.s.objects.Stat(ctx, name); err == nil && info.Size == size {
		return nil
	}
	// An empty object never comes to its last byte, where exact compares.
	if size == 0 && digest != digestOfNothing {
		return fmt.Errorf("put %s: it is empty: %w", name, blob.ErrDamaged)
	}
	src := newExact(r, name, ObjectRef{Digest: digest, Size: size})
	err := p.s.objects.Put(ctx, name, src, size)
	if src.fault != nil && src.n == size {
		return fmt.Errorf("put %s: %w: %w", name, blob.ErrDamaged, src.fault)
	}
	return err
}

var digestOfNothing = digest(nil)

func (p *peers) manifest(ctx context.Context, key Key, r io.Reader, size int64) error {
	name := SetName(key)
	if size < 0 || size > maxManifest {
		return fmt.Errorf("put %s: %d bytes: %w", name, size, blob.ErrInvalid)
	}
	data, err := io.ReadAll(io.LimitReader(r, size+1))
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if int64(len(data)) != size {
		return fmt.Errorf("put %s: %d bytes or more where %d were announced: %w", name, len(data), size, io.ErrUnexpectedEOF)
	}
	m, err := checkManifest(key, data, "")
	if err != nil {
		return fmt.Errorf("put %s: %w: %w", name, blob.ErrDamaged, err)
	}
	held := p.s.pins.pin(m.names()...)
	defer held.release()
	if err := p.complete(ctx, m); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	err = p.s.putManifest(ctx, key, data, false)
	if errors.Is(err, ErrExists) {
		err = fmt.Errorf("%w: %w", blob.ErrExists, err)
	}
	if err == nil {
		p.s.pins.settled(m.names()...)
	}
	return err
}

// complete says whether all objects of a set are here, as long as they must be.
func (p *peers) complete(ctx context.Context, m Manifest) error {
	var missing []string
	for _, ref := range m.Objects() {
		name := ObjectName(m.Job, ref.Digest)
		info, err := p.s.objects.Stat(ctx, name)
		switch {
		case errors.Is(err, blob.ErrNotFound), err == nil && info.Size != ref.Size:
			missing = append(missing, name)
		case err != nil:
			return err
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %d of %d, the first is %s: put it and send the manifest again", ErrMissing, len(missing), len(m.Packs)+1, missing[0])
	}
	return nil
}
