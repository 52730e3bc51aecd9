package custody

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ss/fault"
	"ss/internal/disk"
	"ss/store/images"
	"ss/store/keys"
	"ss/store/pack"
)

// Part is an image set that is to be restored on this host.
type Part struct {
	Key     images.Key
	Digest  string // of its manifest
	JobKey  keys.Job
	Sources []Peer   // hosts that hold the set
	Vaults  []string // URLs of vaults that do
}

// NextVerify is what to do about images that are damaged.
const NextVerify = "ssctl verify says which copies are whole; ssctl show says which hosts and vaults have one"

// Index reads what a part consists of, here or from the first holder that has it right. Nothing is stored. Kind says what an error means.
func (h *Holder) Index(ctx context.Context, p Part) (images.Manifest, pack.Index, error) {
	return h.cfg.Store.FetchIndex(ctx, p.Key, p.Digest, p.JobKey, h.sources(p.Sources, p.Vaults))
}

// Room is what a restore will take, in bytes. The zero value is nothing.
type Room struct {
	unpacked int64
	objects  int64 // that are not here yet; what two parts share is counted twice
	kept     int64 // of files that are overwritten, until the restore has succeeded; what two members share is counted twice
	back     []backed
	made     []backed         // files and folders that are made, of no size
	freed    map[uint64]int64 // by device: what the live members hold, and the restore ends
}

// backed is what a restore writes at a path, in bytes, beside what is there.
type backed struct {
	host  string
	path  string
	ino   uint64
	bytes int64
}

// Keep adds what has to be kept of a file that is overwritten, in bytes.
func (r *Room) Keep(bytes int64) { r.kept += bytes }

// PutBack adds what is written at a path of this host beside what is there, in bytes. host and ino say which file of the cut that is, which several members
// may share; ino is 0 of one that nobody shares.
func (r *Room) PutBack(host, path string, ino uint64, bytes int64) {
	b := backed{host, path, ino, bytes}
	if bytes > 0 && (ino == 0 || !slices.Contains(r.back, b)) {
		r.back = append(r.back, b)
	}
}

// Make adds a file or folder that is made at a path of this host, beside what is there. host and ino are as of PutBack.
func (r *Room) Make(host, path string, ino uint64) {
	b := backed{host: host, path: path, ino: ino}
	if ino == 0 || !slices.Contains(r.made, b) {
		r.made = append(r.made, b)
	}
}

// inodes says which file systems can't have so many more files, as df -i shows it. Some know no such limit.
func (r *Room) inodes() []string {
	byDisk := map[uint64]int64{}
	var order []string
	for _, b := range r.made {
		disk, err := diskOf(filepath.Dir(b.path))
		if err != nil {
			continue // the target's plan says what is wrong with that folder
		}
		if byDisk[disk]++; byDisk[disk] == 1 {
			order = append(order, b.path)
		}
	}
	var out []string
	for _, path := range order {
		dir := existing(filepath.Dir(path))
		disk, err := diskOf(dir)
		if err != nil {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Files > 0 && int64(st.Ffree) < byDisk[disk] {
			out = append(out, fmt.Sprintf("%d files and folders are made on the file system of %s, such as %s, and it has room for %d more (df -i): remove files there, or mount a file system with more inodes", byDisk[disk], dir, path, st.Ffree))
		}
	}
	return out
}

// Freed says how many bytes the end of the live members frees before anything is put back, by the device of the file system.
func (r *Room) Freed(byDevice map[uint64]int64) { r.freed = byDevice }

// Count adds the set of a manifest.
func (h *Holder) Count(ctx context.Context, room *Room, man images.Manifest) error {
	lacks, err := h.cfg.Store.Lacks(ctx, man)
	room.unpacked += man.Bytes
	room.objects += lacks
	return err
}

// Lacking says which disks have not room enough for images that are unpacked in dir. nil: all have.
func (h *Holder) Lacking(dir string, room Room) ([]string, error) {
	free, err := disk.Free(dir)
	if err != nil {
		return nil, err
	}
	_, objects, err := h.cfg.Store.Space()
	if err != nil {
		return nil, err
	}
	return append(room.inodes(), lacking(append(room.putBack(),
		demand{"the unpacked images", dir, room.unpacked, free, roomNext},
		demand{"what files of the cut hold now, until the restore has succeeded,", dir, room.kept, free, roomNext},
		demand{"the images to fetch", h.cfg.Dir, room.objects, objects, roomNext},
	)...)...), nil
}

// putBack is what the file systems of the host must have room for, one demand for each.
func (r *Room) putBack() []demand {
	slices.SortStableFunc(r.back, func(a, b backed) int { return cmp.Compare(b.bytes, a.bytes) })
	byDisk := map[uint64][]backed{}
	var order []uint64
	for _, b := range r.back {
		disk, err := diskOf(filepath.Dir(b.path))
		if err != nil {
			continue // the target's plan says what is wrong with that folder
		}
		if byDisk[disk] == nil {
			order = append(order, disk)
		}
		byDisk[disk] = append(byDisk[disk], b)
	}
	var out []demand
	for _, disk := range order {
		if d, ok := demandOf(byDisk[disk], r.freed[disk]); ok {
			out = append(out, d)
		}
	}
	return out
}

// demandOf is what files of one file system demand of it, the largest first, when so many bytes have been freed there. A file takes whole blocks, and the
// file system notes where they are. Not ok: that file system has no limit, as ramfs.
func demandOf(files []backed, freed int64) (d demand, ok bool) {
	d = demand{what: "the content of " + files[0].path, dir: existing(filepath.Dir(files[0].path)), next: "make room there, or mount a larger file system"}
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil || st.Blocks == 0 {
		return d, false
	}
	d.free = int64(st.Bavail) * st.Bsize
	for _, b := range files {
		d.bytes += b.bytes + b.bytes/256 + 4096
	}
	d.bytes = max(d.bytes-freed, 0)
	if more := len(files) - 1; more > 0 {
		d.what += fmt.Sprintf(" and of %d more", more)
	}
	return d, true
}

// Unpack brings what is missing here of a part, or is damaged, and puts the files that wants chooses into dir as plain files, every byte checked. A
// dump that was kept here needs neither.
func (h *Holder) Unpack(ctx context.Context, p Part, dir string, wants func(path string) bool) error {
	kept, err := h.cfg.Store.UnpackKept(ctx, p.Key, p.Digest, dir, wants)
	if kept || err != nil {
		return err
	}
	err = h.fetchAndUnpack(ctx, p, dir, wants, false)
	if Kind(err) == fault.Integrity && ctx.Err() == nil {
		// Damage that a CRC does not show shows in the decoding, or none of the copies is whole: the digests tell.
		h.cfg.Log.Warn("images read in full, as they are damaged", "job", p.Key.Job, "images", p.Key.String(), "error", err)
		if err = os.RemoveAll(dir); err == nil {
			err = h.fetchAndUnpack(ctx, p, dir, wants, true)
		}
	}
	if err == nil {
		return nil
	}
	return &fault.Error{Kind: Kind(err), Err: fmt.Errorf("images of %s: %w", p.Key.Host, err), Next: NextVerify}
}

func (h *Holder) fetchAndUnpack(ctx context.Context, p Part, dir string, wants func(string) bool, deep bool) error {
	moved, err := h.cfg.Store.Fetch(ctx, p.Key, p.Digest, deep, h.sources(p.Sources, p.Vaults))
	if err != nil {
		return h.Stored(err)
	}
	if err := h.cfg.Store.Commit(p.Key); err != nil {
		return err
	}
	if moved.Objects > 0 {
		h.cfg.Log.Info("images fetched", "job", p.Key.Job, "images", p.Key.String(), "objects", moved.Objects, "bytes", moved.Bytes)
	}
	_, err = h.cfg.Store.Unpack(ctx, p.Key, p.Digest, p.JobKey, dir, wants)
	return DiskFull(filepath.Dir(dir), err)
}

// Healed says what was found damaged of a job's images since then, and made whole.
func (h *Holder) Healed(job string, since time.Time) ([]string, error) {
	found, err := h.cfg.Store.Damaged()
	if err != nil {
		return nil, err
	}
	var notices []string
	for _, d := range found {
		if d.Job != job || !d.Healed || d.Found.Before(since) {
			continue
		}
		h.cfg.Log.Warn("damaged object healed", "job", d.Job, "object", d.Digest, "detail", d.Detail)
		notices = append(notices, fmt.Sprintf("object %.12s of the images was damaged (%s) and was fetched again from another copy; look at the disk of %s", d.Digest, d.Detail, h.cfg.Dir))
	}
	return notices, nil
}
