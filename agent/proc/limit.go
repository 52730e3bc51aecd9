package proc

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Limit is a limit of a process on a resource (getrlimit(2)). One that is not limited has math.MaxUint64.
type Limit struct{ Soft, Hard uint64 }

// OpenFiles is how many descriptors a process may have (RLIMIT_NOFILE). It is read and not asked with prlimit(2), which needs CAP_SYS_RESOURCE for a process of another user.
func OpenFiles(pid int) (Limit, error) {
	text, err := Text(pid, "limits")
	if err != nil {
		return Limit{}, err
	}
	return parseLimit(text, "Max open files")
}

// parseLimit finds a line like "Max open files            1024                 1048576              files" (proc_pid_limits(5)).
func parseLimit(text, name string) (l Limit, err error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+" ")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			return l, fmt.Errorf("a limit %q", line)
		}
		if l.Soft, err = parseBound(f[0]); err == nil {
			l.Hard, err = parseBound(f[1])
		}
		return l, err
	}
	return l, fmt.Errorf("no limit %q", name)
}

func parseBound(s string) (uint64, error) {
	if s == "unlimited" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(s, 10, 64)
}
