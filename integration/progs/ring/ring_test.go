package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"ss/integration/progs/internal/meet"
)

func TestMoneyIsConserved(t *testing.T) {
	const n = 5
	addrs := meet.FreePorts(t, n)
	var all sync.WaitGroup
	for id := range n {
		all.Go(func() {
			var out strings.Builder
			summary, err := run([]string{"-id", fmt.Sprint(id), "-of", fmt.Sprint(n), "-listen", addrs[id],
				"-next", addrs[(id+1)%n], "-rounds", "5000"}, &out)
			if err != nil || !strings.Contains(summary, "total=5000000 ") {
				t.Errorf("process %d: %s, %v\n%s", id, summary, err, &out)
			}
			if id == 0 && strings.Contains(summary, "counts=0") {
				t.Errorf("nothing was counted on the way: %s", summary)
			}
		})
	}
	all.Wait()
}

// TestFaultsAreFound plays against a neighbour whose messages a bad restore has spoiled.
func TestFaultsAreFound(t *testing.T) {
	type m = message
	for name, in := range map[string][]message{
		"lost":             {m{transfer, 0, 5}, m{transfer, 2, 5}},
		"repeated":         {m{transfer, 0, 5}, m{transfer, 0, 5}},
		"after the stop":   {m{transfer, 0, 5}, m{stop, 1, 0}, m{transfer, 2, 5}},
		"wrong total":      {m{stop, 0, 0}, m{total, 1, 7}, m{done, 2, 7}},
		"cut short":        {m{transfer, 0, 5}},
		"unknown":          {m{99, 0, 5}},
		"count of its own": {m{count, 0, 5}},
		"debt":             {m{transfer, 0, -5}},
	} {
		var stream []byte
		for _, one := range in {
			stream = binary.LittleEndian.AppendUint64(stream, uint64(one.Kind))
			stream = binary.LittleEndian.AppendUint64(stream, one.Number)
			stream = binary.LittleEndian.AppendUint64(stream, uint64(one.Amount))
		}
		p := &player{id: 0, of: 2, balance: 10, total: 20, countEvery: 1000, out: io.Discard,
			previous: bufio.NewReader(strings.NewReader(string(stream))), next: io.Discard}
		if p.play() == nil {
			t.Errorf("%s: not found", name)
		}
	}
}
