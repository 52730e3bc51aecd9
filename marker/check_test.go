package marker

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// pairOf returns the two ends of a connection from a to b on which every byte has arrived.
func pairOf(a, b HostID, local, remote string) []End {
	return []End{
		{Host: a, Member: string(a) + "-1", Local: local, Remote: remote, SndUna: 1000, WriteSeq: 1000, RcvNxt: 500},
		{Host: b, Member: string(b) + "-1", Local: remote, Remote: local, SndUna: 500, WriteSeq: 500, RcvNxt: 1000},
	}
}

func TestM8Check(t *testing.T) {
	const x, y = "10.0.0.1:40000", "10.0.0.2:80"
	change := func(f func(a, b *End)) []End {
		ends := pairOf("A", "B", x, y)
		f(&ends[0], &ends[1])
		return ends
	}
	for _, tt := range []struct {
		name    string
		ends    []End
		policy  OutsidePolicy
		problem ProblemKind
		transit []uint32
	}{
		{name: "nothing"},
		{name: "nothing in transit", ends: change(func(a, b *End) {}), transit: []uint32{0, 0}},
		{name: "some in transit", ends: change(func(a, b *End) { a.WriteSeq = 1300 }), transit: []uint32{300, 0}},
		{name: "received and not acknowledged", ends: change(func(a, b *End) { a.WriteSeq, b.RcvNxt = 1300, 1300 }), transit: []uint32{0, 0}},
		{name: "around zero", ends: change(func(a, b *End) { a.SndUna, b.RcvNxt, a.WriteSeq = 0xfffffff0, 0xfffffffe, 14 }), transit: []uint32{16, 0}},
		{name: "orphan", ends: change(func(a, b *End) { b.RcvNxt = 1001 }), problem: ProblemOrphan},
		{name: "received before it was sent", ends: change(func(a, b *End) { a.WriteSeq, a.Unsent, b.RcvNxt = 1310, 10, 1301 }), problem: ProblemOrphan},
		{name: "all that was sent is received", ends: change(func(a, b *End) { a.WriteSeq, a.Unsent, b.RcvNxt = 1310, 10, 1300 }), transit: []uint32{10, 0}},
		{name: "orphan around zero", ends: change(func(a, b *End) { a.SndUna, a.WriteSeq, b.RcvNxt = 0xfffffff0, 0xffffffff, 0 }), problem: ProblemOrphan},
		{name: "lost", ends: change(func(a, b *End) { b.RcvNxt = 999 }), problem: ProblemLost},
		{name: "lost around zero", ends: change(func(a, b *End) { a.SndUna, a.WriteSeq, b.RcvNxt = 0, 1, 0xffffffff }), problem: ProblemLost},
		{name: "queue", ends: change(func(a, b *End) { a.WriteSeq = 999 }), problem: ProblemQueue},
		{name: "the other direction", ends: change(func(a, b *End) { a.RcvNxt = 501 }), problem: ProblemOrphan},
		{name: "outside", ends: pairOf("A", "B", x, y)[:1], problem: ProblemOutside},
		{name: "outside, closed", ends: pairOf("A", "B", x, y)[:1], policy: OutsideClosed},
		{name: "outside, and the other end has closed", ends: func() []End { e := pairOf("A", "B", x, y)[:1]; e[0].Ended = true; return e }()},
		{name: "two ends alike", ends: append(pairOf("A", "B", x, y), End{Host: "C", Member: "C-1", Local: x, Remote: y}), problem: ProblemDuplicate},
		{name: "within a host", ends: pairOf("A", "A", "10.0.0.1:1", "10.0.0.1:2"), transit: []uint32{0, 0}},
		{name: "loopback of two hosts", ends: append(pairOf("A", "A", "127.0.0.1:1", "127.0.0.1:2"), pairOf("B", "B", "127.0.0.1:1", "127.0.0.1:2")...), transit: []uint32{0, 0, 0, 0}},
		{name: "loopback is not another host's", ends: pairOf("A", "B", "[::1]:1", "[::1]:2"), problem: ProblemOutside},
		{name: "connected with itself", ends: []End{{Host: "A", Member: "A-1", Local: "127.0.0.1:1", Remote: "127.0.0.1:1", SndUna: 7, RcvNxt: 8, WriteSeq: 9}}, transit: []uint32{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			channels, err := Check(tt.ends, tt.policy)
			var f *Problem
			if tt.problem != 0 {
				if !errors.As(err, &f) || f.Kind != tt.problem || f.Channel.From == "" || f.Channel.FromAddr == "" {
					t.Fatalf("got %v (%+v), want kind %d", err, f, tt.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var transit []uint32
			for _, c := range channels {
				transit = append(transit, c.InTransit)
			}
			if !slices.Equal(transit, tt.transit) {
				t.Errorf("in transit %v, want %v", transit, tt.transit)
			}
		})
	}
}

func TestM8CheckIsInOrderAndSaysAll(t *testing.T) {
	ends := append(pairOf("A", "B", "a:1", "b:1"), pairOf("B", "C", "b:2", "c:1")...)
	want, err := Check(ends, OutsideRefuse)
	if err != nil || len(want) != 4 || want[0].From != "A" || want[3].From != "C" {
		t.Fatalf("%v, %v", want, err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		rng.Shuffle(len(ends), func(i, j int) { ends[i], ends[j] = ends[j], ends[i] })
		if got, _ := Check(ends, OutsideRefuse); !reflect.DeepEqual(got, want) {
			t.Fatalf("another order of ends gives %v", got)
		}
	}
	for i := range ends {
		ends[i].RcvNxt++
	}
	_, err = Check(ends, OutsideRefuse)
	var all *CheckError
	if !errors.As(err, &all) || len(all.Problems) != 4 || !strings.Contains(err.Error(), "and 3 more") {
		t.Errorf("problems: %v", err)
	}
}

func TestOutside(t *testing.T) {
	ends := append(pairOf("A", "B", "a:1", "b:1"), End{Host: "A", Local: "a:2", Remote: "elsewhere:1"})
	if got := Outside(ends); len(got) != 1 || got[0].Local != "a:2" {
		t.Errorf("outside: %v", got)
	}
}
