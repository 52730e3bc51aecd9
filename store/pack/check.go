package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"ss/internal/yield"
	"ss/store/keys"
)

// Check reads every chunk that the index refers to and compares it with its name in the pack's table, and the files' roots: what Unpack
// checks and more, without writing. All faults are joined, of each pack the first. Its threads have lower priority than the job's. It keeps
// the names of all packs that it reads: 32 bytes a chunk.
func Check(ctx context.Context, x Index, k keys.Job, src Source) error {
	if err := x.validate(); err != nil {
		return fmt.Errorf("check: image index: %w", err)
	}
	tables := make(tables, len(x.Packs))
	faults, mu := make([]error, len(x.Packs)), sync.Mutex{} // of each pack the first
	s := &scan{
		packs: x.Packs, key: k, src: src,
		visitor: func() visitor { return &nameChecker{namer: NewNamer(k), files: x.Files} },
		opened:  func(pack int, t *table) { tables[pack] = t },
		fault: func(pack int, err error) error {
			mu.Lock()
			defer mu.Unlock()
			if faults[pack] == nil {
				faults[pack] = packError(x.Packs[pack], err)
			}
			return nil
		},
		started: yield.ToJob,
	}
	if err := s.run(ctx, pieces(x, nil)); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	namer := NewNamer(k)
	for _, f := range x.Files {
		if err := tables.checkRoot(ctx, f, namer); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// tables are those of the packs of an index; nil where one could not be opened.
type tables []*table

// checkRoot compares a file's root with the names in the tables. So a pack of this job that lies where another one should is found: it
// is genuine all through. What lies in a pack that could not be opened is told already.
func (ts tables) checkRoot(ctx context.Context, f File, namer *Namer) error {
	whole := namer.Name(zeros[:])
	h := sha256.New()
	left := f.Size
	for _, r := range f.Runs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !r.Zero {
			t := ts[r.Pack]
			if t == nil {
				return nil
			}
			_, _ = h.Write(t.names[r.at()*len(Name{}) : (r.at()+r.Count)*len(Name{})]) // hash.Hash: never an error
			left -= int64(r.Count) * ChunkSize
			continue
		}
		n := min(left, int64(r.Count)*ChunkSize)
		if !hashZeros(ctx, h, namer, whole, n) {
			return context.Cause(ctx)
		}
		left -= n
	}
	if !bytes.Equal(h.Sum(nil), f.Root[:]) {
		return fmt.Errorf("file %q is not made of the chunks that the index was made for: %w", f.Path, ErrDamaged)
	}
	return nil
}

// nameChecker compares chunks with their names.
type nameChecker struct {
	namer *Namer
	files []File
}

func (c *nameChecker) visit(s segment, t *table, pieces []piece) error {
	done := 0 // chunks that several pieces share are compared once
	for _, p := range pieces {
		if _, err := s.piece(p, c.files[p.file].Size); err != nil {
			return err
		}
		for i := max(done, int(p.at)); i < int(p.at+p.count); i++ {
			if name := c.namer.Name(s.chunks(i, 1)); !bytes.Equal(name[:], t.name(i)) {
				return fmt.Errorf("chunk %d has another name: %w", i, ErrDamaged)
			}
			done = i + 1
		}
	}
	return nil
}

func (c *nameChecker) close() error { return nil }
