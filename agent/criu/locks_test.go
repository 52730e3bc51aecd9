package criu

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/target"
)

// lockProgram locks files in a folder, and the folder.
func lockProgram(args []string) int {
	dir := args[0]
	var fds []int
	for _, name := range []string{"flock", "range", "gone", "own"} {
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			return 1
		}
		fds = append(fds, fd)
	}
	folder, err := unix.Open(dir, unix.O_RDONLY, 0)
	span := unix.Flock_t{Type: unix.F_WRLCK, Start: 5, Len: 10}
	rest := unix.Flock_t{Type: unix.F_RDLCK, Start: 7}
	err = errors.Join(err, unix.Flock(fds[0], unix.LOCK_EX), unix.FcntlFlock(uintptr(fds[1]), unix.F_OFD_SETLK, &span), unix.Flock(fds[2], unix.LOCK_EX),
		unix.FcntlFlock(uintptr(fds[3]), unix.F_SETLK, &rest), unix.Flock(folder, unix.LOCK_SH), unix.Unlink(filepath.Join(dir, "gone")))
	if err != nil {
		return 1
	}
	return holdProgram([]string{"1", args[1]})
}

// TestNeededLocks dumps a member with locks: what the images need says which, on which files.
func TestNeededLocks(t *testing.T) {
	r := newRunner(t)
	dir := t.TempDir()
	c := startIn(t, nil, false, nil, "lock", dir)
	eventually(t, "the locks", func() bool { _, err := os.Stat(filepath.Join(c.dir, "up")); return err == nil })
	needs, err := r.Needs(dumpCell(t, r, c))
	if err != nil {
		t.Fatal(err)
	}
	want := []target.NeededLock{
		{Path: filepath.Join(dir, "flock"), Flock: true, Write: true, End: math.MaxInt64},
		{Path: filepath.Join(dir, "range"), Write: true, Start: 5, End: 14},
		{Path: filepath.Join(dir, "own"), Start: 7, End: math.MaxInt64},
		{Path: dir, Flock: true, End: math.MaxInt64},
	}
	if !slices.Equal(needs.Objects.Locks, want) {
		t.Errorf("%+v, want %+v", needs.Objects.Locks, want)
	}
}
