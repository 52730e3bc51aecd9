package blob

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// List is Reader's. Objects that come or go meanwhile are seen or not.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if !possiblePrefix(prefix) {
			return
		}
		w := walk{d: d, ctx: ctx, prefix: prefix, yield: yield}
		if err := w.folder("", 1); err != nil && !w.ended {
			yield(Info{}, d.fault("list", "objects", err))
		}
	}
}

// walk is one List under way.
type walk struct {
	d      *Dir
	ctx    context.Context
	prefix string
	yield  func(Info, error) bool
	ended  bool // by whom the objects are for
}

// folder yields the objects below base, which is "" or ends with a slash. It holds no more than one folder of each depth in memory.
func (w *walk) folder(base string, depth int) error {
	entries, err := readDir(filepath.Join(w.d.root, filepath.FromSlash(base)))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := w.ctx.Err(); err != nil || w.ended {
			return err
		}
		name := base + e.Name()
		switch {
		case e.IsDir():
			inside := name + "/"
			if depth < maxElements && (strings.HasPrefix(inside, w.prefix) || strings.HasPrefix(w.prefix, inside)) {
				if err := w.folder(inside, depth+1); err != nil {
					return err
				}
			}
		case e.Type().IsRegular() && strings.HasPrefix(name, w.prefix):
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			w.ended = !w.yield(Info{Name: name, Size: info.Size(), Time: info.ModTime()}, nil)
		}
	}
	return nil
}

// readDir lists what in a folder can belong to an object, in the order of objects' names: those below folder a have a slash after the a, so
// that a-b comes before all of them. A folder that is gone is empty.
func readDir(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !validElement(e.Name()) })
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(key(a), key(b)) })
	return entries, nil
}
