package target

import (
	"context"

	"golang.org/x/sys/unix"
)

// NeededLease is a lease on a file (fcntl(2), F_SETLEASE), which CRIU takes again. The kernel gives no read lease while the file is open for writing anywhere, and no write lease while
// it is open anywhere else.
type NeededLease struct {
	Path  string `json:"path"`
	Write bool   `json:"write,omitempty"`
}

// HostOpen is a file that a process of the host has open or mapped, and who that is.
type HostOpen struct {
	File  FileID
	Owner string
	Write bool // it can write it
}

// excludes says whether the lease can't be taken while the file is open elsewhere, for writing or not.
func (n NeededLease) excludes(write bool) bool { return n.Write || write }

// String says what lease it is, for a message about a member.
func (n NeededLease) String() string {
	if n.Write {
		return "its write lease on " + n.Path
	}
	return "its read lease on " + n.Path
}

// leases compares the leases to come with what others have open here, and with what members of other hosts that come along will have open. Members of one host had what they have beside
// the lease before.
func (t *plan) leases(ctx context.Context) error {
	wanted := map[FileID]bool{}
	for _, c := range t.Coming {
		for _, l := range c.Needs.Objects.Leases {
			if id := fileID(l.Path); id != (FileID{}) {
				wanted[id] = true
			}
			t.openedTogether(c, l)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	lives, err := t.Lives.Opens(ctx, t.Job, wanted)
	if err != nil {
		return err
	}
	for _, c := range t.Coming {
		for _, l := range c.Needs.Objects.Leases {
			for _, h := range lives {
				if h.File == fileID(l.Path) && l.excludes(h.Write) {
					t.add(c, "%s can't be taken again while %s has the file open%s: end that, have it close the file, or restore to another host", l, h.Owner, forWriting(h.Write))
				}
			}
		}
	}
	return nil
}

// openedTogether looks for members of other hosts that will have the file of a lease open.
func (t *plan) openedTogether(c Arrival, l NeededLease) {
	id := fileID(l.Path)
	for _, o := range t.Coming {
		if o.Source == c.Source {
			continue
		}
		for path, write := range o.opens() {
			if (path == l.Path || id != (FileID{}) && fileID(path) == id) && l.excludes(write) {
				t.add(c, "%s can't be taken again while %s of %s has the file open%s: restore them to different hosts", l, o.Member, o.Source, forWriting(write))
			}
		}
	}
}

// opens are the files that a member will have open or mapped, and whether for writing.
func (c Arrival) opens() map[string]bool {
	out, stored := map[string]bool{}, map[string]bool{}
	for _, f := range c.Files {
		stored[f.Path] = true
	}
	for _, s := range c.Seen {
		if s.Mode&unix.S_IFMT == unix.S_IFREG {
			out[s.Path] = stored[s.Path] // of a member that runs: the images say it of each file, below
		}
	}
	for _, f := range c.Needs.Files {
		out[f.Path] = f.Write
	}
	return out
}

func forWriting(write bool) string {
	if write {
		return " for writing"
	}
	return ""
}

// fileID is the file that a path leads to here; the zero value if there is none.
func fileID(path string) FileID {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return FileID{}
	}
	return FileID{st.Dev, st.Ino}
}
