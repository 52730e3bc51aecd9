package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestJournalFollowsAFile(t *testing.T) {
	l := &journal{path: filepath.Join(t.TempDir(), "log")}
	if err := l.read(); err != nil {
		t.Fatalf("a file that is not there yet: %v", err)
	}
	f, err := os.Create(l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, part := range []string{
		"words: connected 1 2\nbeat still end_us=1000000\nstill wall_us=7000 mo", "no_us=7000 end_us=2000000\n",
		"gap wall_us=9000 mono_us=9000 end_us=2500000\nstill wall_us=80000 mono_us=1000 end_us=3000000\nPASS words\n",
	} {
		if _, err := f.WriteString(part); err != nil {
			t.Fatal(err)
		}
		if err := l.read(); err != nil {
			t.Fatal(err)
		}
	}
	if !l.connected || !l.passed || l.failed != "" || !l.beats["still"].Equal(time.Unix(1, 0)) {
		t.Errorf("read %+v", l)
	}
	if got := l.longest("still", time.Unix(0, 0)); got != 80 {
		t.Errorf("longest standstill %v ms, want 80", got)
	}
	if got := l.since("still", time.Unix(2, 500)); len(got) != 1 || got[0].long != 80*time.Millisecond {
		t.Errorf("since the second: %v", got)
	}
	if got := l.longest("gap", time.Unix(3, 0)); got != 0 {
		t.Errorf("no gap ended after the third second, got %v", got)
	}
	l.rewind()
	if err := l.read(); err != nil || len(l.pauses["still"]) != 2 {
		t.Errorf("read again: %v, %v", l.pauses, err)
	}
}

func TestRowsCompareMedians(t *testing.T) {
	pairs := [][2]float64{{100, 110}, {200, 210}, {100, 300}}
	r := compare("x", pairs, 1.15, func(p [2]float64) float64 { return p[0] }, func(p [2]float64) float64 { return p[1] })
	if r.Base != 100 || r.Ours != 210 || r.Ratio != 2.1 || r.Pairs != 1.1 {
		t.Errorf("%+v", r)
	}
	for want, row := range map[string]Row{
		"OK": {Ratio: 1.1, Pairs: 1, Bound: 1.1}, "near": {Ratio: 1.2, Pairs: 1, Bound: 1.1}, "MISS": {Ratio: 1.2, Pairs: 1.2, Bound: 1.1},
		"": {Ratio: 9, Pairs: 9, Bound: noBound},
	} {
		if got := row.verdict(); got != want {
			t.Errorf("%+v: %q, want %q", row, got, want)
		}
	}
	if got := (Row{Count: true, Ours: 1}).verdict(); got != "MISS" {
		t.Errorf("one timeout: %q", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of an even number: %v", got)
	}
}

func TestStatsAreRead(t *testing.T) {
	var dump []byte
	for n, v := range []uint64{0, 1500, 250_000, 200_000, 150_000, 77} {
		if n > 0 {
			dump = protowire.AppendVarint(protowire.AppendTag(dump, protowire.Number(n), protowire.VarintType), v)
		}
	}
	entry := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), dump)
	file := append(make([]byte, 8), binary.LittleEndian.AppendUint32(nil, uint32(len(entry)))...)
	path := filepath.Join(t.TempDir(), "stats-dump")
	if err := os.WriteFile(path, append(file, entry...), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := readStats(path)
	if want := (Stats{Freezing: 1.5, Frozen: 250, MemDump: 200, MemWrite: 150}); err != nil || st != want {
		t.Errorf("%+v, %v, want %+v", st, err, want)
	}
	if err := os.WriteFile(path, append(file, entry[:5]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readStats(path); err == nil {
		t.Error("half a file is read")
	}
}

func TestCountersAreFoundByName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "netstat")
	text := "TcpExt: A TCPTimeouts B\nTcpExt: 1 22 3\nIpExt: A TCPTimeouts\nIpExt: 5 6\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := 20
	if err := addCounters(path, map[string]*int{"TcpExt TCPTimeouts": &sum}); err != nil || sum != 42 {
		t.Errorf("%d, %v", sum, err)
	}
	if err := addCounters(path, map[string]*int{"TcpExt Missing": &sum}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a counter that is not there: %v", err)
	}
}

func TestOptions(t *testing.T) {
	o, err := parse([]string{"-sizes", "512, 64", "-n", "3"})
	if err != nil || len(o.sizes) != 2 || o.sizes[0] != 64 || o.n != 3 || o.lock != lockNftables {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-sizes", "x"}, {"-n", "0"}, {"-lock", "iptables"}, {"more"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
