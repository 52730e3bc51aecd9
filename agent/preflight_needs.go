package agent

import (
	"context"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/files"
	"ss/agent/proc"
	"ss/agent/target"
)

// liveNeeds says what the images of a running member would need of a host. What CRIU does with sockets, the host's own list of them tells, which does
// not say whose they are: one member, the first, stands for all of this host.
func (a *Agent) liveNeeds(ctx context.Context, m Member, pids []int, first bool) (MemberMeta, error) {
	var meta MemberMeta
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
		meta.Files = append(meta.Files, StoredFile{Path: path})
		stored[path] = true
	}
	for _, s := range held.Seen {
		if strings.HasSuffix(s.Path, " (deleted)") {
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
	for _, pid := range pids {
		if inner, err := proc.NSPids(pid); err == nil && len(inner) > 0 {
			meta.Needs.Pids = append(meta.Needs.Pids, inner[len(inner)-1])
		}
	}
	if !first {
		return meta, nil
	}
	return meta, a.liveObjects(ctx, m.Job, &meta.Needs.Objects)
}

// liveObjects adds the sockets of all members of a job on this host.
func (a *Agent) liveObjects(ctx context.Context, job string, out *target.NeededObjects) error {
	lives, err := a.cfg.Cells.Objects(ctx, job)
	if err != nil {
		return err
	}
	for _, s := range lives.Sockets {
		if s.Ours && !s.Orphan && s.Local.Port() != 0 {
			out.Sockets = append(out.Sockets, s.NeededSocket)
		}
	}
	for _, u := range lives.Unix {
		if u.Ours {
			out.Unix = append(out.Unix, target.NeededUnix{Path: u.Path, Abstract: u.Abstract})
		}
	}
	return nil
}
