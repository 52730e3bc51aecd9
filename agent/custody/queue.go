package custody

import (
	"context"
	"sync"

	"ss/store/images"
)

// queue is what has been stored so far of a set that is being sealed. Many may read it, each from its beginning.
type queue struct {
	mu    sync.Mutex
	refs  []images.ObjectRef
	more  chan struct{} // closed when there is another one, and replaced
	ended chan struct{} // closed when the set is sealed
}

func newQueue() *queue {
	return &queue{more: make(chan struct{}), ended: make(chan struct{})}
}

// sealed is the queue of a set that nobody is at any more.
func sealed() *queue {
	q := newQueue()
	q.end()
	return q
}

func (q *queue) add(ref images.ObjectRef) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refs = append(q.refs, ref)
	close(q.more)
	q.more = make(chan struct{})
}

func (q *queue) end() { close(q.ended) }

// wait returns when the set is sealed.
func (q *queue) wait(ctx context.Context) error {
	select {
	case <-q.ended:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reader returns a function that waits for another object, and is false when the set is sealed, also where it has not named all objects: a push of
// the whole set moves several at a time.
func (q *queue) reader() func(ctx context.Context) (images.ObjectRef, bool) {
	next := 0
	return func(ctx context.Context) (images.ObjectRef, bool) {
		for {
			q.mu.Lock()
			refs, more := q.refs, q.more
			q.mu.Unlock()
			select {
			case <-q.ended:
				return images.ObjectRef{}, false
			case <-ctx.Done():
				return images.ObjectRef{}, false
			default:
			}
			if next < len(refs) {
				next++
				return refs[next-1], true
			}
			select {
			case <-more:
			case <-q.ended:
			case <-ctx.Done():
			}
		}
	}
}
