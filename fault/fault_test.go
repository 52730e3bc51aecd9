package fault

import (
	"errors"
	"fmt"
	"testing"
)

func TestErrorNamesEverything(t *testing.T) {
	e := &Error{Op: "snapshot", Job: "sim", Host: "hostA", Snapshot: "s1", Phase: "dumping",
		Err: errors.New("criu: no room"), Next: "free some disk"}
	want := "snapshot of job sim on hostA (s1, while dumping): criu: no room; free some disk"
	if got := e.Error(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	e = &Error{Op: "run", Phase: "starting", Err: errors.New("x")}
	if got, want := e.Error(), "run (while starting): x"; got != want {
		t.Errorf("got %q want %q", got, want)
	}
	if got, want := New(Refused, "no", "yes").Error(), "no; yes"; got != want {
		t.Errorf("got %q want %q", got, want)
	}
}

func TestKindOfLooksThroughWrapping(t *testing.T) {
	inner := New(Integrity, "bit flipped", "")
	err := fmt.Errorf("outer: %w", &Error{Op: "restore", Err: fmt.Errorf("mid: %w", inner)})
	if got := KindOf(err); got != Integrity {
		t.Errorf("KindOf = %v, want Integrity", got)
	}
	if KindOf(errors.New("plain")) != Failed || Is(nil, Failed) {
		t.Error("a plain error is Failed, nil is nothing")
	}
}
