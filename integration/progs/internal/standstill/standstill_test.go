package standstill

import (
	"strings"
	"testing"
	"time"
)

func TestRecorderKeepsTheLongestGap(t *testing.T) {
	var out strings.Builder
	r := New(&out, 50*time.Millisecond)
	start := time.Now()
	for _, ms := range []int{0, 1, 101, 103, 143} {
		r.mark(start.Add(time.Duration(ms) * time.Millisecond))
	}
	want := Gap{Wall: 100 * time.Millisecond, Monotonic: 100 * time.Millisecond}
	if got := r.Longest(); got != want {
		t.Errorf("longest gap %v, want %v", got, want)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 1 || !strings.HasPrefix(out.String(), "gap wall_us=100000 mono_us=100000 end_us=") {
		t.Errorf("printed %q, want one line for the one gap above the threshold", out.String())
	}
	if r.Reset() != want || r.Longest() != (Gap{}) {
		t.Error("Reset does not return and forget the longest gap")
	}
}
