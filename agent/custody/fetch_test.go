package custody

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/internal/disk"
)

func TestRoomOfARestore(t *testing.T) {
	h := newHolder(t)
	lacks, err := h.Lacking(h.dir, Room{unpacked: 1 << 60})
	if err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "unpacked images") || !strings.Contains(lacks[0], "ssctl gc") {
		t.Errorf("%q, %v", lacks, err)
	}
	// Both lie on one disk, which has room for the one or the other.
	free, err := disk.Free(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	lacks, err = h.Lacking(h.dir, Room{unpacked: free / 4 * 3, objects: free / 4 * 3})
	if err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "together") {
		t.Errorf("%q, %v", lacks, err)
	}
	grown := Room{unpacked: free / 4 * 3}
	grown.Keep(free / 4 * 3)
	if lacks, err := h.Lacking(h.dir, grown); err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "hold now") {
		t.Errorf("%q, %v", lacks, err)
	}
	if lacks, err := h.Lacking(h.dir, Room{unpacked: 1, objects: 1}); err != nil || len(lacks) != 0 {
		t.Errorf("%q, %v", lacks, err)
	}
}

// TestRoomOfWhatIsPutBack: each file system of the host has to have room for what is put back there.
func TestRoomOfWhatIsPutBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it mounts file systems, and needs root: make test runs it")
	}
	h := newHolder(t)
	small := t.TempDir()
	if err := unix.Mount("none", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	var st unix.Stat_t
	if err := unix.Stat(small, &st); err != nil {
		t.Fatal(err)
	}
	type file struct {
		host, path string
		ino        uint64
		mib        int64
	}
	for name, tt := range map[string]struct {
		files []file
		freed int64
		words []string
	}{
		"room for it":             {files: []file{{"a", "x", 1, 7}}},
		"too large":               {files: []file{{"a", "x", 1, 20}}, words: []string{"the content of " + small + "/x needs about 21 MiB in " + small, "8 MiB are free there; make room there"}},
		"in a folder to be made":  {files: []file{{"a", "d/e/x", 1, 20}}, words: []string{small + "/d/e/x needs about 21 MiB in " + small + ","}},
		"too large together":      {files: []file{{"a", "x", 1, 3}, {"a", "y", 2, 6}}, words: []string{small + "/y and of 1 more needs about 10 MiB"}},
		"one of two members":      {files: []file{{"a", "x", 1, 5}, {"a", "x", 1, 5}}},
		"one number of two hosts": {files: []file{{"a", "x", 1, 5}, {"b", "x", 1, 5}}, words: []string{"needs about 11 MiB"}},
		"two nameless ones":       {files: []file{{"", "x", 0, 5}, {"", "x", 0, 5}}, words: []string{"needs about 11 MiB"}},
		"what members hold":       {files: []file{{"a", "x", 1, 20}}, freed: 20 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			var room Room
			for _, f := range tt.files {
				room.PutBack(f.host, filepath.Join(small, f.path), f.ino, f.mib<<20)
			}
			room.Freed(map[uint64]int64{st.Dev: tt.freed})
			lacks, err := h.Lacking(h.dir, room)
			if err != nil || (len(lacks) > 0) != (tt.words != nil) {
				t.Fatalf("%q, %v", lacks, err)
			}
			for _, w := range tt.words {
				if !strings.Contains(lacks[0], w) {
					t.Errorf("%q has no %q", lacks[0], w)
				}
			}
		})
	}
	// ramfs says that it has no blocks: a file there takes what memory there is.
	unlimited := t.TempDir()
	if err := unix.Mount("none", unlimited, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(unlimited, unix.MNT_DETACH) })
	var endless Room
	endless.PutBack("a", filepath.Join(unlimited, "x"), 1, 1<<50)
	if lacks, err := h.Lacking(h.dir, endless); err != nil || len(lacks) > 0 {
		t.Errorf("%q, %v", lacks, err)
	}
	// What is put back on the agent's own disk shares it with the images.
	free, err := disk.Free(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	room := Room{unpacked: free / 4 * 3}
	room.PutBack("a", filepath.Join(h.dir, "x"), 1, free/4*3)
	if lacks, err := h.Lacking(h.dir, room); err != nil || len(lacks) != 1 || !strings.Contains(lacks[0], "together") {
		t.Errorf("%q, %v", lacks, err)
	}
}

// TestInodesOfWhatIsMade: a file system may have bytes free, and no inodes.
func TestInodesOfWhatIsMade(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it mounts file systems, and needs root: make test runs it")
	}
	h := newHolder(t)
	small := t.TempDir()
	if err := unix.Mount("none", small, "tmpfs", 0, "size=8m,nr_inodes=4"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	var room Room
	lacks := func() []string {
		t.Helper()
		out, err := h.Lacking(h.dir, room)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for i, name := range []string{"a", "b", "c"} {
		room.Make("hostA", filepath.Join(small, name), uint64(i+1))
		room.Make("hostA", filepath.Join(small, name), uint64(i+1)) // another member has it too
	}
	if got := lacks(); len(got) > 0 {
		t.Errorf("room for three files: %q", got)
	}
	room.Make("", filepath.Join(small, "d/e"), 0)
	if got := lacks(); len(got) != 1 || !strings.Contains(got[0], "4 files and folders are made on the file system of "+small) || !strings.Contains(got[0], "room for 3 more") {
		t.Errorf("four files: %q", got)
	}
}
