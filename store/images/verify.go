package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"ss/store/internal/disk"
)

// Verify reads every byte of a set and compares it with the manifest, and the manifest with wantDigest
// (empty: not compared). Files that are missing, or that do not belong there, count as damage. The error holds an
// *IntegrityError for each fault, in the order of their paths.
func (s *Store) Verify(ctx context.Context, key Key, wantDigest string) (Manifest, error) {
	m, err := s.verify(ctx, key, wantDigest)
	if err != nil {
		return Manifest{}, fmt.Errorf("verify images of %s: %w", key, err)
	}
	return m, nil
}

func (s *Store) verify(ctx context.Context, key Key, want string) (Manifest, error) {
	m, err := s.trusted(key, want)
	if err != nil {
		return Manifest{}, err
	}
	faults := make([]error, len(m.Files))
	if err := inParallel(ctx, len(m.Files), func(ctx context.Context, i int, buf []byte) error {
		err := s.verifyFile(ctx, key, m.Files[i], buf)
		if errors.As(err, new(*IntegrityError)) {
			faults[i], err = err, nil // the others may have faults too
		}
		return err
	}); err != nil {
		return Manifest{}, err
	}
	extra, err := s.extra(key, m)
	return m, errors.Join(append(append(faults, extra...), err)...)
}

func (s *Store) verifyFile(ctx context.Context, key Key, want File, buf []byte) error {
	f, err := s.openFile(key, want)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, _, size, err := hashFile(ctx, f, buf)
	if err != nil {
		return fmt.Errorf("%s: %w", want.Path, err)
	}
	return compareFile(want, sum, size)
}

// compareFile says whether what was read is what the manifest says.
func compareFile(want File, sum string, size int64) error {
	if size != want.Size {
		return &IntegrityError{Path: want.Path, Kind: KindSize, Want: strconv.FormatInt(want.Size, 10), Got: strconv.FormatInt(size, 10)}
	}
	if sum != want.SHA256 {
		return &IntegrityError{Path: want.Path, Kind: KindDigest, Want: want.SHA256, Got: sum}
	}
	return nil
}

// openFile opens a file of a whole set if all that can be seen of it without reading is right. No
// symbolic link is followed, neither at the path's end nor on the way.
func (s *Store) openFile(key Key, want File) (*os.File, error) {
	root := s.setDir(key)
	for _, dir := range parents(want.Path) {
		info, err := os.Lstat(filepath.Join(root, dir))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &IntegrityError{Path: want.Path, Kind: KindMissing}
		}
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, &IntegrityError{Path: dir, Kind: KindType, Want: "a folder", Got: info.Mode().Type().String()}
		}
	}
	path := filepath.Join(root, want.Path)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &IntegrityError{Path: want.Path, Kind: KindMissing}
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &IntegrityError{Path: want.Path, Kind: KindType, Want: "a regular file", Got: info.Mode().Type().String()}
	case info.Size() != want.Size:
		return nil, &IntegrityError{Path: want.Path, Kind: KindSize, Want: strconv.FormatInt(want.Size, 10), Got: strconv.FormatInt(info.Size(), 10)}
	case uint32(info.Mode().Perm()) != want.Mode:
		return nil, &IntegrityError{Path: want.Path, Kind: KindMode, Want: fmt.Sprintf("%04o", want.Mode), Got: fmt.Sprintf("%04o", info.Mode().Perm())}
	}
	f, _, err := disk.OpenRegular(path)
	return f, err
}

// extra lists what is in a set's folder and not in its manifest.
func (s *Store) extra(key Key, m Manifest) ([]error, error) {
	known := map[string]bool{".": true, manifestName: true}
	for _, f := range m.Files {
		known[f.Path] = true
	}
	for _, dir := range foldersOf(m.Files) {
		known[dir] = true
	}
	var faults []error
	root := s.setDir(key)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || known[rel] {
			return err
		}
		if rel == committedName && d.Type().IsRegular() {
			if info, err := d.Info(); err != nil || info.Size() == 0 {
				return err
			}
		}
		faults = append(faults, &IntegrityError{Path: rel, Kind: KindExtra})
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return faults, err
}
