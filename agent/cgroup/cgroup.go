package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Dir is the folder of a cgroup.
type Dir string

func (d Dir) file(name string) string { return filepath.Join(string(d), name) }

// V1 says whether it is a folder of the v1 freezer.
func (d Dir) V1() bool {
	_, err := os.Stat(d.file("freezer.state"))
	return err == nil
}

// gone says whether an error is that the cgroup is not there, or was removed while it was looked at.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// Procs lists the processes of the cgroup and of those below it, also those that have ended and are not reaped yet. Of a cgroup that is not
// there the error wraps fs.ErrNotExist or unix.ENODEV.
func (d Dir) Procs() ([]int, error) {
	b, err := os.ReadFile(d.file("cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("list the processes of a cgroup: %w", err)
	}
	var out []int
	for f := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 { // 0: in a PID namespace that we can't see
			out = append(out, pid)
		}
	}
	subs, err := d.Below()
	if err != nil {
		return nil, err
	}
	for _, s := range subs {
		more, err := s.Procs()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// Live is Procs without those that have ended and are not reaped yet. A cgroup that is not there has none.
func (d Dir) Live() ([]int, error) {
	all, err := d.Procs()
	if gone(err) {
		return nil, nil
	}
	return Living(all), err
}

// Living are those processes that have not ended.
func Living(pids []int) []int {
	return slices.DeleteFunc(pids, func(pid int) bool {
		s, err := proc.ReadStat(pid)
		return err != nil || s.Dead()
	})
}

// Remove removes a cgroup folder and those below it, which may be busy for an instant after
// their last task has gone: for that the kernel has no event.
func (d Dir) Remove() error {
	subs, err := d.Below()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, s := range subs {
		if err := s.Remove(); err != nil {
			return err
		}
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(string(d))
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || wait > time.Second {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
		<-time.After(wait)
	}
}

// Below lists the cgroups right below d. Most have none, which the link count tells at once.
func (d Dir) Below() ([]Dir, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(string(d), &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: string(d), Err: err}
	}
	if st.Nlink <= 2 {
		return nil, nil
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var out []Dir
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, Dir(d.file(e.Name())))
		}
	}
	return out, nil
}
