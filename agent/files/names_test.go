package files

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// lostName makes a file that has lost the name it is open by, and has another one in another folder.
func lostName(t *testing.T, home string) (file *os.File, other string) {
	t.Helper()
	must(t, os.MkdirAll(home+"/a", 0o755))
	must(t, os.MkdirAll(home+"/b/c", 0o755))
	file, err := os.OpenFile(home+"/a/first", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	other = home + "/b/c/second"
	must(t, os.Link(home+"/a/first", other))
	must(t, os.Remove(home+"/a/first"))
	_, err = file.WriteString("at the cut")
	must(t, err)
	return file, other
}

// taken takes a cut of this very process, and returns the file of that name.
func taken(t *testing.T, name string, found Names) (Source, *Capture) {
	t.Helper()
	c, err := Take(t.Context(), []Tree{{Member: "m", Pids: []int{os.Getpid()}, Root: "/"}}, found, nil)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	dir := t.TempDir()
	for _, after := range []bool{false, true} {
		must(t, c.Copy(t.Context(), after, func(string) string { return dir }))
	}
	for _, s := range c.Stored("m") {
		for _, n := range s.Names() {
			if n == name {
				return Source{Stored: s, Content: filepath.Join(dir, s.Name), InPlace: true}, c
			}
		}
	}
	t.Fatalf("%s is not in the cut", name)
	return Source{}, nil
}

// TestNameInAnotherFolder needs root. A file that has lost its name is found by another one, wherever on its file system that is, as long as it is one.
func TestNameInAnotherFolder(t *testing.T) {
	_, home := playground(t)
	_, other := lostName(t, home)
	s, err := Survey(t.Context(), []Tree{{Member: "m", Pids: []int{os.Getpid()}, Root: "/"}}, "")
	must(t, err)
	src, _ := taken(t, home+"/a/first", s.Names)
	if src.Path != other || len(src.Gone) != 1 {
		t.Fatalf("its name is %q, and %q are gone; it is %s", src.Path, src.Gone, other)
	}
	must(t, os.Rename(other, other+".moved"))
	if src, _ = taken(t, home+"/a/first", s.Names); src.Path != "" || src.Handle == "" {
		t.Errorf("its name is %q, which it was; the handle is %q", src.Path, src.Handle)
	}
}

// TestFileWithoutKnownName needs root. A file whose names nobody knows is found by its handle in place: the same file gets the content of the cut, and
// the name of ours is taken away again. One that does not live any more is made.
func TestFileWithoutKnownName(t *testing.T) {
	_, home := playground(t)
	file, other := lostName(t, home)
	src, _ := taken(t, home+"/a/first", nil)
	if src.Path != "" || src.Handle == "" {
		t.Fatalf("path %q, handle %q", src.Path, src.Handle)
	}
	for _, end := range []string{"done", "back", "lost"} {
		if end == "lost" {
			must(t, os.Remove(other))
			must(t, file.Close())
		} else {
			must(t, os.WriteFile(other, []byte("since"), 0o600))
		}
		u, err := PutBack(filepath.Join(t.TempDir(), "undo"), nil, nil, []Source{src})
		must(t, err)
		p, ok := u.Placed(home+"/a/first", true, 0)
		if !ok || end != "lost" && p.Ino != src.Ino {
			t.Errorf("%s: placed %+v, and it was inode %d", end, p, src.Ino)
		}
		if got := read(t, p.Path); got != "at the cut" {
			t.Errorf("%s: it holds %q", end, got)
		}
		want := "at the cut"
		if end == "back" {
			must(t, u.Back())
			want = "since"
		} else {
			must(t, u.Done())
		}
		if end != "lost" {
			if got := read(t, other); got != want {
				t.Errorf("%s: by its other name it holds %q", end, got)
			}
		}
		if left, _ := os.ReadDir(home + "/a"); len(left) > 0 {
			t.Errorf("%s: left in the folder: %v", end, left)
		}
	}
}

// TestAppendedFileIsCutOffAfterTheCut needs root. A small log is copied before its writer runs again. A large one that is written again from the beginning
// is not taken for what it was, even if it has grown beyond it.
func TestAppendedFileIsCutOffAfterTheCut(t *testing.T) {
	_, home := playground(t)
	open := func(name string, size int) (*os.File, string) {
		f, err := os.OpenFile(home+"/"+name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		_, err = f.WriteString(strings.Repeat("x", size))
		must(t, err)
		return f, f.Name()
	}
	small, smallName := open("small", 10)
	large, _ := open("large", earlyMax+1)
	c, err := Take(t.Context(), []Tree{{Member: "m", Pids: []int{os.Getpid()}, Root: "/"}}, nil, nil)
	must(t, err)
	defer c.Close()
	dir := t.TempDir()
	to := func(string) string { return dir }
	must(t, c.Copy(t.Context(), false, to))
	must(t, small.Truncate(0))
	must(t, large.Truncate(0))
	_, err = large.WriteString(strings.Repeat("y", earlyMax+2))
	must(t, err)
	if err := c.Copy(context.Background(), true, to); err == nil || !strings.Contains(err.Error(), "written again since the cut") {
		t.Errorf("the large file: %v", err)
	}
	for _, s := range c.Stored("m") {
		if s.Path == smallName && read(t, filepath.Join(dir, s.Name)) != "xxxxxxxxxx" {
			t.Errorf("the small file: %+v", s)
		}
	}
	_ = unix.Unlink(smallName)
}
