package images

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestImagesOf94ec08b: the image sets and cut manifests that an agent of that version has left are all there, whole, and known to belong to cuts.
func TestImagesOf94ec08b(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	if err := os.CopyFS(dir, os.DirFS("testdata/94ec08b")); err != nil {
		t.Fatal(err)
	}
	// Git keeps no such modes.
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return errors.Join(err, os.Chmod(path, 0o700))
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	sets, err := s.Sets()
	if err != nil || len(sets) != 3 {
		t.Fatalf("sets %+v, %v", sets, err)
	}
	for _, set := range sets {
		if !set.Committed {
			t.Errorf("%v is not known to belong to a cut", set.Key)
		}
		if _, err := s.Verify(t.Context(), set.Key, ""); err != nil {
			t.Errorf("%v: %v", set.Key, err)
		}
	}
	cuts, err := s.Cuts(t.Context())
	if err != nil || len(cuts["naps"]) != 3 {
		t.Errorf("cut manifests %v, %v", cuts, err)
	}
	if doubt, err := s.InDoubt(); err != nil || len(doubt) != 0 {
		t.Errorf("in doubt: %v, %v", doubt, err)
	}
	if g, err := s.Collect(t.Context(), "naps", false); err != nil || g.Objects != 0 {
		t.Errorf("a collection removes %+v, %v", g, err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
