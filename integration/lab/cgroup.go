package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupPrefix begins the name of every lab's own top cgroup.
const cgroupPrefix = "ss-lab-"

// cgroupRoots are the mount points of every cgroup hierarchy of this machine, v1 and v2.
func cgroupRoots() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var roots []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup") {
			roots = append(roots, fields[4])
		}
	}
	return roots, lines.Err()
}

// cgroupFolders lists the folders of a cgroup and all below it, in every hierarchy, the deepest first. The name is
// relative to the roots of the hierarchies and may be a pattern.
func cgroupFolders(name string) ([]string, error) {
	roots, err := cgroupRoots()
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	var all []string
	for _, root := range roots {
		tops, err := filepath.Glob(filepath.Join(root, name))
		if err != nil {
			return nil, fmt.Errorf("find cgroups: %w", err)
		}
		for _, top := range tops {
			err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, path)
				}
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("find cgroups: %w", err)
			}
		}
	}
	slices.Reverse(all)
	return all, nil
}

// thaw thaws a cgroup and all below it, as far as they exist.
func thaw(name string) {
	folders, err := cgroupFolders(name)
	if err != nil {
		return // whoever waits for the thaw runs into its deadline and says so
	}
	for _, folder := range folders {
		for file, value := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
			if f, err := os.OpenFile(filepath.Join(folder, file), os.O_WRONLY, 0); err == nil {
				_, _ = f.WriteString(value) // a parent that is frozen is thawed in its turn
				_ = f.Close()
			}
		}
	}
}

// killCgroup kills what lives in a cgroup or below it.
func killCgroup(name string) error {
	folders, err := cgroupFolders(name)
	if err != nil {
		return err
	}
	for _, folder := range folders {
		data, err := os.ReadFile(filepath.Join(folder, "cgroup.procs"))
		if err != nil {
			continue // it has gone, and its processes before it
		}
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
			}
		}
	}
	thaw(name)
	return nil
}

// removeCgroup removes a cgroup and all below it from every hierarchy. It must hold no process.
func removeCgroup(name string) error {
	folders, err := cgroupFolders(name)
	if err != nil {
		return err
	}
	var failures []error
	for _, folder := range folders {
		if err := os.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, fmt.Errorf("remove cgroup: %w", err))
		}
	}
	return errors.Join(failures...)
}
