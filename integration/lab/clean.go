package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dirPrefix = "sslab-"
	stateName = "state.json"
	// unborn is how old a folder without a state file must be before it counts as a dead lab's.
	unborn = time.Minute
)

// proc is one process, told from a later one with the same ID by the time of its start.
type proc struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since the machine's boot: proc(5), stat, field 22
}

// state is what a lab writes down so that another process can clean up after it.
type state struct {
	Owner proc   `json:"owner"`
	Inits []proc `json:"inits"`
}

func self() (proc, error) { return findProc(os.Getpid()) }

// findProc looks at a running process.
func findProc(pid int) (proc, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, err
	}
	// The command, field 2, is in parentheses and may hold anything; field 3 follows the last of them.
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return proc{}, fmt.Errorf("process %d: malformed stat", pid)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return proc{Pid: pid, Start: start}, err
}

func (p proc) alive() bool {
	now, err := findProc(p.Pid)
	return err == nil && now == p
}

// saveState writes down which processes hold the lab up.
func (l *Lab) saveState() error {
	var inits []proc
	for _, h := range l.hosts {
		if h.init == nil {
			continue
		}
		p, err := findProc(h.Pid())
		if err != nil {
			return fmt.Errorf("note PID 1 of %s: %w", h.Name, err)
		}
		inits = append(inits, p)
	}
	return writeState(l.dir, inits)
}

func writeState(dir string, inits []proc) error {
	owner, err := self()
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	data, err := json.Marshal(state{Owner: owner, Inits: inits})
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	temp := filepath.Join(dir, stateName+".new")
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := os.Rename(temp, filepath.Join(dir, stateName)); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// Clean removes what labs have left whose process is dead: processes, cgroups, folders. Labs that are in use are
// not touched.
func Clean() error {
	// In this order: a lab that is born meanwhile has its folder before it has a cgroup.
	cgroups, err := labCgroups()
	if err != nil {
		return err
	}
	var failures []error
	inUse := map[string]bool{}
	for _, base := range []string{"/tmp", "/var/tmp"} {
		dirs, err := filepath.Glob(filepath.Join(base, dirPrefix+"*"))
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			dead, err := cleanDir(dir)
			inUse[cgroupPrefix+dirID(dir)] = !dead || err != nil
			failures = append(failures, err)
		}
	}
	for _, name := range cgroups {
		if !inUse[name] {
			failures = append(failures, killCgroup(name), removeCgroup(name))
		}
	}
	return errors.Join(failures...)
}

// labCgroups are the names of every lab's top cgroup, dead or in use.
func labCgroups() ([]string, error) {
	roots, err := cgroupRoots()
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	seen := map[string]bool{}
	var names []string
	for _, root := range roots {
		tops, err := filepath.Glob(filepath.Join(root, cgroupPrefix+"*"))
		if err != nil {
			return nil, fmt.Errorf("find cgroups: %w", err)
		}
		for _, top := range tops {
			if name := filepath.Base(top); !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// cleanDir removes one lab if it is dead.
func cleanDir(dir string) (dead bool, err error) {
	var s state
	data, err := os.ReadFile(filepath.Join(dir, stateName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) < unborn {
			return false, nil
		}
	case err != nil:
		return false, err
	default:
		if err := json.Unmarshal(data, &s); err != nil {
			return false, fmt.Errorf("%s: %w", dir, err)
		}
	}
	if s.Owner.alive() {
		return false, nil
	}
	cgroup := cgroupPrefix + dirID(dir)
	for _, init := range s.Inits {
		if err := killProc(init, cgroup); err != nil {
			return true, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return true, errors.Join(removeCgroup(cgroup), os.RemoveAll(dir))
}

// killProc ends a process that is not a child of this one.
func killProc(p proc, cgroup string) error {
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return nil // gone
	}
	defer unix.Close(fd)
	if !p.alive() { // asked now, as the descriptor pins whoever has this ID
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", p.Pid, err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(killPatience.Milliseconds()))
			if err != unix.EINTR {
				return
			}
		}
	}()
	return awaitDeath(cgroup, gone)
}
