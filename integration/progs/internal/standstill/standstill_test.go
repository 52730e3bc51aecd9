package standstill

import (
	"strings"
	"testing"
	"time"
)

func TestRecorderKeepsTheLongestGap(t *testing.T) {
	var out strings.Builder
	r := New(&out, "gap", 50*time.Millisecond)
	start := time.Now()
	for _, ms := range []int{0, 1, 101, 103, 143} {
		r.mark(start.Add(time.Duration(ms) * time.Millisecond))
	}
	want := Gap{Wall: 100 * time.Millisecond, Monotonic: 100 * time.Millisecond}
	if got := r.Longest(); got != want {
		t.Errorf("longest gap %v, want %v", got, want)
	}
	if told := out.String(); strings.Count(told, "gap wall_us=") != 1 || !strings.Contains(told, "\ngap wall_us=100000 mono_us=100000 end_us=") {
		t.Errorf("printed %q, want one line for the one gap above the threshold", told)
	}
	if beats := strings.Count(out.String(), "beat gap end_us="); beats != 2 {
		t.Errorf("printed %q, want a beat at 1 ms and one 100 ms later", out.String())
	}
	if r.Reset() != want || r.Longest() != (Gap{}) {
		t.Error("Reset does not return and forget the longest gap")
	}
}
