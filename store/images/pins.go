package images

import (
	"sync"
	"time"
)

// leaseTime is how long an object stays that a peer has asked for or put, although no set refers to it. A push puts its manifest within it.
const leaseTime = 10 * time.Minute

// pins keep objects from Collect that no set refers to yet, or no more: what an ingest, a fetch or a push builds on, and what is being read.
//
// Who pins an object and then finds it there can count on it: an object is removed with the pins locked. And who pins it, makes a
// set that refers to it visible, and then lets go, need not fear a Collect that has read the sets before: a Collect keeps whatever was pinned at
// any time since it began.
type pins struct {
	now func() time.Time

	mu       sync.Mutex
	held     map[string]int       // by name: how many pin it
	until    map[string]time.Time // leases, by name
	purgeAt  int                  // length of until at which what has run out is dropped
	watchers map[*watcher]struct{}
}

// watcher notes what is pinned while a Collect runs.
type watcher struct{ kept map[string]bool }

func newPins(now func() time.Time) *pins {
	return &pins{now: now, held: map[string]int{}, until: map[string]time.Time{}, purgeAt: 1024, watchers: map[*watcher]struct{}{}}
}

// pin is what one piece of work has pinned. It is safe for concurrent use.
type pin struct {
	p     *pins
	names []string // under p.mu
}

func (p *pins) pin(names ...string) *pin {
	g := &pin{p: p}
	g.hold(names...)
	return g
}

func (g *pin) hold(names ...string) {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	for _, name := range names {
		g.p.held[name]++
		for w := range g.p.watchers {
			w.kept[name] = true
		}
	}
	g.names = append(g.names, names...)
}

// release lets everything go. Doing it again does nothing.
func (g *pin) release() {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	for _, name := range g.names {
		if g.p.held[name]--; g.p.held[name] <= 0 {
			delete(g.p.held, name)
		}
	}
	g.names = nil
}

// lease keeps an object for leaseTime from now on.
func (p *pins) lease(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if len(p.until) >= p.purgeAt {
		for n, t := range p.until {
			if !now.Before(t) {
				delete(p.until, n)
			}
		}
		p.purgeAt = max(1024, 2*len(p.until))
	}
	p.until[name] = now.Add(leaseTime)
}

// settled ends the leases of objects that a set refers to from now on. Somebody else who counts on one of them, for a set to come, is told
// if it is gone by then (ErrMissing), and puts it again.
func (p *pins) settled(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		delete(p.until, name)
	}
}

func (p *pins) watch() *watcher {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &watcher{kept: map[string]bool{}}
	for name := range p.held {
		w.kept[name] = true
	}
	p.watchers[w] = struct{}{}
	return w
}

func (p *pins) unwatch(w *watcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watchers, w)
}

// unlessKept calls remove if nobody keeps the object, and returns whether it did. Nobody can pin it meanwhile. w may be nil.
func (p *pins) unlessKept(w *watcher, name string, remove func() error) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[name] > 0 || w != nil && w.kept[name] {
		return false, nil
	}
	if t, ok := p.until[name]; ok && p.now().Before(t) {
		return false, nil
	}
	return true, remove()
}
