package criu

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
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

// TestRestoreThatWaitsForALock: a restore ends by itself where a lock was taken after R1, and says which. When it is free, the same images are restored.
func TestRestoreThatWaitsForALock(t *testing.T) {
	for name, want := range map[string]string{
		"flock": "it waits for a lock on ", "own": "it waits for a lock on ", "range": "Can not set ofd lock", // CRIU does not wait for these
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t)
			r.lockWait = time.Second
			dir := t.TempDir()
			c := startIn(t, nil, false, nil, "lock", dir)
			eventually(t, "the locks", func() bool { _, err := os.Stat(filepath.Join(c.dir, "up")); return err == nil })
			images := dumpCell(t, r, c)
			c.destroy()
			file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if err := errors.Join(unix.Flock(int(file.Fd()), unix.LOCK_EX), unix.FcntlFlock(file.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})); err != nil {
				t.Fatal(err)
			}
			into := newCell(t, nil, false)
			spec := agent.RestoreSpec{Unit: unit(into.member), Dir: images, LogDir: t.TempDir(), LockFile: lockFile(t)}
			_, err = r.StartRestore(testContext(t), spec)
			if strings.HasPrefix(want, "it waits") {
				want += file.Name()
			}
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "lslocks") {
				t.Fatal(err)
			}
			file.Close()
			back, s := restoreCell(t, r, nil, false, images)
			if err := s.Resume(testContext(t)); err != nil {
				t.Fatal(err)
			}
			back.destroy()
		})
	}
}
