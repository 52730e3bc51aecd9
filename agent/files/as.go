package files

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// as calls do with the rights that a user and group have over files, and no other group's (credentials(7), fsuid). A thread of its
// own has them, and ends with them. For root it just calls do.
func as(uid, gid int, do func() error) error {
	if uid == 0 {
		return do()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		// The raw call is this thread's alone; the syscall package's changes all threads.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			done <- fmt.Errorf("drop the groups of root: %w", errno)
			return
		}
		for _, set := range []struct {
			call uintptr
			id   int
		}{{unix.SYS_SETFSGID, gid}, {unix.SYS_SETFSUID, uid}} {
			_, _, _ = unix.RawSyscall(set.call, uintptr(set.id), 0, 0)
			// It returns the former one, and no error: a second call tells whether the first worked.
			if now, _, _ := unix.RawSyscall(set.call, ^uintptr(0), 0, 0); int(int32(now)) != set.id {
				done <- fmt.Errorf("take the file rights of user %d and group %d", uid, gid)
				return
			}
		}
		done <- do()
	}()
	return <-done
}
