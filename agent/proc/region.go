package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Region is a mapping as /proc/PID/maps has it, named or not.
type Region struct {
	Start, End uint64
	Perms      string // rwxp, or a dash in the place of each, and s for shared
	Inode      uint64 // 0 if no file is mapped
	Name       string // a path, or a name of the kernel's; "" of most anonymous memory
}

// Regions reads a process's mappings, in the order of their addresses. A process that has ended, and is not reaped, has none.
func Regions(pid int) ([]Region, error) {
	text, err := os.ReadFile(Path(pid, "maps"))
	if err != nil {
		return nil, err
	}
	out, err := parseRegions(text)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", Path(pid, "maps"), err)
	}
	return out, nil
}

func parseRegions(text []byte) ([]Region, error) {
	var out []Region
	for line := range bytes.Lines(text) {
		// START-END PERMS OFFSET DEV INODE NAME
		f := strings.Fields(string(line))
		if len(f) < 5 {
			return nil, fmt.Errorf("a mapping that cannot be read: %q", line)
		}
		low, high, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(low, 16, 64)
		end, err2 := strconv.ParseUint(high, 16, 64)
		inode, err3 := strconv.ParseUint(f[4], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil || len(f[1]) != 4 || end <= start {
			return nil, fmt.Errorf("a mapping that cannot be read: %q", line)
		}
		out = append(out, Region{Start: start, End: end, Perms: f[1], Inode: inode, Name: strings.Join(f[5:], " ")})
	}
	return out, nil
}
