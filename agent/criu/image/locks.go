package image

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	file_lock "github.com/checkpoint-restore/go-criu/v7/crit/images/file-lock"
	"golang.org/x/sys/unix"

	"ss/agent/target"
)

// Bits of FileLockEntry.flag, criu/include/file-lock.h.
const (
	lockPOSIX = 1
	lockFlock = 2
	lockOFD   = 4
)

// neededLocks are the locks that CRIU takes again, on files that have a name. It waits for those that others hold. A file without a name is made once more, and nobody
// else can have it locked.
func neededLocks(dir string, files []*fdinfo.FileEntry, ghosts map[uint32]bool) ([]target.NeededLock, error) {
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
	var out []target.NeededLock
	for _, l := range locks {
		if held[l.GetPid()] == nil {
			if held[l.GetPid()], err = descriptorsOf(dir, l.GetPid()); err != nil {
				return nil, err
			}
		}
		name := names[held[l.GetPid()][uint32(l.GetFd())]]
		if need, ok := neededLock(name, l); ok && !slices.Contains(out, need) {
			out = append(out, need)
		}
	}
	return out, nil
}

func neededLock(name string, l *file_lock.FileLockEntry) (target.NeededLock, bool) {
	n := target.NeededLock{Path: name, Flock: l.GetFlag()&lockFlock != 0, Write: l.GetType() == unix.F_WRLCK, Start: l.GetStart(), End: math.MaxInt64}
	if l.GetLen() > 0 {
		n.End = l.GetStart() + l.GetLen() - 1
	}
	return n, name != "" && l.GetFlag()&(lockPOSIX|lockFlock|lockOFD) != 0
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
