package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/files"
	"ss/agent/proc"
)

// files looks for the files and folders that the images refer to by path and do not hold.
func (t *plan) files() {
	for _, c := range t.Coming {
		stored := c.storedPaths()
		for _, f := range c.Needs.Files {
			t.executable(c, f, stored[f.Path])
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
			if number, ok := strings.CutPrefix(d, proc.Root+"/"); ok && ofProcess(number) {
				t.add(c, "a process works in %s, a folder of a process, which is not there when CRIU restores it: let the process change its working folder (such as cd /)", d)
				continue
			}
			switch fi, err := os.Stat(d); {
			case err != nil && OfTheKernel(d):
				t.kernelLacks(c, d, err)
			case err != nil || !fi.IsDir():
				t.add(c, "there is no folder %s; make it", d)
			}
		}
	}
}

// executable looks whether the kernel lets root make a file a process's program again (prctl(2), PR_SET_MM_EXE_FILE), or map it to be run (mmap(2), EPERM). A file that
// is put back has the mode that it had.
func (t *plan) executable(c Arrival, f NeededFile, stored bool) {
	at := f.Path
	var st unix.Stat_t
	switch {
	case !f.Program && !f.Mapped || strings.HasPrefix(at, "/dev/") && !strings.HasPrefix(at, "/dev/shm/") || strings.HasPrefix(at, "/proc/"):
		return
	case unix.Stat(at, &st) == nil:
		if f.Program && !stored && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 == 0 {
			t.add(c, "the program %s may not be executed by anybody (its mode is %#o): chmod +x %s", at, st.Mode&0o7777, at)
		}
	case stored:
		dir, err := existing(filepath.Dir(at))
		if err != nil {
			return // putBackable says so
		}
		at = dir
	}
	if mountedNoexec(at) {
		t.add(c, "%s is on a file system that is mounted noexec, and a process runs it: mount it without noexec", f.Path)
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
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s is %s, and was a regular file: put the right one there", f.Path, kindOf(st.Mode))
	}
	if f.BuildID != "" {
		if id := files.BuildID(f.Path); id != f.BuildID {
			return fmt.Errorf("%s is another build (build id %s, the images need %s); install the same package", f.Path, orNone(id), f.BuildID)
		}
	} else if f.Size > 0 && st.Size != f.Size {
		return fmt.Errorf("%s has %d bytes, the images need %d; copy the same file here", f.Path, st.Size, f.Size)
	}
	return nil
}

// kernelLacks says that the kernel of this host does not have a file or folder of /proc or /sys.
func (t *plan) kernelLacks(c Arrival, path string, err error) {
	if t.ofItsCell(c, path) {
		return
	}
	t.add(c, "%s, which it has open: %v; this host's kernel, or a device that it lacks, would have to make it: restore to a host that has it, or have the program close it before the snapshot", path, err)
}

// OfTheKernel says whether a path is one in /proc or /sys that tells of the host: of sysctls, devices, modules, control groups. Processes come with the member.
func OfTheKernel(path string) bool {
	if strings.HasSuffix(path, " (deleted)") {
		return false
	}
	inProc, ok := strings.CutPrefix(path, proc.Root+"/")
	return ok && !ofProcess(inProc) || strings.HasPrefix(path, "/sys/")
}

// ofItsCell says whether a path is that of the control group in which the member is restored, or of one of its files. It is made with the cell, below the agent's,
// which is there as long as the agent lives.
func (t *plan) ofItsCell(c Arrival, path string) bool {
	above, below, ok := strings.Cut(path, "/"+t.Job+"/"+c.Member)
	if !ok || !strings.HasPrefix(path, "/sys/fs/cgroup/") || below != "" && (below[0] != '/' || strings.Contains(below[1:], "/")) {
		return false
	}
	fi, err := os.Stat(above)
	return err == nil && fi.IsDir()
}

// ofProcess says whether a path in /proc is that of a process's folder, or below it.
func ofProcess(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	_, err := strconv.Atoi(first)
	return err == nil
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
