package report

import (
	"fmt"
	"time"
)

// Table is rows of cells; the first row is the head. Cells are as they came from elsewhere: whoever prints them quotes control characters.
type Table [][]string

// Size is a number of bytes for people.
func Size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

// Millis is a span for people, given in milliseconds.
func Millis(v float64) string {
	return time.Duration(v * float64(time.Millisecond)).Round(100 * time.Microsecond).String()
}

// When is a time for people, in local time.
func When(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// Dash is s, or a dash where there is nothing.
func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// Some is a list that JSON shows as [] when it is empty. It shares nothing with in.
func Some(in []string) []string { return append([]string{}, in...) }

// errorTexts are the texts of errors, by host.
func errorTexts(errs map[string]error) map[string]string {
	out := map[string]string{}
	for host, err := range errs {
		out[host] = err.Error()
	}
	return out
}
