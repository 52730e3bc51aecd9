package target

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ghostSuffix is what CRIU adds to the name of a file that had been removed when it makes it again (ghost_path in its criu/files-reg.c). GiveFiles numbers them
// with eight digits.
const ghostSuffix = ".cr.00000000.ghost"

// ghosts looks for what keeps CRIU from making again what had no name any more. It makes a file beside where that was, or, where folders of the path are missing,
// in the innermost that is there (create_ghost_dentry); and a folder where it was.
func (t *plan) ghosts() {
	for _, c := range t.Coming {
		for _, g := range c.Needs.Objects.Ghosts {
			t.ghost(c, g, g.In(c.Files))
		}
	}
}

// ghost looks at one. That of the cut has a name of ours while it is put back, and CRIU makes nothing.
func (t *plan) ghost(c Arrival, g NeededGhost, ofCut bool) {
	cannot := fmt.Sprintf("%s %s, which had been removed and is still in use, cannot be made again: ", theKind(g.Mode), g.Path)
	dir, err := existing(filepath.Dir(g.Path))
	if err != nil {
		t.add(c, "%s%v", cannot, err)
		return
	}
	if why := unchangeable(dir); why != "" {
		t.add(c, "%sthe folder %s %s", cannot, dir, why)
	}
	if mountedNoexec(dir) && (g.Program || g.Mapped) {
		t.add(c, "%sthe folder %s is on a file system that is mounted noexec, and a process runs it: mount it without noexec", cannot, dir)
	}
	if g.Program && g.Mode&0o111 == 0 {
		t.add(c, "%sit is a program that nobody may execute (its mode is %#o): start the program again from a file that is executable", cannot, g.Mode&0o7777)
	}
	var st unix.Stat_t
	switch {
	case g.Mode&unix.S_IFMT == unix.S_IFDIR:
		// CRIU would take what is there for its own: change its owner and mode, and remove it.
		if unix.Lstat(g.Path, &st) == nil {
			t.add(c, "%s%s has that name now: move it away, or let the process work in another folder", cannot, kindOf(st.Mode))
		}
	case ofCut:
	case len(filepath.Base(g.Path))+len(ghostSuffix) > unix.NAME_MAX:
		t.add(c, "%sCRIU adds %d bytes to its name, which has %d, and a name has %d at most: let the program use a shorter name, or not remove the file", cannot, len(ghostSuffix), len(filepath.Base(g.Path)), unix.NAME_MAX)
	}
}

// theKind names what a mode is of, with the article that begins a sentence about it.
func theKind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "the folder"
	case unix.S_IFIFO:
		return "the FIFO"
	case unix.S_IFLNK:
		return "the symbolic link"
	}
	return "the file"
}

// mountedNoexec says whether nothing on the file system of a path may be run, nor mapped to be run.
func mountedNoexec(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Flags&unix.ST_NOEXEC != 0
}
