package main

import (
	"bytes"
	"strings"
	"testing"

	"ss/orchestrator"
)

// TestLogWriter: however a log comes in pieces, its lines are whole, have their member's name, and hold nothing that a terminal acts on.
func TestLogWriter(t *testing.T) {
	long := strings.Repeat("x", maxLogLine+5)
	text := "one\n\ntw\x1b[2Jo\n" + long + "\nno end"
	want := "a-1 | one\na-1 | \na-1 | tw\\x1b[2Jo\na-1 | " + long[:maxLogLine] + "\na-1 | xxxxx\na-1 | no end\n"
	for _, step := range []int{1, 2, 3, 7, 1000, len(text)} {
		var out bytes.Buffer
		w := newLogWriter(&out, true, true)
		for at := 0; at < len(text); at += step {
			if err := w.take(orchestrator.Member{Name: "a-1"}, []byte(text[at:min(at+step, len(text))])); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Fatalf("in steps of %d: %q", step, out.String()[:200])
		}
	}
	var out bytes.Buffer
	w := newLogWriter(&out, false, false)
	if err := w.take(orchestrator.Member{Name: "a-1"}, []byte(text)); err != nil || w.flush() != nil || out.String() != text {
		t.Errorf("raw: %v, %q", err, out.String())
	}
}
