package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// journal follows what a program writes.
type journal struct {
	path string
	at   int64
	rest []byte // of a line that is not complete yet

	connected, passed bool
	failed            string // its line
	pauses            map[string][]pause
	beats             map[string]time.Time // the last, by what beats
	words             float64              // that it has received
	reports           int                  // how often it has said so
}

// pause is one line "still …" or "gap …".
type pause struct {
	long time.Duration
	end  time.Time
}

// rewind has everything read again.
func (l *journal) rewind() { *l = journal{path: l.path, connected: l.connected} }

// read takes in what is new.
func (l *journal) read() error {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not started yet
	}
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, l.at, 1<<30))
	if err != nil {
		return err
	}
	l.at += int64(len(data))
	data = append(l.rest, data...)
	end := bytes.LastIndexByte(data, '\n') + 1
	l.rest = bytes.Clone(data[end:])
	for line := range strings.Lines(string(data[:end])) {
		l.take(line)
	}
	return nil
}

func (l *journal) take(line string) {
	if l.pauses == nil {
		l.pauses, l.beats = map[string][]pause{}, map[string]time.Time{}
	}
	var word string
	var wall, mono, end int64
	if n, _ := fmt.Sscanf(line, "beat %s end_us=%d", &word, &end); n == 2 {
		l.beats[word] = time.UnixMicro(end)
		return
	}
	if n, _ := fmt.Sscanf(line, "%s wall_us=%d mono_us=%d end_us=%d", &word, &wall, &mono, &end); n == 4 {
		l.pauses[word] = append(l.pauses[word], pause{time.Duration(wall) * time.Microsecond, time.UnixMicro(end)})
		return
	}
	var sent, received float64
	if n, _ := fmt.Sscanf(line, "progress sent=%f received=%f", &sent, &received); n == 2 {
		l.words, l.reports = received, l.reports+1
		return
	}
	switch {
	case strings.Contains(line, "connected"):
		l.connected = true
	case strings.HasPrefix(line, "PASS"):
		l.passed = true
	case strings.HasPrefix(line, "FAIL"):
		l.failed = strings.TrimSpace(line)
	}
}

// since lists the pauses of that kind that ended after a time.
func (l *journal) since(word string, at time.Time) []pause {
	var out []pause
	for _, p := range l.pauses[word] {
		if p.end.After(at) {
			out = append(out, p)
		}
	}
	return out
}

// longest is the longest of them, in milliseconds; 0 if there is none.
func (l *journal) longest(word string, since time.Time) float64 {
	during, after := l.split(word, since, since)
	return max(during, after)
}

// split is the longest of those that began before a certain time, and of the others, in milliseconds.
func (l *journal) split(word string, since, at time.Time) (before, after float64) {
	for _, p := range l.since(word, since) {
		if p.end.Add(-p.long).Before(at) {
			before = max(before, ms(p.long))
		} else {
			after = max(after, ms(p.long))
		}
	}
	return before, after
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
