package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// self are the files of this process, as those of a member.
func self() []Tree { return []Tree{{Member: "m", Pids: []int{os.Getpid()}, Root: "/"}} }

// keep opens a file for as long as the test runs.
func keep(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o600)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() }) // some tests close it themselves
	return f
}

// copied is the copy of the file that the member has by that path; false if the cut does not have it.
func copied(c *Capture, dir, path string) (string, bool) {
	for _, f := range c.Stored("m") {
		if f.Path == path {
			return filepath.Join(dir, f.Name), true
		}
	}
	return "", false
}

// TestFilesGrow needs root. A member makes its files longer after the agent has looked for room: before they are copied ahead, meanwhile, and after that. The copies
// take no more than was looked for, give up by name, and leave nothing.
func TestFilesGrow(t *testing.T) {
	root, home := playground(t)
	const before, later = 2 << 20, 100 << 20
	grow := func(f *os.File) error {
		_, err := f.WriteAt(bytes.Repeat([]byte("grown "), (later-before)/6), before)
		return err
	}
	sparse := func(f *os.File) error { return f.Truncate(1 << 40) }
	nothing := func(*os.File) error { return nil }
	for name, a := range map[string]struct {
		ahead, pause, frozen func(*os.File) error // what the member does before it is copied ahead, while it is about to be, and then
		fails                bool
	}{
		"before it is copied ahead":        {grow, nothing, nothing, true},
		"while it is copied ahead":         {nothing, grow, nothing, true},
		"after it was copied ahead":        {nothing, nothing, grow, true},
		"by a hole":                        {sparse, nothing, nothing, false},
		"by a hole, while it is copied":    {nothing, sparse, nothing, false},
		"by a hole, after it":              {nothing, nothing, sparse, false},
		"by a hole, and then for good":     {sparse, nothing, grow, true},
		"and is cut off again":             {grow, func(f *os.File) error { return f.Truncate(before) }, nothing, false},
		"nothing grows, to see that it is": {nothing, nothing, nothing, false},
	} {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "disk")
			must(t, os.Mkdir(to, 0o700))
			must(t, unix.Mount("tmpfs", to, "tmpfs", 0, "size=48m")) // the room that there is: what was looked for, and one piece
			defer func() { must(t, unix.Unmount(to, 0)) }()
			path := home + "/f"
			write(t, path, strings.Repeat("before", before/6+1)[:before], user)
			defer func() { must(t, os.Remove(path)) }()
			f := keep(t, path, os.O_RDWR)
			defer f.Close()
			quickly(t, func() {
				s, err := Survey(t.Context(), self(), to)
				must(t, err)
				s.Ahead.clones = nil
				must(t, a.ahead(f))
				err = s.Ahead.Copy(t.Context(), self(), to, func(context.Context) error { return a.pause(f) })
				var c *Capture
				if err == nil {
					must(t, a.frozen(f))
					c, err = Take(t.Context(), self(), s.Names, s.Ahead)
				}
				if (err != nil) != a.fails || err != nil && !strings.Contains(err.Error(), "have grown to more than") {
					t.Errorf("%v", err)
				}
				if err == nil {
					must(t, c.Copy(t.Context(), false, func(string) string { return to }))
					if at, ok := copied(c, to, path); !ok || !strings.HasPrefix(head(t, at), "beforebefore") {
						t.Error("the file is not in the cut")
					}
					must(t, c.Close())
				}
				must(t, s.Ahead.Drop())
				left, err := filepath.Glob(to + "/ahead-*")
				must(t, err)
				if len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
			})
		})
	}
	if !Missing(root + "/home/f") {
		t.Error("the test's own file is there")
	}
}

// head is how a file begins.
func head(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	b := make([]byte, 100)
	n, err := f.Read(b)
	must(t, err)
	return string(b[:n])
}

// TestKeptFromBeingCloned needs root, btrfs-progs and a loop device. A user keeps some of many files on a Btrfs from being cloned (chattr +C), from the beginning or after the agent has looked. What
// cannot be cloned counts as what is read while members stand still, and is right in the cut, or the snapshot says to try again.
func TestKeptFromBeingCloned(t *testing.T) {
	const noCopyOnWrite, size = 0x00800000, 3 << 20 // FS_NOCOW_FL, include/uapi/linux/fs.h
	root, _ := playground(t)
	image, disk := root+"/image", root+"/disk"
	write(t, image, "", 0)
	must(t, os.Truncate(image, 300<<20))
	must(t, os.Mkdir(disk, 0o755))
	for _, command := range [][]string{{"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop", image, disk}} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	defer func() { must(t, unix.Unmount(disk, unix.MNT_DETACH)) }()
	staging := disk + "/staging"
	must(t, os.Mkdir(staging, 0o700))
	fill := func(f *os.File, text string) {
		_, err := f.WriteAt([]byte(strings.Repeat(text, size/len(text)+1)[:size]), 0)
		must(t, errors.Join(err, f.Sync())) // what is not on the disk yet takes no blocks of it
	}
	open := func(name string, flags int) *os.File {
		f := keep(t, disk+"/"+name, os.O_RDWR|os.O_CREATE)
		if flags != 0 {
			attribute(t, f.Name(), flags)
		}
		fill(f, name)
		return f
	}
	free, kept, changed, replaced := open("free", 0), open("kept", noCopyOnWrite), open("changed", 0), open("replaced", 0)
	inCut := func(c *Capture, f *os.File, text string) {
		t.Helper()
		if at, ok := copied(c, staging, f.Name()); !ok || !strings.HasPrefix(head(t, at), text) {
			t.Errorf("%s in the cut holds %v", f.Name(), ok)
		}
	}
	look := func() Surveyed {
		s, err := Survey(t.Context(), self(), staging)
		must(t, err)
		return s
	}
	named := func(s Surveyed, f *os.File) bool {
		for _, l := range s.Largest {
			if l.Path == f.Name() {
				return true
			}
		}
		return false
	}
	s := look()
	if !named(s, kept) || named(s, free) || named(s, changed) {
		t.Fatalf("to be read while members stand still: %+v", s.Largest)
	}
	take := func(s Surveyed) (*Capture, error) {
		must(t, s.Ahead.Copy(t.Context(), self(), staging, func(context.Context) error { return nil }))
		c, err := Take(t.Context(), self(), s.Names, s.Ahead)
		if err == nil {
			err = c.Copy(t.Context(), false, func(string) string { return staging })
		}
		must(t, s.Ahead.Drop())
		return c, err
	}
	c, err := take(s)
	must(t, err)
	inCut(c, free, "free")
	inCut(c, kept, "kept")
	must(t, c.Close())

	// Another file, that cannot be cloned, in the place of one that can.
	s = look()
	must(t, os.Rename(replaced.Name(), disk+"/old"))
	other := open("replaced", noCopyOnWrite)
	fill(other, "another")
	c, err = take(s)
	must(t, err)
	inCut(c, other, "another")
	must(t, c.Close())

	// The same file, which can be cloned when the agent looks and cannot be then.
	s = look()
	must(t, changed.Truncate(0))
	attribute(t, changed.Name(), noCopyOnWrite)
	fill(changed, "changed again")
	c, err = take(s)
	if err == nil || !strings.Contains(err.Error(), changed.Name()) || !strings.Contains(err.Error(), "try again") {
		t.Errorf("a file that cannot be cloned any more: %v", err)
	}
	must(t, c.Close())
	c, err = take(look())
	must(t, err)
	inCut(c, changed, "changed again")
	must(t, c.Close())
}

// TestAppendedIsExchanged needs root. A log that is only appended to is copied when its member runs again. Whatever the member's user puts in its place at that instant, or does to it, the copy holds
// what the log held at the cut, or there is none.
func TestAppendedIsExchanged(t *testing.T) {
	root, home := playground(t)
	text := strings.Repeat("of the user\n", earlyMax/12+100_000)
	write(t, root+"/secret", strings.Repeat("SECRET\n", len(text)/7), 0)
	must(t, os.Mkdir(root+"/private", 0o700))
	write(t, root+"/private/log", strings.Repeat("SECRET\n", len(text)/7), 0)
	dir := home + "/dir"
	file := dir + "/log"
	gone := func(t *testing.T) { must(t, os.Remove(file)) }
	for name, a := range map[string]struct {
		do   func(t *testing.T, f *os.File)
		says string // "": the copy is right
	}{
		"nothing":     {func(*testing.T, *os.File) {}, ""},
		"a link":      {func(t *testing.T, _ *os.File) { gone(t); must(t, os.Symlink(root+"/secret", file)) }, ""},
		"a hard link": {func(t *testing.T, _ *os.File) { gone(t); must(t, os.Link(root+"/secret", file)) }, ""},
		"a FIFO":      {func(t *testing.T, _ *os.File) { gone(t); must(t, unix.Mkfifo(file, 0o600)) }, ""},
		"a linked folder": {func(t *testing.T, _ *os.File) {
			must(t, os.Rename(dir, home+"/was"))
			must(t, os.Symlink(root+"/private", dir))
		}, ""},
		"another descriptor": {func(t *testing.T, f *os.File) {
			path, err := unix.Open(root+"/secret", unix.O_PATH|unix.O_CLOEXEC, 0)
			must(t, err)
			defer unix.Close(path)
			must(t, unix.Dup3(path, int(f.Fd()), unix.O_CLOEXEC))
		}, ""},
		"no descriptor, no name": {func(t *testing.T, f *os.File) { gone(t); must(t, f.Close()) }, ""},
		"more lines":             {func(t *testing.T, f *os.File) { _, err := f.WriteString(text); must(t, err) }, ""},
		"cut off":                {func(t *testing.T, f *os.File) { must(t, f.Truncate(100)) }, "try again"},
		"cut off and written again": {func(t *testing.T, f *os.File) {
			must(t, f.Truncate(0))
			_, err := f.WriteString(strings.Repeat("rewritten\n", len(text)/10+1))
			must(t, err)
		}, "try again"},
		"cut off and all holes": {func(t *testing.T, f *os.File) { must(t, f.Truncate(0)); must(t, f.Truncate(1<<40)) }, "try again"},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.RemoveAll(home+"/was"))
			must(t, os.RemoveAll(dir))
			must(t, os.Mkdir(dir, 0o755))
			write(t, file, text, user)
			f := keep(t, file, os.O_WRONLY|os.O_APPEND)
			quickly(t, func() {
				c, err := Take(t.Context(), self(), nil, nil)
				must(t, err)
				to := t.TempDir()
				must(t, c.Copy(t.Context(), false, func(string) string { return to }))
				at, ok := copied(c, to, file)
				if _, err := os.Lstat(at); !ok || !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("it is copied while its member stands still: %v", err)
				}
				a.do(t, f)
				err = c.Copy(t.Context(), true, func(string) string { return to })
				switch {
				case a.says != "" && (err == nil || !strings.Contains(err.Error(), a.says)):
					t.Errorf("%v", err)
				case a.says == "" && err != nil:
					t.Error(err)
				case a.says == "" && read(t, at) != text:
					t.Errorf("the copy begins with %q", fmt.Sprintf("%.40s", read(t, at)))
				}
				must(t, c.Close())
			})
		})
	}
}
