package pack

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// found is a regular file below the folder of an ingest.
type found struct {
	path string
	size int64
	mode uint32
}

// walk lists the regular files below a folder, in the order of their paths' bytes.
func walk(root *os.Root) ([]found, error) {
	var files []found
	err := fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is %v: only regular files can be stored", path, d.Type())
		}
		if err := validPath(path); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		// Cloned: a path may be a piece of a longer string.
		files = append(files, found{strings.Clone(path), info.Size(), uint32(info.Mode()) & modeMask})
		return nil
	})
	if err != nil {
		return nil, err
	}
	// WalkDir has "a/b" before "a-b"; by their bytes it is the other way round.
	slices.SortFunc(files, func(a, b found) int { return cmp.Compare(a.path, b.path) })
	return files, nil
}
