package agent

import "sync"

// line is what a coordinator is told, in order, by somebody who does not wait until it has heard. It is safe for concurrent use.
type line[T any] struct {
	mu    sync.Mutex
	queue []T
	wake  chan struct{}
}

func newLine[T any]() *line[T] { return &line[T]{wake: make(chan struct{}, 1)} }

// Wake is signalled when there is something to Take.
func (l *line[T]) Wake() <-chan struct{} { return l.wake }

// Take gives what has come for the coordinator since the last call.
func (l *line[T]) Take() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queue
	l.queue = nil
	return q
}

func (l *line[T]) put(out T) {
	l.mu.Lock()
	l.queue = append(l.queue, out)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
