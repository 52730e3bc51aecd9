package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// age waits until the file's times of change tell its copies from later writes.
func age(t *testing.T, path string) {
	t.Helper()
	var st, now unix.Stat_t
	must(t, unix.Stat(path, &st))
	for now.Ctim.Nano() < st.Ctim.Nano()+2*tick.Nanoseconds() {
		write(t, path+".clock", "", 0)
		must(t, unix.Stat(path+".clock", &now))
	}
	must(t, os.Remove(path+".clock"))
}

// TestCopyAheadOfAnotherFile needs root. While its large file is copied ahead, a member that runs puts a descriptor in its place that it cannot read
// (O_PATH), of a file of root's, a FIFO, a folder, or a device that has data wherever one looks. Nothing of that is copied, or opened, and nobody waits.
func TestCopyAheadOfAnotherFile(t *testing.T) {
	root, home := playground(t)
	to := t.TempDir()
	write(t, root+"/secret", strings.Repeat("SECRET\n", 1000), 0)
	write(t, home+"/f", strings.Repeat("of the user\n", 200_000), user)
	must(t, unix.Mkfifo(root+"/fifo", 0o600))
	must(t, os.Mkdir(root+"/folder", 0o700))
	age(t, home+"/f")
	for _, victim := range []string{root + "/secret", root + "/fifo", root + "/folder", "/dev/full"} {
		t.Run(filepath.Base(victim), func(t *testing.T) {
			fd, err := unix.Open(home+"/f", unix.O_RDWR|unix.O_CLOEXEC, 0)
			must(t, err)
			defer unix.Close(fd)
			path, err := unix.Open(victim, unix.O_PATH|unix.O_CLOEXEC, 0) // whoever may search the folder may do so
			must(t, err)
			defer unix.Close(path)
			trees := []Tree{{Member: "m", Pids: []int{os.Getpid()}, Root: "/"}}
			s, err := Survey(t.Context(), trees, to)
			must(t, err)
			s.Ahead.clones = nil
			spare, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 500)
			must(t, err)
			defer unix.Close(spare)
			quickly(t, func() {
				if err := s.Ahead.Copy(t.Context(), trees, to, func(context.Context) error { return unix.Dup3(path, fd, unix.O_CLOEXEC) }); err != nil {
					t.Errorf("a snapshot is kept from succeeding: %v", err)
				}
			})
			must(t, unix.Dup3(spare, fd, unix.O_CLOEXEC))
			c, err := Take(t.Context(), trees, s.Names, s.Ahead)
			must(t, err)
			must(t, c.Copy(t.Context(), false, func(string) string { return to }))
			seen := false
			for _, f := range c.Stored("m") {
				if f.Path == home+"/f" {
					seen = true
					if got := read(t, filepath.Join(to, f.Name)); got != read(t, f.Path) {
						t.Errorf("the copy holds %.60q", got)
					}
				}
			}
			if !seen {
				t.Error("the file is not in the cut")
			}
			must(t, errors.Join(s.Ahead.Drop(), c.Close()))
		})
	}
}

// TestFoldersUnderAttack needs root. What a user can put into a folder that is part of its member's cuts is refused by name before the freeze, or left out, and
// takes no more of the agent than other jobs can spare.
func TestFoldersUnderAttack(t *testing.T) {
	root, home := playground(t)
	write(t, root+"/secret", "SECRET", 0)
	must(t, os.Mkdir(root+"/private", 0o700))
	write(t, root+"/private/key", "SECRET", 0)
	db := home + "/db"
	inUsers := func(path string) string { must(t, os.Chown(path, user, user)); return path }
	folder := func(path string, mode os.FileMode) string {
		must(t, os.Mkdir(path, 0o700))
		must(t, os.Chmod(path, mode))
		return inUsers(path)
	}
	for _, a := range []struct {
		name, says string // says is "" where the cut is taken
		plant      func()
	}{
		{"a hard link to root's file", "of user 0, has another name", func() { must(t, os.Link(root+"/secret", db+"/link")) }},
		{"a hard link in a folder of a group's", "has another name", func() {
			must(t, os.Chmod(db, 0o770))
			write(t, home+"/mine", "mine", user)
			must(t, os.Link(home+"/mine", db+"/link"))
		}},
		{"a hard link to a file of the user's own", "", func() { write(t, home+"/own", "own", user); must(t, os.Link(home+"/own", db+"/link")) }},
		{"a folder for everybody", "every user can make files", func() { folder(db+"/spool", 0o1777) }},
		{"a name that is not UTF-8", "not UTF-8", func() { write(t, db+"/\xff\x1b[31m", "", user) }},
		{"many names that are not UTF-8", "not UTF-8", func() {
			for i := range 200 {
				write(t, fmt.Sprintf("%s/\xff%d", db, i), "", user)
			}
		}},
		{"folders in folders", "in one another", func() {
			fd, err := unix.Open(db, unix.O_PATH, 0)
			must(t, err)
			for range 2000 { // deeper than any path may be long
				must(t, unix.Mkdirat(fd, strings.Repeat("d", 100), 0o700))
				next, err := unix.Openat(fd, strings.Repeat("d", 100), unix.O_PATH, 0)
				must(t, err)
				must(t, unix.Close(fd))
				fd = next
			}
			must(t, unix.Close(fd))
		}},
		{"more files than the agent can hold", "more than", func() {
			var limit unix.Rlimit
			must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
			few := limit
			few.Cur = 400
			must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
			t.Cleanup(func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) })
			for i := range 500 {
				write(t, fmt.Sprintf("%s/%d", db, i), "", user)
			}
		}},
		{"many names of one file", "", func() {
			write(t, db+"/0", "0", user)
			for i := range 600 {
				must(t, os.Link(db+"/0", fmt.Sprintf("%s/n%d", db, i)))
			}
		}},
		{"a folder that is mounted", "", func() {
			folder(db+"/mounted", 0o755)
			must(t, unix.Mount(root+"/private", db+"/mounted", "", unix.MS_BIND, ""))
		}},
		{"a file that is mounted", "", func() {
			write(t, db+"/mounted", "", user)
			must(t, unix.Mount(root+"/secret", db+"/mounted", "", unix.MS_BIND, ""))
		}},
		{"a file that nobody may change", "immutable", func() {
			write(t, db+"/fixed", "", user)
			attribute(t, db+"/fixed", immutable)
		}},
		{"a file of nearly no end", "holes", func() {
			write(t, db+"/huge", "", user)
			must(t, os.Truncate(db+"/huge", 1<<43))
		}},
		{"a device, a socket, a FIFO, links", "", func() {
			must(t, unix.Mknod(db+"/full", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 7))))
			must(t, unix.Mknod(db+"/disk", unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
			must(t, unix.Mknod(db+"/socket", unix.S_IFSOCK|0o600, 0))
			must(t, unix.Mkfifo(db+"/fifo", 0o600))
			must(t, os.Symlink(root+"/secret", db+"/secret"))
			must(t, os.Symlink("/proc/1/root", db+"/way"))
		}},
	} {
		t.Run(a.name, func(t *testing.T) {
			must(t, os.RemoveAll(db))
			folder(db, 0o755)
			write(t, db+"/file", "of the user", user)
			before := owned.Load()
			a.plant()
			defer func() {
				_ = unix.Unmount(db+"/mounted", unix.MNT_DETACH)
				if _, err := os.Lstat(db + "/fixed"); err == nil {
					attribute(t, db+"/fixed", 0)
				}
			}()
			trees := []Tree{{Member: "m", Root: "/", Folders: []string{db}}}
			quickly(t, func() {
				s, err := Survey(t.Context(), trees, "")
				must(t, err)
				got := strings.Join(s.Refused, "\n")
				if (a.says == "") != (got == "") || !strings.Contains(got, a.says) || strings.ContainsRune(got, '\x1b') || len(got) > 10_000 {
					t.Errorf("refused: %.300s", got)
				}
				if a.says != "" {
					return
				}
				c, err := Take(t.Context(), trees, s.Names, s.Ahead)
				must(t, err)
				to := t.TempDir()
				must(t, c.Copy(t.Context(), false, func(string) string { return to }))
				for _, f := range c.Stored("m") {
					if strings.Contains(read(t, filepath.Join(to, f.Name)), "SECRET") {
						t.Errorf("%s is in the cut", f.Names())
					}
				}
				must(t, c.Close())
			})
			if now := owned.Load(); now != before {
				t.Errorf("%d descriptors are still counted, and were %d before", now, before)
			}
		})
	}
}

const immutable = 0x10 // FS_IMMUTABLE_FL, include/uapi/linux/fs.h

// attribute sets the inode flags of a file.
func attribute(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags))
}

// TestFoldersThatAreTheAgents: no folder of a member's contains, or is in, what the agent keeps, or what another job puts back, by whatever way it is named.
func TestFoldersThatAreTheAgents(t *testing.T) {
	root, _ := playground(t)
	must(t, os.MkdirAll(root+"/var/state/images", 0o700))
	must(t, os.MkdirAll(root+"/srv/other", 0o700))
	must(t, os.Symlink(root+"/var", root+"/link"))
	must(t, os.Symlink(root+"/var/state/images", root+"/below"))
	must(t, os.Mkdir(root+"/mounted", 0o700))
	must(t, unix.Mount(root+"/var", root+"/mounted", "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(root+"/mounted", unix.MNT_DETACH)) }()
	agents, others := []string{root + "/var/state"}, map[string]string{root + "/srv/other/db": "job other"}
	for dir, fine := range map[string]bool{
		"/": false, "relative": false, root + "/var/../srv": false, root + "/var": false, root + "/var/state": false, root + "/var/state/images": false,
		root + "/var/state/none": false, root + "/link": false, root + "/link/state/images": false, root + "/below/none": false, root + "/below/none/none": false, root + "/mounted": false, root + "/mounted/state/images": false,
		root: false, root + "/srv": false, root + "/srv/other": false, root + "/srv/other/db/sub": false,
		root + "/srv/mine": true, root + "/var/statement": true, root + "/srv/other/db2": true,
	} {
		if err := CheckFolders([]string{dir}, agents, others); (err == nil) != fine {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestFoldersOfTheSystem needs root. A folder that programs of the whole system share cannot be a member's, and neither can one that contains it, by whatever way it is named. A service's own
// folder in one of them is.
func TestFoldersOfTheSystem(t *testing.T) {
	root, home := playground(t)
	must(t, os.Symlink("/etc", home+"/config"))
	must(t, os.Symlink("/", home+"/all"))
	for _, dir := range []string{root + "/bound", root + "/deep"} {
		must(t, os.Mkdir(dir, 0o755))
	}
	must(t, unix.Mount("/usr/share", root+"/bound", "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(root+"/bound", unix.MNT_DETACH)) }()
	must(t, unix.Mount("/var", root+"/deep", "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(root+"/deep", unix.MNT_DETACH)) }()
	for dir, fine := range map[string]bool{
		"/": false, "/etc": false, "/usr": false, "/usr/lib": false, "/usr/local": false, "/var": false, "/var/lib": false, "/var/log": false, "/var/run": false, "/run": false, "/lib": false,
		"/root": false, "/home": false, "/tmp": false, "/dev": false, "/dev/shm": false, "/proc": false, "/proc/1": false, "/proc/self/root/etc": false, "/proc/1/cwd": false, "/sys/kernel": false,
		"/boot/none": false, "/var/lib/dpkg/info": false, "//etc": false, "/etc/": false, "/srv/../etc": false,
		home + "/config": false, home + "/all": false, home + "/all/etc": false, home + "/all/var/lib/dpkg": false, root + "/bound": false, root + "/deep": false, root + "/deep/lib": false,
		"/srv": true, "/var/lib/postgresql": true, "/var/lib/postgresql/15/main": true, "/var/log/none": true, "/dev/shm/none": true, "/run/none": true, "/etc/none": true, "/opt/none": true,
		"/home/none": true, "/var/library": true, "/etcetera": true, home: true, home + "/all/srv/none": true, root + "/deep/lib/none": true,
	} {
		err := CheckFolders([]string{dir}, nil, nil)
		if (err == nil) != fine {
			t.Errorf("%s: %v", dir, err)
		}
		if err != nil && !strings.Contains(err.Error(), dir) {
			t.Errorf("%s is not named in %q", dir, err)
		}
	}
}

// TestWhatARestoreLeaves needs root. A restore puts aside what is in the folder, and nothing that is mounted there; names that begin like ours come back
// and stay; a file in the place of a folder gives way to it. An agent that was killed gives every file back its very name, UTF-8 or not.
func TestWhatARestoreLeaves(t *testing.T) {
	root, home := playground(t)
	must(t, os.Mkdir(root+"/good", 0o755))
	write(t, root+"/good/precious", "precious", 0)
	db := home + "/db"
	must(t, os.MkdirAll(db+"/mounted", 0o755))
	must(t, os.Chown(db, user, user))
	must(t, unix.Mount(root+"/good", db+"/mounted", "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(db+"/mounted", unix.MNT_DETACH)) }()
	odd := db + "/\xff\x1b\n\""
	write(t, odd, "odd", user)
	write(t, db+"/empty", "a file in the place of a folder", user)
	sources := []Source{source(t, db+"/.ss-mine", "mine", 0o600), source(t, db+"/link_remap.7", "this too", 0o600)}
	places := []Seen{{Path: db + "/empty", Mode: unix.S_IFDIR | 0o750, UID: user, GID: user}}
	dir := filepath.Join(t.TempDir(), "undo")
	for _, killed := range []bool{true, false} {
		extra, err := Extra(t.Context(), db, map[string]bool{db + "/.ss-mine": true, db + "/link_remap.7": true})
		must(t, err)
		if want := []string{db + "/empty", odd}; len(extra) != 2 || extra[0] != want[0] || extra[1] != want[1] {
			t.Errorf("to be put aside: %q, want %q", extra, want)
		}
		u, err := PutBack(dir, places, []string{db}, sources)
		must(t, err)
		if Missing(odd) == false || read(t, db+"/.ss-mine") != "mine" || read(t, db+"/mounted/precious") != "precious" {
			t.Error("not put back")
		}
		if killed {
			must(t, u.notes.Close())
			u.close()
			again, err := Reopen(dir)
			must(t, err)
			must(t, again.Back())
			if got := read(t, odd) + read(t, db+"/empty"); got != "odda file in the place of a folder" {
				t.Errorf("undone: %q", got)
			}
			continue
		}
		must(t, u.Done())
		if !Missing(odd) || read(t, db+"/.ss-mine") != "mine" || read(t, db+"/link_remap.7") != "this too" || read(t, root+"/good/precious") != "precious" {
			t.Error("in the end it is not what was in the cut")
		}
		var st unix.Stat_t
		must(t, unix.Lstat(db+"/empty", &st))
		if st.Mode != unix.S_IFDIR|0o750 {
			t.Errorf("the folder has the mode %o", st.Mode)
		}
	}
}

// TestPublic needs root. CRIU connects sockets to other programs' paths as root: only what root alone places and every user may use is such a path.
func TestPublic(t *testing.T) {
	root, home := playground(t)
	socket := func(path string, mode os.FileMode) string {
		must(t, unix.Mknod(path, unix.S_IFSOCK|0o600, 0))
		must(t, os.Chmod(path, mode))
		return path
	}
	must(t, os.Mkdir(root+"/private", 0o750))
	must(t, os.Symlink(root+"/log", root+"/roots-link"))
	must(t, os.Symlink(root+"/log", home+"/link"))
	must(t, os.Symlink(root, home+"/way"))
	for path, fine := range map[string]bool{
		socket(root+"/log", 0o666): true, root + "/roots-link": true,
		socket(root+"/control", 0o600): false, socket(root+"/group", 0o660): false, socket(root+"/private/log", 0o666): false,
		socket(home+"/log", 0o666): false, home + "/link": false, home + "/way/log": false, home + "/none": false, root + "/home/../log": false, "relative": false, "": false,
	} {
		if err := Public(path); (err == nil) != fine {
			t.Errorf("%s: %v", path, err)
		}
	}
}
