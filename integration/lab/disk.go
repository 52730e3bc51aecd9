package lab

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Disk is a private folder of a host that has only so much room. It is in memory, and goes when the host is switched off.
type Disk struct {
	host   *Host
	folder string
}

// LimitDisk puts an empty file system of that many bytes in the place of one of the host's private folders. Call it before
// anything runs there.
func (h *Host) LimitDisk(folder string, size int64) *Disk {
	h.lab.tb.Helper()
	err := h.inside(func() error {
		return unix.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprintf("mode=0700,size=%d", size))
	})
	if err == nil {
		err = h.noteMounts()
	}
	if err != nil {
		h.lab.tb.Fatalf("limit %s of %s: %v", folder, h.Name, err)
	}
	h.limited = append(h.limited, folder)
	return &Disk{host: h, folder: folder}
}

// Leave changes the file system's size so that no more than free bytes can still be written. It may be called while somebody writes.
func (d *Disk) Leave(free int64) {
	d.host.lab.tb.Helper()
	path := filepath.Join(fmt.Sprintf("/proc/%d/root", d.host.Pid()), d.folder)
	for {
		var st unix.Statfs_t
		err := unix.Statfs(path, &st)
		if err == nil {
			used := (int64(st.Blocks) - int64(st.Bfree)) * st.Bsize
			err = d.host.inside(func() error {
				return unix.Mount("tmpfs", d.folder, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("mode=0700,size=%d", max(used+free, st.Bsize)))
			})
		}
		if errors.Is(err, unix.EINVAL) {
			continue // more has been written meanwhile than the new size holds
		}
		if err != nil {
			d.host.lab.tb.Fatalf("resize %s of %s: %v", d.folder, d.host.Name, err)
		}
		return
	}
}
