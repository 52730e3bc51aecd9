package memory

import (
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSecondCutReadsWhatWasWritten takes cuts of a program that writes a twentieth of its memory between them. Each is compared with CRIU's; each but the first
// reads no more than was written, and a tenth. After that the tracker releases what it keeps, and the next cut reads all.
func TestSecondCutReadsWhatWasWritten(t *testing.T) {
	const mib, part = 40, 20
	r := newRig(t)
	log := filepath.Join(r.dir, "pages.log")
	m := r.start(compile(t, "pages"), strconv.Itoa(mib), strconv.Itoa(part), log)
	eventually(t, "the program's first line", func() bool { return checks(t, log) > 0 })
	for cut := range 5 {
		if cut == 4 {
			r.tracker.Release()
		}
		if cut > 0 {
			all, err := pids(m.Units()[0])
			if err != nil || len(all) != 1 {
				t.Fatalf("%v: %v", all, err)
			}
			if err := unix.Kill(all[0], unix.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			eventually(t, "its memory to be written", func() bool { return checks(t, log) > cut })
		}
		both := r.cut(m)
		for _, d := range both.compare(t) {
			t.Errorf("cut %d: %s", cut, d)
		}
		read, written := both.report.Copied+both.report.CopiedFrozen, int64(mib<<20/part)
		t.Logf("cut %d: %d bytes read, %d written", cut, read, written)
		switch whole := int64(mib << 20); {
		case (cut == 0 || cut == 4) && read < whole:
			t.Errorf("cut %d read %d bytes of %d", cut, read, whole)
		case cut > 0 && cut < 4 && read > written*11/10:
			t.Errorf("cut %d read %d bytes, and %d were written", cut, read, written)
		}
	}
}

// TestKeptMemoryIsGivenBack lets a member end whose memory is tracked between cuts: nothing of it is kept then.
func TestKeptMemoryIsGivenBack(t *testing.T) {
	r := newRig(t)
	log := filepath.Join(r.dir, "pages.log")
	m := r.start(compile(t, "pages"), "4", "2", log)
	eventually(t, "the program's first line", func() bool { return checks(t, log) > 0 })
	r.cut(m)
	if n := r.tracker.dropEnded(); n != 1 {
		t.Errorf("%d units are kept", n)
	}
	r.kill(m)
	if n := r.tracker.dropEnded(); n != 0 {
		t.Errorf("%d units are kept of a member that has ended", n)
	}
}
