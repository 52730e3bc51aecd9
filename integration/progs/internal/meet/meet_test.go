package meet

import (
	"testing"
	"testing/synctest"
	"time"
)

// So many things take as long as their rate says, and what stood still does not catch up.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Stopper{Rate: 1000, Limit: 10_000}
		began := time.Now()
		n := uint64(0)
		for ; n < 2500; n++ {
			if s.Enough(n) {
				t.Fatalf("%d are enough", n)
			}
		}
		if took := time.Since(began); took < 2490*time.Millisecond || took > 2510*time.Millisecond {
			t.Errorf("2500 things at 1000 a second take %v", took)
		}
		time.Sleep(10 * time.Second)
		began = time.Now()
		for ; n < 3000; n++ {
			s.Enough(n)
		}
		if took := time.Since(began); took < 490*time.Millisecond {
			t.Errorf("500 things after a standstill take %v", took)
		}
		if !s.Enough(10_000) {
			t.Error("the limit is not enough")
		}
	})
}
