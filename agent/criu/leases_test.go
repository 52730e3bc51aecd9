package criu

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/target"
)

// leaseProgram takes leases on files in a folder.
func leaseProgram(args []string) int {
	dir := args[0]
	read, err1 := unix.Open(filepath.Join(dir, "read"), unix.O_RDONLY|unix.O_CREAT, 0o600)
	write, err2 := unix.Open(filepath.Join(dir, "write"), unix.O_RDWR|unix.O_CREAT, 0o600)
	gone, err3 := unix.Open(filepath.Join(dir, "gone"), unix.O_RDONLY|unix.O_CREAT, 0o600)
	if errors.Join(err1, err2, err3) != nil {
		return 1
	}
	for fd, kind := range map[int]int{read: unix.F_RDLCK, write: unix.F_WRLCK, gone: unix.F_RDLCK} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, kind); err != nil {
			return 1
		}
	}
	if unix.Unlink(filepath.Join(dir, "gone")) != nil {
		return 1
	}
	return holdProgram([]string{"1", args[1]})
}

// TestNeededLeases: what the images need says which leases a member has on files with a name. CRIU can't take such a lease again while others have the file open, which is why R1 looks, and
// restores the same images afterwards.
func TestNeededLeases(t *testing.T) {
	r := newRunner(t)
	dir := t.TempDir()
	c := startIn(t, nil, false, nil, "lease", dir)
	eventually(t, "the leases", func() bool { _, err := os.Stat(filepath.Join(c.dir, "up")); return err == nil })
	images := dumpCell(t, r, c)
	needs, err := r.Needs(images)
	if err != nil {
		t.Fatal(err)
	}
	read, write := filepath.Join(dir, "read"), filepath.Join(dir, "write")
	for _, want := range []target.NeededLease{{Path: read}, {Path: write, Write: true}} {
		if len(needs.Objects.Leases) != 2 || !slices.Contains(needs.Objects.Leases, want) {
			t.Errorf("%+v is not among %+v", want, needs.Objects.Leases)
		}
	}
	if len(needs.Objects.Locks) != 0 {
		t.Errorf("locks %+v", needs.Objects.Locks)
	}
	c.destroy()
	for path, flags := range map[string]int{read: os.O_RDWR, write: os.O_RDONLY} {
		file, err := os.OpenFile(path, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		into := newCell(t, nil, false)
		_, err = r.StartRestore(testContext(t), agent.RestoreSpec{Unit: unit(into.member), Dir: images, LogDir: t.TempDir(), LockFile: lockFile(t)})
		if err == nil || !strings.Contains(err.Error(), "Can't set lease") {
			t.Errorf("%s is open elsewhere: %v", path, err)
		}
		file.Close()
	}
	back, s := restoreCell(t, r, nil, false, images)
	if err := s.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	back.destroy()
}
