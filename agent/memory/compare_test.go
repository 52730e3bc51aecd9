package memory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/criu/image"
	"ss/agent/proc"
)

// TestBothWays dumps a frozen program by CRIU alone and by us, and compares every page of every process. The program changes its memory at random
// (testdata/churn.c), and checks it, also when it is restored from our images. SS_MEMORY_SEEDS says how many seeds; the target test-memory of the
// Makefile takes 50.
func TestBothWays(t *testing.T) {
	seeds := 3
	if raceEnabled {
		seeds = 1 // scripts/test runs them all without the race detector
	}
	if n, err := strconv.Atoi(os.Getenv("SS_MEMORY_SEEDS")); err == nil {
		seeds = n
	}
	first := 1
	if n, err := strconv.Atoi(os.Getenv("SS_MEMORY_FIRST_SEED")); err == nil {
		first = n
	}
	churn := compile(t, "churn")
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { bothWays(t, churn, seed) })
	}
}

func bothWays(t *testing.T, churn string, seed int) {
	r := newRig(t)
	if seed%2 == 0 {
		r.tracker.cfg.TwinsFrom = 0 // whatever is left comes from twins
	}
	log := filepath.Join(r.dir, "churn.log")
	m := r.start(churn, strconv.Itoa(seed), "10000", "100", log)
	defer func() {
		if text, err := os.ReadFile(log); t.Failed() && err == nil { // a program that is gone has said why
			t.Logf("the program says:\n%s", text[max(0, len(text)-1000):])
		}
	}()
	var last string
	var fromTwins int64
	for cut := 0; cut < 4; cut++ {
		// Somewhere in its 10,000 steps, which take some seconds.
		eventually(t, "further checks", func() bool { return checks(t, log) > 3*cut })
		both := r.cut(m)
		for _, d := range both.compare(t) {
			t.Error(d)
		}
		t.Logf("cut %d: %+v", cut, both.report)
		fromTwins += both.report.CopiedTwin
		last = both.ours
	}
	if twins := seed%2 == 0; twins != (fromTwins > 0) {
		t.Errorf("%d bytes came from twins", fromTwins)
	}
	r.kill(m)
	r.restore(m, last, log)
}

// smaps reads what CRIU is to be shown of a frozen member.
func smaps(k agent.TrackedMemory) <-chan map[int][]byte {
	out := make(chan map[int][]byte, 1)
	go func() { out <- k.Smaps() }()
	return out
}

// both is one frozen member, dumped twice.
type both struct {
	ours, theirs string
	report       agent.MemoryReport
}

func (r *rig) cut(m agent.Member) both {
	r.t.Helper()
	ctx := r.context()
	mine, ours := r.startDump(m, true)
	k := r.tracker.Track(ctx, m.Units()[0], r.folder("staging"))
	defer func() {
		if err := k.Close(); err != nil {
			r.t.Error(err)
		}
	}()
	plain, theirs := r.startDump(m, false)
	k.Halt()
	if err := r.cells.Freeze(ctx, m); err != nil {
		r.t.Fatal(err)
	}
	thaw := sync.OnceFunc(func() {
		if err := r.cells.Thaw(ctx, m); err != nil {
			r.t.Error(err)
		}
	})
	defer thaw()
	ranges, err := k.Divide()
	if err == nil {
		err = mine.Omit(ranges)
	}
	if err == nil {
		err = mine.Show(smaps(k))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	copied := make(chan error, 1)
	go func() { copied <- k.CopyRest(ctx) }()
	r.run(mine)
	if err := <-copied; err != nil {
		r.t.Fatal(err)
	}
	r.run(plain)
	after := func() {}
	if r.beforeTwins != nil {
		after = r.beforeTwins()
	}
	began := time.Now()
	if err := k.MakeTwins(ctx, filepath.Join(r.dir, "lock")); err != nil {
		r.t.Fatal(err)
	}
	r.t.Logf("twins made in %v", time.Since(began))
	after()
	thaw()
	pages, err := k.Pages()
	if err == nil {
		err = r.criu.AddPages(ours, pages)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	report := k.Report()
	if err := k.Keep(); err != nil { // the next cut builds on this one
		r.t.Fatal(err)
	}
	return both{ours: ours, theirs: theirs, report: report}
}

// compare compares every page that either of the two holds, and says for each process where they differ first.
func (b both) compare(t *testing.T) (differences []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(b.theirs, "pagemap-[0-9]*.img"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no images of memory in %s: %v", b.theirs, err)
	}
	if !b.report.Tracked || b.report.Pages == 0 {
		t.Errorf("nothing was copied by us: %+v", b.report)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), "pagemap-"), ".img"))
		if err != nil {
			t.Fatal(err)
		}
		if d := comparePages(t, pid, b.theirs, b.ours, kernelWrites(t, b.ours)); d != "" {
			differences = append(differences, fmt.Sprintf("process %d: %s", pid, d))
		}
		if !bytes.Equal(readImage(t, b.theirs, pid), readImage(t, b.ours, pid)) {
			differences = append(differences, fmt.Sprintf("process %d: its mappings differ", pid))
		}
	}
	return differences
}

// readImage reads the image that has the mappings of a process, with their flags.
func readImage(t *testing.T, dir string, pid int) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("mm-%d.img", pid)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// kernelWrites lists where the kernel writes by itself on which processor a thread runs (rseq(2)): it does so between two dumps of a frozen program, in
// which CRIU runs code of its own, and would before the thread goes on.
func kernelWrites(t *testing.T, dir string) map[uint64]bool {
	t.Helper()
	at, err := image.RestartableAreas(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[uint64]bool{}
	for _, area := range at {
		for _, field := range []uint64{0, 4, 20, 24} { // cpu_id_start, cpu_id, node_id, mm_cid of struct rseq
			for i := range uint64(4) {
				out[area+field+i] = true
			}
		}
	}
	return out
}

func comparePages(t *testing.T, pid int, theirs, ours string, except map[uint64]bool) string {
	t.Helper()
	open := func(dir string) *image.Pages {
		p, err := image.OpenPages(dir, pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	want, have := open(theirs), open(ours)
	for n := 0; ; n++ {
		at, page, err := want.Next()
		at2, page2, err2 := have.Next()
		switch {
		case errors.Is(err, io.EOF) && errors.Is(err2, io.EOF) && n > 0:
			return ""
		case err != nil || err2 != nil:
			return fmt.Sprintf("after %d pages: CRIU's at %#x (%v), ours at %#x (%v)", n, at, err, at2, err2)
		case at != at2:
			return fmt.Sprintf("CRIU has a page at %#x, and we at %#x", at, at2)
		}
		for i := range page {
			if page[i] != page2[i] && !except[at+uint64(i)] {
				return fmt.Sprintf("page %#x differs from byte %d on: %x, ours %x", at, i, page[i:min(i+16, len(page))], page2[i:min(i+16, len(page))])
			}
		}
	}
}

// TestPlantedMistakes makes each of the mistakes that would be the worst, and sees that the comparison finds it.
func TestPlantedMistakes(t *testing.T) {
	churn, hurry := compile(t, "churn"), compile(t, "hurry")
	mistakes := []plant{plantUnarmed, plantZapped, plantOld, plantSkip, plantNoTwin, plantLacks, plantFlags}
	if raceEnabled {
		mistakes = mistakes[:1] // scripts/test plants them all without the race detector
	}
	for _, mistake := range mistakes {
		t.Run(string(mistake), func(t *testing.T) {
			r := newRig(t)
			r.tracker.plant = mistake
			log := filepath.Join(r.dir, "churn.log")
			command := []string{churn, "7", "1000000", "100", log}
			if mistake == plantNoTwin || mistake == plantLacks {
				command, r.tracker.cfg.TwinsFrom = []string{hurry, "16", "1", log}, 0
			}
			m := r.start(command...)
			for cut := range 10 {
				eventually(t, "further checks", func() bool { return checks(t, log) > cut })
				if found := r.cut(m).compare(t); len(found) > 0 {
					t.Logf("found in cut %d: %s", cut, found[0])
					return
				}
			}
			t.Error("ten cuts do not show it")
		})
	}
}

// restore restores a killed member from images and lets it check its memory.
func (r *rig) restore(m agent.Member, images, log string) {
	r.t.Helper()
	ctx := r.context()
	before := checks(r.t, log)
	fresh, err := r.cells.NewCell(ctx, m)
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := r.criu.StartRestore(ctx, agent.RestoreSpec{Unit: fresh.Units()[0], Dir: images, LogDir: r.folder("restore"), LockFile: filepath.Join(r.dir, "lock")})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err = r.cells.Adopt(ctx, fresh, s.InnerPid()); err != nil {
		r.t.Fatal(err)
	}
	written, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		r.t.Fatal(err)
	}
	defer unix.Close(written)
	if _, err := unix.InotifyAddWatch(written, log, unix.IN_MODIFY); err != nil {
		r.t.Fatal(err)
	}
	if err := s.Resume(ctx); err != nil {
		r.t.Fatal(err)
	}
	for checks(r.t, log) < before+3 {
		if err := proc.Poll(ctx, written, unix.POLLIN); err != nil {
			r.t.Fatalf("the restored program does not check its memory: %v", err)
		}
		if _, err := unix.Read(written, make([]byte, 4096)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// checks counts the program's checks; a page that it found wrong ends the test.
func checks(t testing.TB, log string) int {
	t.Helper()
	text, _ := os.ReadFile(log)
	if i := bytes.Index(text, []byte("BAD")); i >= 0 {
		t.Fatalf("the program found its memory wrong: %s", text[i:])
	}
	return bytes.Count(text, []byte("check "))
}
