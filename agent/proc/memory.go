package proc

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// Memory reads the memory of a process through /proc/PID/mem. It goes on to read what the program that was there when it was opened has, also after an exec.
//
// Nothing here reads with process_vm_readv(2), since that changes what it reads: the kernel gives the reader a page of its own in place of one
// that the process shares with others since a fork. Memory that was shared is there twice then. And the kernel does not mark that page as
// written. When another process that shares it by a later fork gives it back (MADV_FREE), the kernel may drop it, and the process finds zeros
// (docs/adr/0040-memory-is-read-without-a-change.md).
type Memory struct{ fd int }

// OpenMemory opens the memory of a process, which takes the right to trace it.
func OpenMemory(pid int) (*Memory, error) {
	fd, err := unix.Open(Path(pid, "mem"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the memory of process %d: %w", pid, err)
	}
	return &Memory{fd: fd}, nil
}

// Close ends the reading. The process is not kept by it.
func (m *Memory) Close() { _ = unix.Close(m.fd) }

// Read reads into b from an address on, and says how many bytes could be read; the next one cannot be. The error is ESRCH if the process has ended.
func (m *Memory) Read(b []byte, at uint64) (int, error) {
	if at > math.MaxInt64 {
		return 0, nil // the kernel's own
	}
	for {
		n, err := unix.Pread(m.fd, b, int64(at))
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EIO):
			return 0, nil
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, unix.ESRCH
		default:
			return n, nil
		}
	}
}

// ReadMemory reads all of b from an address of a process. The error is EFAULT if not all of it can be read.
func ReadMemory(pid int, at uint64, b []byte) error {
	m, err := OpenMemory(pid)
	if err != nil {
		return err
	}
	defer m.Close()
	n, err := m.Read(b, at)
	if err == nil && n != len(b) {
		err = unix.EFAULT
	}
	return err
}
