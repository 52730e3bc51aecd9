package proc

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mark is a file or folder that inotify or fanotify watches: the file system that it is on, and the handle that the file system knows it by
// (name_to_handle_at(2)).
type Mark struct {
	Major, Minor int
	Handle       unix.FileHandle
}

// Marks are those of an inotify or fanotify descriptor (proc_pid_fdinfo(5)). Marks of whole mounts and file systems are not among them.
func Marks(pid, fd int) ([]Mark, error) {
	var out []Mark
	var bad error
	err := fields(Path(pid, "fdinfo/"+strconv.Itoa(fd)), func(name, value string) bool {
		if name != "inotify wd" && name != "fanotify ino" {
			return true
		}
		m, ok, err := parseMark(value)
		if ok {
			out = append(out, m)
		}
		if err != nil {
			bad = fmt.Errorf("a watch of descriptor %d of process %d: %w", fd, pid, err)
		}
		return err == nil
	})
	if err == nil {
		err = bad
	}
	return out, err
}

// minorBits are those of a device's number inside of the kernel (MINORBITS of include/linux/kdev_t.h).
const minorBits = 20

// parseMark reads a line of fdinfo. ok is false where the kernel does not tell a handle.
func parseMark(text string) (m Mark, ok bool, err error) {
	var kind uint64
	var handle []byte
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, ":")
		switch name {
		case "sdev":
			var dev uint64
			dev, err = strconv.ParseUint(value, 16, 64)
			m.Major, m.Minor = int(dev>>minorBits), int(dev&(1<<minorBits-1))
		case "fhandle-type":
			kind, err = strconv.ParseUint(value, 16, 32)
			ok = true
		case "f_handle":
			handle, err = hex.DecodeString(value)
		}
		if err != nil {
			return m, false, err
		}
	}
	m.Handle = unix.NewFileHandle(int32(kind), handle)
	return m, ok && len(handle) > 0, nil
}

// MountOf finds where a process sees a file system, by its device, and the file system's type. ok is false if it sees it nowhere.
func MountOf(pid, major, minor int) (point, kind string, ok bool) {
	f, err := os.Open(Path(pid, "mountinfo"))
	if err != nil {
		return "", "", false
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		is := m.Major == major && m.Minor == minor
		return !is, is
	})
	if err != nil || len(mounts) == 0 {
		return "", "", false
	}
	return mounts[0].Mountpoint, mounts[0].FSType, true
}
