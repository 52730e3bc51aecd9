package main

import (
	"io"
	"strings"
	"testing"

	"ss/integration/progs/internal/meet"
)

// server answers with what it was made of, whatever it is asked.
type server struct{ io.Reader }

func (server) Write(p []byte) (int, error) { return len(p), nil }

func TestCount(t *testing.T) {
	for answers, good := range map[string]bool{
		":1\r\n:2\r\n:3\r\n": true,
		":1\r\n:3\r\n:4\r\n": false,
		":1\r\n:1\r\n:2\r\n": false,
		":1\r\n-ERR no\r\n":  false,
		":1\r\n:2\r\n":       false,
	} {
		n, err := count(server{strings.NewReader(answers)}, "k", &meet.Stopper{Limit: 3}, io.Discard)
		if (err == nil) != good || good && n != 3 {
			t.Errorf("%q: %d steps, %v, want success: %v", answers, n, err, good)
		}
	}
}
