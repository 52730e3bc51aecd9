package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"ss/internal/disk"
	"ss/internal/yield"
	"ss/store/blob"
)

// transfers is how many objects a Push, or a Fetch from each source, moves at a time.
const transfers = 4

// Moved says what a Push or Fetch did.
type Moved struct {
	Objects, Skipped int   // skipped: there already
	Bytes            int64 // of the objects moved, manifest included
}

// tally counts from several goroutines.
type tally struct{ objects, skipped, bytes atomic.Int64 }

func (t *tally) moved() Moved {
	return Moved{Objects: int(t.objects.Load()), Skipped: int(t.skipped.Load()), Bytes: t.bytes.Load()}
}

// Push puts a whole set into another store: objects that it lacks, in parallel, and the manifest last. What is read here is checked against
// its digest. Going on after a failure skips what has arrived. What it did is returned also with an error.
func (s *Store) Push(ctx context.Context, key Key, to blob.Store) (Moved, error) {
	var t tally
	if err := s.push(ctx, key, to, &t); err != nil {
		return t.moved(), fmt.Errorf("push images of %s: %w", key, err)
	}
	return t.moved(), nil
}

func (s *Store) push(ctx context.Context, key Key, to blob.Store, t *tally) error {
	m, data, held, err := s.pinned(ctx, key, "")
	if err != nil {
		return err
	}
	defer held.release()
	there, err := s.pushable(ctx, key, data, to)
	if err != nil {
		return err
	}
	// Objects may go there between their turn and that of the manifest, in spite of the peer's lease: an agent that
	// starts again removes what no set refers to. Then it says so, and what is missing is put once more.
	const rounds = 2
	for round := 1; ; round++ {
		if err := s.pushObjects(ctx, m, to, t, round > 1); err != nil {
			return err
		}
		if there {
			return nil
		}
		err := to.Put(ctx, SetName(key), bytes.NewReader(data), int64(len(data)))
		if err == nil {
			t.bytes.Add(int64(len(data)))
			return nil
		}
		if !errors.Is(err, ErrMissing) || round == rounds {
			return err
		}
	}
}

// pushable says whether the set's manifest is there already. A damaged one is removed; another one is an error.
func (s *Store) pushable(ctx context.Context, key Key, data []byte, to blob.Store) (bool, error) {
	_, old, err := readManifest(ctx, to, key, "")
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case isIntegrity(err):
		return false, to.Remove(ctx, SetName(key))
	case err != nil:
		return false, err
	case !bytes.Equal(old, data):
		return false, fmt.Errorf("another set of %s is there: %w", key, ErrExists)
	}
	return true, nil
}

func (s *Store) pushObjects(ctx context.Context, m Manifest, to blob.Store, t *tally, again bool) error {
	return eachObject(ctx, transfers, m.Objects(), func(ctx context.Context, _ int, ref ObjectRef) error {
		yield.ToJob()
		if err := s.pause(ctx); err != nil {
			return err
		}
		name := ObjectName(m.Job, ref.Digest)
		info, err := to.Stat(ctx, name)
		switch {
		case err == nil && info.Size == ref.Size:
			if !again {
				t.skipped.Add(1)
			}
			return nil
		case err == nil: // its name is its digest, so it is damaged
			err = to.Remove(ctx, name)
		case errors.Is(err, blob.ErrNotFound):
			err = nil
		}
		if err != nil {
			return err
		}
		if err := s.pushObject(ctx, m.Job, ref, to); err != nil {
			return err
		}
		t.objects.Add(1)
		t.bytes.Add(ref.Size)
		return nil
	})
}

func (s *Store) pushObject(ctx context.Context, job string, ref ObjectRef, to blob.Store) error {
	name := ObjectName(job, ref.Digest)
	f, info, err := disk.OpenRegular(s.objects.Path(name))
	if err != nil {
		err = asFault(name, err)
		s.note(job, ref.Digest, err)
		return err
	}
	defer f.Close()
	body := &pacer{f, func(n int) error { return s.paced(ctx, n) }}
	if _, compares := to.(Comparing); compares && info.Size() == ref.Size {
		err := to.Put(ctx, name, body, ref.Size)
		if errors.Is(err, blob.ErrDamaged) { // here, or on the way?
			if _, fault := s.look(job, ref, func(int) error { return s.pause(ctx) }); isIntegrity(fault) {
				s.note(job, ref.Digest, fault)
				return fault
			}
		}
		return err
	}
	src := newExact(body, name, ref)
	err = to.Put(ctx, name, src, ref.Size)
	if fault := src.fault; fault != nil {
		// Said here, and not by the other end, which may have put it in words of its own.
		s.note(job, ref.Digest, fault)
		return fault
	}
	return err
}

// Comparing is what a blob.Store implements that compares each object with its name before it keeps it, and says blob.ErrDamaged where they differ, as
// another agent does. What is put there is not hashed here as well.
type Comparing interface{ ComparesObjects() }

// Ahead puts objects of a set into another store while the set is still being sealed (Info.Stored): a Push afterwards has less to do. next waits for another one and
// is false when there are no more. Nothing depends on it: at an error it stops, and Push says what is wrong.
func (s *Store) Ahead(ctx context.Context, job string, to blob.Writer, next func(ctx context.Context) (ObjectRef, bool)) (moved Moved) {
	for {
		ref, ok := next(ctx)
		if !ok || s.pause(ctx) != nil {
			return moved
		}
		f, info, err := disk.OpenRegular(s.objects.Path(ObjectName(job, ref.Digest)))
		if err != nil { // the sealing has failed
			return moved
		}
		if info.Size() == ref.Size {
			err = s.ahead(ctx, f, job, ref, to)
		}
		_ = f.Close() // it was only read
		if err != nil || info.Size() != ref.Size {
			return moved
		}
		moved.Objects++
		moved.Bytes += ref.Size
	}
}

func (s *Store) ahead(ctx context.Context, f io.Reader, job string, ref ObjectRef, to blob.Writer) error {
	name := ObjectName(job, ref.Digest)
	var body io.Reader = &pacer{f, func(n int) error { return s.paced(ctx, n) }}
	if _, compares := to.(Comparing); !compares {
		body = newExact(body, name, ref)
	}
	return to.Put(ctx, name, body, ref.Size)
}

// YieldToJob puts the calling goroutine, which is to end when its work is done, on a thread that makes way for the job: for whoever reads and writes
// objects on somebody else's behalf.
func YieldToJob() { yield.ToJob() }
