package memory_test

import (
	"testing"

	"ss/store/cataloguetest"
	"ss/store/kv"
	"ss/store/kv/memory"
)

func TestContract(t *testing.T) {
	cataloguetest.Run(t, func(*testing.T) cataloguetest.Database {
		s := memory.NewSpace()
		return cataloguetest.Database{
			Open: func(t *testing.T) kv.DB {
				db := s.Open()
				t.Cleanup(func() { _ = db.Close() })
				return db
			},
			Lose: func(_ *testing.T, lease string) { s.Expire(lease) },
		}
	})
}
