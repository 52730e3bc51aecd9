package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/fault"
	"ss/store/images"
	"ss/store/pack"
)

// index reads what a part consists of, here or from the first holder that has it right. Nothing is stored.
func (r *Restoration) index(ctx context.Context, part RestorePart) (images.Manifest, pack.Index, error) {
	return r.a.cfg.Images.FetchIndex(ctx, r.key(part.Host), part.Digest, r.plan.JobKey, r.a.sources(part.Sources, part.Vaults))
}

// roomFor is what a restore will take, in bytes.
type roomFor struct {
	unpacked int64
	objects  int64 // that are not here yet; what two parts share is counted twice
}

// count adds a part.
func (r *Restoration) count(ctx context.Context, room *roomFor, man images.Manifest) error {
	lacks, err := r.a.cfg.Images.Lacks(ctx, man)
	room.unpacked += man.Bytes
	room.objects += lacks
	return err
}

// lacking says which disk has not room enough.
func (r *Restoration) lacking(room roomFor) ([]string, error) {
	work := filepath.Dir(r.dir)
	free, err := freeIn(work)
	if err != nil {
		return nil, err
	}
	_, objects, err := r.a.cfg.Images.Space()
	if err != nil {
		return nil, err
	}
	lacks := lacking(
		demand{"the unpacked images", work, room.unpacked, free},
		demand{"the images to fetch", r.a.cfg.ImageDir, room.objects, objects},
	)
	for i := range lacks {
		lacks[i] += "; " + roomNext
	}
	return lacks, nil
}

// unpacked is the folder of the plain files of a source host's image set.
func (r *Restoration) unpacked(host string) string { return filepath.Join(r.dir, "unpacked", host) }

// Fetch is R2: every part is here, every byte of it is checked, and the images are rewritten for this host. It returns what its
// reader should know of damage that was found and healed on the way.
func (r *Restoration) Fetch(ctx context.Context) (notices []string, err error) {
	since := time.Now()
	if err := os.MkdirAll(filepath.Join(r.dir, "unpacked"), 0o700); err != nil {
		return nil, r.wrap("fetching", err)
	}
	errs := make([]error, len(r.plan.Parts))
	var wg sync.WaitGroup
	for i, part := range r.plan.Parts {
		wg.Go(func() { errs[i] = r.fetchPart(ctx, part) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, r.wrap("fetching", err)
	}
	if err := r.rewrite(); err != nil {
		return nil, r.wrap("rewriting", err)
	}
	if notices, err = r.healed(since); err != nil {
		return nil, r.wrap("fetching", err)
	}
	return notices, nil
}

// fetchPart brings what is missing here of a part, or is damaged, and unpacks it. A dump that was kept here needs neither.
func (r *Restoration) fetchPart(ctx context.Context, part RestorePart) error {
	kept, err := r.a.cfg.Images.UnpackKept(ctx, r.key(part.Host), part.Digest, r.unpacked(part.Host), part.wants)
	if kept || err != nil {
		return err
	}
	err = r.fetchAndUnpack(ctx, part, false)
	if imageKind(err) == fault.Integrity && ctx.Err() == nil {
		// Damage that a CRC does not show shows in the decoding, or none of the copies is whole: the digests tell.
		r.a.log.Warn("images read in full, as they are damaged", "job", r.job(), "images", r.key(part.Host).String(), "error", err)
		if err = os.RemoveAll(r.unpacked(part.Host)); err == nil {
			err = r.fetchAndUnpack(ctx, part, true)
		}
	}
	if err == nil {
		return nil
	}
	return &fault.Error{Kind: imageKind(err), Err: fmt.Errorf("images of %s: %w", part.Host, err),
		Next: verifyNext}
}

// verifyNext is what to do about images that are damaged.
const verifyNext = "ssctl verify says which copies are whole; ssctl show says which hosts and vaults have one"

func (r *Restoration) fetchAndUnpack(ctx context.Context, part RestorePart, deep bool) error {
	key := r.key(part.Host)
	moved, err := r.a.cfg.Images.Fetch(ctx, key, part.Digest, deep, r.a.sources(part.Sources, part.Vaults))
	if err != nil {
		return diskFull(r.a.cfg.ImageDir, err)
	}
	if err := r.a.cfg.Images.Commit(key); err != nil {
		return err
	}
	if moved.Objects > 0 {
		r.a.log.Info("images fetched", "job", r.job(), "images", key.String(), "objects", moved.Objects, "bytes", moved.Bytes)
	}
	_, err = r.a.cfg.Images.Unpack(ctx, key, part.Digest, r.plan.JobKey, r.unpacked(part.Host), part.wants)
	return diskFull(r.dir, err)
}

// wants says whether a file of the set belongs to a member that is to be restored here.
func (part RestorePart) wants(p string) bool {
	member, _, _ := strings.Cut(path.Clean(p), "/")
	return slices.ContainsFunc(part.Members, func(m Member) bool { return m.Name == member })
}

// healed says what was found damaged of the job's images since then, and made whole.
func (r *Restoration) healed(since time.Time) ([]string, error) {
	found, err := r.a.cfg.Images.Damaged()
	if err != nil {
		return nil, err
	}
	var notices []string
	for _, d := range found {
		if d.Job != r.job() || !d.Healed || d.Found.Before(since) {
			continue
		}
		r.a.log.Warn("damaged object healed", "job", d.Job, "object", d.Digest, "detail", d.Detail)
		notices = append(notices, fmt.Sprintf("object %.12s of the images was damaged (%s) and was fetched anew from another copy; look at the disk of %s", d.Digest, d.Detail, r.a.cfg.ImageDir))
	}
	return notices, nil
}

func (r *Restoration) rewrite() error {
	for _, part := range r.plan.Parts {
		for _, m := range part.Members {
			src := filepath.Join(r.unpacked(part.Host), m.Name, imagesFolder)
			dst := filepath.Join(r.dir, "rewritten", m.Name, imagesFolder)
			if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
				return err
			}
			if err := r.a.cfg.CRIU.Rewrite(src, dst, r.plan.Moved); err != nil {
				return diskFull(r.dir, fmt.Errorf("addresses in the images of %s: %w", m.Name, err))
			}
			r.members = append(r.members, restoring{part: part, member: m, images: dst})
		}
	}
	return nil
}
