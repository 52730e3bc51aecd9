package pack

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"math"
	"strings"
)

const (
	// maxPath and maxPathElement bound a file's path within a set, in bytes (Linux: PATH_MAX, NAME_MAX).
	maxPath        = 1024
	maxPathElement = 255
	// modeMask is what is kept of a file's mode: images hold the memory of programs and are their owner's alone.
	modeMask = 0o700
)

// Index says what the files of an image set are made of.
type Index struct {
	Packs []PackRef
	Files []File // by path
	Meta  []byte // whatever the caller keeps with it
}

// File is one file of a set.
type File struct {
	Path string // with slashes; relative, plain
	Size int64
	Mode uint32   // the owner's permission bits
	Root [32]byte // SHA-256 of the names of its chunks, one after the other (a zero chunk's name counts too)
	Runs []Run
}

// Run is a stretch of chunks of a file.
type Run struct {
	Count   int  // of chunks; the last one of a file may be short
	Zero    bool // they hold zeros and are stored nowhere; the rest is 0 then
	Pack    int  // place in Index.Packs
	Segment int  // in the pack, of the first chunk; runs go on into the next segment
	First   int  // in the segment
}

// at is the run's first chunk in its pack.
func (r Run) at() int { return r.Segment*SegmentChunks + r.First }

// Used counts, per pack, the distinct chunks that the index refers to.
func (x Index) Used() []int {
	seen := make([][]uint64, len(x.Packs)) // a bit a chunk
	used := make([]int, len(x.Packs))
	for _, f := range x.Files {
		for _, r := range f.Runs {
			if r.Zero || r.validate(x.Packs) != nil {
				continue
			}
			if seen[r.Pack] == nil {
				seen[r.Pack] = make([]uint64, (x.Packs[r.Pack].Chunks+63)/64)
			}
			for i := r.at(); i < r.at()+r.Count; i++ {
				if bit := uint64(1) << (i % 64); seen[r.Pack][i/64]&bit == 0 {
					seen[r.Pack][i/64] |= bit
					used[r.Pack]++
				}
			}
		}
	}
	return used
}

// Bytes is the size of all files.
func (x Index) Bytes() int64 {
	var n int64
	for _, f := range x.Files {
		n += f.Size
	}
	return n
}

// validate refuses an index that this package would not make.
func (x Index) validate() error {
	if err := validPacks(x.Packs); err != nil {
		return err
	}
	var total int64
	folders, last := map[string]bool{}, ""
	for _, f := range x.Files {
		if err := validPath(f.Path); err != nil {
			return err
		}
		if f.Path <= last {
			return fmt.Errorf("file %q after %q: %w", f.Path, last, ErrDamaged)
		}
		last = f.Path
		if f.Size < 0 || f.Size > math.MaxInt64-total {
			return fmt.Errorf("file %q has size %d: %w", f.Path, f.Size, ErrDamaged)
		}
		total += f.Size
		if err := f.validate(x.Packs); err != nil {
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
		for dir := parent(f.Path); dir != "" && !folders[dir]; dir = parent(dir) {
			folders[dir] = true
		}
	}
	for _, f := range x.Files {
		if folders[f.Path] {
			return fmt.Errorf("%q is a file and a folder: %w", f.Path, ErrDamaged)
		}
	}
	return nil
}

func validPacks(packs []PackRef) error {
	seen := make(map[string]bool, len(packs))
	for _, p := range packs {
		sum, err := hex.DecodeString(p.Digest)
		switch {
		case err != nil || len(sum) != 32 || hex.EncodeToString(sum) != p.Digest:
			return fmt.Errorf("a pack has digest %q: %w", p.Digest, ErrDamaged)
		case seen[p.Digest]:
			return fmt.Errorf("pack %s is listed twice: %w", p.Digest, ErrDamaged)
		case p.Size < headSize || p.Size > maxPackSize:
			return fmt.Errorf("pack %s has %d bytes: %w", p.Digest, p.Size, ErrDamaged)
		case p.Chunks < 1 || p.Chunks > maxPackChunks:
			return fmt.Errorf("pack %s has %d chunks: %w", p.Digest, p.Chunks, ErrDamaged)
		}
		seen[p.Digest] = true
	}
	return nil
}

func (f File) validate(packs []PackRef) error {
	if f.Mode&^modeMask != 0 {
		return fmt.Errorf("mode %#o: %w", f.Mode, ErrDamaged)
	}
	left := chunksOf(f.Size)
	for _, r := range f.Runs {
		if err := r.validate(packs); err != nil {
			return err
		}
		if int64(r.Count) > left {
			return fmt.Errorf("more runs than chunks: %w", ErrDamaged)
		}
		left -= int64(r.Count)
	}
	if left != 0 {
		return fmt.Errorf("%d chunks are in no run: %w", left, ErrDamaged)
	}
	return nil
}

func (r Run) validate(packs []PackRef) error {
	switch {
	case r.Count < 1:
		return fmt.Errorf("a run of %d chunks: %w", r.Count, ErrDamaged)
	case r.Zero:
		return nil
	case r.Pack < 0 || r.Pack >= len(packs):
		return fmt.Errorf("a run in pack %d of %d: %w", r.Pack, len(packs), ErrDamaged)
	case r.Segment < 0 || r.Segment > maxPackChunks/SegmentChunks || r.First < 0 || r.First >= SegmentChunks ||
		r.Count > packs[r.Pack].Chunks-r.at():
		return fmt.Errorf("a run of %d chunks from %d/%d in a pack of %d: %w", r.Count, r.Segment, r.First, packs[r.Pack].Chunks, ErrDamaged)
	}
	return nil
}

// validPath refuses a file's path unless it stays within its set on any Linux file system.
func validPath(path string) error {
	if !fs.ValidPath(path) || path == "." || len(path) > maxPath {
		return fmt.Errorf("path %q is not plain: %w", path, ErrDamaged)
	}
	for element := range strings.SplitSeq(path, "/") {
		if len(element) > maxPathElement {
			return fmt.Errorf("path %q is not plain: %w", path, ErrDamaged)
		}
	}
	for _, r := range path {
		if r < ' ' || r == 0x7f || r == '\\' || r == '\uFFFD' {
			return fmt.Errorf("path %q is not plain: %w", path, ErrDamaged)
		}
	}
	return nil
}

// parent is the folder that a path lies in, or "".
func parent(path string) string {
	return path[:max(strings.LastIndexByte(path, '/'), 0)]
}
