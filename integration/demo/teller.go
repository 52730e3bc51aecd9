package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"
)

// teller prints the demo's story: one act a line, with the seconds since the beginning.
type teller struct {
	out    *os.File
	colour bool
	began  time.Time
}

// The colours of a terminal (ECMA-48, SGR).
const (
	bold  = "1"
	green = "32"
	red   = "31"
	grey  = "90"
	cyan  = "36"
)

func newTeller(out *os.File) *teller {
	return &teller{out: out, colour: term.IsTerminal(int(out.Fd())) && os.Getenv("NO_COLOR") == "", began: time.Now()}
}

func (t *teller) paint(colour, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (t *teller) title(s string) {
	fmt.Fprintf(t.out, "\n  %s\n  %s\n\n", t.paint(bold, s), t.paint(grey, strings.Repeat("─", len(s))))
}

func (t *teller) act(what, format string, args ...any) { t.line(green, "●", what, format, args...) }
func (t *teller) bad(what, format string, args ...any) { t.line(red, "✖", what, format, args...) }

func (t *teller) line(colour, mark, what, format string, args ...any) {
	fmt.Fprintf(t.out, "  %s %s %s %s\n", t.paint(grey, fmt.Sprintf("%5.1fs", time.Since(t.began).Seconds())),
		t.paint(colour, mark), t.paint(bold, fmt.Sprintf("%-17s", what)), fmt.Sprintf(format, args...))
}

func (t *teller) detail(where, format string, args ...any) {
	fmt.Fprintf(t.out, "           %s %s\n", t.paint(cyan, fmt.Sprintf("%-17s", where)), fmt.Sprintf(format, args...))
}

// command shows a command of ssctl as a person would type it: without the folders of programs.
func (t *teller) command(args []string) {
	words := []string{"ssctl"}
	for i, arg := range args {
		if i > 0 && args[i-1] == "--" {
			arg = filepath.Base(arg)
		}
		words = append(words, arg)
	}
	fmt.Fprintf(t.out, "         %s\n", t.paint(grey, "$ "+strings.Join(words, " ")))
}

func (t *teller) verdict(good bool, format string, args ...any) {
	word, colour := "PASS", green
	if !good {
		word, colour = "FAIL", red
	}
	fmt.Fprintf(t.out, "\n%s %s\n", t.paint(colour, word+":"), fmt.Sprintf(format, args...))
}

// count prints a number with its thousands apart.
func count(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// bytes prints a size in the unit that suits it.
func bytes(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	default:
		return fmt.Sprintf("%d bytes", n)
	}
}
