package bolt_test

import (
	"os"
	"path/filepath"
	"testing"

	"ss/store/cataloguetest"
	"ss/store/kv"
	"ss/store/kv/bolt"
)

func TestContract(t *testing.T) {
	cataloguetest.Run(t, func(t *testing.T) cataloguetest.Database {
		dir := filepath.Join(t.TempDir(), "ss")
		first, err := bolt.Create(dir, func(kv.Tx) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = first.Close() })
		return cataloguetest.Database{
			Open: func(t *testing.T) kv.DB {
				db, err := bolt.Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = db.Close() })
				return db
			},
			Lose: func(t *testing.T, lease string) { // somebody has removed its file
				if err := os.Remove(filepath.Join(dir, "leases", lease+".lock")); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
