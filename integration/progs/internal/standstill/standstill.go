// Package standstill measures the longest time in which something that happens all the time did not happen. It imports the
// standard library alone.
package standstill

import (
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// beatEvery is how long Run leaves the processor to others: a loop that never did would measure the scheduler of
// a busy machine.
const beatEvery = 200 * time.Microsecond

// tellEvery is how often a Recorder that tells of gaps says that there are none.
const tellEvery = 100 * time.Millisecond

// Recorder measures the gaps between calls of Mark, on two clocks: CLOCK_REALTIME, which a restored process sees jump over the
// time it did not live, and CLOCK_MONOTONIC, which a time namespace may set back. Its methods are safe for concurrent use.
type Recorder struct {
	word      string
	threshold time.Duration
	out       io.Writer

	mu      sync.Mutex
	last    time.Time
	told    time.Time
	longest Gap
}

// Gap is a time without a Mark, as both clocks measured it.
type Gap struct{ Wall, Monotonic time.Duration }

// New returns a Recorder that writes a line, which begins with word, to out for every gap of at least threshold, and
// a line "beat WORD end_us=…" a few times a second otherwise, so that who reads along can tell no gap from no news. With a
// threshold of 0 it writes nothing.
func New(out io.Writer, word string, threshold time.Duration) *Recorder {
	return &Recorder{threshold: threshold, out: out, word: word}
}

// Run does nothing but Mark, over and over, until quit is closed: the longest gap is then the longest time in which the
// process itself did not run, whatever its partners did. A process as busy as its machine should have a GOMAXPROCS larger than the
// number of processors, so that the scheduler of the kernel and not Go's decides when it is this loop's turn.
func (r *Recorder) Run(quit <-chan struct{}) {
	sleep := syscall.NsecToTimespec(int64(beatEvery))
	for {
		select {
		case <-quit:
			return
		default:
			r.Mark()
			_ = syscall.Nanosleep(&sleep, nil) // an interrupted one is shorter still
		}
	}
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
	if r.threshold == 0 {
		return
	}
	if now.Sub(r.told) >= tellEvery {
		r.told = now
		fmt.Fprintf(r.out, "beat %s end_us=%d\n", r.word, now.UnixMicro())
	}
	if max(gap.Wall, gap.Monotonic) >= r.threshold {
		fmt.Fprintf(r.out, "%s %v end_us=%d\n", r.word, gap, now.UnixMicro())
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
