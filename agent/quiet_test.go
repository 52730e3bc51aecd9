package agent

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// waiting starts a Wait and returns a function that says whether it is over.
func waiting(ctx context.Context, q *Quiet) (over func() (bool, error)) {
	var mu sync.Mutex
	var done bool
	var err error
	go func() {
		e := q.Wait(ctx)
		mu.Lock()
		defer mu.Unlock()
		done, err = true, e
	}()
	return func() (bool, error) {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return done, err
	}
}

func TestQuietWaitsForTheLastPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Quiet
		if over, err := waiting(t.Context(), &q)(); !over || err != nil {
			t.Fatalf("nobody holds it: %v, %v", over, err)
		}
		first, second := q.Pause(), q.Pause()
		w := waiting(t.Context(), &q)
		if over, _ := w(); over {
			t.Fatal("one of two has ended, and the wait is over")
		}
		first()
		first() // a rollback after a thaw
		if over, _ := w(); over {
			t.Fatal("one holds it still, and the wait is over")
		}
		second()
		if over, err := w(); !over || err != nil {
			t.Fatalf("nobody holds it any more: %v, %v", over, err)
		}
	})
}

// TestQuietIsHeldAgain: work that has waited for one freeze waits for the next as well.
func TestQuietIsHeldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Quiet
		for range 3 {
			release := q.Pause()
			w := waiting(t.Context(), &q)
			if over, _ := w(); over {
				t.Fatal("it is held, and the wait is over")
			}
			release()
			if over, err := w(); !over || err != nil {
				t.Fatalf("it is free: %v, %v", over, err)
			}
		}
	})
}

func TestQuietWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Quiet
		release := q.Pause()
		defer release()
		ctx, cancel := context.WithCancel(t.Context())
		w := waiting(ctx, &q)
		if over, _ := w(); over {
			t.Fatal("it is held, and the wait is over")
		}
		cancel()
		if over, err := w(); !over || !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled: %v, %v", over, err)
		}
		// A loop that checks nothing else must end, too, where nobody stands still.
		release()
		if err := q.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("free, and cancelled: %v", err)
		}
	})
}

// TestQuietUnderLoad is for the race detector.
func TestQuietUnderLoad(t *testing.T) {
	var q Quiet
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				q.Pause()()
			}
		})
		wg.Go(func() {
			for range 200 {
				if err := q.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
