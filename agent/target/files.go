package target

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/files"
)

// files looks for the files and folders that the images refer to by path and do not hold.
func (t *plan) files() {
	for _, c := range t.Coming {
		stored := c.storedPaths()
		for _, f := range c.Needs.Files {
			if !stored[f.Path] && !files.Rewritten(f.Path, c.Seen) {
				if err := checkFile(f); err != nil {
					t.add(c, "%v", err)
				}
			}
		}
		for _, d := range c.Needs.Dirs {
			if c.makes(d) {
				continue
			}
			if fi, err := os.Stat(d); err != nil || !fi.IsDir() {
				t.add(c, "there is no folder %s; make it", d)
			}
		}
	}
}

// checkFile compares a file that the images refer to with what this host has.
func checkFile(f NeededFile) error {
	if strings.HasPrefix(f.Path, "/dev/") && !strings.HasPrefix(f.Path, "/dev/shm/") || strings.HasPrefix(f.Path, "/proc/") || strings.HasSuffix(f.Path, " (deleted)") {
		return nil
	}
	st, err := files.Stat(f.Path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no %s; install it", f.Path)
	}
	if err != nil {
		return err
	}
	if err := executable(f, &st); err != nil {
		return err
	}
	if f.BuildID != "" {
		if id := files.BuildID(f.Path); id != f.BuildID {
			return fmt.Errorf("%s is another build (build id %s, the images need %s); install the same package", f.Path, orNone(id), f.BuildID)
		}
	} else if f.Size > 0 && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size != f.Size {
		return fmt.Errorf("%s has %d bytes, the images need %d; copy the same file here", f.Path, st.Size, f.Size)
	}
	return nil
}

// executable looks whether the kernel lets root map a file as a program (prctl(2), PR_SET_MM_EXE_FILE; mmap(2), EPERM).
func executable(f NeededFile, st *unix.Stat_t) error {
	if !f.Mapped {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(f.Path, &fs); err == nil && fs.Flags&unix.ST_NOEXEC != 0 {
		return fmt.Errorf("%s is on a file system that is mounted noexec, and the program runs from it; mount it without noexec", f.Path)
	}
	if f.Program && st.Mode&0o111 == 0 {
		return fmt.Errorf("%s has the mode %#o and cannot be executed, and the program runs from it; chmod +x %s", f.Path, st.Mode&0o7777, f.Path)
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// makes says whether the path is missing here, and the restore makes it.
func (a Arrival) makes(path string) bool {
	return slices.ContainsFunc(a.Made, func(s files.Seen) bool { return s.Path == path }) && files.Missing(path)
}

// storedPaths are the paths of the files that the cut holds.
func (a Arrival) storedPaths() map[string]bool {
	out := map[string]bool{}
	for _, f := range a.Files {
		if f.Deleted {
			continue
		}
		for _, name := range f.Names() {
			out[name] = true
		}
	}
	return out
}
