package memory

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"ss/agent"
)

// BenchmarkStill measures how long CRIU holds a tracked program of which 64 MiB are written in a second, for several sizes (SS_MEMORY_MIB: for that one): with its
// own look at /proc/PID/smaps, while what is left is copied, and with what was read in the 10 ms before, in which an agent closes gates. The unit is
// milliseconds.
func BenchmarkStill(b *testing.B) {
	sizes := []int{8, 512, 2048}
	if n, err := strconv.Atoi(os.Getenv("SS_MEMORY_MIB")); err == nil {
		sizes = []int{n}
	}
	turn := compile(b, "turn")
	for _, mib := range sizes {
		b.Run(fmt.Sprintf("%d MiB", mib), func(b *testing.B) {
			r := newRig(b)
			begun := filepath.Join(r.dir, "begun")
			m := r.start(turn, strconv.Itoa(mib), "64", begun)
			eventually(b, "the program's memory", func() bool { _, err := os.Stat(begun); return err == nil })
			r.still(m, false) // the first cut copies all
			var alone, shown stillness
			for b.Loop() {
				alone = alone.plus(r.still(m, false))
				shown = shown.plus(r.still(m, true))
			}
			for _, one := range []struct {
				name string
				of   stillness
			}{{"alone", alone}, {"shown", shown}} {
				b.ReportMetric(one.of.all.Seconds()*1000/float64(b.N), one.name+"-still")
				b.ReportMetric(one.of.criu.Seconds()*1000/float64(b.N), one.name+"-criu")
				b.ReportMetric(float64(one.of.left>>10)/1024/float64(b.N), one.name+"-MiB-left")
			}
		})
	}
}

// stillness is what a member of a cut stood still for: in all, without the 10 ms, and for CRIU alone, as its own statistics have it.
type stillness struct {
	all, criu time.Duration
	left      int64
}

func (s stillness) plus(o stillness) stillness {
	return stillness{s.all + o.all, s.criu + o.criu, s.left + o.left}
}

func (r *rig) still(m agent.Member, shown bool) stillness {
	b := r.t
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	d, dir := r.startDump(m, true)
	k := r.tracker.Track(ctx, m.Units()[0], r.folder("staging"))
	k.Halt()
	check(r.cells.Freeze(ctx, m))
	gates := time.After(10 * time.Millisecond)
	copied := make(chan error, 1)
	var text <-chan map[int][]byte
	ranges := map[int][]agent.PageRange{}
	begin := func() {
		var err error
		ranges, err = k.Divide()
		check(err)
		go func() { copied <- k.CopyRest(ctx) }()
	}
	if shown {
		begin()
		text = smaps(k)
	}
	<-gates
	began := time.Now()
	if !shown {
		begin()
	}
	check(d.Omit(ranges))
	if shown {
		check(d.Show(text))
	}
	res, err := d.Run(ctx, nil, func() {})
	check(err)
	check(<-copied)
	s := stillness{all: time.Since(began), criu: res.Frozen, left: k.Report().CopiedFrozen}
	check(r.cells.Thaw(ctx, m))
	_, err = k.Pages()
	check(err)
	check(k.Keep())
	check(os.RemoveAll(dir))
	return s
}
