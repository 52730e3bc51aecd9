package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"golang.org/x/sys/unix"
)

// vmaMemfd marks a mapping of a memfd in VmaEntry.status, criu/include/image.h.
const vmaMemfd = 1 << 14

// sealedMemfds are the IDs of the memfds in dir that must not be written any more (F_SEAL_WRITE, fcntl(2)), as files and mappings name them.
func sealedMemfds(dir string) (map[uint64]bool, error) {
	inodes, err := ReadAll(filepath.Join(dir, "memfd.img"), "memfd", &memfd.MemfdInodeEntry{})
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sealed := map[uint64]bool{}
	for _, inode := range inodes {
		if inode.GetSeals()&unix.F_SEAL_WRITE != 0 {
			sealed[inode.GetInodeId()] = true
		}
	}
	if len(sealed) == 0 {
		return nil, nil
	}
	entries, err := readFiles(dir)
	if err != nil {
		return nil, err
	}
	ids := map[uint64]bool{}
	for _, e := range entries {
		if m := e.GetMemfd(); m != nil && sealed[uint64(m.GetInodeId())] {
			ids[uint64(e.GetId())] = true
		}
	}
	return ids, nil
}

// rewriteMappings has CRIU map sealed memfds through a descriptor that cannot write. CRIU seals a memfd when everything is mapped. The kernel refuses
// that (EBUSY) while there is a shared mapping that mprotect could make writable, and one that was made through a descriptor for
// reading and writing is such a mapping. In the member it was not: there the seal was older than the mapping, and the kernel takes that right from
// a mapping of what is sealed. So the member notices no difference.
func rewriteMappings(from, to string, sealed map[uint64]bool) error {
	img, err := decode(from, "mm", &mm.MmEntry{})
	if err != nil {
		return err
	}
	changed := false
	for _, e := range img.Entries {
		memory, ok := e.Message.(*mm.MmEntry)
		if !ok {
			return fmt.Errorf("image %s: an entry of type %T", filepath.Base(from), e.Message)
		}
		for _, vma := range memory.GetVmas() {
			if vma.GetStatus()&vmaMemfd == 0 || vma.GetStatus()&vmaFileShared == 0 || !sealed[vma.GetShmid()] {
				continue
			}
			readOnly := uint32(unix.O_RDONLY)
			vma.Fdflags, changed = &readOnly, true
		}
	}
	if !changed {
		return linkFile(from, to)
	}
	return encode(to, img)
}
