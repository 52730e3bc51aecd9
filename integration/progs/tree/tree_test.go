package main

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"

	"ss/integration/progs/internal/meet"
)

// TestMain lets the test binary be a tree's child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childRole {
		main()
	}
	os.Exit(m.Run())
}

func TestTwoTrees(t *testing.T) {
	addr := meet.FreePorts(t, 1)[0]
	var both sync.WaitGroup
	for _, args := range [][]string{{"serve", "-listen", addr}, {"connect", "-to", addr, "-messages", "20000"}} {
		both.Go(func() {
			log, err := os.CreateTemp(t.TempDir(), "log")
			if err != nil {
				t.Error(err)
				return
			}
			defer log.Close()
			summary, err := run(args, log)
			out, _ := os.ReadFile(log.Name())
			// What is in the pipes when the end is made comes back before it.
			if err != nil || summary != "messages=20064" {
				t.Errorf("%v: %q, %v\n%s", args, summary, err, out)
			}
			if got := strings.Count(string(out), "PASS tree child messages=20064\n"); got != 2 {
				t.Errorf("%v: %d children passed, want 2:\n%s", args, got, out)
			}
		})
	}
	both.Wait()
}

func TestStationFindsFaults(t *testing.T) {
	for name, numbers := range map[string][]uint64{"lost": {0, 2}, "repeated": {0, 0}, "cut short": {0}} {
		var stream bytes.Buffer
		for _, n := range numbers {
			if err := send(&stream, n); err != nil {
				t.Fatal(err)
			}
		}
		if relay(&station{from: &stream}, &bytes.Buffer{}) == nil {
			t.Errorf("%s: not found", name)
		}
	}
	if _, _, err := (&station{from: bytes.NewReader(make([]byte, messageSize-1))}).receive(); err == nil {
		t.Error("half a message: not found")
	}
	if _, _, err := (&station{from: bytes.NewReader(bytes.Repeat([]byte{1}, messageSize))}).receive(); err == nil {
		t.Error("altered: not found")
	}
}
