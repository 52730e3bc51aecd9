package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"ss/fault"
	"ss/report"
)

func (a *app) json() bool { return a.output == "json" }

// print writes one JSON document. Its schema field names the shape, which docs/json.md describes.
func (a *app) print(doc any) error {
	enc := json.NewEncoder(a.documents)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

// say writes doc as JSON, or the text, whichever is asked for.
func (a *app) say(doc any, format string, args ...any) error {
	if a.json() {
		return a.print(doc)
	}
	for i := range args {
		if text, ok := args[i].(string); ok {
			args[i] = fault.Field(text)
		}
	}
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}

// table writes rows in columns; the first row is the head.
func (a *app) table(rows [][]string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		cells := make([]string, len(r))
		for i := range r {
			cells[i] = fault.Field(r[i])
		}
		if _, err := fmt.Fprintln(w, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}

func ms(v float64) string       { return report.Millis(v) }
func size(n int64) string       { return report.Size(n) }
func dash(s string) string      { return report.Dash(s) }
func some(in []string) []string { return report.Some(in) }
