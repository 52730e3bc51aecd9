package cell

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
	"ss/agent/target"
)

// Locks lists the locks on these files that other processes than the job's members hold. It asks each process's descriptors, and not /proc/locks. On
// Btrfs and overlays that names another device than stat(2). Of a lock that several processes share (flock(2)), it names only the one that took it, which may have ended.
func (g *Manager) Locks(ctx context.Context, job string, files []target.FileID) ([]target.HostLock, error) {
	out, err := g.locks(ctx, job, files)
	if err != nil {
		return nil, fmt.Errorf("list who holds locks: %w", err)
	}
	return out, nil
}

func (g *Manager) locks(ctx context.Context, job string, files []target.FileID) (out []target.HostLock, err error) {
	all, err := proc.Pids()
	if err != nil {
		return nil, err
	}
	ours, others, err := g.allProcs(job) // after all, so that it has what was born meanwhile
	if err != nil {
		return nil, err
	}
	owners := map[int]string{}
	for owner, pids := range others {
		for _, pid := range pids {
			owners[pid] = owner
		}
	}
	all = slices.DeleteFunc(all, func(pid int) bool { return slices.Contains(ours, pid) })
	err = proc.EachFd(all, func(pid, fd int, link string) {
		if !strings.HasPrefix(link, "/") {
			return
		}
		info, err := proc.ReadFdInfo(pid, fd)
		var st unix.Stat_t
		if err != nil || len(info.Locks) == 0 || unix.Stat(proc.FdPath(pid, fd), &st) != nil {
			return
		}
		id := target.FileID{Dev: st.Dev, Ino: st.Ino}
		if !slices.Contains(files, id) {
			return
		}
		for _, l := range info.Locks {
			out = append(out, target.HostLock{NeededLock: target.LockOn(link, l), File: id, Owner: cmp.Or(owners[pid], proc.Whose(pid))})
		}
	})
	return out, errors.Join(err, ctx.Err())
}
