package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Bounds of a look at what lies beside the files of a cut: a restore waits for it.
const (
	mostBeside     = 20_000          // entries, on one host
	patienceBeside = 2 * time.Second // a cold disk takes milliseconds for an entry
	depthBeside    = 16              // folders in folders
)

// timely are the file systems whose times of change come from this host's clock, and on which no other host and no server lets a look wait.
var timely = []string{"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"}

// Folders beside the system's own in which services keep theirs, and users all they have.
var sharedFolders = append([]string{"/", "/media", "/mnt", "/opt", "/srv"}, systemFolders...)

// Beside finds what has changed since a cut beside the files that the cut holds, in folders that nobody has declared. It opens folders alone, and follows no link.
type Beside struct {
	since  time.Time
	kept   map[string]bool
	skip   []string
	mounts proc.MountTable
	left   int
	until  time.Time
}

// NewBeside makes a look. since is the recorded instant by this host's clock, kept are the names of the files that the cut holds, and skip are folders
// that are not looked in: the agent's own, and declared ones.
func NewBeside(since time.Time, kept map[string]bool, skip []string) (*Beside, error) {
	mounts, err := proc.ReadMountTable()
	return &Beside{since: since, kept: kept, skip: skip, mounts: mounts, left: mostBeside, until: time.Now().Add(patienceBeside)}, err
}

// Changed is what has changed in a folder and all below it, and is not in the cut.
type Changed struct {
	Folder  string
	Shared  bool     // with programs that are not of the job: only names that begin with that of a file of the cut were looked at
	Files   []string // regular files that have changed, or were made
	Folders []string // those in which names were made, removed or changed, and none of Files is
	Bounded string   // how far the look went, if not to its end
	Unknown string   // why nothing is known of the folder

	deep string // a folder that lies too deep to be looked in
}

// Look looks in the folders of the files that a member holds in the cut. Of those that it works in it takes one that contains such a folder, as a database's does. Of a
// folder that programs of the whole system share, only files count whose names begin with that of a file of the cut, as those of journals do.
func (b *Beside) Look(ctx context.Context, held, works []string) ([]Changed, error) {
	whole, shared := b.roots(held, works)
	var out []Changed
	for _, dir := range whole {
		a := Changed{Folder: dir}
		if err := b.folder(ctx, &a, nil); err != nil {
			return nil, err
		}
		out = append(out, a)
		b.skip = append(b.skip, dir) // another member may have files there as well
	}
	for _, dir := range slices.Sorted(maps.Keys(shared)) {
		a := Changed{Folder: dir, Shared: true}
		if err := b.folder(ctx, &a, shared[dir]); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return slices.DeleteFunc(out, func(a Changed) bool {
		return len(a.Files)+len(a.Folders) == 0 && a.Bounded == "" && a.Unknown == ""
	}), nil
}

// roots are the folders to be looked in with all below them, and shared ones with the names of the files of the cut in them.
func (b *Beside) roots(held, works []string) (whole []string, shared map[string][]string) {
	shared = map[string][]string{}
	for _, name := range held {
		dir := filepath.Dir(name)
		if !filepath.IsAbs(name) || b.skipped(dir) {
			continue
		}
		root := dir
		for _, at := range works {
			if within(at, dir) && len(at) < len(root) && !b.shared(at) && !b.skipped(at) {
				root = at
			}
		}
		if b.shared(root) {
			shared[root] = append(shared[root], filepath.Base(name))
			continue
		}
		whole = append(whole, root)
	}
	slices.Sort(whole)
	whole = slices.Compact(whole)
	inner := func(dir string) bool {
		return slices.ContainsFunc(whole, func(other string) bool { return other != dir && within(other, dir) })
	}
	return slices.DeleteFunc(slices.Clone(whole), inner), shared
}

func (b *Beside) skipped(dir string) bool {
	return slices.ContainsFunc(b.skip, func(outer string) bool { return within(outer, dir) })
}

// within says whether a path is another, or below it, by name alone.
func within(outer, path string) bool {
	return path == outer || strings.HasPrefix(path, strings.TrimSuffix(outer, "/")+"/")
}

// shared says whether other programs than the member have files in the folder: by its name, or as every user may make some there.
func (b *Beside) shared(dir string) bool {
	if slices.Contains(sharedFolders, dir) || filepath.Dir(dir) == "/home" || filepath.Dir(dir) == "/media" {
		return true
	}
	if !slices.Contains(timely, b.mounts.FileSystem(dir)) {
		return false // it is not looked at
	}
	const likeTmp = unix.S_ISVTX | unix.S_IWOTH
	st, err := Stat(dir)
	return err == nil && st.Mode&likeTmp == likeTmp
}

// folder looks in one folder: with all below it, or for names that begin with one of those given.
func (b *Beside) folder(ctx context.Context, a *Changed, names []string) error {
	if kind := b.mounts.FileSystem(a.Folder); !slices.Contains(timely, kind) {
		a.Unknown = fmt.Sprintf("its file system (%s) may not have this host's clock", kind)
		return nil
	}
	root, err := openFolder(a.Folder)
	if err != nil {
		a.unknown(err)
		return ctx.Err()
	}
	defer unix.Close(root)
	for queue := []string{"."}; len(queue) > 0; queue = queue[1:] {
		below, err := b.one(ctx, a, root, queue[0], names)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			a.unknown(err)
		}
		if a.Bounded != "" {
			return nil
		}
		queue = append(queue, below...)
	}
	if a.deep != "" {
		a.Bounded = fmt.Sprintf("what lies more than %d folders deep was not looked at, as %s", depthBeside, a.deep)
	}
	return nil
}

// unknown notes why nothing is known. What is gone has not changed.
func (a *Changed) unknown(err error) {
	if ignoreGone(err) != nil && a.Unknown == "" {
		a.Unknown = err.Error()
	}
}

func openFolder(dir string) (int, error) {
	if dir == "/" {
		return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	p, err := locate("/", dir, nil)
	if err != nil {
		return -1, err
	}
	defer p.close()
	fd, err := unix.Openat(p.fd, p.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// besideResolve is how a look goes down: never to what is mounted there, which may be another host's, and by no link.
const besideResolve = unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH

// one looks in one folder, named from the root on, and returns the folders in it.
func (b *Beside) one(ctx context.Context, a *Changed, root int, at string, names []string) (below []string, err error) {
	path := filepath.Join(a.Folder, at)
	fd, err := unix.Openat2(root, at, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOATIME | unix.O_CLOEXEC, Resolve: besideResolve})
	if err != nil {
		return nil, passOver(&os.PathError{Op: "open", Path: path, Err: err})
	}
	folder := os.NewFile(uintptr(fd), path)
	defer folder.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	before := len(a.Files)
	for {
		entries, err := folder.Readdirnames(1000)
		for _, name := range entries {
			if ctx.Err() != nil || b.exhausted(a) {
				return nil, ctx.Err()
			}
			sub, err := b.entry(a, fd, filepath.Join(path, name), names)
			if err != nil {
				return nil, err
			}
			switch {
			case sub && strings.Count(at, "/") < depthBeside:
				below = append(below, filepath.Join(at, name))
			case sub:
				a.deep = filepath.Join(path, name)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if len(a.Files) == before && names == nil && b.later(st.Mtim) {
		a.Folders = append(a.Folders, path)
	}
	slices.Sort(below)
	slices.Sort(a.Files[before:])
	return below, nil
}

// exhausted says whether the look has come to a bound, and notes that.
func (b *Beside) exhausted(a *Changed) bool {
	b.left--
	switch {
	case b.left < 0:
		a.Bounded = fmt.Sprintf("no more than %d entries were looked at", mostBeside)
	case time.Now().After(b.until):
		a.Bounded = fmt.Sprintf("no more than what could be looked at within %v", patienceBeside)
	}
	return a.Bounded != ""
}

func (b *Beside) later(t unix.Timespec) bool { return t.Nano() > b.since.UnixNano() }

// entry looks at one entry of an open folder, without opening it, and says whether it is a folder to be looked in.
func (b *Beside) entry(a *Changed, dir int, path string, names []string) (folder bool, err error) {
	name := filepath.Base(path)
	if b.kept[path] || names != nil && !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(name, n) }) {
		return false, nil
	}
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: besideResolve})
	if err != nil {
		return false, passOver(&os.PathError{Op: "open", Path: path, Err: err})
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	// The time of change is enough: the kernel sets it with that of the last write, and nobody can set it back.
	if st.Mode&unix.S_IFMT == unix.S_IFREG && b.later(st.Ctim) {
		a.Files = append(a.Files, path)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR && names == nil && !b.skipped(path), nil
}

// passOver drops what says that something else is there by now, or is mounted there.
func passOver(err error) error {
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return ignoreGone(err)
}
