package memory

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent"
)

// Of include/uapi/linux/userfaultfd.h.
const (
	uffdAPI          = 0xc018aa3f
	uffdRegister     = 0xc020aa00
	uffdUnregister   = 0x8010aa01
	uffdWriteprotect = 0xc018aa06

	uffdVersion         = 0xaa
	featureUnpopulated  = 1 << 13
	featureAsync        = 1 << 15
	registerProtect     = 1 << 1 // UFFDIO_REGISTER_MODE_WP
	protectNobodyWaits  = 1 << 1 // UFFDIO_WRITEPROTECT_MODE_DONTWAKE
	uffdUserModeOnly    = 1
	uffdFlags           = unix.O_CLOEXEC | unix.O_NONBLOCK | uffdUserModeOnly
	uffdLink            = "anon_inode:[userfaultfd]"
	unprotectPiece      = 16 << 20
	sysUserfaultfd      = unix.SYS_USERFAULTFD
	errNoTracking       = "this kernel cannot track writes (userfaultfd with UFFD_FEATURE_WP_ASYNC, Linux 6.7)"
	errNoScan           = "this kernel cannot tell which pages were written (PAGEMAP_SCAN, Linux 6.7)"
	errOtherMachine     = "memory is tracked on x86-64 only"
	errTurnedOff        = "agent.yaml says so (memory: frozen)"
	errHelperNotStarted = "the helper that would make userfaultfds does not start"
)

// uffd is a userfaultfd of some process. Closing it ends the tracking, and gives every page its protection back.
type uffd int

func (u uffd) ioctl(request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(u), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// enable agrees with the kernel on WP_ASYNC.
func (u uffd) enable() error {
	arg := struct{ api, features, ioctls uint64 }{api: uffdVersion, features: featureUnpopulated | featureAsync}
	if err := u.ioctl(uffdAPI, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("%s: %w", errNoTracking, err)
	}
	return nil
}

// register makes the kernel note writes to a mapping. No page is protected yet.
func (u uffd) register(r agent.PageRange) error {
	arg := struct{ start, len, mode, ioctls uint64 }{start: r.Start, len: r.End - r.Start, mode: registerProtect}
	return u.ioctl(uffdRegister, unsafe.Pointer(&arg))
}

// unprotect takes the protection from a range, a piece at a time: each holds up the program's page faults for some 100 µs.
func (u uffd) unprotect(r agent.PageRange) error {
	for at := r.Start; at < r.End; at += unprotectPiece {
		arg := struct{ start, len, mode uint64 }{start: at, len: min(r.End-at, unprotectPiece), mode: 0}
		if err := u.ioctl(uffdWriteprotect, unsafe.Pointer(&arg)); err != nil {
			return err
		}
	}
	return nil
}

func (u uffd) close() {
	if u >= 0 {
		_ = unix.Close(int(u))
	}
}
