package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// CRIU reads /proc/PID/smaps while the member stands still, for the flags of its mappings, which no other file tells. The kernel counts all pages for
// it. The agent reads the same in the time in which the gates close, and the keeper puts that in place of CRIU's own descriptor
// (docs/adr/0055-what-is-read-while-gates-close.md).

// shownName is the FIFO in an operation's folder whose other end the agent closes when it has written down what CRIU is shown.
const shownName = "shown"

// smapsName is the file in that folder with what /proc/PID/smaps says.
func smapsName(pid int) string { return fmt.Sprintf("smaps-%d", pid) }

// Show gives CRIU what /proc/PID/smaps says. What is not there when it is to be, CRIU reads itself.
func (d *dump) Show(smaps <-chan map[int][]byte) error {
	path := filepath.Join(d.operation.dir, shownName)
	err := unix.Mkfifo(path, 0o600)
	var latch *os.File
	if err == nil {
		latch, err = os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return &Error{Op: d.op, Job: d.unit.Job, Member: d.unit.Member, Pid: d.unit.Pid, Err: fmt.Errorf("show CRIU its mappings: %w", err)}
	}
	go func() {
		defer latch.Close() // as the kernel does if this agent dies
		for pid, text := range <-smaps {
			at := filepath.Join(d.operation.dir, smapsName(pid))
			if err := os.WriteFile(at+"~", text, 0o600); err == nil {
				_ = os.Rename(at+"~", at) // CRIU must never see a part
			}
		}
	}()
	return nil
}

// awaitShown waits until the agent has written down what it shows, and says whether it shows anything.
func (o *omitter) awaitShown() bool {
	latch, err := unix.Open(filepath.Join(filepath.Dir(o.file), shownName), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer unix.Close(latch)
	for {
		n, err := unix.Read(latch, make([]byte, 1))
		switch {
		case errors.Is(err, unix.EAGAIN): // the agent is at it
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(latch), Events: unix.POLLIN}}, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return false
			}
		case errors.Is(err, unix.EINTR):
		default:
			return n == 0 && err == nil
		}
	}
}

// show puts what the agent has read in place of /proc/PID/smaps, which CRIU has opened and not read yet when it asks for the flags of its descriptor of
// /proc/PID/map_files: its parse_smaps opens both, the second by fdopendir(3). A CRIU that does it in any other order reads the file itself, as it does if
// anything fails here.
func (o *omitter) show(n notification) {
	criu := int(n.pid)
	link, err := proc.FdLink(criu, int(int32(n.args[0])))
	if err != nil || filepath.Base(link) != "map_files" {
		return
	}
	of := filepath.Dir(link)
	pid, err := strconv.Atoi(filepath.Base(of))
	if err != nil || !o.awaitShown() {
		return
	}
	text, err := unix.Open(filepath.Join(filepath.Dir(o.file), smapsName(pid)), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return // nothing was read of this process
	}
	defer unix.Close(text)
	smaps := -1
	err = proc.EachFd([]int{criu}, func(_, fd int, link string) {
		if link == filepath.Join(of, "smaps") && untouched(criu, fd) {
			smaps = fd
		}
	})
	if err != nil || smaps < 0 {
		return
	}
	add := struct {
		id                      uint64
		flags, from, to, toFlag uint32
	}{id: n.id, flags: addAtNumber, from: uint32(text), to: uint32(smaps)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(o.listener), notifyAddDescriptor, uintptr(unsafe.Pointer(&add))); errno != 0 {
		fmt.Fprintln(os.Stderr, "criu keeper: hand over the mappings of process", pid, errno)
	}
}

// untouched says whether nothing was read yet of a descriptor of CRIU's.
func untouched(criu, fd int) bool {
	file, err := descriptorOf(criu, fd)
	if err != nil {
		return false
	}
	defer unix.Close(file)
	at, err := unix.Seek(file, 0, unix.SEEK_CUR)
	return err == nil && at == 0
}
