package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"ss/integration/progs/internal/meet"
)

func TestRequestsAreAnsweredAndTheLoopMeasured(t *testing.T) {
	addr := meet.FreePorts(t, 1)[0]
	var both sync.WaitGroup
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"serve", "-listen", addr, "-ballast", "2"}, "answers=500 ballast=2MiB"},
		{[]string{"loop", "-to", addr, "-ballast", "1", "-requests", "500"}, "requests=500 longest standstill wall_us="},
	} {
		both.Go(func() {
			var out strings.Builder
			summary, err := run(c.args, &out)
			if err != nil || !strings.HasPrefix(summary, c.want) {
				t.Errorf("%v: %q, %v, want %q\n%s", c.args, summary, err, c.want, &out)
			}
		})
	}
	both.Wait()
}

func TestServerFindsFaults(t *testing.T) {
	for name, numbers := range map[string][]uint64{"lost": {0, 2}, "repeated": {0, 0}} {
		var stream bytes.Buffer
		for _, n := range numbers {
			if err := send(&stream, n); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := answer(&stream); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
	if _, err := answer(bytes.NewBuffer([]byte{1, 2, 3})); err == nil {
		t.Error("half a request: not found")
	}
}
