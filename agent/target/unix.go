package target

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ss/agent/files"
)

// unixNames compares the names of UNIX sockets to come with those that live here, and with one another. CRIU removes whatever stands
// where it binds a path.
func (t *plan) unixNames() {
	from := map[NeededUnix]Arrival{} // without Stream
	for _, c := range t.Coming {
		for _, u := range c.Needs.Objects.Unix {
			key := NeededUnix{Path: u.Path, Abstract: u.Abstract}
			if o, ok := from[key]; ok && o.Source != c.Source { // members of one host had what they have there
				t.add(c, "the UNIX socket %s would be %s's as well: restore them to different hosts", u.name(), o.Member)
			}
			from[key] = c
			if u.Path == "" {
				t.abstract(c, u)
			} else {
				t.unixPath(c, u)
			}
		}
	}
}

// dialled looks for the sockets of other programs that sockets to come are connected to: CRIU connects them to the same paths, as root. So it must be
// a socket that everybody may connect to, wherever the user of the member had it connected.
func (t *plan) dialled() {
	for _, c := range t.Coming {
		for _, path := range c.Needs.Objects.Dialled {
			var st unix.Stat_t
			const nobody = "it is connected to the UNIX socket %s, where no program receives here: start the one that does (such as rsyslogd or systemd-journald for /dev/log)"
			if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
				t.add(c, nobody, path)
			} else if err := files.Public(path); err != nil {
				t.add(c, "it is connected to the UNIX socket %s, and would be again with the rights of root: %v", path, err)
			} else if files.Receives(path) != nil {
				t.add(c, nobody, path)
			}
		}
	}
}

func (u NeededUnix) name() string {
	if u.Path == "" {
		return "@" + u.Abstract
	}
	return u.Path
}

func (t *plan) abstract(c Arrival, u NeededUnix) {
	for _, h := range t.lives.Unix {
		if !h.Ours && h.Abstract == u.Abstract {
			t.add(c, "the name of the UNIX socket %s is in use here: end what uses it", u.name())
			return
		}
	}
}

func (t *plan) unixPath(c Arrival, u NeededUnix) {
	dir := filepath.Dir(u.Path)
	if c.makes(dir) {
		return
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		t.add(c, "there is no folder %s for the UNIX socket %s; make it", dir, u.Path)
		return
	}
	t.nameable(c, "the UNIX socket", u.Path) // CRIU removes what has the name, and binds it again
	var st unix.Stat_t
	if err := unix.Lstat(u.Path, &st); err != nil {
		return // free
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		t.add(c, "%s is %s, and would be a UNIX socket: move it away", u.Path, kindOf(st.Mode))
		return
	}
	for _, h := range t.lives.Unix {
		// File systems of layers show another device than the one that the socket is on.
		if !h.Ours && h.Ino != 0 && h.Ino == st.Ino&0xffffffff && (h.Dev == st.Dev || h.Path == u.Path) {
			t.add(c, "the UNIX socket %s is in use here: end what uses it", u.Path)
			return
		}
	}
}

// kindOf says what st_mode says of a file.
func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a UNIX socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	}
	return "a file of an unknown kind"
}
