package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"ss/fault"
	"ss/orchestrator"
)

// screen shows progress on standard error: one live line per host on a terminal, a plain line per
// change elsewhere.
type screen struct {
	terminal io.Writer // takes the screen's own control characters, and beside them what is quoted
	w        io.Writer // quotes control characters
	quiet    bool
	live     bool
	color    bool

	mu    sync.Mutex
	hosts map[string]*hostLine
	drawn int // lines that stand on the terminal now
}

type hostLine struct {
	phase string
	bytes int64
	since time.Time
}

// newScreen makes a screen on a file. What it prints as plain lines goes to w.
func newScreen(f *os.File, w io.Writer, quiet, noColor bool) *screen {
	tty := term.IsTerminal(int(f.Fd()))
	return &screen{terminal: f, w: w, quiet: quiet, live: tty, color: tty && !noColor, hosts: map[string]*hostLine{}}
}

func (s *screen) progress(p orchestrator.Progress) {
	if s.quiet {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[p.Host]
	if h == nil {
		h = &hostLine{}
		s.hosts[p.Host] = h
	}
	fresh := h.phase != p.Phase
	if fresh {
		*h = hostLine{phase: p.Phase, since: time.Now()}
	}
	h.bytes = p.Bytes
	switch {
	case s.live:
		s.draw()
	case fresh:
		fmt.Fprintf(s.w, "%s: %s\n", fault.Field(p.Host), fault.Field(p.Phase))
	}
}

// draw replaces the live lines. The caller holds mu.
func (s *screen) draw() {
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	names := make([]string, 0, len(s.hosts))
	for n := range s.hosts {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		h := s.hosts[n]
		fmt.Fprintf(&b, "\x1b[2K  %s  %s%s\n", s.paint("1", fmt.Sprintf("%-10s", fault.Field(n))), fault.Field(h.phase), rate(h))
	}
	s.drawn = len(names)
	fmt.Fprint(s.terminal, b.String())
}

func rate(h *hostLine) string {
	if h.bytes == 0 {
		return ""
	}
	out := "  " + size(h.bytes)
	if d := time.Since(h.since).Seconds(); d > 0.1 {
		out += fmt.Sprintf("  %s/s", size(int64(float64(h.bytes)/d)))
	}
	return out
}

func (s *screen) paint(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// notice says something that is not a failure and should be known.
func (s *screen) notice(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprintln(s.w, "ssctl: note:", fault.Printable(text))
}

// finish takes the live lines away.
func (s *screen) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}

func (s *screen) clear() {
	if s.drawn > 0 {
		fmt.Fprintf(s.terminal, "\x1b[%dA\x1b[J", s.drawn)
		s.drawn = 0
	}
}
