package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/criu/image"
	"ss/agent/proc"
)

// CRIU finds the pages that it dumps by PAGEMAP_SCAN (ioctl_pagemap_scan(2)). Its keeper answers these calls for it, by seccomp's user
// notification, with nothing where the agent copies the memory itself. docs/adr/0027-memory-is-copied-while-members-run.md says why so.

const (
	// omitName is the file in an operation's folder that says what CRIU is to find empty. The agent writes it before it lets CRIU go.
	omitName = "omit.json"
)

// Omit makes ranges look empty to CRIU.
func (d *dump) Omit(r map[int][]agent.PageRange) error {
	if !d.omits {
		return &Error{Op: d.op, Job: d.unit.Job, Member: d.unit.Member, Pid: d.unit.Pid, Err: errors.New("criu was not started such that its scans are answered")}
	}
	for _, of := range r {
		for i, x := range of {
			if x.Start >= x.End || x.Start%image.PageSize != 0 || x.End%image.PageSize != 0 || i > 0 && of[i-1].End > x.Start {
				return &Error{Op: d.op, Job: d.unit.Job, Member: d.unit.Member, Pid: d.unit.Pid, Err: fmt.Errorf("ranges of memory out of order at %#x", x.Start)}
			}
		}
	}
	return image.WriteRanges(filepath.Join(d.operation.dir, omitName), r)
}

// Of include/uapi/linux/seccomp.h, filter.h and audit.h.
const (
	seccompSetFilter    = 1      // SECCOMP_SET_MODE_FILTER
	seccompNewListener  = 1 << 3 // SECCOMP_FILTER_FLAG_NEW_LISTENER
	seccompAllow        = 0x7fff0000
	seccompNotify       = 0x7fc00000 // SECCOMP_RET_USER_NOTIF
	notifyReceive       = 0xc0502100
	notifySend          = 0xc0182101
	notifyAddDescriptor = 0x40182103
	addAtNumber         = 1 // SECCOMP_ADDFD_FLAG_SETFD
	notifyContinue      = 1 // SECCOMP_USER_NOTIF_FLAG_CONTINUE
	auditX8664          = 0xc000003e
	callIoctl           = 16
	callFcntl           = 72
	pagemapScan         = 0xc0606610
	scanPresentOrSwap   = 1<<3 | 1<<4
	scanArgLen          = 96
	scanWalkEnd         = 32 // offset of walk_end in struct pm_scan_arg
	regionLen           = 24 // of struct page_region
	mostRegions         = 1 << 20
	bpfLoad, bpfJumpIs  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	bpfReturn           = unix.BPF_RET | unix.BPF_K
	offsetNr            = 0
	offsetArch          = 4
	offsetArg1          = 24
)

// installFilter makes PAGEMAP_SCAN and fcntl(F_GETFL) of this thread, and of what it starts, wait for an answer of whoever reads the descriptor returned. For the
// second see show.
func installFilter() (listener int, err error) {
	prog := []unix.SockFilter{
		{Code: bpfLoad, K: offsetArch},
		{Code: bpfJumpIs, K: auditX8664, Jf: 8},
		{Code: bpfLoad, K: offsetNr},
		{Code: bpfJumpIs, K: callIoctl, Jf: 2},
		{Code: bpfLoad, K: offsetArg1},
		{Code: bpfJumpIs, K: pagemapScan, Jt: 3, Jf: 4},
		{Code: bpfJumpIs, K: callFcntl, Jf: 3},
		{Code: bpfLoad, K: offsetArg1},
		{Code: bpfJumpIs, K: unix.F_GETFL, Jf: 1},
		{Code: bpfReturn, K: seccompNotify},
		{Code: bpfReturn, K: seccompAllow},
	}
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, seccompSetFilter, seccompNewListener, uintptr(unsafe.Pointer(&f)))
	runtime.KeepAlive(prog)
	if errno != 0 {
		return -1, fmt.Errorf("watch for CRIU's scans of memory (seccomp): %w", errno)
	}
	return int(fd), nil
}

// notification is struct seccomp_notif.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// scanArg is struct pm_scan_arg.
type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages, inverted, mask, anyOf, returned uint64
}

// omitter answers CRIU's scans.
type omitter struct {
	listener int
	file     string // what to omit: see omitName
	report   string // what was omitted: see omittedName

	mu      sync.Mutex
	omit    image.Ranges // nil: not known yet
	omitted image.Ranges
}

// answer answers one scan after the other until CRIU is gone.
func (o *omitter) answer() {
	for {
		var n notification
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(o.listener), notifyReceive, uintptr(unsafe.Pointer(&n)))
		switch errno {
		case 0:
		case unix.EINTR, unix.ENOENT: // the caller was killed
			set := []unix.PollFd{{Fd: int32(o.listener), Events: unix.POLLIN}}
			if _, err := unix.Poll(set, -1); err == nil && set[0].Revents&unix.POLLHUP != 0 {
				return
			}
			continue
		default:
			return
		}
		r := response{id: n.id}
		var found int
		var handled bool
		var err error
		if n.nr == callFcntl {
			o.show(n)
		} else {
			found, handled, err = o.scan(n)
		}
		switch {
		case err != nil:
			r.errno = -int32(unix.EIO) // CRIU gives up: it must not dump less than it is to, nor more
			fmt.Fprintln(os.Stderr, "criu keeper: answer a scan of memory:", err)
		case handled:
			r.val = int64(found)
		default:
			r.flags = notifyContinue
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(o.listener), notifySend, uintptr(unsafe.Pointer(&r)))
	}
}

// scan answers a scan for pages to dump. handled is false where the kernel is to answer it.
func (o *omitter) scan(n notification) (found int, handled bool, err error) {
	var arg scanArg
	if err := readMemory(int(n.pid), n.args[2], bytesOf(&arg)); err != nil {
		return 0, false, err
	}
	if arg.size != scanArgLen || arg.anyOf != scanPresentOrSwap {
		return 0, false, nil // not one for pages to dump
	}
	known, err := o.load()
	if err != nil || known == nil {
		return 0, false, err
	}
	pid, err := scannedPid(int(n.pid), int(int32(n.args[0])))
	if err != nil {
		return 0, false, err
	}
	hidden := image.Overlapping(known[pid], agent.PageRange{Start: arg.start, End: arg.end})
	if len(hidden) == 0 {
		return 0, false, nil
	}
	var regions []region
	if hidden[0].Start != arg.start || hidden[len(hidden)-1].End != arg.end || !adjoin(hidden) {
		if regions, err = o.real(n, &arg); err != nil {
			return 0, false, err
		}
		regions = without(regions, hidden)
		if len(regions) > int(arg.vecLen) {
			arg.walkEnd = regions[arg.vecLen].start
			regions = regions[:arg.vecLen]
		}
		if len(regions) > 0 {
			if err := writeMemory(int(n.pid), arg.vec, regionBytes(regions)); err != nil {
				return 0, false, err
			}
		}
	} else {
		arg.walkEnd = arg.end
	}
	var end [8]byte
	binary.LittleEndian.PutUint64(end[:], arg.walkEnd)
	if err := writeMemory(int(n.pid), n.args[2]+scanWalkEnd, end[:]); err != nil {
		return 0, false, err
	}
	return len(regions), true, o.note(pid, image.Overlapping(hidden, agent.PageRange{Start: arg.start, End: arg.walkEnd}))
}

// load reads what to omit. There is nothing until the agent has let CRIU go.
func (o *omitter) load() (image.Ranges, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.omit != nil {
		return o.omit, nil
	}
	r, err := image.ReadRanges(o.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	o.omit = r
	return r, err
}

// note adds to what was omitted.
func (o *omitter) note(pid int, r []agent.PageRange) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.omitted == nil {
		o.omitted = image.Ranges{}
	}
	o.omitted[pid] = append(o.omitted[pid], r...)
	return nil
}

// finish writes what was omitted. To be called when CRIU is gone, and before anybody is told.
func (o *omitter) finish() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.omitted == nil {
		return nil
	}
	return image.WriteRanges(o.report, o.omitted)
}

// region is struct page_region.
type region struct{ start, end, categories uint64 }

// real makes the scan itself, with CRIU's own descriptor.
func (o *omitter) real(n notification, arg *scanArg) ([]region, error) {
	if arg.vecLen == 0 || arg.vecLen > mostRegions {
		return nil, fmt.Errorf("a scan for %d regions", arg.vecLen)
	}
	fd, err := descriptorOf(int(n.pid), int(int32(n.args[0])))
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	vec := make([]region, arg.vecLen)
	mine := *arg
	mine.vec = uint64(uintptr(unsafe.Pointer(&vec[0])))
	count, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pagemapScan, uintptr(unsafe.Pointer(&mine)))
	runtime.KeepAlive(vec)
	if errno != 0 {
		return nil, fmt.Errorf("PAGEMAP_SCAN: %w", errno)
	}
	arg.walkEnd = mine.walkEnd
	return vec[:count], nil
}

// descriptorOf takes a descriptor of a process.
func descriptorOf(pid, fd int) (int, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("criu's process %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	got, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return -1, fmt.Errorf("descriptor %d of criu's process %d: %w", fd, pid, err)
	}
	return got, nil
}

// scannedPid is the process whose pagemap a descriptor of CRIU's is, by the PID that CRIU sees: .../PID/pagemap.
func scannedPid(criu, fd int) (int, error) {
	link, err := proc.FdLink(criu, fd)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
	if err != nil || filepath.Base(link) != "pagemap" {
		return 0, fmt.Errorf("a scan of %q", link)
	}
	return pid, nil
}

func bytesOf(arg *scanArg) []byte { return (*[scanArgLen]byte)(unsafe.Pointer(arg))[:] }

func regionBytes(r []region) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&r[0])), len(r)*regionLen)
}

func readMemory(pid int, at uint64, b []byte) error {
	if err := proc.ReadMemory(pid, at, b); err != nil {
		return fmt.Errorf("read criu's memory: %w", err)
	}
	return nil
}

func writeMemory(pid int, at uint64, b []byte) error {
	n, err := unix.ProcessVMWritev(pid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err == nil && n != len(b) {
		err = unix.EFAULT
	}
	if err != nil {
		return fmt.Errorf("write criu's memory: %w", err)
	}
	return nil
}

// adjoin says whether each range begins where the one before it ends.
func adjoin(all []agent.PageRange) bool {
	for i := 1; i < len(all); i++ {
		if all[i-1].End != all[i].Start {
			return false
		}
	}
	return true
}

// without takes the ranges, which are in order, from the regions, which are too.
func without(regions []region, hidden []agent.PageRange) []region {
	var out []region
	for _, r := range regions {
		for _, h := range image.Overlapping(hidden, agent.PageRange{Start: r.start, End: r.end}) {
			if r.start < h.Start {
				out = append(out, region{r.start, h.Start, r.categories})
			}
			r.start = h.End
		}
		if r.start < r.end {
			out = append(out, r)
		}
	}
	return out
}
