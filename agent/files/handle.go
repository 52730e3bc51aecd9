package files

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Lost says whether the file system that a process sees mounted at a path does not find a file of its own by the handle that it gave
// (open_by_handle_at(2)), as CRIU would look for it. The folder at the path is opened, so its file system must be one that answers. Of the file no more is opened
// than its place (O_PATH), so that neither a FIFO nor a lease is touched. Where it cannot be told, the file is not lost.
func Lost(pid int, mount string, handle unix.FileHandle) bool {
	at, err := unix.Open(filepath.Join(proc.Path(pid, "root"), mount), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(at)
	fd, err := unix.OpenByHandleAt(at, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err == nil {
		_ = unix.Close(fd)
		return false
	}
	return errors.Is(err, unix.ESTALE)
}
