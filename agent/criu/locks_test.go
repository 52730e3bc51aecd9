package criu

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
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

// TestLocksOfHeirs: what children have locked by a descriptor of their parent's is locked after the restore, by them.
func TestLocksOfHeirs(t *testing.T) {
	r := newRunner(t)
	dir := t.TempDir()
	c := startIn(t, nil, false, nil, "heir", dir)
	eventually(t, "the locks", func() bool { _, err := os.Stat(filepath.Join(c.dir, "up")); return err == nil })
	locks := func() (all []unix.Flock_t) {
		file, err := os.OpenFile(filepath.Join(dir, "file"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for _, at := range []int64{0, 10, 20, 30} {
			l := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
			if err := unix.FcntlFlock(file.Fd(), unix.F_GETLK, &l); err != nil {
				t.Fatal(err)
			}
			if l.Pid > 0 {
				inner, err := proc.NSPids(int(l.Pid))
				if err != nil {
					t.Fatal(err)
				}
				l.Pid = int32(inner[len(inner)-1])
			}
			all = append(all, l)
		}
		return all
	}
	want := locks()
	if want[0].Pid == want[1].Pid || want[1].Pid == want[2].Pid || want[1].Type != unix.F_WRLCK || want[2].Type != unix.F_RDLCK || want[3].Type != unix.F_UNLCK {
		t.Fatalf("before: %+v", want)
	}
	images := dumpCell(t, r, c)
	c.destroy()
	if free := locks(); free[1].Type != unix.F_UNLCK {
		t.Fatalf("the member is gone, and its locks are not: %+v", free)
	}
	back, s := restoreCell(t, r, nil, false, images)
	defer back.destroy()
	if err := s.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := locks(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
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

// heirProgram opens a file and locks a part of it, and has two children lock others by the descriptor that they got from it.
func heirProgram(args []string) int {
	if len(args) == 3 {
		start, _ := strconv.Atoi(args[2])
		if err := unix.FcntlFlock(3, unix.F_SETLK, &unix.Flock_t{Type: int16(start / 10 % 2), Start: int64(start), Len: 10}); err != nil {
			return 1
		}
		fmt.Println("locked")
		return holdProgram([]string{"1", args[1] + args[2]})
	}
	file, err := os.OpenFile(args[0]+"/file", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil || unix.FcntlFlock(file.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10}) != nil {
		return 1
	}
	for _, start := range []string{"10", "20"} {
		dir := args[1] + start
		child := exec.Command("/proc/self/exe", "heir", args[0], args[1], start)
		child.ExtraFiles = []*os.File{file}
		out, err := child.StdoutPipe()
		if err = errors.Join(err, os.MkdirAll(dir, 0o700), child.Start()); err != nil {
			return 1
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
			return 1
		}
	}
	return holdProgram([]string{"1", args[1]})
}
