package memory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// TestMappingChangesDuringAScan scans a range of which the end is not registered any more. The kernel protects what was written before that end, and fails
// without a word of it. No copy of these pages may count then.
func TestMappingChangesDuringAScan(t *testing.T) {
	const pages = 4
	fd, _, errno := unix.Syscall(sysUserfaultfd, uffdFlags, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	u := uffd(fd)
	if err := u.enable(); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(-1, 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	start := uint64(uintptr(unsafe.Pointer(&mem[0])))
	all := agent.PageRange{Start: start, End: start + pages*pageSize}
	tracked := agent.PageRange{Start: start, End: start + pages/2*pageSize}
	if err := u.register(tracked); err != nil {
		t.Fatal(err)
	}
	s, err := openScanner(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	p := &process{pid: os.Getpid(), uffd: u, slots: slots{}}
	if p.staging, err = newStaging(filepath.Join(t.TempDir(), "copies")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	for i := range pages {
		mem[i*pageSize] = 1
	}
	if found, err := p.protectPiece(s, tracked); err != nil || len(found) != 1 {
		t.Fatalf("%v: %v", found, err)
	}
	p.slots.set(start, 1) // its copy
	mem[0] = 2
	if _, err := p.protectPiece(s, all); !errors.Is(err, errUnregistered) {
		t.Fatal(err)
	}
	found, err := p.protectPiece(s, tracked)
	if err != nil {
		t.Fatal(err)
	}
	if p.slots.at(start) != 0 {
		t.Errorf("a copy counts whose page was written since: %v was reported", found)
	}
}

// TestScattered finds every second page of many written: more regions than the kernel's buffer takes, each exactly once.
func TestScattered(t *testing.T) {
	const regions = 10_000
	fd, _, errno := unix.Syscall(sysUserfaultfd, uffdFlags, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	u := uffd(fd)
	defer u.close()
	if err := u.enable(); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(-1, 0, 2*regions*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	start := uint64(uintptr(unsafe.Pointer(&mem[0])))
	all := agent.PageRange{Start: start, End: start + 2*regions*pageSize}
	if err := u.register(all); err != nil {
		t.Fatal(err)
	}
	s, err := openScanner(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for i := range regions {
		mem[2*i*pageSize] = 1
	}
	for _, scan := range []struct {
		name string
		scan func(agent.PageRange, func(region) error) error
		want int
	}{{"all", s.all, regions}, {"written", s.written, regions}, {"written since", s.written, 0}, {"all again", s.all, regions}} {
		n := 0
		if err := scan.scan(all, func(r region) error {
			if want := start + uint64(2*n)*pageSize; r.start != want || r.end != want+pageSize {
				return fmt.Errorf("region %d is %#x to %#x, and %#x was written", n, r.start, r.end, want)
			}
			n++
			return nil
		}); err != nil || n != scan.want {
			t.Errorf("%s: %d regions of %d: %v", scan.name, n, scan.want, err)
		}
	}
}

// TestLateMemoryIsBounded lets many units take memory for the freeze: all together no more than the bound, and all of it comes back.
func TestLateMemoryIsBounded(t *testing.T) {
	tracker := New(Config{})
	var units []*tracked
	sum := 0
	for range 20 {
		k := &tracked{t: tracker, last: 20 << 20, cancel: func() {}, done: make(chan struct{})}
		close(k.done)
		if err := k.takeLate(); err != nil {
			t.Fatal(err)
		}
		sum += len(k.late.buf)
		units = append(units, k)
	}
	if sum != lateMax {
		t.Errorf("20 units have %d bytes", sum)
	}
	for _, k := range units {
		if err := errors.Join(k.Close(), k.Close()); err != nil {
			t.Error(err)
		}
	}
	if left := tracker.lateLeft.Load(); left != lateMax {
		t.Errorf("%d bytes came back", left)
	}
}

// TestSharedMemoryStaysShared copies the memory of a process that shares it with its parent. Reading must not give it pages of its own.
func TestSharedMemoryStaysShared(t *testing.T) {
	r := newRig(t)
	log := filepath.Join(r.dir, "shared.log")
	m := r.start(compile(t, "shared"), log, "0")
	eventually(t, "the pages to be shared", func() bool { return checks(t, log) > 0 })
	private := func() (sum uint64) {
		all, err := pids(m.Units()[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range all {
			text, err := os.ReadFile(proc.Path(pid, "smaps_rollup"))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], "Private_") {
					n, err := strconv.ParseUint(f[1], 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					sum += n << 10
				}
			}
		}
		return sum
	}
	before := private()
	k := r.tracker.Track(r.context(), m.Units()[0], r.folder("staging"))
	report := k.Report()
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	const shared = 16 << 20 // see shared.c
	if report.Copied < 2*shared {
		t.Errorf("%d bytes were copied: %+v", report.Copied, report)
	}
	if after := private(); after > before+shared/4 {
		t.Errorf("the processes had %d bytes of their own, and %d after they were copied", before, after)
	}
}

// TestMemoryIsNotLost copies the memory of a process of which some pages were shared, time and again, while others that share them give them back
// (MADV_FREE) and the kernel is asked to take back what nobody needs (MADV_PAGEOUT). The process checks its memory.
func TestMemoryIsNotLost(t *testing.T) {
	r := newRig(t)
	log := filepath.Join(r.dir, "shared.log")
	m := r.start(compile(t, "shared"), log, "1")
	for n := 0; n < 10; n++ {
		before := checks(t, log)
		k := r.tracker.Track(r.context(), m.Units()[0], r.folder("staging"))
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "further checks", func() bool { return checks(t, log) > before+1 })
	}
}

// TestSmallMembersAreNotTracked asks of a program of 16 MiB whether it is small. What was kept of it is given back when it is.
func TestSmallMembersAreNotTracked(t *testing.T) {
	r := newRig(t)
	log := filepath.Join(r.dir, "pages.log")
	m := r.start(compile(t, "pages"), "16", "2", log)
	eventually(t, "the program's first line", func() bool { return checks(t, log) > 0 })
	r.cut(m)
	r.tracker.cfg.From = 16 << 20
	if why := r.tracker.Small(m.Units()[0]); why != "" || r.tracker.dropEnded() != 1 {
		t.Errorf("a member of 16 MiB: %q, %d units are kept", why, r.tracker.dropEnded())
	}
	r.tracker.cfg.From = 20 << 20
	if why := r.tracker.Small(m.Units()[0]); !strings.Contains(why, "less than the 20480 KiB") || r.tracker.dropEnded() != 0 {
		t.Errorf("a member of 16 MiB: %q, %d units are kept", why, r.tracker.dropEnded())
	}
}

// TestInterruptedRoundGoesOn interrupts the first round of a member after 1 MiB. The next round copies the rest, and not the freeze.
func TestInterruptedRoundGoesOn(t *testing.T) {
	const mib = 16
	r := newRig(t)
	log := filepath.Join(r.dir, "pages.log")
	m := r.start(compile(t, "pages"), strconv.Itoa(mib), "2", log)
	eventually(t, "the program's first line", func() bool { return checks(t, log) > 0 })
	asked := 0
	r.tracker.cfg.Pause = func(context.Context) error {
		if asked++; asked == 2 {
			return errors.New("not now")
		}
		return nil
	}
	both := r.cut(m)
	for _, d := range both.compare(t) {
		t.Error(d)
	}
	if rep := both.report; asked < mib || rep.Rounds < 2 || rep.Copied < mib<<20 || rep.CopiedFrozen > 1<<20 {
		t.Errorf("asked %d times: %+v", asked, rep)
	}
}
