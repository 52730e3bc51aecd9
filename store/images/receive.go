package images

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// Receiver takes the frames of Send and makes the set anew. It belongs to one goroutine. It trusts
// nothing that arrives: see Put.
type Receiver struct {
	p    *Partial
	want string
	err  error // of the first frame that was refused

	raw      []byte // the manifest's bytes
	manifest Manifest
	next     int // index in manifest.Files of the file after the current one; -1 until the manifest has begun
	ended    bool

	current File // being received; its Path is "" between two files
	file    *os.File
	hash    hash.Hash
	size    int64 // received of it

	syncs   sync.WaitGroup
	slots   chan struct{} // bounds the files that wait for the disk
	syncMu  sync.Mutex
	syncErr error
}

// maxSyncs is how many received files may wait for the disk while others arrive.
const maxSyncs = 8

// Receive begins to take in the set of key. wantDigest is what its manifest must have, or empty if the
// caller will compare the one that Seal returns. The error wraps ErrExists where there is one already.
func (s *Store) Receive(key Key, wantDigest string) (*Receiver, error) {
	p, err := s.Begin(key)
	if err != nil {
		return nil, err
	}
	return &Receiver{p: p, want: wantDigest, next: -1, slots: make(chan struct{}, maxSyncs)}, nil
}

// Put takes the next frame. It refuses what the manifest, which comes first, does not announce: other
// files, another order, more or fewer bytes, another digest, and any path that is not plain. After an error it refuses
// everything; Discard it. It does not keep the frame's Chunk.
func (r *Receiver) Put(f Frame) error {
	if r.err != nil {
		return r.err
	}
	var err error
	switch {
	case r.ended:
		err = fmt.Errorf("frame after the end: %w", ErrInvalid)
	case f.Kind == FrameFile:
		err = r.begin(f)
	case f.Kind == FrameChunk:
		err = r.chunk(f.Chunk)
	case f.Kind == FrameEnd:
		err = r.end(f)
	default:
		err = fmt.Errorf("frame of kind %d: %w", f.Kind, ErrInvalid)
	}
	if err != nil {
		r.err = fmt.Errorf("receive images of %s: %w", r.p.key, err)
	}
	return r.err
}

// begin starts the next file, which must be the one that the manifest has next.
func (r *Receiver) begin(f Frame) error {
	if r.current.Path != "" {
		return fmt.Errorf("file %q begins within %q: %w", f.Path, r.current.Path, ErrInvalid)
	}
	if r.next < 0 {
		if f.Path != manifestName || f.Size <= 0 || f.Size > maxManifest {
			return fmt.Errorf("file %q of %d bytes comes before the manifest: %w", f.Path, f.Size, ErrInvalid)
		}
		r.current, r.next = File{Path: manifestName, Size: f.Size}, 0
		return nil
	}
	if r.next >= len(r.manifest.Files) {
		return &IntegrityError{Path: f.Path, Kind: KindExtra}
	}
	want := r.manifest.Files[r.next]
	if f.Path != want.Path || f.Size != want.Size {
		return fmt.Errorf("file %q of %d bytes comes where the manifest has %q of %d: %w", f.Path, f.Size, want.Path, want.Size, ErrInvalid)
	}
	r.next++
	return r.create(want)
}

// create opens the file that is about to arrive. Its path comes from a manifest that was validated, and
// its folder is one that we made: nothing in it can be a link.
func (r *Receiver) create(want File) error {
	for _, dir := range parents(want.Path) {
		if err := os.Mkdir(filepath.Join(r.p.dir, dir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	file, err := os.OpenFile(filepath.Join(r.p.dir, want.Path), os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	r.current, r.file, r.hash, r.size = want, file, sha256.New(), 0
	if err := file.Chmod(os.FileMode(want.Mode)); err != nil {
		return err
	}
	if want.Size == 0 {
		return r.finish()
	}
	return nil
}

func (r *Receiver) chunk(data []byte) error {
	if r.current.Path == "" || len(data) == 0 || len(data) > chunkSize {
		return fmt.Errorf("chunk of %d bytes: %w", len(data), ErrInvalid)
	}
	got := r.size + int64(len(data))
	if got > r.current.Size {
		return fmt.Errorf("%q is longer than the %d bytes announced: %w", r.current.Path, r.current.Size, ErrInvalid)
	}
	r.size = got
	if r.file == nil {
		r.raw = append(r.raw, data...)
	} else {
		if _, err := r.file.Write(data); err != nil {
			return err
		}
		if _, err := r.hash.Write(data); err != nil {
			return err
		}
	}
	if r.size < r.current.Size {
		return nil
	}
	if r.file == nil {
		return r.readManifest()
	}
	return r.finish()
}

// readManifest judges the manifest before anything else is let in.
func (r *Receiver) readManifest() error {
	m, err := decodeManifest(r.raw)
	if got := digest(r.raw); r.want != "" && got != r.want {
		return &IntegrityError{Path: manifestName, Kind: KindDigest, Want: r.want, Got: got}
	}
	if err != nil {
		return err
	}
	if m.Key() != r.p.key {
		return &IntegrityError{Path: manifestName, Kind: KindManifest, Want: r.p.key.String(), Got: m.Key().String()}
	}
	if free, err := r.p.s.Space(); err != nil {
		return err
	} else if need := m.Bytes(""); need > free {
		return fmt.Errorf("%d bytes to come, %d free in %s: make room there: %w", need, free, r.p.s.dir, ErrNoSpace)
	}
	r.manifest, r.current, r.size = m, File{}, 0
	return nil
}

// finish ends the current file and lets it reach the disk while the next one arrives.
func (r *Receiver) finish() error {
	if err := compareFile(r.current, sumOf(r.hash), r.size); err != nil {
		return err
	}
	file := r.file
	r.current, r.file = File{}, nil
	r.slots <- struct{}{}
	r.syncs.Go(func() {
		defer func() { <-r.slots }()
		if err := errors.Join(r.p.s.syncFile(file), file.Close()); err != nil {
			r.syncMu.Lock()
			defer r.syncMu.Unlock()
			r.syncErr = errors.Join(r.syncErr, err)
		}
	})
	return nil
}

func (r *Receiver) end(f Frame) error {
	if r.current.Path != "" || r.next < 0 {
		return fmt.Errorf("the end comes before the end of %q: %w", cmp.Or(r.current.Path, manifestName), ErrInvalid)
	}
	if r.next < len(r.manifest.Files) {
		return &IntegrityError{Path: r.manifest.Files[r.next].Path, Kind: KindMissing}
	}
	if f.Digest != r.manifest.Digest {
		return &IntegrityError{Path: manifestName, Kind: KindDigest, Want: f.Digest, Got: r.manifest.Digest}
	}
	r.ended = true
	return nil
}

// Seal makes what has arrived durable and then makes it the set of its key, in doubt until Commit. It
// fails unless the end has arrived. After an error, Discard.
func (r *Receiver) Seal(ctx context.Context) (Manifest, error) {
	r.syncs.Wait()
	err := errors.Join(r.err, r.syncErr, context.Cause(ctx))
	if err == nil && !r.ended {
		err = fmt.Errorf("the stream of %s ended early: %w", r.p.key, ErrInvalid)
	}
	if err == nil {
		err = r.p.publish(foldersOf(r.manifest.Files), r.raw)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("seal images of %s: %w", r.p.key, err)
	}
	return r.manifest, nil
}

// Discard gives up what has arrived. After a Seal that went well, and after another Discard, it does nothing.
func (r *Receiver) Discard() error {
	r.syncs.Wait()
	if r.err == nil && !r.p.sealed {
		r.err = fmt.Errorf("receiver of %s was discarded: %w", r.p.key, ErrInvalid)
	}
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
	return r.p.Discard()
}
