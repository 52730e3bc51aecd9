package files

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// lease is a write lease (F_SETLEASE) that a process holds by a descriptor which can only be written. Nobody can read such a file without breaking the lease.
type lease struct {
	file  int // a copy of the descriptor: the lease belongs to the open file that both are of
	fd    int // its number in the process
	owner ownerEx
	sig   int
}

// ownerEx is struct f_owner_ex of fcntl(2).
type ownerEx struct{ kind, pid int32 }

// Of include/uapi/asm-generic/fcntl.h: F_OWNER_TID and F_OWNER_PGRP.
const (
	ownerThread = 0
	ownerGroup  = 2
)

// copyLeased reads a file that is leased and write-only, while its holder stands still: it gives up the lease, reads, and takes it again, for the same owner, with
// the same signal. Whoever opens the file in between would have broken the lease: then it stays broken, and its owner gets the signal that the kernel would have sent.
func (h handle) copyLeased() (*os.File, error) {
	member, err := h.borrow()
	if err != nil {
		return nil, err
	}
	defer member.Close()
	l := lease{file: int(member.Fd()), fd: h.fd}
	fd, err := unix.MemfdCreate("leased", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	out := os.NewFile(uintptr(fd), h.path())
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine. Its own table of descriptors lets the lease have the number that the process knows it by, which the
		// kernel tells with the signal.
		runtime.LockOSThread()
		done <- l.read(h, out)
	}()
	if err := <-done; err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// read does what copyLeased says, in a thread of its own.
func (l *lease) read(h handle, out *os.File) error {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("descriptors of its own for a thread: %w", err)
	}
	if err := l.look(); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(l.file), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		return fmt.Errorf("give up its lease: %w", err)
	}
	err := l.copy(h, out)
	return errors.Join(err, l.retake())
}

// look notes whom the lease's signal goes to.
func (l *lease) look() error {
	kind, err := unix.FcntlInt(uintptr(l.file), unix.F_GETLEASE, 0)
	if err != nil || kind != unix.F_WRLCK {
		return fmt.Errorf("its lease is being broken: try again (%d, %w)", kind, err)
	}
	if err := l.ownerCall(unix.F_GETOWN_EX); err != nil {
		return fmt.Errorf("owner of its lease: %w", err)
	}
	if l.sig, err = unix.FcntlInt(uintptr(l.file), unix.F_GETSIG, 0); err != nil {
		return fmt.Errorf("signal of its lease: %w", err)
	}
	return nil
}

// ownerCall gets or sets the owner of the open file.
func (l *lease) ownerCall(call int) error {
	if _, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(l.file), uintptr(call), uintptr(unsafe.Pointer(&l.owner))); errno != 0 {
		return errno
	}
	return nil
}

func (l *lease) copy(h handle, out *os.File) error {
	fd, err := unix.Open(h.path(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	in := os.NewFile(uintptr(fd), h.path())
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil {
		err = copyData(out, in, 0, st.Size, true)
	}
	return errors.Join(err, in.Close())
}

// retake takes the lease again.
func (l *lease) retake() error {
	if l.file != l.fd {
		if err := unix.Dup3(l.file, l.fd, unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("take its lease again: %w", err)
		}
	}
	_, err := unix.FcntlInt(uintptr(l.fd), unix.F_SETLEASE, unix.F_WRLCK)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(l.fd), unix.F_SETSIG, l.sig)
		return errors.Join(err, l.ownerCall(unix.F_SETOWN_EX))
	}
	if !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("take its lease again: %w", err)
	}
	return l.broken()
}

// broken tells the owner that the lease is gone.
func (l *lease) broken() error {
	sig := unix.Signal(l.sig)
	if sig == 0 {
		sig = unix.SIGIO
	}
	pid := int(l.owner.pid)
	switch l.owner.kind {
	case ownerGroup:
		return unix.Kill(-pid, sig)
	case ownerThread:
		group, err := proc.StatusField(pid, "Tgid")
		if err != nil {
			return err
		}
		var tgid int
		if _, err := fmt.Sscan(group, &tgid); err != nil {
			return err
		}
		return unix.Tgkill(tgid, pid, sig)
	}
	return unix.Kill(pid, sig)
}
