package lab

import (
	"errors"
	"fmt"
	"io"
)

// TB is what a lab needs of its user. Every *testing.T and *testing.B is one.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// errFatal ends a Script's function from the inside of Fatalf.
var errFatal = errors.New("fatal")

// Script is a TB for programs that are not tests.
type Script struct {
	out      io.Writer
	failures []error
	cleanups []func()
}

// RunScript calls fn with a Script that writes its log lines to out, then runs what fn registered with
// Cleanup, last first. It returns everything that fn reported with Errorf and Fatalf.
func RunScript(out io.Writer, fn func(*Script)) error {
	s := &Script{out: out}
	s.protect(func() { fn(s) })
	for len(s.cleanups) > 0 {
		last := s.cleanups[len(s.cleanups)-1]
		s.cleanups = s.cleanups[:len(s.cleanups)-1]
		s.protect(last)
	}
	return errors.Join(s.failures...)
}

// protect runs fn up to its end or to its first Fatalf.
func (s *Script) protect(fn func()) {
	defer func() {
		if r := recover(); r != nil && r != any(errFatal) {
			panic(r)
		}
	}()
	fn()
}

// Helper does nothing; a Script prints no source lines.
func (s *Script) Helper() {}

// Logf prints a line.
func (s *Script) Logf(format string, args ...any) {
	if s.out != nil {
		fmt.Fprintf(s.out, format+"\n", args...)
	}
}

// Errorf notes a failure and goes on.
func (s *Script) Errorf(format string, args ...any) {
	s.failures = append(s.failures, fmt.Errorf(format, args...))
}

// Fatalf notes a failure and ends the function that RunScript was given. Like its counterpart in
// package testing it must be called on the goroutine that runs that function.
func (s *Script) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	panic(errFatal)
}

// Failed says whether a failure was noted.
func (s *Script) Failed() bool { return len(s.failures) > 0 }

// Cleanup registers fn to run at the end.
func (s *Script) Cleanup(fn func()) { s.cleanups = append(s.cleanups, fn) }
