package image

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	file_lock "github.com/checkpoint-restore/go-criu/v7/crit/images/file-lock"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ss/agent/target"
)

// Bits of FileLockEntry.flag, criu/include/file-lock.h.
const (
	lockPOSIX = 1
	lockFlock = 2
	lockOFD   = 4
	lockLease = 8
)

// leaseBreaking is added to the type of a lease that is being broken.
const leaseBreaking = 4

// heldLock is a lock or lease of the images on a file that has a name.
type heldLock struct {
	name string
	*file_lock.FileLockEntry
}

// heldLocks reads the locks and leases of the images. A file without a name is made once more, and nobody else can have it locked or open.
func heldLocks(dir string, files []*fdinfo.FileEntry, ghosts map[uint32]bool) ([]heldLock, error) {
	path := filepath.Join(dir, "filelocks.img")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	locks, err := ReadAll(path, "filelocks", &file_lock.FileLockEntry{})
	if err != nil {
		return nil, err
	}
	names := map[uint32]string{}
	for _, f := range files {
		if reg := f.GetReg(); reg != nil && !ghosts[reg.GetId()] && !strings.HasSuffix(reg.GetName(), deletedSuffix) &&
			!strings.HasPrefix(filepath.Base(reg.GetName()), linkRemap) {
			names[reg.GetId()] = filepath.Join("/", reg.GetName())
		}
	}
	held := map[int32]map[uint32]uint32{}
	var out []heldLock
	for _, l := range locks {
		if held[l.GetPid()] == nil {
			if held[l.GetPid()], err = descriptorsOf(dir, l.GetPid()); err != nil {
				return nil, err
			}
		}
		if name := names[held[l.GetPid()][uint32(l.GetFd())]]; name != "" {
			out = append(out, heldLock{name, l})
		}
	}
	return out, nil
}

// neededLocks are the locks that CRIU takes again. It waits for those that others hold.
func neededLocks(held []heldLock) (out []target.NeededLock) {
	for _, l := range held {
		if need := neededLock(l); l.GetFlag()&(lockPOSIX|lockFlock|lockOFD) != 0 && !slices.Contains(out, need) {
			out = append(out, need)
		}
	}
	return out
}

// neededLeases are the leases that CRIU takes again. It fails where the kernel does not give one.
func neededLeases(held []heldLock) (out []target.NeededLease) {
	for _, l := range held {
		need := target.NeededLease{Path: l.name, Write: l.GetType()&^leaseBreaking == unix.F_WRLCK}
		if l.GetFlag()&lockLease != 0 && !slices.Contains(out, need) {
			out = append(out, need)
		}
	}
	return out
}

func neededLock(l heldLock) target.NeededLock {
	n := target.NeededLock{Path: l.name, Flock: l.GetFlag()&lockFlock != 0, Write: l.GetType() == unix.F_WRLCK, Start: l.GetStart(), End: math.MaxInt64}
	if l.GetLen() > 0 {
		n.End = l.GetStart() + l.GetLen() - 1
	}
	return n
}

// descriptorsOf maps the descriptors of a process to the numbers that their files have in the images.
func descriptorsOf(dir string, pid int32) (map[uint32]uint32, error) {
	ids, err := ReadOne(filepath.Join(dir, fmt.Sprintf("ids-%d.img", pid)), &criu_core.TaskKobjIdsEntry{})
	if err != nil {
		return nil, err
	}
	table, err := ReadAll(filepath.Join(dir, fmt.Sprintf("fdinfo-%d.img", ids.GetFilesId())), "fdinfo", &fdinfo.FdinfoEntry{})
	if err != nil {
		return nil, err
	}
	out := map[uint32]uint32{}
	for _, e := range table {
		out[e.GetFd()] = e.GetId()
	}
	return out, nil
}

// ProcessLock is a lock of a process on a range of bytes (POSIX: fcntl(2), F_SETLK).
type ProcessLock struct {
	Pid        int // in the member's PID namespace
	Fd         int // by which it was taken
	Write      bool
	Start, End int64 // End is math.MaxInt64 where the range has no end
}

// AddLocks adds those of the locks to the images that they do not have yet.
func AddLocks(dir string, held []ProcessLock) error {
	if len(held) == 0 {
		return nil
	}
	path := filepath.Join(dir, "filelocks.img")
	img := &crit.CriuImage{Magic: magicOf["filelocks"], EntryType: &file_lock.FileLockEntry{}}
	var have []*file_lock.FileLockEntry
	_, err := os.Stat(path)
	if err == nil {
		if img, err = decode(path, "filelocks", &file_lock.FileLockEntry{}); err == nil {
			have, err = entriesOf[*file_lock.FileLockEntry](img)
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	missing := false
	for _, h := range held {
		l := h.entry()
		// A process that has the file open more than once shows its locks by one of these descriptors, and CRIU may have another.
		if slices.ContainsFunc(have, func(o *file_lock.FileLockEntry) bool {
			return o.GetFlag() == l.GetFlag() && o.GetPid() == l.GetPid() && o.GetFd() == l.GetFd() && o.GetType() == l.GetType() && o.GetStart() == l.GetStart() && o.GetLen() == l.GetLen()
		}) {
			continue
		}
		img.Entries = append(img.Entries, &crit.CriuEntry{Message: l})
		missing = true
	}
	if !missing {
		return nil
	}
	return encode(path, img)
}

// entry is how CRIU writes the lock down (criu/file-lock.c).
func (l ProcessLock) entry() *file_lock.FileLockEntry {
	kind, length := uint32(unix.F_RDLCK), int64(0)
	if l.Write {
		kind = unix.F_WRLCK
	}
	if l.End != math.MaxInt64 {
		length = l.End - l.Start + 1
	}
	return &file_lock.FileLockEntry{Flag: proto.Uint32(lockPOSIX), Type: proto.Uint32(kind), Pid: proto.Int32(int32(l.Pid)), Fd: proto.Int32(int32(l.Fd)),
		Start: proto.Int64(l.Start), Len: proto.Int64(length)}
}
