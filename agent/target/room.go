package target

import (
	"math"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ss/agent/files"
)

// disk is a file system that files of the cuts are put back on.
type disk struct {
	dev    uint64
	dir    string // a folder on it
	first  Arrival
	needed int64 // bytes
	free   int64
}

// room adds up, for each file system, what the files of the cuts will take there, and compares that with what is free. A file that is
// overwritten needs only what it has become shorter by; one that is replaced goes when the restore has succeeded, so it gives no room before.
func (t *plan) room() {
	var disks []*disk
	counted := map[string]bool{}
	for _, c := range t.Coming {
		for _, f := range c.Files {
			name := f.Names()[0]
			if counted[name] {
				continue // two members have it
			}
			counted[name] = true
			dir, err := existing(filepath.Dir(name))
			if err != nil {
				continue // putBackable says so
			}
			var st unix.Stat_t
			if unix.Stat(dir, &st) != nil {
				continue
			}
			i := slices.IndexFunc(disks, func(d *disk) bool { return d.dev == st.Dev })
			if i < 0 {
				i, disks = len(disks), append(disks, &disk{dev: st.Dev, dir: dir, first: c, free: free(dir)})
			}
			disks[i].needed += growth(f, name)
		}
	}
	for _, d := range disks {
		if d.needed > d.free {
			t.add(d.first, "files of the cut need %d MiB more on the file system of %s, and %d MiB are free there: make room", mib(d.needed), d.dir, d.free>>20)
		}
	}
}

// free is the room of a file system for root, in bytes; more than any file where it does not say.
func free(dir string) int64 {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil || fs.Blocks == 0 { // ramfs takes what memory there is
		return math.MaxInt64
	}
	return int64(fs.Bfree) * fs.Bsize
}

// growth is how many bytes a file takes more than what is there now.
func growth(f files.Stored, name string) int64 {
	data := f.Size
	if f.Blocks > 0 {
		data = min(data, f.Blocks)
	}
	var st unix.Stat_t
	if unix.Lstat(name, &st) == nil && (st.Dev == f.Dev && st.Ino == f.Ino || st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 && int(st.Uid) == f.UID && int(st.Gid) == f.GID) { // it is overwritten
		data -= st.Blocks * 512
	}
	return max(data, 0)
}

// mib rounds up.
func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }
