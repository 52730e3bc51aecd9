package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Region is a mapping as /proc/PID/maps has it, named or not.
type Region struct {
	Start, End uint64
	Perms      string // rwxp, or a dash in the place of each, and s for shared
	Inode      uint64 // 0 if no file is mapped
	Name       string // a path, or a name of the kernel's; "" of most anonymous memory
}

// Regions reads a process's mappings, in the order of their addresses. A process that has ended, and is not reaped, has none.
func Regions(pid int) ([]Region, error) {
	text, err := os.ReadFile(Path(pid, "maps"))
	if err != nil {
		return nil, err
	}
	out, err := parseRegions(text)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", Path(pid, "maps"), err)
	}
	return out, nil
}

// ErrNoRegionAt says that this kernel does not answer RegionAt.
var ErrNoRegionAt = errors.New("the kernel does not tell of one mapping (PROCMAP_QUERY, Linux 6.11)")

// procmapQuery is PROCMAP_QUERY of include/uapi/linux/fs.h: _IOWR('f', 17, struct procmap_query).
const procmapQuery = 0xc0686611

// Of enum procmap_query_flags.
const (
	vmaReadable = 1 << iota
	vmaWritable
	vmaExecutable
	vmaShared
)

// RegionAt asks for the mapping that has an address in it right now. Its name is not told. The error is unix.ENOENT if there is none.
func RegionAt(pid int, addr uint64) (Region, error) {
	f, err := os.Open(Path(pid, "maps"))
	if err != nil {
		return Region{}, err
	}
	defer f.Close()
	q := struct { // struct procmap_query
		size, flags, addr                             uint64
		start, end, vmaFlags, pageSize, offset, inode uint64
		devMajor, devMinor, vmaNameSize, buildIDSize  uint32
		vmaName, buildID                              uint64
	}{addr: addr}
	q.size = uint64(unsafe.Sizeof(q))
	switch _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), procmapQuery, uintptr(unsafe.Pointer(&q))); errno {
	case 0:
	case unix.ENOTTY:
		return Region{}, ErrNoRegionAt
	default:
		return Region{}, fmt.Errorf("mapping at %x of process %d: %w", addr, pid, errno)
	}
	perms := []byte("---p")
	for i, mark := range []byte("rwxs") {
		if q.vmaFlags&(vmaReadable<<i) != 0 {
			perms[i] = mark
		}
	}
	return Region{Start: q.start, End: q.end, Perms: string(perms), Inode: q.inode}, nil
}

func parseRegions(text []byte) ([]Region, error) {
	var out []Region
	for line := range bytes.Lines(text) {
		// START-END PERMS OFFSET DEV INODE NAME
		f := strings.Fields(string(line))
		if len(f) < 5 {
			return nil, fmt.Errorf("a mapping that cannot be read: %q", line)
		}
		low, high, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(low, 16, 64)
		end, err2 := strconv.ParseUint(high, 16, 64)
		inode, err3 := strconv.ParseUint(f[4], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil || len(f[1]) != 4 || end <= start {
			return nil, fmt.Errorf("a mapping that cannot be read: %q", line)
		}
		out = append(out, Region{Start: start, End: end, Perms: f[1], Inode: inode, Name: strings.Join(f[5:], " ")})
	}
	return out, nil
}

// Smaps is what /proc/PID/smaps says, of a process that stands still.
func Smaps(pid int) ([]byte, error) {
	fd, err := unix.Open(Path(pid, "smaps"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// The kernel makes the entries in a page of its own, and makes one again that does not fit behind others, for which it counts all pages of the mapping a
	// second time. With less asked for than an entry has, there is never another one before it.
	const less = 512
	out := make([]byte, 0, 1<<16)
	for {
		if cap(out)-len(out) < less {
			out = append(out, make([]byte, len(out))...)[:len(out)]
		}
		n, err := unix.Read(fd, out[len(out):len(out)+less])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		case n == 0:
			return out, nil
		default:
			out = out[:len(out)+n]
		}
	}
}
