package blob_test

import (
	"os"
	"path/filepath"
	"testing"

	"ss/store/blob"
	"ss/store/blob/blobtest"
)

// partials lists what has no name yet in a folder.
func partials(root string) func(t *testing.T) []string {
	return func(t *testing.T) []string {
		t.Helper()
		var names []string
		entries, err := os.ReadDir(filepath.Join(root, blob.IncomingName))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
}

func TestDirContract(t *testing.T) {
	blobtest.Suite(t, func(t *testing.T) blobtest.Backend {
		root := filepath.Join(t.TempDir(), "a", "b")
		d, err := blob.OpenDir(root)
		if err != nil {
			t.Fatal(err)
		}
		return blobtest.Backend{Reader: d, Writer: d, Remover: d, Partials: partials(root)}
	})
}

func TestFileVaultContract(t *testing.T) {
	blobtest.Suite(t, func(t *testing.T) blobtest.Backend {
		root := t.TempDir()
		s, err := blob.OpenURL(t.Context(), "file://"+root, blob.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return blobtest.Backend{Reader: s, Writer: s, Remover: s, Partials: partials(root)}
	})
}
