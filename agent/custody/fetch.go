package custody

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

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
}

// Keep adds what has to be kept of a file that is overwritten, in bytes.
func (r *Room) Keep(bytes int64) { r.kept += bytes }

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
	lacks := lacking(
		demand{"the unpacked images", dir, room.unpacked, free},
		demand{"what files of the cut hold now, until the restore has succeeded,", dir, room.kept, free},
		demand{"the images to fetch", h.cfg.Dir, room.objects, objects},
	)
	for i := range lacks {
		lacks[i] += "; " + roomNext
	}
	return lacks, nil
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
