package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// folder notes the regular files in a folder of the member's and in all below it, on the same file system. It follows no link. What
// is neither a file nor a folder is not part of the cut.
func (s *scan) folder(ctx context.Context, t Tree, dir string) error {
	p, err := locate(t.Root, dir, nil)
	if err != nil {
		return ignoreGone(err) // it may be made later
	}
	defer p.close()
	fd, err := unix.Openat(p.fd, p.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return ignoreGone(&os.PathError{Op: "open", Path: dir, Err: err})
	}
	return s.below(ctx, t, fd, dir, 0)
}

// below notes what is in an open folder, and closes it. dev is the file system to stay on; 0 for the folder's own.
func (s *scan) below(ctx context.Context, t Tree, fd int, dir string, dev uint64) error {
	folder := os.NewFile(uintptr(fd), dir)
	defer folder.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if dev != 0 && st.Dev != dev {
		return nil
	}
	s.dirs[t.Member] = append(s.dirs[t.Member], Seen{Path: dir, Mode: st.Mode, UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino})
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(dir, name)
		if !utf8.ValidString(name) {
			s.refused = append(s.refused, fmt.Sprintf("%q is in a folder of %s, and that name is not UTF-8: rename it", path, t.Member))
			continue
		}
		if err := s.entry(ctx, t, fd, path, st.Dev); ignoreGone(err) != nil {
			return err
		}
	}
	return nil
}

// entry notes one entry of an open folder.
func (s *scan) entry(ctx context.Context, t Tree, dir int, path string, dev uint64) error {
	fd, err := unix.Openat(dir, filepath.Base(path), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(err, file.Close())
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		sub, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
		return s.below(ctx, t, sub, path, dev)
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Dev != dev || strings.HasPrefix(filepath.Base(path), linkRemap):
		return file.Close()
	}
	key := idOf(&st)
	f := s.files[key]
	if f == nil {
		f = &held{st: st, links: map[string]string{}}
		s.files[key] = f
		s.order = append(s.order, key)
	}
	f.links[path] = t.Root
	if !slices.Contains(f.members, t.Member) {
		f.members = append(f.members, t.Member)
	}
	pid := 0
	if len(t.Pids) > 0 {
		pid = t.Pids[0]
	}
	f.handles = append(f.handles, handle{pid: pid, fd: -1, own: file, read: true, write: true})
	return nil
}

// close lets go of the files of folders.
func (s *scan) close() error {
	var errs []error
	for _, f := range s.files {
		for _, h := range f.handles {
			if h.own != nil {
				errs = append(errs, h.own.Close())
			}
		}
	}
	return errors.Join(errs...)
}

// closed says whether no member has the file open: it is in a folder of one.
func (h *held) closed() bool {
	return !slices.ContainsFunc(h.handles, func(x handle) bool { return x.own == nil })
}

// Dirs are the member's folders and all below them, outer ones first.
func (c *Capture) Dirs(member string) []Seen { return c.scan.dirs[member] }

// clear puts aside the regular files of a folder that the cut does not have. It follows no link. Folders stay.
func (u *Undo) clear(dir string, keep map[string]bool) error {
	p, err := locate("/", dir, nil)
	if err != nil {
		return ignoreGone(err)
	}
	defer p.close()
	fd, err := unix.Openat(p.fd, p.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return ignoreGone(&os.PathError{Op: "open", Path: dir, Err: err})
	}
	folder := os.NewFile(uintptr(fd), dir)
	defer folder.Close()
	var owner unix.Stat_t
	if err := unix.Fstat(fd, &owner); err != nil {
		return err
	}
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Dev == owner.Dev:
			err = u.clear(path, keep)
		case st.Mode&unix.S_IFMT == unix.S_IFREG && !keep[path]:
			err = u.clearFile(path, &owner)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clearFile puts one file aside, with the rights of its folder's owner.
func (u *Undo) clearFile(path string, owner *unix.Stat_t) error {
	p, err := locate("/", path, nil)
	if err != nil {
		return ignoreGone(err)
	}
	defer p.close()
	return u.aside(Source{Stored: Stored{UID: int(owner.Uid), GID: int(owner.Gid)}}, p)
}
