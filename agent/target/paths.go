package target

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"ss/agent/files"

	"golang.org/x/sys/unix"
)

// paths looks at every path that CRIU opens, and at every file of the cuts that is to be put back: whether it is there, is what it was, and nothing is in
// the way of the bytes.
func (t *plan) paths() {
	t.sameFiles()
	for _, c := range t.Coming {
		stored := c.storedPaths()
		for path := range stored {
			t.putBackable(c, path)
		}
		listed := map[string]bool{}
		for _, f := range c.Needs.Files {
			listed[f.Path] = true
		}
		for _, d := range c.Needs.Dirs {
			listed[d] = true
		}
		for _, p := range c.Needs.Objects.Paths {
			if !stored[p.Path] && !c.makes(p.Path) && !files.Rewritten(p.Path, c.Seen) {
				t.opened(c, p, listed[p.Path])
			}
		}
		for _, path := range c.Needs.Objects.Ended {
			t.add(c, "it has %s open, a file of a process that has ended: let the program close it", path)
		}
		for _, path := range c.Needs.Objects.Unlinked {
			t.leftLink(c, path)
		}
		for _, s := range c.Made {
			if files.Missing(s.Path) {
				t.nameable(c, theKind(s.Mode), s.Path)
			}
		}
		for _, w := range c.Needs.Objects.Watched {
			if !c.makes(w) {
				t.watched(c, w)
			}
		}
	}
}

// sameFiles looks for files of the cut that would be put where a member of another host has one of its own, in the cut or not. What path leads where is this host's
// business: by links and mounts two of them may be one.
func (t *plan) sameFiles() {
	type file struct {
		path string
		by   Arrival
	}
	back := map[string]file{}
	for _, c := range t.Coming {
		for path := range c.storedPaths() {
			at := identity(path)
			if o, ok := back[at]; ok && o.by.Source != c.Source {
				t.add(c, "the file %s would be %s of %s as well: restore them to different hosts", path, o.by.its(o.path, path), o.by.Source)
			}
			back[at] = file{path, c}
		}
	}
	if len(back) == 0 {
		return
	}
	for _, c := range t.Coming {
		stored := c.storedPaths()
		for path := range c.opens() {
			if stored[path] {
				continue
			}
			if o, ok := back[identity(path)]; ok && o.by.Source != c.Source {
				t.add(c, "the file %s, which it has open, would be %s of %s: restore them to different hosts", path, o.by.its(o.path, path), o.by.Source)
			}
		}
	}
}

// its names a file of the member: by its path where that is another one than said before.
func (a Arrival) its(path, said string) string {
	if path == said {
		return a.Member + "'s"
	}
	return a.Member + "'s " + path
}

// identity says which file a path is here: what is there, or a name in the innermost folder that is.
func identity(path string) string {
	below := ""
	for {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			return fmt.Sprintf("%d:%d%s", st.Dev, st.Ino, below)
		}
		if path == "/" || path == "." {
			return path + below
		}
		below = "/" + filepath.Base(path) + below
		path = filepath.Dir(path)
	}
}

// opened looks at a path as CRIU will open it. What is listed is looked for elsewhere, by more than its mode.
func (t *plan) opened(c Arrival, p NeededPath, listed bool) {
	look := unix.Stat
	if p.Mode&unix.S_IFMT == unix.S_IFLNK { // held as it is (O_PATH with O_NOFOLLOW), wherever it leads
		look = unix.Lstat
	}
	var st unix.Stat_t
	err := look(p.Path, &st)
	kind := kindOf(p.Mode)
	switch {
	case err != nil && listed:
	case err != nil && OfTheKernel(p.Path):
		t.kernelLacks(c, p.Path, err)
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		t.add(c, "there is no %s, which was %s; make it%s", p.Path, kind, fifoRemedy(p))
	case err != nil:
		t.add(c, "%s: %v", p.Path, err)
	case p.Mode == 0:
	case st.Mode&unix.S_IFMT != p.Mode&unix.S_IFMT:
		if !listed {
			t.add(c, "%s is %s, and was %s: put the right one there", p.Path, kindOf(st.Mode), kind)
		}
	case st.Mode != p.Mode:
		t.add(c, "%s has the mode %#o, and had %#o: set it with chmod %o %s", p.Path, st.Mode&0o7777, p.Mode&0o7777, p.Mode&0o7777, p.Path)
	case p.Size == 0 && st.Size != 0 && st.Mode&unix.S_IFMT == unix.S_IFREG: // what was not empty is looked at with what is listed
		t.add(c, "%s has %d bytes, and was empty: put the same file there", p.Path, st.Size)
	}
}

func fifoRemedy(p NeededPath) string {
	if p.Mode&unix.S_IFMT != unix.S_IFIFO {
		return ""
	}
	return fmt.Sprintf(": mkfifo -m %o %s", p.Mode&0o7777, p.Path)
}

// nameable looks whether CRIU, or the agent, can make a name in its folder. what begins the sentence.
func (t *plan) nameable(c Arrival, what, path string) {
	dir, err := existing(filepath.Dir(path))
	if err != nil {
		t.add(c, "%s %s cannot be made: %v", what, path, err)
	} else if why := unchangeable(dir); why != "" {
		t.add(c, "%s %s cannot be made: the folder %s %s", what, path, dir, why)
	}
}

// fakeLink ends the second name that CRIU tries (rfi_remap and open_path in its criu/files-reg.c).
const fakeLink = ".cr_link"

// leftLink looks for what keeps CRIU from giving a file that had been removed its name for a moment: the name is in use, and so is the one that CRIU
// takes then, which it always removes. One that is there was left by a CRIU that was killed.
func (t *plan) leftLink(c Arrival, path string) {
	if !slices.ContainsFunc(c.Needs.Objects.Ghosts, func(g NeededGhost) bool { return g.Path == path }) { // ghosts looks at those
		t.nameable(c, "the file", path)
	}
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return
	}
	if other := path + fakeLink; unix.Lstat(other, &st) == nil {
		t.add(c, "CRIU cannot restore the file %s that had been removed: %s is in its way, left by a CRIU that was killed: rm %s", path, other, other)
	}
}

// watched looks for a path that inotify or fanotify watches.
func (t *plan) watched(c Arrival, path string) {
	var st unix.Stat_t
	switch err := unix.Lstat(path, &st); {
	case path == "" && c.Source != t.Host:
		t.add(c, "it watches a file or folder (inotify, fanotify) whose path the images do not say: it can only be restored on %s", c.Source)
	case path != "" && err != nil:
		t.add(c, "it watches %s (inotify, fanotify): %v; make it", path, err)
	case path != "" && st.Mode&unix.S_IFMT != unix.S_IFDIR && slices.ContainsFunc(c.Made, func(s files.Seen) bool { return s.Path == path && s.Mode&unix.S_IFMT == unix.S_IFDIR }):
		t.add(c, "it watches the folder %s (inotify, fanotify), and %s has that name now: put the folder there", path, kindOf(st.Mode))
	}
}

// putBackable looks for what would keep a file of the cut from being put at its path.
func (t *plan) putBackable(c Arrival, path string) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG:
		t.add(c, "the file %s cannot be put back: %s stands there; move it away", path, kindOf(st.Mode))
		return
	case err == nil:
		if why := unchangeable(path); why != "" {
			t.add(c, "the file %s cannot be put back: it %s", path, why)
			return
		}
		for _, w := range t.lives.Written {
			if w.Dev == st.Dev && w.Ino == st.Ino {
				t.add(c, "the file %s cannot be put back: %s has it open for writing; end that, or restore to another host", path, w.Owner)
				return
			}
		}
	}
	dir, err := existing(filepath.Dir(path))
	switch {
	case err != nil:
		t.add(c, "the file %s cannot be put back: %v", path, err)
	default:
		if why := unchangeable(dir); why != "" {
			t.add(c, "the file %s cannot be put back: the folder %s %s", path, dir, why)
		}
	}
}

// existing is the innermost folder of a path that is there. What is missing below it can be made.
func existing(dir string) (string, error) {
	for {
		var st unix.Stat_t
		err := unix.Stat(dir, &st)
		switch {
		case err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR:
			return "", fmt.Errorf("%s is %s, and was a folder; move it away", dir, kindOf(st.Mode))
		case err == nil:
			return dir, nil
		case unix.Lstat(dir, &st) == nil:
			return "", fmt.Errorf("%s is a symbolic link that leads nowhere, and was a folder; remove it", dir)
		case errors.Is(err, unix.ENOTDIR):
		case !errors.Is(err, fs.ErrNotExist) || dir == "/":
			return "", fmt.Errorf("%s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// unchangeable says why a file or folder that is there cannot be written, "" if it can. It opens nothing.
func unchangeable(path string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return "is on a file system that is mounted read-only; mount it writable"
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st); err != nil {
		return fmt.Sprintf("cannot be examined: %v", err)
	}
	if st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0 {
		return "is immutable; chattr -i " + path
	}
	if st.Attributes&unix.STATX_ATTR_APPEND != 0 {
		return "may only be appended to; chattr -a " + path
	}
	return ""
}
