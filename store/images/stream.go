package images

import (
	"context"
	"crypto/sha256"
	"fmt"
)

// FrameKind says what a Frame is.
type FrameKind int

// The kinds of frames. A stream is: the manifest as a file, every file of it in its order, the end.
const (
	FrameFile  FrameKind = iota + 1 // a file begins: Path, Size
	FrameChunk                      // the next bytes of it: Chunk, 1 byte to 1 MiB
	FrameEnd                        // that was all: Digest, of the manifest
)

// Frame is one piece of an image set on its way to another host. It knows nothing of what carries it.
type Frame struct {
	Kind   FrameKind
	Path   string
	Size   int64
	Chunk  []byte
	Digest string
}

// Send hands a whole set to emit, frame by frame. Everything is hashed as it is read; a file that does
// not have its digest ends the stream before the next one begins. A frame's Chunk is emit's
// until it returns. An error of emit's is returned as it is.
func (s *Store) Send(ctx context.Context, key Key, emit func(Frame) error) error {
	m, data, err := s.manifest(key)
	if err != nil {
		return fmt.Errorf("send images of %s: %w", key, err)
	}
	if err := emit(Frame{Kind: FrameFile, Path: manifestName, Size: int64(len(data))}); err != nil {
		return err
	}
	for rest := data; len(rest) > 0; {
		n := min(len(rest), chunkSize)
		if err := emit(Frame{Kind: FrameChunk, Chunk: rest[:n]}); err != nil {
			return err
		}
		rest = rest[n:]
	}
	buf := make([]byte, chunkSize)
	for _, f := range m.Files {
		if err := s.sendFile(ctx, key, f, buf, emit); err != nil {
			return fmt.Errorf("send images of %s: %w", key, err)
		}
	}
	return emit(Frame{Kind: FrameEnd, Digest: m.Digest})
}

func (s *Store) sendFile(ctx context.Context, key Key, want File, buf []byte, emit func(Frame) error) error {
	f, err := s.openFile(key, want)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := emit(Frame{Kind: FrameFile, Path: want.Path, Size: want.Size}); err != nil {
		return err
	}
	h, size := sha256.New(), int64(0)
	err = copyChunks(ctx, f, buf, func(chunk []byte) error {
		size += int64(len(chunk))
		if size > want.Size { // it grew since it was opened
			return compareFile(want, "", size)
		}
		if _, err := h.Write(chunk); err != nil {
			return err
		}
		return emit(Frame{Kind: FrameChunk, Chunk: chunk})
	})
	if err != nil {
		return err
	}
	return compareFile(want, sumOf(h), size)
}
