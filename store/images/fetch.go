package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"ss/internal/disk"
	"ss/store/blob"
	"ss/store/keys"
	"ss/store/pack"
)

// Source is somewhere that may hold a set's objects.
type Source struct {
	Name string // of the host, or the vault's URL
	blob.Reader
}

// Fetch makes a set whole here: objects that are missing or damaged (compared by CRC-32C; with deep, by SHA-256) come from the sources, all at once, each object
// from another one if one fails or lies. What was damaged is put aside first. The set is durable then, and in doubt if it was not here before. Where
// nothing was wrong it costs a look at each object. Where no source has an object right, the error is an *IntegrityError that names it and what each
// of them said; where none has the set's manifest, it wraps ErrNotFound. What it did is returned also with an error.
func (s *Store) Fetch(ctx context.Context, key Key, digest string, deep bool, sources []Source) (Moved, error) {
	f := newFetching(s, key, sources)
	if err := f.run(ctx, digest, deep); err != nil {
		return f.moved(), fmt.Errorf("fetch images of %s: %w", key, s.noRoom(err))
	}
	return f.moved(), nil
}

// fetching is one Fetch under way.
type fetching struct {
	tally
	s       *Store
	key     Key
	sources []*source
	mu      sync.Mutex // over the sources' counts
}

type source struct {
	Source
	busy   int // objects that it is sending
	failed int // objects that it did not send, although it is not known to lack them
}

func newFetching(s *Store, key Key, sources []Source) *fetching {
	f := &fetching{s: s, key: key}
	for _, src := range sources {
		f.sources = append(f.sources, &source{Source: src})
	}
	return f
}

func (f *fetching) run(ctx context.Context, digest string, deep bool) error {
	m, data, here, err := f.manifest(ctx, digest)
	if err != nil {
		return err
	}
	held := f.s.pins.pin(m.names()...)
	defer held.release()
	missing, reasons, err := f.missing(ctx, m, deep)
	if err != nil {
		return err
	}
	if err := f.s.fits(missing); err != nil {
		return err
	}
	workers := transfers * max(1, len(f.sources))
	err = eachObject(ctx, min(workers, 4*transfers), missing, func(ctx context.Context, i int, ref ObjectRef) error {
		return f.object(ctx, ref, reasons[i])
	})
	if err != nil || here {
		return err
	}
	if err := f.s.putManifest(ctx, f.key, data, true); err != nil {
		return err
	}
	f.bytes.Add(int64(len(data)))
	f.s.healed(f.key.Job, f.key.Snapshot+"/"+f.key.Host)
	return nil
}

// manifest reads the set's manifest here, or from the first source that has it right.
func (f *fetching) manifest(ctx context.Context, digest string) (m Manifest, data []byte, here bool, err error) {
	m, data, err = readManifest(ctx, f.s.objects, f.key, digest)
	if err == nil {
		return m, data, true, nil
	}
	if isIntegrity(err) {
		f.s.note(f.key.Job, f.key.Snapshot+"/"+f.key.Host, err)
	} else if !errors.Is(err, ErrNotFound) {
		return Manifest{}, nil, false, err
	}
	said := []error{fmt.Errorf("here: %w", err)}
	for _, src := range f.sources {
		m, data, err := readManifest(ctx, src, f.key, digest)
		if err == nil {
			return m, data, false, nil
		}
		if ctx.Err() != nil {
			return Manifest{}, nil, false, context.Cause(ctx)
		}
		said = append(said, fmt.Errorf("%s: %w", src.Name, err))
	}
	return Manifest{}, nil, false, errors.Join(said...)
}

// missing finds the objects that are not here, or not right: those are put aside. reasons says why, for each.
func (f *fetching) missing(ctx context.Context, m Manifest, deep bool) (missing []ObjectRef, reasons []error, err error) {
	refs := m.Objects()
	faults := make([]error, len(refs))
	err = inParallel(ctx, processors(), len(refs), func(ctx context.Context, i int) error {
		var after func(int) error
		if deep {
			after = func(int) error { return context.Cause(ctx) }
		}
		was, err := f.s.look(m.Job, refs[i], after)
		if err == nil {
			f.skipped.Add(1)
			f.s.healed(m.Job, refs[i].Digest)
			return nil
		}
		if !isIntegrity(err) {
			return err
		}
		faults[i] = err
		if was == nil {
			return nil // it is not here
		}
		f.s.note(m.Job, refs[i].Digest, err)
		return f.s.putAside(m.Job, refs[i].Digest, was)
	})
	for i, fault := range faults {
		if fault != nil {
			missing, reasons = append(missing, refs[i]), append(reasons, fault)
		}
	}
	return missing, reasons, err
}

// Lacks is how many bytes of a set's objects are not here. It looks at their names only.
func (s *Store) Lacks(ctx context.Context, m Manifest) (bytes int64, err error) {
	for _, ref := range m.Objects() {
		info, err := s.objects.Stat(ctx, ObjectName(m.Job, ref.Digest))
		switch {
		case errors.Is(err, blob.ErrNotFound), err == nil && info.Size != ref.Size:
			bytes += ref.Size
		case err != nil:
			return 0, fmt.Errorf("look for the objects of %s: %w", m.Key(), err)
		}
	}
	return bytes, nil
}

// fits says whether there is room for objects to come.
func (s *Store) fits(refs []ObjectRef) error {
	var need int64
	for _, ref := range refs {
		need += ref.Size
	}
	free, err := disk.Free(s.dir)
	if err == nil && need > free {
		err = fmt.Errorf("%w in %s: %d bytes to come, %d free: remove cuts that are not needed, run gc, or give it a larger disk", ErrNoSpace, s.dir, need, free)
	}
	return err
}

// object gets one object from one source after another, until one has it right.
func (f *fetching) object(ctx context.Context, ref ObjectRef, reason error) error {
	name := ObjectName(f.key.Job, ref.Digest)
	var said []string
	tried := map[*source]bool{}
	for src := f.pick(tried); src != nil; src = f.pick(tried) {
		tried[src] = true
		err := f.from(ctx, src, ref)
		f.drop(src, err)
		var local *localError
		switch {
		case err == nil:
			f.objects.Add(1)
			f.bytes.Add(ref.Size)
			f.s.healed(f.key.Job, ref.Digest)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &local):
			return local.error // no other source can help
		}
		said = append(said, src.Name+": "+err.Error())
		if isIntegrity(err) && !errors.Is(err, blob.ErrNotFound) {
			f.s.note(f.key.Job, ref.Digest, fmt.Errorf("from %s: %w", src.Name, err))
		}
	}
	var here *IntegrityError
	errors.As(reason, &here)
	if len(said) == 0 {
		return &IntegrityError{Object: name, Detail: here.Detail + " here, and there is no other copy to get it from"}
	}
	return &IntegrityError{Object: name, Detail: here.Detail + " here, and nobody has it right: " + strings.Join(said, "; ")}
}

// pick chooses, of the sources that were not tried for an object, the one that has failed least, and of these the one that sends least now.
func (f *fetching) pick(tried map[*source]bool) *source {
	f.mu.Lock()
	defer f.mu.Unlock()
	var best *source
	for _, src := range f.sources {
		if !tried[src] && (best == nil || src.failed < best.failed || src.failed == best.failed && src.busy < best.busy) {
			best = src
		}
	}
	if best != nil {
		best.busy++
	}
	return best
}

func (f *fetching) drop(src *source, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	src.busy--
	if err != nil && !errors.Is(err, blob.ErrNotFound) && !errors.As(err, new(*localError)) {
		src.failed++
	}
}

// localError is a failure of this host, and not of a source.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

// from streams one object from a source into the store. It gets its name only if all of it is right.
func (f *fetching) from(ctx context.Context, src *source, ref ObjectRef) error {
	if err := f.s.pause(ctx); err != nil {
		return &localError{err}
	}
	name := ObjectName(f.key.Job, ref.Digest)
	body, err := src.Get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	defer body.Close()
	in, err := f.s.objects.Create(ctx)
	if err != nil {
		return &localError{err}
	}
	r := newExact(&pacer{body, func(n int) error {
		if err := f.s.paced(ctx, n); err != nil {
			return &localError{err}
		}
		return nil
	}}, name, ref)
	buf := make([]byte, piece)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := in.Write(buf[:n]); err != nil {
				return &localError{errors.Join(err, in.Discard())}
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, in.Discard())
		}
	}
	if err := in.Commit(name); err != nil {
		return &localError{err}
	}
	return nil
}

// FetchIndex reads a set's manifest and index, here or from the first source that has them right, and stores nothing.
func (s *Store) FetchIndex(ctx context.Context, key Key, digest string, k keys.Job, sources []Source) (Manifest, pack.Index, error) {
	said := []error{}
	for _, src := range append([]Source{{"here", s.objects}}, sources...) {
		m, _, err := readManifest(ctx, src, key, digest)
		if err == nil {
			var x pack.Index
			x, err = readIndex(ctx, src, m, k)
			if err == nil {
				return m, x, nil
			}
		}
		if ctx.Err() != nil {
			return Manifest{}, pack.Index{}, context.Cause(ctx)
		}
		said = append(said, fmt.Errorf("%s: %w", src.Name, err))
	}
	return Manifest{}, pack.Index{}, fmt.Errorf("read the index of %s: %w", key, errors.Join(said...))
}
