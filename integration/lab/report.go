package lab

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tailLines is how much of a log a report quotes.
const tailLines = 40

// stopAgents ends the agents and reports what they did wrong: ended unasked, did not end when asked, or raced.
func (l *Lab) stopAgents() {
	for _, h := range l.hosts {
		a := l.agents[h.Name]
		if a == nil || a.cmd == nil {
			continue
		}
		if h.Running() && !a.running() && !a.asked {
			l.tb.Errorf("agent of %s ended by itself: %v", h.Name, a.cmd.Wait())
		}
		if h.Running() {
			if err := a.stop(); err != nil {
				l.tb.Errorf("%v", err)
			}
		}
		if strings.Contains(a.Log(), "WARNING: DATA RACE") {
			l.tb.Errorf("agent of %s: data race, see its log", h.Name)
		}
	}
}

// report quotes the ends of the agents' logs and of every log of a CRIU that has failed.
func (l *Lab) report() {
	for _, h := range l.hosts {
		if a := l.agents[h.Name]; a != nil {
			l.tb.Logf("--- end of the agent's log on %s\n%s", h.Name, tail(a.Log(), tailLines))
		}
		for _, log := range h.criuLogs() {
			data, err := os.ReadFile(log)
			if err != nil {
				l.tb.Logf("--- %s: %v", log, err)
				continue
			}
			if strings.Contains(string(data), "finished successfully") {
				continue
			}
			l.tb.Logf("--- errors in, and end of, %s\n%s%s", log, errorLines(string(data)), tail(string(data), tailLines/2))
		}
	}
}

// criuLogs finds the logs of CRIU on a host's disk.
func (h *Host) criuLogs() []string {
	var logs []string
	_ = filepath.WalkDir(h.dir(), func(path string, d fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if err == nil && d.Type().IsRegular() && (name == "dump.log" || name == "restore.log" || strings.HasPrefix(name, "criu") && strings.HasSuffix(name, ".log")) {
			logs = append(logs, path)
		}
		return nil // what cannot be read cannot be quoted
	})
	return logs
}

// errorLines picks what CRIU itself calls errors and warnings.
func errorLines(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if strings.Contains(line, "Error") || strings.Contains(line, "Warn") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// tail is the last n lines of a text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if cut := len(lines) - n; cut > 0 {
		lines = append([]string{fmt.Sprintf("(%d lines before)", cut)}, lines[cut:]...)
	}
	return strings.Join(lines, "\n") + "\n"
}
