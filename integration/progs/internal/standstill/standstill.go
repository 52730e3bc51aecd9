// Package standstill measures the longest time in which something that happens all the time did not happen. It imports the
// standard library alone.
package standstill

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Recorder measures the gaps between calls of Mark, on two clocks: CLOCK_REALTIME, which a restored process sees jump over the
// time it did not live, and CLOCK_MONOTONIC, which a time namespace may set back. Its methods are safe for concurrent use.
type Recorder struct {
	threshold time.Duration
	out       io.Writer

	mu      sync.Mutex
	last    time.Time
	longest Gap
}

// Gap is a time without a Mark, as both clocks measured it.
type Gap struct{ Wall, Monotonic time.Duration }

// New returns a Recorder that writes a line to out for every gap of at least threshold; for none if it is 0.
func New(out io.Writer, threshold time.Duration) *Recorder {
	return &Recorder{threshold: threshold, out: out}
}

// Mark says that it happened.
func (r *Recorder) Mark() { r.mark(time.Now()) }

func (r *Recorder) mark(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.last
	r.last = now
	if last.IsZero() {
		return
	}
	// Round(0) strips the monotonic reading, and with it the choice of clock for Sub.
	gap := Gap{Wall: now.Round(0).Sub(last.Round(0)), Monotonic: now.Sub(last)}
	r.longest.Wall = max(r.longest.Wall, gap.Wall)
	r.longest.Monotonic = max(r.longest.Monotonic, gap.Monotonic)
	if r.threshold > 0 && max(gap.Wall, gap.Monotonic) >= r.threshold {
		fmt.Fprintf(r.out, "gap %v end_us=%d\n", gap, now.UnixMicro())
	}
}

// Longest returns the longest gap since the beginning, or since the last call of Reset.
func (r *Recorder) Longest() Gap {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.longest
}

// Reset returns the longest gap and forgets it.
func (r *Recorder) Reset() Gap {
	r.mu.Lock()
	defer r.mu.Unlock()
	longest := r.longest
	r.longest = Gap{}
	return longest
}

// String prints microseconds as key=value pairs.
func (g Gap) String() string {
	return fmt.Sprintf("wall_us=%d mono_us=%d", g.Wall.Microseconds(), g.Monotonic.Microseconds())
}
