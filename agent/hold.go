package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/fault"
	"ss/marker"
)

const (
	// holdPoll is the time between two looks at the members' sockets. Members run meanwhile.
	holdPoll = 2 * time.Millisecond
	// holdPollMost is the longest that it grows to.
	holdPollMost = 20 * time.Millisecond
)

// holdsAhead is how long SYNs are held of a host that was calm when it was prepared and is told nothing: twice as long as the coordinator counts on it.
const holdsAhead = time.Second

// quickFiles is the size of files, in bytes, above which it may take a while to copy those that are copied before the freeze.
const quickFiles = 16 << 20

// newConnections names the gate that holds SYNs, where others have the name of a peer.
const newConnections = ""

// hold is M1a: SYNs for the members' listeners wait, and the members, which run on, accept what has been made before.
func (w *work) hold(ctx context.Context) (marker.Event, error) {
	limit := time.NewTimer(w.open.Settle)
	defer limit.Stop()
	// What listened while the host prepared is held before the first look, so that one look is enough where nothing has changed.
	held := w.early.keep()
	fresh, err := w.holdListeners(ctx, w.listed, held)
	if err != nil {
		return nil, err
	}
	held = append(held, fresh...)
	for pause := holdPoll; ; pause = min(max(pause*2, holdPoll), holdPollMost) {
		socks, err := w.sockets(ctx)
		if err != nil {
			return nil, err
		}
		fresh, err := w.holdListeners(ctx, socks, held)
		if err != nil {
			return nil, err
		}
		held = append(held, fresh...)
		pending := slices.DeleteFunc(socks, func(s Socket) bool { return !s.HalfOpen })
		if len(fresh) == 0 && len(pending) == 0 {
			return marker.HoldDone{Key: w.key}, nil
		}
		if len(fresh) > 0 {
			pause = 0 // what came in before they were held shows at once
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-limit.C:
			return marker.HoldDone{Key: w.key}, unread(pending, w.open.Settle)
		}
	}
}

// holdAhead does M1a while the host prepares, where one look is enough: then nobody has to tell it to. What it holds it lets go after holdsAhead, unless
// more comes of the attempt.
func (w *work) holdAhead(ctx context.Context) error {
	held, err := w.holdListeners(ctx, w.listed, nil)
	if err != nil {
		return err
	}
	w.early.begin(held, func() {
		ctx, cancel := cleanup(context.WithoutCancel(ctx))
		defer cancel()
		if err := w.releaseNew(ctx); err != nil {
			w.a.log.Warn("snapshot", "job", w.job(), "snapshot", w.key.Snapshot, "error", err)
		}
	})
	socks, err := w.sockets(ctx)
	if err != nil {
		return err
	}
	for _, s := range socks {
		if s.HalfOpen || s.Listening && !slices.Contains(held, s.Local) {
			return nil
		}
	}
	w.early.calm()
	return nil
}

// earlyHold is a hold that began before the host was told to. The zero value has not begun.
type earlyHold struct {
	mu        sync.Mutex
	timer     *time.Timer // nil: it has not begun, is over, or is not ahead any more
	listeners []netip.AddrPort
	quiet     bool // no connection was half open
}

// begin notes what is held. release lets it go; nobody touches the hold meanwhile.
func (h *earlyHold) begin(listeners []netip.AddrPort, release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners = listeners
	h.timer = time.AfterFunc(holdsAhead, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.timer == nil {
			return
		}
		h.timer, h.listeners, h.quiet = nil, nil, false
		release()
	})
}

func (h *earlyHold) calm() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.quiet = h.timer != nil
}

// promise says whether the host is calm, and stays so for holdsAhead.
func (h *earlyHold) promise() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer == nil || !h.quiet || !h.timer.Stop() { // stopped too late, it lets go at once
		return false
	}
	h.timer.Reset(holdsAhead)
	return true
}

// keep ends the time that the hold is bounded by, and returns the listeners that are held: none, if that time is over. From now on the hold
// ends with the last gate.
func (h *earlyHold) keep() []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	return h.listeners
}

// holdListeners holds the SYNs for listeners that are not among held, and returns those.
func (w *work) holdListeners(ctx context.Context, socks []Socket, held []netip.AddrPort) ([]netip.AddrPort, error) {
	var fresh []netip.AddrPort
	for _, s := range socks {
		if s.Listening && !slices.Contains(held, s.Local) && !slices.Contains(fresh, s.Local) {
			fresh = append(fresh, s.Local)
		}
	}
	if len(fresh) == 0 {
		return nil, nil
	}
	w.mu.Lock()
	w.holds = true
	w.mu.Unlock()
	if err := w.a.cfg.Gates.Close(ctx, []Gate{{Job: w.job(), Peer: newConnections, Listen: fresh, SYNs: true}}); err != nil {
		return nil, fmt.Errorf("hold new connections: %w", err)
	}
	return fresh, nil
}

// unread refuses connections that nobody has accepted though bytes have come on them: those bytes have been acknowledged, so the other end
// does not have them any more, and CRIU cannot read them.
func unread(pending []Socket, limit time.Duration) error {
	var found []string
	for _, s := range pending {
		if s.Unread > 0 {
			found = append(found, fmt.Sprintf("process %d (%s) listens on %s and has not accepted a connection of %s within %s, on which %d bytes have come",
				s.Pid, s.Command, s.Local, s.Remote, limit, s.Unread))
		}
	}
	if len(found) == 0 {
		return nil
	}
	return fault.New(fault.Refused, strings.Join(found, "; "), "give the program more time with --settle")
}

// releaseNew lets go of the SYNs when no gate is closed any more.
func (w *work) releaseNew(ctx context.Context) error {
	w.mu.Lock()
	now := w.holds && len(w.gates) == 0
	w.holds = w.holds && !now
	w.mu.Unlock()
	if !now {
		return nil
	}
	if err := w.a.cfg.Gates.Open(ctx, w.job(), newConnections); err != nil {
		return fmt.Errorf("let new connections go: %w", err)
	}
	return nil
}
