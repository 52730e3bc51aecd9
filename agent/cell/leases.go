package cell

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
	"ss/agent/target"
)

// Opens lists the processes that have these files open or mapped. It leaves out the job's members, and the agent, which closes what it reads before a restore. It opens no file, as that
// would break the leases on it.
func (g *Manager) Opens(ctx context.Context, job string, files map[target.FileID]bool) ([]target.HostOpen, error) {
	out, err := g.opens(ctx, job, files)
	if err != nil {
		return nil, fmt.Errorf("list the processes that have files open: %w", err)
	}
	return out, nil
}

func (g *Manager) opens(ctx context.Context, job string, files map[target.FileID]bool) ([]target.HostOpen, error) {
	all, err := proc.Pids()
	if err != nil {
		return nil, err
	}
	ours, others, err := g.allProcs(job) // after all, so that it has what was born meanwhile
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(pid int) bool { return pid == os.Getpid() || slices.Contains(ours, pid) })
	type key struct {
		file target.FileID
		pid  int
	}
	found := map[key]bool{} // and whether for writing
	note := func(pid int, path string, write bool) {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil {
			return // closed meanwhile
		}
		if id := (target.FileID{Dev: st.Dev, Ino: st.Ino}); files[id] {
			found[key{id, pid}] = found[key{id, pid}] || write
		}
	}
	err = proc.EachFd(all, func(pid, fd int, link string) {
		if !strings.HasPrefix(link, "/") {
			return
		}
		info, err := proc.ReadFdInfo(pid, fd)
		if err == nil && info.Flags&unix.O_PATH == 0 {
			note(pid, proc.FdPath(pid, fd), info.Flags&unix.O_ACCMODE != unix.O_RDONLY)
		}
	})
	inodes := map[string]bool{}
	for id := range files {
		inodes[strconv.FormatUint(id.Ino, 10)] = true
	}
	for _, pid := range all {
		for m, merr := range proc.Mappings(pid) {
			if merr != nil {
				break // it ended
			}
			if inodes[m.Inode] {
				path := proc.MappedFile(pid, m.Range)
				note(pid, path, writable(path))
			}
		}
	}
	var out []target.HostOpen
	for _, k := range slices.SortedFunc(maps.Keys(found), func(a, b key) int { return a.pid - b.pid }) {
		owner := proc.Whose(k.pid)
		for member, pids := range others {
			if slices.Contains(pids, k.pid) {
				owner += " of " + member
			}
		}
		out = append(out, target.HostOpen{File: k.file, Owner: owner, Write: found[k]})
	}
	return out, errors.Join(err, ctx.Err())
}

// writable says whether the file of a mapping was opened for writing: the link that names it has the mode of the open file (proc_pid_map_files(5)).
func writable(link string) bool {
	var st unix.Stat_t
	return unix.Lstat(link, &st) == nil && st.Mode&unix.S_IWUSR != 0
}
