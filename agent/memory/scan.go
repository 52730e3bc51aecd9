package memory

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

const pageSize = 4096

// scanRegions is how many regions a scan may find at once: as many as the kernel's own buffer takes. With more, it fills that buffer time and again, and says
// of the walk where the buffer was full first (seen on 6.18), so that the next scan goes over the rest once more.
const scanRegions = 512

// Of include/uapi/linux/fs.h.
const (
	pagemapScan = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)

	scanProtect = 1 << 0 // PM_SCAN_WP_MATCHING
	scanCheck   = 1 << 1 // PM_SCAN_CHECK_WPASYNC: fail with EPERM where a mapping is not registered

	pageWritten = 1 << 1
	pageFile    = 1 << 2
	pagePresent = 1 << 3
	pageSwapped = 1 << 4
	pageZero    = 1 << 5 // PAGE_IS_PFNZERO: read, never written
	pageGuard   = 1 << 8 // PAGE_IS_GUARD, since Linux 6.15
)

// scanArg is struct pm_scan_arg.
type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages, inverted, mask, anyOf, returned uint64
}

// region is struct page_region.
type region struct{ start, end, categories uint64 }

// scanner reads /proc/PID/pagemap of one address space: the file goes on to belong to it after an exec.
type scanner struct {
	file  *os.File
	guard uint64 // pageGuard where the kernel knows it
	vec   []region
}

// errUnregistered means that a mapping is not registered with a userfaultfd in WP_ASYNC mode, or is not one mapping any more.
var errUnregistered = errors.New("the mapping is not tracked")

func openScanner(pid int, guard uint64) (*scanner, error) {
	f, err := os.Open(proc.Path(pid, "pagemap"))
	if err != nil {
		return nil, err
	}
	return &scanner{file: f, guard: guard, vec: make([]region, scanRegions)}, nil
}

func (s *scanner) close() { _ = s.file.Close() }

// dumped is the scan that CRIU makes to find which pages to dump (pmc_fill of criu/pagemap-cache.c): those that are present or swapped, and are neither the
// zero page nor a file's, nor guards.
func (s *scanner) dumped() scanArg {
	not := pageZero | pageFile | s.guard
	return scanArg{inverted: not, mask: not, anyOf: pagePresent | pageSwapped}
}

// written finds the pages of a range that CRIU would dump and that were written since they were protected, and protects them, in one step.
func (s *scanner) written(in agent.PageRange, found func(region) error) error {
	arg := s.dumped()
	arg.flags = scanProtect | scanCheck
	arg.mask |= pageWritten
	arg.returned = pageWritten
	return s.walk(arg, in, found)
}

// all finds the pages of a range that CRIU would dump. A region's categories have pageWritten for those that were written since they were protected.
func (s *scanner) all(in agent.PageRange, found func(region) error) error {
	arg := s.dumped()
	arg.flags = scanCheck
	arg.returned = pageWritten
	// What a scan finds once more, counts once: the process stands still (see scanRegions).
	seen := in.Start
	return s.walk(arg, in, func(r region) error {
		r.start = max(r.start, seen)
		if r.start >= r.end {
			return nil
		}
		seen = r.end
		return found(r)
	})
}

// held finds the pages of a range that CRIU would dump, of a process that is not tracked.
func (s *scanner) held(in agent.PageRange, found func(region) error) error {
	arg := s.dumped()
	arg.returned = pagePresent | pageSwapped
	return s.walk(arg, in, found)
}

// registered says whether the mapping that begins at an address is registered.
func (s *scanner) registered(at uint64) bool {
	arg := s.dumped()
	arg.flags, arg.returned = scanCheck, pageWritten
	return s.walk(arg, agent.PageRange{Start: at, End: at + pageSize}, func(region) error { return nil }) == nil
}

func (s *scanner) walk(arg scanArg, in agent.PageRange, found func(region) error) error {
	arg.size = uint64(unsafe.Sizeof(arg))
	arg.start, arg.end = in.Start, in.End
	arg.vec, arg.vecLen = uint64(uintptr(unsafe.Pointer(&s.vec[0]))), uint64(len(s.vec))
	for arg.start < arg.end {
		arg.walkEnd = 0
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, s.file.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
		runtime.KeepAlive(s.vec)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EPERM:
			return errUnregistered
		case errno != 0:
			return fmt.Errorf("PAGEMAP_SCAN: %w", errno)
		case arg.walkEnd <= arg.start || arg.walkEnd > arg.end:
			return fmt.Errorf("PAGEMAP_SCAN of %#x to %#x stopped at %#x", arg.start, arg.end, arg.walkEnd)
		}
		for _, r := range s.vec[:n] {
			if r.start < in.Start || r.end > in.End || r.start >= r.end {
				return fmt.Errorf("PAGEMAP_SCAN of %#x to %#x found %#x to %#x", in.Start, in.End, r.start, r.end)
			}
			if err := found(r); err != nil {
				return err
			}
		}
		arg.start = arg.walkEnd
	}
	return nil
}
