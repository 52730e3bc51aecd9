package cell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"ss/agent/cgroup"
	"ss/agent/proc"
)

// hierarchies says where this host's cgroups are and which of them freezes.
type hierarchies struct {
	parent string
	v2     string      // mount of the v2 hierarchy, "" if there is none
	v1     string      // mount of the v1 freezer; "" if v2 freezes
	mu     *sync.Mutex // making and removing the folders that members share
}

// findHierarchies picks the v2 hierarchy if it can freeze (Linux 5.2), else the v1 freezer, and then
// still v2 for what only it can do: the cgroup's id, by which packets are matched.
func findHierarchies(parent string, forceV1 bool) (hierarchies, error) {
	mounts, err := proc.Mounts("cgroup", "cgroup2")
	if err != nil {
		return hierarchies{}, fmt.Errorf("find cgroup mounts: %w", err)
	}
	h := hierarchies{parent: parent, mu: new(sync.Mutex)}
	var v1 string
	for _, m := range mounts {
		switch {
		case m.FSType == "cgroup2" && h.v2 == "":
			h.v2 = m.Mountpoint
		case m.FSType == "cgroup" && v1 == "" && slices.Contains(strings.Split(m.VFSOptions, ","), "freezer"):
			v1 = m.Mountpoint
		}
	}
	if h.v2 != "" && !forceV1 {
		dir := filepath.Join(h.v2, parent)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return hierarchies{}, fmt.Errorf("make the parent cgroup: %w", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.freeze")); err == nil {
			return h, nil
		}
	}
	if v1 == "" {
		return hierarchies{}, errors.New("no cgroup hierarchy here can freeze processes: mount cgroup2 (Linux 5.2 or later) or the v1 freezer")
	}
	h.v1 = v1
	return h, nil
}

// member says whether a process lives in the cgroup of some member.
func (h hierarchies) member(pid int) bool {
	controller := ""
	if h.v1 != "" {
		controller = "freezer"
	}
	path, err := proc.Cgroup(pid, controller)
	return err != nil || strings.HasPrefix(path, "/"+h.parent+"/") // what is not known might be one
}

// group is one member's cgroup: a folder in v2, in the v1 freezer, or in both.
type group struct {
	h      hierarchies
	v2, v1 string // "" where that hierarchy is not used
}

func (h hierarchies) group(job, name string) group {
	g := group{h: h}
	if h.v2 != "" {
		g.v2 = filepath.Join(h.v2, h.parent, job, name)
	}
	if h.v1 != "" {
		g.v1 = filepath.Join(h.v1, h.parent, job, name)
	}
	return g
}

// dir is the folder that freezes.
func (g group) dir() string {
	if g.v1 != "" {
		return g.v1
	}
	return g.v2
}

// freezer is dir, for what is done with it.
func (g group) freezer() cgroup.Dir { return cgroup.Dir(g.dir()) }

func (g group) dirs() []string {
	return slices.DeleteFunc([]string{g.v1, g.v2}, func(s string) bool { return s == "" })
}

// id is the v2 folder's inode number, by which the kernel and nftables name a cgroup.
func (g group) id() uint64 {
	var st syscall.Stat_t
	if g.v2 == "" || syscall.Stat(g.v2, &st) != nil {
		return 0
	}
	return st.Ino
}

// jobID is id of the folder above, which the groups of all the job's members share.
func (g group) jobID() uint64 {
	if g.v2 == "" {
		return 0
	}
	return group{v2: filepath.Dir(g.v2)}.id()
}

// create makes the folders, empty and thawed. A group that has processes already, which somebody else has started there, makes the
// error wrap ErrExists, and nothing of it is touched.
func (g group) create() error {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	for _, d := range g.dirs() {
		if err := g.h.make(d); err != nil {
			return errors.Join(err, g.removeEmpty())
		}
	}
	if err := g.freezer().SetFrozen(false); err != nil {
		return errors.Join(err, g.removeEmpty())
	}
	return nil
}

// make makes a member's folder. One that is there and has no process is what an agent left behind that did not end by itself.
func (h hierarchies) make(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make the cgroup: %w", err)
	}
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the cgroup: %w", err)
	}
	return vacant(dir)
}

// vacant says whose processes are in the group, if there are any.
func (g group) vacant() error {
	for _, d := range g.dirs() {
		if err := vacant(d); err != nil {
			return err
		}
	}
	return nil
}

func vacant(dir string) error {
	left, err := cgroup.Dir(dir).Procs()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("cgroup %s is in use by %s, which is not of this agent's state folder; end it first: %w", dir, proc.Whose(left[0]), ErrExists)
	}
	return err
}

// removeEmpty removes the folders in which there is no process, and leaves the others as they are.
func (g group) removeEmpty() error {
	var errs []error
	for _, d := range g.dirs() {
		left, err := cgroup.Dir(d).Procs()
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || len(left) > 0 {
			continue
		}
		if err == nil {
			err = g.h.removeMember(d)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// remove removes the folders, sub-cgroups that the member made included, and the job's and the
// common parent's when nothing else is in them.
func (g group) remove() error {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	var errs []error
	for _, d := range g.dirs() {
		errs = append(errs, g.h.removeMember(d))
	}
	return errors.Join(errs...)
}

// removeMember removes a member's folder, and those above it that have become empty.
func (h hierarchies) removeMember(dir string) error {
	if err := cgroup.Dir(dir).Remove(); err != nil {
		return err
	}
	job := filepath.Dir(dir)
	if os.Remove(job) == nil {
		_ = os.Remove(filepath.Dir(job)) // another job's is in it, or it is empty: both are fine
	}
	return nil
}

// procs lists the processes of the group, of sub-cgroups too. A group that is not there has none.
func (g group) procs() ([]int, error) {
	out, err := g.freezer().Procs()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return out, err
}

// live is procs without those that have ended and are not reaped yet.
func (g group) live() ([]int, error) {
	all, err := g.procs()
	return cgroup.Living(all), err
}

// kill ends every process of the group and returns when none is left.
func (g group) kill(ctx context.Context) error { return g.freezer().Kill(ctx) }

// enter moves a process with all its threads into the group.
func (g group) enter(pid int) error {
	for _, d := range g.dirs() {
		if err := enterDir(d, pid); err != nil {
			return err
		}
	}
	return nil
}

func enterDir(dir string, pid int) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("move process %d into a cgroup: %w", pid, err)
	}
	return nil
}

// folderOf returns the folder of the process's cgroup in the v2 hierarchy (mount point v2) or, with v2 false, in the v1 freezer.
func folderOf(pid int, mount string, v2 bool) (string, error) {
	controller := "freezer"
	if v2 {
		controller = ""
	}
	path, err := proc.Cgroup(pid, controller)
	if err != nil {
		return "", err
	}
	return filepath.Join(mount, path), nil
}
