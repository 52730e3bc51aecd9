package target

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/files"
	"ss/agent/proc"
)

// mounted is an empty tmpfs, remounted with these flags when fill has put into it what is to be there.
func mounted(t *testing.T, flags uintptr, fill func(dir string)) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it mounts file systems, and needs root: make test runs it")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if fill != nil {
		fill(dir)
	}
	if err := unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wrote(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, nil, mode); err != nil {
		t.Fatal(err)
	}
}

// finds checks what a plan finds of one member: nothing, or one thing with each of the words.
func finds(t *testing.T, c Arrival, look func(*plan), words ...string) {
	t.Helper()
	c.Source, c.Member = "hostA", "a"
	p := plan{Target: Target{Host: "hostA", Job: "j", Coming: []Arrival{c}}}
	look(&p)
	if len(p.found) != min(len(words), 1) {
		t.Fatalf("found %q", p.found)
	}
	for _, w := range words {
		if !strings.Contains(p.found[0], w) {
			t.Errorf("%q has no %q", p.found[0], w)
		}
	}
}

// TestGhosts: what had no name any more is made again beside where it was, so something may be in the way there.
func TestGhosts(t *testing.T) {
	dir := t.TempDir()
	readOnly := mounted(t, unix.MS_RDONLY, nil)
	noexec := mounted(t, unix.MS_NOEXEC, nil)
	wrote(t, filepath.Join(dir, "file"), 0o600)
	if err := os.Symlink("/no/such/folder", filepath.Join(dir, "nowhere")); err != nil {
		t.Fatal(err)
	}
	const file, folder = unix.S_IFREG | 0o644, unix.S_IFDIR | 0o755
	for name, tt := range map[string]struct {
		ghost NeededGhost
		words []string
	}{
		"its folder is there":        {NeededGhost{Path: dir + "/x", Mode: file}, nil},
		"its name is in use":         {NeededGhost{Path: dir + "/file", Mode: file}, nil}, // see leftLink
		"folders are missing":        {NeededGhost{Path: dir + "/no/such/x", Mode: file}, nil},
		"its folder is a file":       {NeededGhost{Path: dir + "/file/x", Mode: file}, []string{dir + "/file/x", dir + "/file is a regular file, and was a folder", "move it away"}},
		"its folder leads nowhere":   {NeededGhost{Path: dir + "/nowhere/x", Mode: file}, []string{dir + "/nowhere is a symbolic link that leads nowhere"}},
		"read-only":                  {NeededGhost{Path: readOnly + "/x", Mode: file}, []string{"the file " + readOnly + "/x", "mounted read-only"}},
		"a FIFO, read-only":          {NeededGhost{Path: readOnly + "/x", Mode: unix.S_IFIFO | 0o600}, []string{"the FIFO " + readOnly + "/x", "mounted read-only"}},
		"missing folders, read-only": {NeededGhost{Path: readOnly + "/d/x", Mode: file}, []string{"the folder " + readOnly + " is on a file system that is mounted read-only"}},
		"a program, noexec":          {NeededGhost{Path: noexec + "/x", Mode: file | 0o111, Program: true}, []string{noexec, "mounted noexec", "mount it without noexec"}},
		"a library, noexec":          {NeededGhost{Path: noexec + "/x", Mode: file, Mapped: true}, []string{noexec, "mounted noexec"}},
		"a file, noexec":             {NeededGhost{Path: noexec + "/x", Mode: file}, nil},
		"a program that is none":     {NeededGhost{Path: dir + "/x", Mode: file, Program: true}, []string{"nobody may execute (its mode is 0644)"}},
		"the longest name":           {NeededGhost{Path: dir + "/" + strings.Repeat("x", 237), Mode: file}, nil},
		"too long a name":            {NeededGhost{Path: dir + "/" + strings.Repeat("x", 238), Mode: file}, []string{"adds 18 bytes to its name, which has 238", "a shorter name"}},
		"a folder of a long name":    {NeededGhost{Path: dir + "/" + strings.Repeat("x", 255), Mode: folder}, nil},
		"a folder":                   {NeededGhost{Path: dir + "/y", Mode: folder}, nil},
		"a folder that is a file":    {NeededGhost{Path: dir + "/file", Mode: folder}, []string{"the folder " + dir + "/file", "a regular file has that name now", "move it away"}},
		"a folder of others":         {NeededGhost{Path: dir, Mode: folder}, []string{"a folder has that name now"}},
	} {
		t.Run(name, func(t *testing.T) {
			finds(t, Arrival{Needs: Needs{Objects: NeededObjects{Ghosts: []NeededGhost{tt.ghost}}}}, (*plan).ghosts, tt.words...)
		})
	}
	t.Run("too long a name, of the cut", func(t *testing.T) {
		path := dir + "/" + strings.Repeat("x", 255)
		c := Arrival{Files: []files.Stored{{Gone: []string{path}, Deleted: true, Ino: 7}}}
		c.Needs.Objects.Ghosts = []NeededGhost{{Path: path, Mode: file, Ino: 7}}
		finds(t, c, (*plan).ghosts)
	})
	t.Run("immutable folder", func(t *testing.T) {
		at := filepath.Join(dir, "immutable")
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		set := func(flags int) error {
			f, err := os.Open(at)
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
		}
		if err := set(unix.STATX_ATTR_IMMUTABLE); err != nil { // the same bit as FS_IMMUTABLE_FL
			t.Skip("no file can be made immutable here: ", err)
		}
		defer set(0) //nolint:errcheck // the folder's removal fails then
		finds(t, Arrival{Needs: Needs{Objects: NeededObjects{Ghosts: []NeededGhost{{Path: at + "/x", Mode: file}}}}}, (*plan).ghosts, "immutable; chattr -i "+at)
		finds(t, Arrival{Needs: Needs{Objects: NeededObjects{Unix: []NeededUnix{{Path: at + "/x"}}}}}, (*plan).unixNames, "immutable; chattr -i "+at)
	})
}

// TestRemovedNames: CRIU gives a file that has another name left the one that it had lost, for a moment. So it does in cuts that do not list ghosts.
func TestRemovedNames(t *testing.T) {
	dir := t.TempDir()
	readOnly := mounted(t, unix.MS_RDONLY, nil)
	wrote(t, filepath.Join(dir, "file"), 0o600)
	if err := os.Symlink("/no/such/folder", filepath.Join(dir, "nowhere")); err != nil {
		t.Fatal(err)
	}
	removed := func(path string, ghosts ...NeededGhost) Arrival {
		return Arrival{Needs: Needs{Objects: NeededObjects{Unlinked: []string{path}, Ghosts: ghosts}}}
	}
	finds(t, removed(dir+"/x"), (*plan).paths)
	finds(t, removed(dir+"/no/such/x"), (*plan).paths)
	finds(t, removed(readOnly+"/x"), (*plan).paths, "the file "+readOnly+"/x cannot be made", "mounted read-only")
	finds(t, removed(dir+"/file/x"), (*plan).paths, dir+"/file is a regular file, and was a folder")
	finds(t, removed(dir+"/nowhere/x"), (*plan).paths, dir+"/nowhere is a symbolic link that leads nowhere")
	finds(t, removed(readOnly+"/x", NeededGhost{Path: readOnly + "/x"}), (*plan).paths) // ghosts says so
}

// TestPlacesThatAreMade: a UNIX socket is made in its folder, and so are FIFOs and folders that are missing.
func TestPlacesThatAreMade(t *testing.T) {
	dir := t.TempDir()
	readOnly := mounted(t, unix.MS_RDONLY, func(dir string) {
		if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	socket := func(path string) Arrival {
		return Arrival{Needs: Needs{Objects: NeededObjects{Unix: []NeededUnix{{Path: path}}}}}
	}
	fifo := func(path string) Arrival {
		return Arrival{Made: []files.Seen{{Path: path, Mode: unix.S_IFIFO | 0o600}}}
	}
	finds(t, socket(dir+"/s"), (*plan).unixNames)
	finds(t, socket(readOnly+"/s"), (*plan).unixNames, "the UNIX socket "+readOnly+"/s cannot be made", "mounted read-only")
	finds(t, fifo(dir+"/f"), (*plan).paths)
	finds(t, fifo(readOnly+"/fifo"), (*plan).paths) // to open one writes nothing
	finds(t, fifo(readOnly+"/f"), (*plan).paths, "the FIFO "+readOnly+"/f cannot be made", "mounted read-only")
	finds(t, fifo(readOnly+"/d/f"), (*plan).paths, "the folder "+readOnly+" is on", "mounted read-only")
}

// TestExecutable: what a process runs must be allowed to run.
func TestExecutable(t *testing.T) {
	dir := t.TempDir()
	noexec := mounted(t, unix.MS_NOEXEC, func(dir string) { wrote(t, filepath.Join(dir, "x"), 0o755) })
	wrote(t, dir+"/x", 0o755)
	wrote(t, dir+"/none", 0o644)
	of := func(f NeededFile, stored ...files.Stored) Arrival {
		return Arrival{Needs: Needs{Files: []NeededFile{f}}, Files: stored}
	}
	finds(t, of(NeededFile{Path: dir + "/x", Program: true}), (*plan).files)
	finds(t, of(NeededFile{Path: dir + "/none", Program: true}), (*plan).files, "the program "+dir+"/none may not be executed", "0644", "chmod +x "+dir+"/none")
	finds(t, of(NeededFile{Path: dir + "/none", Mapped: true}), (*plan).files) // libraries need no such mode
	finds(t, of(NeededFile{Path: noexec + "/x", Program: true}), (*plan).files, noexec+"/x is on a file system that is mounted noexec")
	finds(t, of(NeededFile{Path: noexec + "/x", Mapped: true}), (*plan).files, noexec+"/x is on a file system that is mounted noexec")
	finds(t, of(NeededFile{Path: noexec + "/x"}), (*plan).files)
	finds(t, of(NeededFile{Path: noexec + "/y", Mapped: true}, files.Stored{Path: noexec + "/y"}), (*plan).files, noexec+"/y is on a file system that is mounted noexec")
}

// TestWhatTheKernelMakes: a sysctl or a device's file is there only where that is.
func TestWhatTheKernelMakes(t *testing.T) {
	open := func(path string) Arrival {
		return Arrival{Needs: Needs{Objects: NeededObjects{Paths: []NeededPath{{Path: path, Size: -1}}}}}
	}
	finds(t, open("/proc/sys/net/ipv4/conf/lo/forwarding"), (*plan).paths)
	finds(t, open("/proc/sys/net/ipv4/conf/ssnone0/forwarding"), (*plan).paths, "/proc/sys/net/ipv4/conf/ssnone0/forwarding, which it has open", "or a device that it lacks", "restore to a host that has it")
	finds(t, Arrival{Needs: Needs{Dirs: []string{"/proc/sys/net/ipv4/conf/ssnone0"}}}, (*plan).files, "a device that it lacks")
	mounts, err := proc.Mounts("cgroup2")
	if err != nil || len(mounts) == 0 {
		t.Fatal("no cgroups: ", err)
	}
	agents := mounts[0].Mountpoint // above which the agent's cells would be
	finds(t, open(agents+"/cgroup.procs"), (*plan).paths)
	finds(t, open(agents+"/j/a"), (*plan).paths)
	finds(t, open(agents+"/j/a/cgroup.events"), (*plan).paths)
	finds(t, Arrival{Needs: Needs{Dirs: []string{agents + "/j/a"}}}, (*plan).files)
	for _, path := range []string{agents + "/ssnone/j/a/cgroup.events", agents + "/j/b/cgroup.events", agents + "/j/a/its-own/cgroup.procs", agents + "/ssnone.slice"} {
		finds(t, open(path), (*plan).paths, path, "restore to a host that has it")
	}
	finds(t, Arrival{Needs: Needs{Dirs: []string{"/proc/1001/fd"}}}, (*plan).files, "works in /proc/1001/fd", "change its working folder")
	for path, want := range map[string]bool{
		"/proc/sys/kernel/pid_max": true, "/proc/meminfo": true, "/sys/class/net/eth0/mtu": true, "/proc/net": true,
		"/proc/1/status": false, "/proc/12": false, "/proc/sys/x (deleted)": false, "/sys/fs/cgroup/ss/a": true, "/srv/proc/x": false,
	} {
		if OfTheKernel(path) != want {
			t.Errorf("%s: want %v", path, want)
		}
	}
}
