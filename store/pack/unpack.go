package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"ss/store/keys"
)

// Unpack writes the files of an index, or those that want says (nil: all), into dir, which must be there and empty. Every byte is
// authenticated before it returns nil. Zero chunks become holes. It uses every processor. The error wraps ErrDamaged and names the pack
// (*DamageError) where a pack is not what it was; it names a file where that is made of other chunks than the index was made for, as a pack
// of the same job would cause that lies in another one's place. After an error some of the files are there, and not whole. It keeps the names
// of all packs that it reads: 32 bytes a chunk.
func Unpack(ctx context.Context, x Index, k keys.Job, src Source, dir string, want func(path string) bool) error {
	if err := x.validate(); err != nil {
		return fmt.Errorf("unpack into %s: image index: %w", dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack into %s: %w", dir, err)
	}
	defer root.Close()
	if err := makeFiles(root, x, want); err != nil {
		return fmt.Errorf("unpack into %s: %w", dir, err)
	}
	tables := make(tables, len(x.Packs))
	s := &scan{
		packs: x.Packs, key: k, src: src,
		visitor: func() visitor { return &fileWriter{root: root, files: x.Files} },
		opened:  func(pack int, t *table) { tables[pack] = t },
		fault:   func(pack int, err error) error { return packError(x.Packs[pack], err) },
	}
	if err := s.run(ctx, pieces(x, want)); err != nil {
		return fmt.Errorf("unpack into %s: %w", dir, err)
	}
	if err := finishFiles(ctx, root, x, want, tables, NewNamer(k)); err != nil {
		return fmt.Errorf("unpack into %s: %w", dir, err)
	}
	return nil
}

// makeFiles makes the files, with holes for all that they will hold, and the folders that they lie in.
func makeFiles(root *os.Root, x Index, want func(path string) bool) error {
	made := ""
	for _, f := range x.Files {
		if want != nil && !want(f.Path) {
			continue
		}
		if dir := parent(f.Path); dir != "" && dir != made {
			if err := root.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			made = dir
		}
		file, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(file.Truncate(f.Size), file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// finishFiles checks that the files are what the index was made for, and gives them their modes: only now, as their owner may not be allowed
// to write them.
func finishFiles(ctx context.Context, root *os.Root, x Index, want func(path string) bool, tables tables, namer *Namer) error {
	for _, f := range x.Files {
		if want != nil && !want(f.Path) {
			continue
		}
		if err := tables.checkRoot(ctx, f, namer); err != nil {
			return err
		}
		if err := root.Chmod(f.Path, fs.FileMode(f.Mode)); err != nil {
			return err
		}
	}
	return nil
}

// openWriters is how many files one worker keeps open.
const openWriters = 16

// fileWriter writes pieces to where they belong.
type fileWriter struct {
	root  *os.Root
	files []File
	open  [openWriters]openWriter
	next  int // to be closed when another one is opened
}

type openWriter struct {
	file int32
	f    *os.File
}

func (w *fileWriter) visit(s segment, _ *table, pieces []piece) error {
	for _, p := range pieces {
		data, err := s.piece(p, w.files[p.file].Size)
		if err != nil {
			return err
		}
		f, err := w.writer(p.file)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(data, p.chunk*ChunkSize); err != nil {
			return err
		}
	}
	return nil
}

// piece is the bytes of a piece of a file of a size.
func (s segment) piece(p piece, size int64) ([]byte, error) {
	data := s.chunks(int(p.at), int(p.count))
	if want := min(size-p.chunk*ChunkSize, int64(p.count)*ChunkSize); int64(len(data)) != want {
		return nil, fmt.Errorf("its %d chunks from %d have %d bytes, the file has %d: %w", p.count, p.at, len(data), want, ErrDamaged)
	}
	return data, nil
}

func (w *fileWriter) writer(file int32) (*os.File, error) {
	for _, o := range w.open {
		if o.f != nil && o.file == file {
			return o.f, nil
		}
	}
	o := &w.open[w.next]
	w.next = (w.next + 1) % openWriters
	if o.f != nil {
		old := o.f
		o.f = nil
		if err := old.Close(); err != nil {
			return nil, err
		}
	}
	f, err := w.root.OpenFile(w.files[file].Path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	*o = openWriter{file, f}
	return f, nil
}

func (w *fileWriter) close() error {
	var errs []error
	for _, o := range w.open {
		if o.f != nil {
			errs = append(errs, o.f.Close())
		}
	}
	return errors.Join(errs...)
}
