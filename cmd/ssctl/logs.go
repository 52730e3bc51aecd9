package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ss/fault"
	"ss/orchestrator"
)

func (a *app) logsCommand() *cobra.Command {
	var opt orchestrator.LogOptions
	var raw bool
	cmd := &cobra.Command{
		Use: "logs JOB [MEMBER]", Short: "Show what members have written", Args: args(1, 2),
		Long: "logs shows the log of a member, or of all members of a job, each line with the member's name before it. A member that was started with --log\n" +
			"has that file as its log; any other has one below its agent's state folder, which job rm removes. On a terminal, control characters are\n" +
			"quoted; --raw, or a pipe, gets them as they are.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			if a.json() {
				return usage("logs are bytes and have no JSON form; ssctl ps -o json has their paths and sizes")
			}
			if opt.Tail < 0 {
				return usage("--tail takes a number of bytes, not %d", opt.Tail)
			}
			member := ""
			if len(argv) == 2 {
				member = argv[1]
			}
			out := newLogWriter(a.documents, member == "", !raw && isTerminal(a.documents))
			return a.with(cmd.Context(), func(ctx context.Context, c *orchestrator.Cluster) error {
				err := c.Logs(ctx, argv[0], member, opt, out.take)
				if ferr := out.flush(); err == nil {
					err = ferr
				}
				if err != nil && !fault.Is(err, fault.Interrupted) {
					return &fault.Error{Op: "logs", Job: argv[0], Err: err}
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&opt.Follow, "follow", "f", false, "continue as the logs grow, until the members have ended")
	cmd.Flags().Int64Var(&opt.Tail, "tail", 0, "start about this many bytes before the end of each log")
	cmd.Flags().BoolVar(&raw, "raw", false, "control characters as they are, on a terminal too")
	return cmd
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// maxLogLine bounds what of a line is waited for, in bytes.
const maxLogLine = 64 << 10

// logWriter writes pieces of members' logs as lines.
type logWriter struct {
	w     io.Writer
	named bool // the member's name stands before each line
	quote bool // control characters are quoted
	rest  map[string][]byte
	order []string // members of which there is something in rest, as they came
}

func newLogWriter(w io.Writer, named, quote bool) *logWriter {
	return &logWriter{w: w, named: named, quote: quote, rest: map[string][]byte{}}
}

// take writes the whole lines of a piece, and keeps the beginning of one that is not whole.
func (l *logWriter) take(m orchestrator.Member, piece []byte) error {
	if !l.named && !l.quote {
		_, err := l.w.Write(piece)
		return err
	}
	if _, known := l.rest[m.Name]; !known {
		l.order = append(l.order, m.Name)
	}
	text := append(l.rest[m.Name], piece...)
	for len(text) > 0 {
		i := bytes.IndexByte(text, '\n')
		if i < 0 && len(text) <= maxLogLine {
			break
		}
		if i < 0 || i > maxLogLine {
			i = maxLogLine
		}
		if err := l.line(m.Name, text[:i]); err != nil {
			return err
		}
		text = text[i:]
		if len(text) > 0 && text[0] == '\n' {
			text = text[1:]
		}
	}
	l.rest[m.Name] = bytes.Clone(text)
	return nil
}

func (l *logWriter) line(member string, text []byte) error {
	line := string(text)
	if l.quote {
		line = fault.Printable(line)
	}
	if l.named {
		line = member + " | " + line
	}
	_, err := fmt.Fprintln(l.w, line)
	return err
}

// flush writes what is left of lines without an end.
func (l *logWriter) flush() error {
	for _, member := range l.order {
		if text := l.rest[member]; len(text) > 0 {
			if err := l.line(member, text); err != nil {
				return err
			}
		}
	}
	return nil
}
