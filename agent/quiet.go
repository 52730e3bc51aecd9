package agent

import (
	"context"
	"sync"
)

// Quiet keeps work that can wait from running while members of this host stand still: each piece of it would lengthen the
// time that they do. An attempt holds it from its freeze to its thaw; ingest, pushes, fetches and scrubs wait for it between
// two small pieces. The zero value is free. It is safe for concurrent use.
//
// Nothing that holds it waits for anything that waits for it: an attempt's own images are stored after its thaw. So a wait is
// as long as a freeze, which the coordinator's limits bound (Standstill, Timeout) or the lease where it is gone, and needs no bound of its own.
type Quiet struct {
	mu    sync.Mutex
	holds int
	over  chan struct{} // closed when the last pause ends; nil while there is none
}

// Pause begins a freeze. The function returned ends it; it may be called more than once.
func (q *Quiet) Pause() (release func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.holds == 0 {
		q.over = make(chan struct{})
	}
	q.holds++
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.holds--
		if q.holds == 0 {
			close(q.over)
			q.over = nil
		}
	})
}

// Wait returns when no member stands still, or with ctx's error when that ends.
func (q *Quiet) Wait(ctx context.Context) error {
	for {
		q.mu.Lock()
		over := q.over
		q.mu.Unlock()
		if over == nil {
			return ctx.Err()
		}
		select {
		case <-over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
