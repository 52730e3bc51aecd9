package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// owned counts the descriptors that this process holds for files in folders, of all jobs.
var owned atomic.Int64

// inFolder notes the regular files in a folder of the member's and in all below it. What is neither a file nor a folder is not part of the cut.
func (s *scan) inFolder(ctx context.Context, t Tree, dir string) error {
	w := &folderWalk{
		folder: func(path string, st *unix.Stat_t) error {
			s.dirs[t.Member] = append(s.dirs[t.Member], Seen{Path: path, Mode: st.Mode, UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino})
			return nil
		},
		file: func(e entry) error { return s.entry(t, e) },
		text: &s.text,
	}
	err := w.walk(ctx, t.Root, dir)
	var refused *refusedError
	if errors.As(err, &refused) {
		s.refuse(fmt.Sprintf("%s: %s", t.Member, refused.why))
		return nil
	}
	return err
}

// mostRefused is how many reasons are listed: more of them help nobody.
const mostRefused = 20

func (s *scan) refuse(why string) {
	if len(s.refused) < mostRefused {
		s.refused = append(s.refused, why)
	}
}

// entry notes a regular file of a folder, and holds it.
func (s *scan) entry(t Tree, e entry) error {
	if strings.HasPrefix(filepath.Base(e.path), linkRemap) && e.st.Nlink > 1 {
		return nil // a CRIU is at work beside us
	}
	if !utf8.ValidString(e.path) {
		s.refuse(fmt.Sprintf("%q is in a folder of %s, and that name is not UTF-8: rename it", e.path, t.Member))
		return nil
	}
	if !s.programs { // the members run: there is time
		if err := changeable(e.fd, e.path); err != nil {
			s.refuse(fmt.Sprintf("%s: %v", t.Member, err))
		}
	}
	key := idOf(&e.st)
	f := s.files[key]
	if f == nil {
		f = &held{st: e.st, links: map[string]string{}}
		s.files[key] = f
		s.order = append(s.order, key)
	}
	f.links[e.path] = t.Root
	if !slices.Contains(f.members, t.Member) {
		f.members = append(f.members, t.Member)
	}
	if e.st.Nlink > 1 {
		f.linked(e)
	}
	if f.own {
		return nil
	}
	return s.own(t, f, e)
}

// own takes a hold of our own on a file. The descriptors of this process serve all jobs, so the files of one member get a part of them.
func (s *scan) own(t Tree, f *held, e entry) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of descriptors: %w", err)
	}
	if most := int64(limit.Cur / 4); s.owned >= most {
		return refuse("there are more than %d files in its folders, and the agent can hold no more: name a smaller folder, or raise LimitNOFILE of ssagent (it is %d)", most, limit.Cur)
	}
	if owned.Load() >= int64(limit.Cur/2) {
		return refuse("other jobs are being recorded that have many files in folders: try again, or raise LimitNOFILE of ssagent (it is %d)", limit.Cur)
	}
	fd, err := unix.FcntlInt(uintptr(e.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "hold", Path: e.path, Err: err}
	}
	s.owned++
	owned.Add(1)
	pid := 0
	if len(t.Pids) > 0 {
		pid = t.Pids[0]
	}
	f.own = true
	f.handles = append(f.handles, handle{pid: pid, fd: -1, own: os.NewFile(uintptr(fd), e.path), read: true, write: true})
	return nil
}

// linked notes a name of a file with several, and whether somebody else than the file's owner may have made it.
func (h *held) linked(e entry) {
	if h.inFolders == nil {
		h.inFolders = map[string]bool{}
	}
	h.inFolders[e.path] = true
	rootsAlone := e.folder.Uid == 0 && e.folder.Mode&0o022 == 0
	if !rootsAlone && (e.folder.Uid != e.st.Uid || e.folder.Mode&0o022 != 0) {
		h.foreign = e.path
	}
}

// foreignLinks refuses files that somebody may have linked into a folder without a right to them: a kernel may let a user link any file
// (fs.protected_hardlinks=0). A restore would make the other user's file what it was at the cut.
func (s *scan) foreignLinks() {
	for _, key := range s.order {
		f := s.files[key]
		if f.foreign != "" && uint64(len(f.inFolders)) < f.st.Nlink {
			s.refuse(fmt.Sprintf("%s: %s, of user %d, has another name outside of the folder, and others than that user can make names there: remove the name, or copy the file", f.members[0], f.foreign, f.st.Uid))
		}
	}
}

// mountedOver says whether something is mounted where a file is, so that it cannot be renamed (rename(2), EBUSY).
func mountedOver(fd int) bool {
	var st unix.Statx_t
	return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, &st) == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// changeable refuses what a restore could not put back.
func changeable(fd int, path string) error {
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, &st) != nil {
		return nil //nolint:nilerr // the file system does not tell
	}
	switch {
	case st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0:
		return fmt.Errorf("%s is immutable, so that a restore could not put it back: chattr -i %s", path, path)
	case st.Attributes&unix.STATX_ATTR_APPEND != 0:
		return fmt.Errorf("%s may only be appended to, so that a restore could not put it back: chattr -a %s", path, path)
	}
	return nil
}

// close lets go of the files of folders.
func (s *scan) close() error {
	var errs []error
	for _, f := range s.files {
		for _, h := range f.handles {
			if h.own != nil {
				errs = append(errs, h.own.Close())
				owned.Add(-1)
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

// Extra lists the regular files in a folder, and in all below it, that are not in keep: a restore puts them aside. The error says why it could not.
func Extra(ctx context.Context, dir string, keep map[string]bool) ([]string, error) {
	found, err := extra(ctx, dir, keep, true)
	var paths []string
	for _, x := range found {
		paths = append(paths, x.path)
	}
	return paths, err
}

// spareFile is a file that the cut does not have.
type spareFile struct {
	path   string
	folder unix.Stat_t
}

// extra is Extra. With check, it tries whether they can be put aside.
func extra(ctx context.Context, dir string, keep map[string]bool, check bool) ([]spareFile, error) {
	var found []spareFile
	var text int64
	w := &folderWalk{text: &text, file: func(e entry) error {
		if keep[e.path] || strings.HasPrefix(filepath.Base(e.path), linkRemap) && e.st.Nlink > 1 {
			return nil
		}
		found = append(found, spareFile{e.path, e.folder})
		if !check {
			return nil
		}
		if mountedOver(e.fd) {
			return fmt.Errorf("%s is not in the cut and cannot be put aside: something is mounted there: umount %s", e.path, e.path)
		}
		return errors.Join(changeable(e.fd, e.path), as(int(e.folder.Uid), int(e.folder.Gid), func() error {
			if err := unix.Faccessat(e.dir, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
				return &os.PathError{Op: "write in", Path: filepath.Dir(e.path), Err: err}
			}
			return nil
		}))
	}}
	return found, w.walk(ctx, "/", dir)
}

// clear puts aside the regular files of a folder that the cut does not have. Folders stay.
func (u *Undo) clear(dir string, keep map[string]bool) error {
	found, err := extra(context.Background(), dir, keep, false)
	if err != nil {
		return err
	}
	for _, x := range found {
		if err := u.clearFile(x); err != nil {
			return err
		}
	}
	return nil
}

// clearFile puts one file aside, with the rights of its folder's owner.
func (u *Undo) clearFile(x spareFile) error {
	p, err := locate("/", x.path, nil)
	if err != nil {
		return ignoreGone(err)
	}
	defer p.close()
	return u.aside(Source{Stored: Stored{UID: int(x.folder.Uid), GID: int(x.folder.Gid)}}, p)
}

// Bounds of folders: who owns one may fill it, and the agent serves others, too.
const (
	maxDepth = 200      // folders in folders
	maxText  = 32 << 20 // bytes that one look notes of names and attributes, about
	perEntry = 200      // bytes that are noted beside a name, about
)

// refusedError says why a folder cannot be part of a cut.
type refusedError struct{ why string }

func (e *refusedError) Error() string { return e.why }

func refuse(format string, args ...any) error {
	return &refusedError{fmt.Sprintf(format, args...)}
}

// folderWalk goes through a folder and all below it, on the same mount: what is mounted in it is another's. It follows no link.
type folderWalk struct {
	folder func(path string, st *unix.Stat_t) error // nil: not called
	file   func(e entry) error
	text   *int64 // bytes that were noted
}

// entry is a regular file that a walk has come to.
type entry struct {
	fd, dir    int // of the file (O_PATH) and of its folder, for the time of the call
	path       string
	st, folder unix.Stat_t
}

func (w *folderWalk) walk(ctx context.Context, root, dir string) error {
	p, err := locate(root, dir, nil)
	if err != nil {
		return ignoreGone(err) // it may be made later
	}
	defer p.close()
	fd, err := unix.Openat(p.fd, p.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return ignoreGone(&os.PathError{Op: "open", Path: dir, Err: err})
	}
	return w.below(ctx, fd, dir, 0)
}

// below goes through an open folder, and closes it.
func (w *folderWalk) below(ctx context.Context, fd int, dir string, depth int) error {
	folder := os.NewFile(uintptr(fd), dir)
	defer folder.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch made, err := madeByKernel(proc.OwnFd(fd)); {
	case err != nil:
		return err
	case made:
		return refuse("%s is made up by the kernel, and cannot be part of a cut", dir)
	case st.Mode&0o002 != 0:
		return refuse("every user can make files in %s, so it cannot be part of a cut: chmod o-w %s, or name a folder of the member's own", dir, dir)
	case depth > maxDepth:
		return refuse("%.200q… has more than %d folders in one another: move them elsewhere", dir, maxDepth)
	}
	if w.folder != nil {
		if err := w.folder(dir, &st); err != nil {
			return err
		}
	}
	names, err := w.names(folder)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.entry(ctx, fd, filepath.Join(dir, name), &st, depth); ignoreGone(err) != nil {
			return err
		}
	}
	return nil
}

// names lists a folder.
func (w *folderWalk) names(folder *os.File) ([]string, error) {
	var names []string
	for {
		some, err := folder.Readdirnames(1000)
		for _, name := range some {
			*w.text += int64(len(folder.Name()) + len(name) + perEntry)
		}
		names = append(names, some...)
		switch {
		case *w.text > maxText:
			return nil, refuse("its folders hold more names than the %d MiB that the agent notes (it was in %.200q): name a smaller folder", maxText>>20, folder.Name())
		case errors.Is(err, io.EOF):
			slices.Sort(names)
			return names, nil
		case err != nil:
			return nil, err
		}
	}
}

// entry goes to one entry of an open folder.
func (w *folderWalk) entry(ctx context.Context, dir int, path string, folder *unix.Stat_t, depth int) error {
	fd, err := unix.Openat2(dir, filepath.Base(path), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if errors.Is(err, unix.EXDEV) {
		return nil // something is mounted there
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	e := entry{fd: fd, dir: dir, path: path, folder: *folder}
	if err := unix.Fstat(fd, &e.st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		sub, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		return w.below(ctx, sub, path, depth+1)
	case unix.S_IFREG:
		return w.file(e)
	}
	return nil
}
