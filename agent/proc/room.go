package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Available is how much memory this host could give to programs without swapping, in bytes: MemAvailable of /proc/meminfo.
func Available() (int64, error) {
	value, err := statusField(filepath.Join(Root, "meminfo"), "MemAvailable")
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("how much memory is available: %w", err)
	}
	return kib << 10, nil
}

// CgroupMemory is how much memory the cgroups of a process leave to it, in bytes: math.MaxInt64 where they have no limit. What a cgroup could give up of
// its page cache is left.
func CgroupMemory(pid int) (int64, error) {
	mounts, err := Mounts("cgroup", "cgroup2")
	if err != nil {
		return 0, fmt.Errorf("find cgroup mounts: %w", err)
	}
	left := int64(math.MaxInt64)
	for _, m := range mounts {
		controller, limit, used := "", "memory.max", "memory.current"
		if m.FSType == "cgroup" {
			if !slices.Contains(strings.Split(m.VFSOptions, ","), "memory") {
				continue
			}
			controller, limit, used = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
		}
		path, err := Cgroup(pid, controller)
		if err != nil {
			return 0, err
		}
		for at := filepath.Join(m.Mountpoint, path); strings.HasPrefix(at, m.Mountpoint); at = filepath.Dir(at) {
			n, err := leftIn(at, limit, used)
			if err != nil {
				return 0, err
			}
			left = min(left, n)
		}
	}
	return left, nil
}

// leftIn is what one cgroup leaves.
func leftIn(dir, limit, used string) (int64, error) {
	most, err := amount(filepath.Join(dir, limit))
	if errors.Is(err, fs.ErrNotExist) || err == nil && most == math.MaxInt64 {
		return math.MaxInt64, nil // the root has no limit
	}
	if err != nil {
		return 0, err
	}
	now, err := amount(filepath.Join(dir, used))
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "inactive_file "); ok {
			cache, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("memory.stat of %s: %w", dir, err)
			}
			now -= cache
		}
	}
	return most - now, nil
}

// amount reads a number of bytes, or math.MaxInt64 for "max".
func amount(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	value := strings.TrimSpace(string(text))
	if value == "max" {
		return math.MaxInt64, nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}
