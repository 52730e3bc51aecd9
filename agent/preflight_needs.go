package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/files"
	"ss/agent/proc"
	"ss/agent/target"
)

// placeRunning lists before the freeze what would keep the members from being put back here. Members that run change what they hold, so it counts what two looks find.
func (w *work) placeRunning(ctx context.Context) ([]string, error) {
	found, err := w.lookRunning(ctx)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	again, err := w.lookRunning(ctx)
	return slices.DeleteFunc(found, func(text string) bool { return !slices.Contains(again, text) }), err
}

func (w *work) lookRunning(ctx context.Context) ([]string, error) {
	objects, err := w.a.liveObjects(ctx, w.job(), w.members)
	if err != nil {
		return nil, err
	}
	running := target.Target{Host: w.a.cfg.Host, Job: w.job(), Lives: w.a.cfg.Cells}
	for _, m := range w.members {
		pids, err := w.a.pids(ctx, m)
		if err != nil {
			return nil, err
		}
		meta, err := liveNeeds(ctx, m, pids, objects[m.Name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		running.Coming = append(running.Coming, arrival(w.a.cfg.Host, m, meta))
	}
	return target.PlanRunning(ctx, running)
}

// liveNeeds says what the images of a running member would need of a host. objects are its sockets, as liveObjects lists them.
func liveNeeds(ctx context.Context, m Member, pids []int, objects target.NeededObjects) (MemberMeta, error) {
	meta := MemberMeta{Needs: target.Needs{Objects: objects}}
	root := m.InitPid
	if root == 0 {
		root = m.Pid
	}
	held, err := files.Look(ctx, files.Tree{Member: m.Name, Pids: pids, Root: proc.Path(root, "root")})
	if err != nil {
		return meta, err
	}
	meta.Seen = held.Seen
	stored := map[string]bool{}
	for _, path := range held.Written {
		stored[path] = true
		if !strings.HasSuffix(path, " (deleted)") {
			meta.Files = append(meta.Files, StoredFile{Path: path})
		}
	}
	for _, s := range held.Seen {
		if name, gone := strings.CutSuffix(s.Path, " (deleted)"); gone {
			if inNoFolder(name) {
				continue
			}
			meta.Needs.Objects.Unlinked = append(meta.Needs.Objects.Unlinked, name)
			if !stored[s.Path] {
				meta.Needs.Objects.Ghosts = append(meta.Needs.Objects.Ghosts, target.NeededGhost{Path: name, Mode: s.Mode, Ino: s.Ino, Mapped: s.BuildID != ""})
			}
			continue
		}
		switch kind := s.Mode & unix.S_IFMT; {
		case kind == unix.S_IFDIR:
			meta.Needs.Dirs = append(meta.Needs.Dirs, s.Path)
		case kind == unix.S_IFREG && !stored[s.Path]:
			meta.Needs.Files = append(meta.Needs.Files, target.NeededFile{Path: s.Path, BuildID: s.BuildID, Size: s.Size, Mapped: s.BuildID != ""})
		case kind == unix.S_IFIFO:
			meta.Needs.Objects.Paths = append(meta.Needs.Objects.Paths, target.NeededPath{Path: s.Path, Mode: s.Mode, Size: -1})
		}
	}
	if meta.Needs.Objects.Locks, meta.Needs.Objects.Leases, err = liveLocks(pids); err != nil {
		return meta, err
	}
	kernels, err := liveKernel(pids)
	if err != nil {
		return meta, err
	}
	meta.Needs.Objects.Paths = append(meta.Needs.Objects.Paths, kernels...)
	for _, pid := range pids {
		if inner, err := proc.NSPids(pid); err == nil && len(inner) > 0 {
			meta.Needs.Pids = append(meta.Needs.Pids, inner[len(inner)-1])
		}
	}
	return meta, nil
}

// inNoFolder says whether a name is only what the kernel calls memory: memfds, shared memory of System V and without a name, the ring of io_setup(2).
func inNoFolder(name string) bool {
	return strings.HasPrefix(name, "/memfd:") || strings.HasPrefix(name, "/SYSV") || name == "/dev/zero" || name == "/[aio]" || name == "/anon_hugepage"
}

// liveKernel lists what processes have open in /proc and /sys that tells of the host.
func liveKernel(pids []int) (out []target.NeededPath, err error) {
	err = proc.EachFd(pids, func(_, _ int, link string) {
		if need := (target.NeededPath{Path: link, Size: -1}); target.OfTheKernel(link) && !slices.Contains(out, need) {
			out = append(out, need)
		}
	})
	return out, err
}

// liveLocks lists the locks and leases that processes hold on files with a name.
func liveLocks(pids []int) (out []target.NeededLock, leases []target.NeededLease, err error) {
	err = proc.EachFd(pids, func(pid, fd int, link string) {
		if !strings.HasPrefix(link, "/") || strings.HasSuffix(link, " (deleted)") {
			return
		}
		info, err := proc.ReadFdInfo(pid, fd)
		if err != nil {
			return // closed meanwhile
		}
		if lease := (target.NeededLease{Path: link, Write: info.WriteLease}); info.Leased && !slices.Contains(leases, lease) {
			leases = append(leases, lease)
		}
		for _, l := range info.Locks {
			need := target.LockOn(link, l)
			if !slices.Contains(out, need) {
				out = append(out, need)
			}
		}
	})
	return out, leases, err
}

// liveObjects lists the sockets that members of a job hold on this host, by the member's name. One that several hold is listed for the first of them.
func (a *Agent) liveObjects(ctx context.Context, job string, members []Member) (map[string]target.NeededObjects, error) {
	lives, err := a.cfg.Cells.Objects(ctx, job)
	if err != nil {
		return nil, err
	}
	holders, err := a.socketHolders(ctx, members)
	if err != nil {
		return nil, err
	}
	out := map[string]target.NeededObjects{}
	for _, s := range lives.Sockets {
		if name := holderOf(s, lives.Sockets, holders); name != "" && s.Ours && !s.Orphan && s.Local.Port() != 0 {
			objects := out[name]
			objects.Sockets = append(objects.Sockets, s.NeededSocket)
			out[name] = objects
		}
	}
	for _, u := range lives.Unix {
		if name := holders[u.Inode]; name != "" && u.Ours && named(u) {
			objects := out[name]
			if need := (target.NeededUnix{Path: u.Path, Abstract: u.Abstract}); !slices.Contains(objects.Unix, need) { // what a listener has accepted has its name
				objects.Unix = append(objects.Unix, need)
			}
			out[name] = objects
		}
	}
	return out, nil
}

// named says whether a UNIX socket will be bound again: it is abstract, or its path is still its own. CRIU gives no other path back, and tells of relative ones in the
// images only.
func named(u target.HostUnix) bool {
	if u.Path == "" {
		return true
	}
	var st unix.Stat_t
	// File systems of layers show another device than the one that the socket is on.
	return filepath.IsAbs(u.Path) && unix.Lstat(u.Path, &st) == nil && u.Ino == st.Ino&0xffffffff
}

// socketHolders maps the inodes of sockets to the members that hold them.
func (a *Agent) socketHolders(ctx context.Context, members []Member) (map[uint64]string, error) {
	holders := map[uint64]string{}
	for _, m := range members {
		pids, err := a.pids(ctx, m)
		if err != nil {
			return nil, err
		}
		err = proc.EachFd(pids, func(_, _ int, link string) {
			if inode, ok := proc.SocketInode(link); ok && holders[inode] == "" {
				holders[inode] = m.Name
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return holders, nil
}

// holderOf names the member that holds a socket, and of a connection that nobody has accepted yet the one that holds the listener.
func holderOf(s target.HostSocket, all []target.HostSocket, holders map[uint64]string) string {
	if s.Inode != 0 {
		return holders[s.Inode]
	}
	for _, l := range all {
		if l.Listening && l.Protocol == s.Protocol && l.Local.Port() == s.Local.Port() && holders[l.Inode] != "" &&
			(l.Local.Addr().IsUnspecified() || l.Local.Addr() == s.Local.Addr()) {
			return holders[l.Inode]
		}
	}
	return ""
}
