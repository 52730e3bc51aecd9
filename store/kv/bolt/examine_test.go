package bolt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"ss/store/kv"
)

// TestDamageThatNoSumTellsOf damages copies of a database as if another program had written them, bit by bit and by cutting them short. Opening one gives an
// error or a database that can be read; it never ends this process, nor takes for ever.
func TestDamageThatNoSumTellsOf(t *testing.T) {
	src := t.TempDir()
	if err := os.Chmod(src, 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := Create(src, func(tx kv.Tx) error { return fill(tx, 0) })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if _, err := db.Update(t.Context(), func(tx kv.Tx) error { return fill(tx, 100*(i+1)) }); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(filepath.Join(src, FileName))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 5))
	refused := 0
	const rounds = 120
	for i := range rounds {
		data := append([]byte(nil), whole...)
		if i%4 == 3 {
			data = data[:rng.IntN(len(data))]
		} else {
			for range 1 + i%3 {
				data[rng.IntN(len(data))] ^= 1 << rng.IntN(8)
			}
		}
		dir := t.TempDir()
		if err := errors.Join(os.Chmod(dir, 0o700), os.WriteFile(filepath.Join(dir, FileName), data, 0o600)); err != nil {
			t.Fatal(err)
		}
		d, err := Open(dir)
		if err == nil {
			_, err = d.View(t.Context(), func(tx kv.Tx) error {
				_, err := tx.List("jobs", "", 0)
				return err
			})
		}
		if err != nil {
			refused++
			if !errors.Is(err, kv.ErrCorrupt) {
				t.Errorf("round %d: %v", i, err)
			}
		}
	}
	if refused < rounds/12 { // what lies in free pages, or in a value, does not damage a database
		t.Errorf("%d of %d damaged files were refused", refused, rounds)
	}
	t.Logf("%d of %d damaged files were refused", refused, rounds)
}

func fill(tx kv.Tx, from int) error {
	for i := range 100 {
		if err := tx.Put("jobs", fmt.Sprintf("key-%05d", from+i), fmt.Appendf(nil, "%0200d", i)); err != nil {
			return err
		}
	}
	return nil
}
