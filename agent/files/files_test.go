package files

import (
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const user = 1000

// playground is a folder of root's with one of a user's in it: PLAYGROUND/home. These tests need root.
func playground(t *testing.T) (root, home string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("another user's folder is needed: run this as root")
	}
	root = t.TempDir()
	for dir := root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	home = filepath.Join(root, "home")
	must(t, os.Mkdir(home, 0o755))
	must(t, os.Chown(home, user, user))
	return root, home
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, uid int) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
	must(t, os.Lchown(path, uid, uid))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

// quickly fails the test if do waits: nothing here may.
func quickly(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it waits")
	}
}

func TestOpen(t *testing.T) {
	root, home := playground(t)
	write(t, root+"/secret", "secret", 0)
	write(t, home+"/own", "own", user)
	must(t, os.Symlink(root+"/secret", home+"/link"))
	must(t, os.Symlink(root, home+"/folder"))
	must(t, os.Symlink(home, root+"/roots-link"))
	must(t, unix.Mkfifo(home+"/fifo", 0o600))
	for path, want := range map[string]error{
		home + "/own": nil, root + "/secret": nil, root + "/roots-link/own": nil,
		home + "/link": ErrLink, home + "/folder/secret": ErrLink, home + "/fifo": ErrNotRegular, home: ErrNotRegular,
		home + "/none": os.ErrNotExist, "relative": os.ErrInvalid, root + "/../etc/passwd": os.ErrInvalid, "/dev/null": ErrNotRegular,
	} {
		quickly(t, func() {
			f, err := Open(path)
			if !errors.Is(err, want) {
				t.Errorf("open %s: %v, want %v", path, err, want)
			}
			if err == nil {
				f.Close()
			}
		})
	}
}

func TestAppend(t *testing.T) {
	root, home := playground(t)
	write(t, root+"/secret", "secret", 0)
	must(t, os.Symlink(root+"/new", home+"/link"))
	must(t, os.Symlink(root, home+"/folder"))
	must(t, unix.Mkfifo(home+"/fifo", 0o600))
	must(t, unix.Mkfifo(root+"/fifo", 0o600))
	must(t, os.Link(root+"/secret", home+"/hard"))
	// Where a kernel lets users link the files of others (fs.protected_hardlinks=0).
	write(t, root+"/other", "other", user+1)
	must(t, os.Link(root+"/other", home+"/others-hard"))
	must(t, os.Mkdir(root+"/shared", 0o755))
	must(t, os.Chmod(root+"/shared", 0o1777))
	must(t, os.Link(root+"/other", root+"/shared/others-hard"))
	must(t, os.Mkdir(home+"/two", 0o755))
	must(t, os.Mkdir(home+"/two/up", 0o755))
	must(t, os.Rename(home+"/two", home+"/moved"))
	must(t, os.Symlink(root, home+"/two"))
	socket, err := net.Listen("unix", home+"/socket")
	must(t, err)
	defer socket.Close()
	must(t, unix.Mknod(home+"/device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	for _, path := range []string{
		home + "/link", home + "/folder/new", home + "/fifo", root + "/fifo", home + "/hard", home, home + "/others-hard", root + "/shared/others-hard",
		home + "/two/up/new", home + "/two/home/new", home + "/socket", home + "/device", "/proc/self/fd/none/new", "/proc/self/cwd/../new",
	} {
		quickly(t, func() {
			if f, err := Append(path); err == nil {
				f.Close()
				t.Errorf("append to %s: no error", path)
			}
		})
	}
	for _, path := range []string{home + "/new", root + "/new", "/dev/null"} {
		f, err := Append(path)
		must(t, err)
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK != 0 || flags&unix.O_APPEND == 0 {
			t.Errorf("%s: flags %#x, %v", path, flags, err)
		}
		f.Close()
	}
	write(t, home+"/own", "own", user)
	must(t, os.Link(home+"/own", home+"/own-hard"))
	if f, err := Append(home + "/own-hard"); err != nil {
		t.Errorf("a user's own file, linked in the user's own folder: %v", err)
	} else {
		f.Close()
	}
	if got := read(t, root+"/secret") + read(t, root+"/other"); got != "secretother" {
		t.Errorf("others' files hold %q", got)
	}
}

// source makes a file of a cut, owned by the user.
func source(t *testing.T, path, text string, mode uint32) Source {
	t.Helper()
	content := filepath.Join(t.TempDir(), "content")
	must(t, os.WriteFile(content, []byte(text), 0o600))
	return Source{Stored: Stored{Path: path, Name: "0", Size: int64(len(text)), Mode: mode, UID: user, GID: user}, Content: content}
}

// attacks are what a user can have put in the place of FILE, which a restore is about to put back.
func attacks(root, home string) map[string]func(t *testing.T) {
	file := home + "/dir/file"
	return map[string]func(t *testing.T){
		"a link":            func(t *testing.T) { must(t, os.Symlink(root+"/victim", file)) },
		"a hard link":       func(t *testing.T) { must(t, os.Link(root+"/victim", file)) },
		"a FIFO":            func(t *testing.T) { must(t, unix.Mkfifo(file, 0o600)) },
		"a link as before":  func(t *testing.T) { must(t, os.Symlink(root+"/victim", file+".ss-restore")) },
		"a dangling link":   func(t *testing.T) { must(t, os.Symlink(root+"/made", file)) },
		"a linked folder":   func(t *testing.T) { must(t, os.Remove(home+"/dir")); must(t, os.Symlink(root, home+"/dir")) },
		"a linked device":   func(t *testing.T) { must(t, os.Symlink("/dev/full", file)) },
		"a folder":          func(t *testing.T) { must(t, os.Mkdir(file, 0o755)) },
		"no folder":         func(t *testing.T) { must(t, os.Remove(home+"/dir")) },
		"a folder of roots": func(t *testing.T) { must(t, os.Chown(home+"/dir", 0, 0)) },
		"a socket":          func(t *testing.T) { must(t, unix.Mknod(file, unix.S_IFSOCK|0o600, 0)) },
		"a device":          func(t *testing.T) { must(t, unix.Mknod(file, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 7)))) },
		"a descriptor":      func(t *testing.T) { must(t, os.Symlink("/proc/self/fd/2", file)) },
		"a folder of fds": func(t *testing.T) {
			must(t, os.Remove(home+"/dir"))
			must(t, os.Symlink("/proc/1/root"+root, home+"/dir"))
		},
		"another user's":  func(t *testing.T) { write(t, file, "another's", user+1) },
		"a loop of links": func(t *testing.T) { must(t, os.Symlink("file", file)) },
		"a huge sparse file": func(t *testing.T) {
			write(t, file, "", user)
			must(t, os.Truncate(file, 1<<40))
		},
	}
}

func TestPutBackUnderAttack(t *testing.T) {
	root, home := playground(t)
	write(t, root+"/victim", "precious", 0)
	for name, attack := range attacks(root, home) {
		t.Run(name, func(t *testing.T) {
			must(t, os.RemoveAll(home+"/dir"))
			must(t, os.Mkdir(home+"/dir", 0o755))
			must(t, os.Chown(home+"/dir", user, user))
			attack(t)
			quickly(t, func() {
				u, err := PutBack(filepath.Join(t.TempDir(), "undo"), nil, nil, []Source{source(t, home+"/dir/file", "evil", 0o4755)})
				t.Logf("%v", err)
				if err == nil {
					if got := read(t, home+"/dir/file"); got != "evil" {
						t.Errorf("it holds %q", got)
					}
					must(t, u.Done())
				}
			})
			var st unix.Stat_t
			must(t, unix.Stat(root+"/victim", &st))
			if got := read(t, root+"/victim"); got != "precious" || st.Uid != 0 || st.Mode&0o7777 != 0o600 {
				t.Errorf("root's file holds %q, of user %d, mode %o", got, st.Uid, st.Mode)
			}
			if _, err := os.Lstat(root + "/made"); err == nil {
				t.Error("a file was made in root's folder")
			}
			if _, err := os.Lstat(root + "/file"); err == nil {
				t.Error("a file was made in root's folder")
			}
			left, _ := filepath.Glob(home + "/dir/" + temporary + "*")
			if len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestUndoOfAnotherFile: an agent was killed in a restore, the file that it had overwritten was removed, and its name and its number are those of
// another user's now. That is left alone.
func TestUndoOfAnotherFile(t *testing.T) {
	_, home := playground(t)
	write(t, home+"/f", "what was there before", user)
	dir := filepath.Join(t.TempDir(), "undo")
	u, err := PutBack(dir, nil, nil, []Source{source(t, home+"/f", "of the cut", 0o600)})
	must(t, err)
	must(t, u.notes.Close())
	u.close()
	must(t, os.Chown(home+"/f", 0, 0)) // as if the number had been given to a file of root's
	write(t, home+"/f", "root's", 0)
	again, err := Reopen(dir)
	must(t, err)
	must(t, again.Back())
	if got := read(t, home+"/f"); got != "root's" {
		t.Errorf("it holds %q", got)
	}
}

// TestKeptFits: a user makes a file of the cut so large that keeping it would fill the agent's disk. That is seen beforehand, and refused where it is not.
func TestKeptFits(t *testing.T) {
	_, home := playground(t)
	small := filepath.Join(t.TempDir(), "disk")
	must(t, os.Mkdir(small, 0o700))
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=40m"))
	defer func() { must(t, unix.Unmount(small, 0)) }()
	s := source(t, home+"/f", "of the cut", 0o600)
	write(t, home+"/f", strings.Repeat("x", 16<<20), user)
	if taken, err := Check(s); err != nil || taken.Kept != 16<<20-10 {
		t.Errorf("kept: %d, %v", taken.Kept, err)
	}
	if _, err := PutBack(small+"/undo", nil, nil, []Source{s}); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "15 MiB") && !strings.Contains(err.Error(), "16 MiB") {
		t.Errorf("it is overwritten: %v", err)
	}
	if got := read(t, home+"/f"); got != strings.Repeat("x", 16<<20) {
		t.Errorf("%d bytes are left", len(got))
	}
	must(t, os.Truncate(home+"/f", 1<<40)) // a sparse end takes no room
	must(t, os.Truncate(home+"/f", 1<<20))
	u, err := PutBack(small+"/undo", nil, nil, []Source{s})
	must(t, err)
	must(t, u.Done())
}

// TestLeased: a process of the user's holds a lease on what is to be overwritten. It is asked for it; if it does not answer the restore is refused, after a
// bounded time.
func TestLeased(t *testing.T) {
	_, home := playground(t)
	write(t, home+"/f", "leased", user)
	holder, err := os.OpenFile(home+"/f", os.O_RDONLY, 0)
	must(t, err)
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Fatal(err)
	}
	quickly(t, func() {
		if _, err := PutBack(filepath.Join(t.TempDir(), "undo"), nil, nil, []Source{source(t, home+"/f", "of the cut", 0o600)}); err == nil || !strings.Contains(err.Error(), "lease") {
			t.Errorf("a lease that nobody gives up: %v", err)
		}
	})
	answers := make(chan os.Signal, 1)
	signal.Notify(answers, unix.SIGIO)
	defer signal.Stop(answers)
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Fatal(err)
	}
	go func() { <-answers; holder.Close() }()
	quickly(t, func() {
		u, err := PutBack(filepath.Join(t.TempDir(), "undo"), nil, nil, []Source{source(t, home+"/f", "of the cut", 0o600)})
		must(t, err)
		must(t, u.Done())
	})
	if got := read(t, home+"/f"); got != "of the cut" {
		t.Errorf("it holds %q", got)
	}
}

// TestPutBackAndUndo checks that each change is taken back, by the one who made it and by one who only has its notes.
func TestPutBackAndUndo(t *testing.T) {
	_, home := playground(t)
	for _, restarted := range []bool{false, true} {
		write(t, home+"/there", "what was there before", user)
		write(t, home+"/other", "another file", 0)
		var was unix.Stat_t
		must(t, unix.Stat(home+"/there", &was))
		dir := filepath.Join(t.TempDir(), "undo")
		made := source(t, home+"/made/new", "new", 0o2640)
		made.Links = []string{home + "/second"}
		u, err := PutBack(dir, nil, nil, []Source{
			source(t, home+"/there", "what was", 0o1600), source(t, home+"/other", "the user's", 0o600), made,
		})
		must(t, err)
		var is, second unix.Stat_t
		must(t, unix.Stat(home+"/there", &is))
		if is.Ino != was.Ino || is.Mode&0o7777 != 0o1600 || read(t, home+"/there") != "what was" {
			t.Errorf("inode %d, was %d; mode %o", is.Ino, was.Ino, is.Mode)
		}
		must(t, unix.Stat(home+"/made/new", &is))
		must(t, unix.Stat(home+"/second", &second))
		if is.Uid != user || is.Mode&0o7777 != 0o2640 || second.Ino != is.Ino || read(t, home+"/other") != "the user's" {
			t.Errorf("made: user %d, mode %o, inodes %d and %d", is.Uid, is.Mode, is.Ino, second.Ino)
		}
		if restarted {
			must(t, u.notes.Close())
			u, err = Reopen(dir)
			must(t, err)
		}
		must(t, u.Back())
		must(t, unix.Stat(home+"/other", &is))
		if read(t, home+"/there") != "what was there before" || read(t, home+"/other") != "another file" || is.Uid != 0 {
			t.Errorf("after the undo: %q, %q of user %d", read(t, home+"/there"), read(t, home+"/other"), is.Uid)
		}
		for _, gone := range []string{home + "/made/new", home + "/second"} {
			if _, err := os.Lstat(gone); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", gone, err)
			}
		}
		entries, err := os.ReadDir(home)
		must(t, err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), temporary) {
				t.Errorf("left behind: %s", e.Name())
			}
		}
		must(t, os.RemoveAll(home+"/made"))
	}
}

// TestPutBackKeepsHoles also covers content without holes in it.
func TestPutBackKeepsHoles(t *testing.T) {
	_, home := playground(t)
	s := source(t, home+"/sparse", "", 0o600)
	s.Size = 64 << 20
	content := make([]byte, s.Size)
	content[s.Size/2] = 1
	must(t, os.WriteFile(s.Content, content, 0o600))
	u, err := PutBack(filepath.Join(t.TempDir(), "undo"), nil, nil, []Source{s})
	must(t, err)
	must(t, u.Done())
	var st unix.Stat_t
	must(t, unix.Stat(home+"/sparse", &st))
	if st.Size != s.Size || st.Blocks*512 > 1<<20 || read(t, home+"/sparse") != string(content) {
		t.Errorf("%d bytes, %d on disk", st.Size, st.Blocks*512)
	}
}
