package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ss/integration/progs/internal/meet"
	"ss/integration/progs/internal/standstill"
)

// pair runs both ends over loopback and returns their summaries.
func pair(t *testing.T, serve, connect []string) (summaries [2]string) {
	t.Helper()
	addr := meet.FreePorts(t, 1)[0]
	var both sync.WaitGroup
	for i, args := range [][]string{append([]string{"serve", "-listen", addr}, serve...), append([]string{"connect", "-to", addr}, connect...)} {
		both.Go(func() {
			var out strings.Builder
			summary, err := run(args, &out)
			if err != nil {
				t.Errorf("%v: %v\n%s", args, err, &out)
			}
			summaries[i] = summary
		})
	}
	both.Wait()
	return summaries
}

func TestLimitOnBothSides(t *testing.T) {
	var sent, received [2]int
	for i, s := range pair(t, []string{"-words", "3000001", "-ballast", "1"}, []string{"-words", "3000001"}) {
		if _, err := fmt.Sscanf(s, "sent=%d received=%d ", &sent[i], &received[i]); err != nil {
			t.Errorf("side %d: %q: %v", i, s, err)
		}
	}
	// The side that comes to its end first ends the other's stream, too.
	if max(sent[0], sent[1]) != 3000001 || sent[0] != received[1] || sent[1] != received[0] {
		t.Errorf("sent %v, received %v", sent, received)
	}
}

func TestUntilFileOnOneSide(t *testing.T) {
	file := filepath.Join(t.TempDir(), "enough")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pair(t, []string{"-until", file}, nil)
}

func TestEveryFaultOfAStreamIsFound(t *testing.T) {
	const count = 100_000
	stream := func() []byte {
		var b []byte
		for i := range uint64(count) {
			b = binary.LittleEndian.AppendUint64(b, word(fromServer, i))
		}
		return binary.LittleEndian.AppendUint64(b, endWord(fromServer, count))
	}
	whole := stream()
	for name, broken := range map[string][]byte{
		"lost word":     append(stream()[:80_000], whole[80_008:]...),
		"lost byte":     append(stream()[:80_000], whole[80_001:]...),
		"repeated word": append(stream()[:80_008], whole[80_000:]...),
		"cut short":     whole[:80_000],
		"early end":     append(stream()[:80_000], whole[len(whole)-8:]...),
		"more":          append(stream(), 1),
		"other stream":  binary.LittleEndian.AppendUint64(nil, word(fromClient, 0)),
	} {
		e := &exchange{arrivals: standstill.New(io.Discard, "gap", 0)}
		if e.receive(strings.NewReader(string(broken)), fromServer) == nil {
			t.Errorf("%s: not found", name)
		}
	}
	e := &exchange{arrivals: standstill.New(io.Discard, "gap", 0)}
	if err := e.receive(strings.NewReader(string(whole)), fromServer); err != nil || e.received.Load() != count {
		t.Errorf("sound stream: %d words, %v", e.received.Load(), err)
	}
}
