package obstacles

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"ss/agent/proc"
)

// largest is how long a private mapping may be, in bytes, of which pages are in use. The restoring CRIU numbers the pages of a mapping with an int
// (set_bit on vma->page_bitmap in its criu/mem.c), and writes outside of its own memory beyond that.
var largest = int64(1) << 31 * int64(os.Getpagesize())

// largeMappings looks for mappings that CRIU dumps and can't restore. Programs that are built with a sanitizer have one.
func (s *survey) largeMappings(pid int) {
	if size, err := virtualSize(pid); err != nil || size <= largest {
		return
	}
	f, err := os.Open(proc.Path(pid, "maps"))
	if err != nil {
		return // it ended
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		region, rest, _ := strings.Cut(lines.Text(), " ")
		if size := length(region); size > largest && len(rest) > 4 && rest[1] == 'w' && rest[3] == 'p' {
			s.add(pid, "maps %d GiB in one piece (at %s), as programs built with -fsanitize=address or -fsanitize=thread do, and CRIU can restore at most %d GiB: run it without the sanitizer, or have it map less",
				size>>30, region, largest>>30)
			return
		}
	}
}

// virtualSize is how much a process maps, in bytes.
func virtualSize(pid int) (int64, error) {
	b, err := os.ReadFile(proc.Path(pid, "statm"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(b), " ")
	pages, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size of process %d: %w", pid, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// length is that of a range of maps, in bytes; 0 if it is none.
func length(region string) int64 {
	from, to, _ := strings.Cut(region, "-")
	a, err1 := strconv.ParseUint(from, 16, 64)
	b, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil || b < a {
		return 0
	}
	return int64(b - a)
}
