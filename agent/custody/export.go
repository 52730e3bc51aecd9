package custody

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"ss/fault"
	"ss/internal/disk"
	"ss/store/images"
	"ss/store/keys"
	"ss/store/pack"
)

// ExportOptions say which image set to stream, and where it may be if it is not whole here.
type ExportOptions struct {
	Key     images.Key
	Digest  string
	JobKey  keys.Job
	Sources []Peer
	Vaults  []string
}

// PlainFile is a file of an image set, outside it.
type PlainFile struct {
	Path string // with slashes; MEMBER/…. The set's meta has none
	Size int64
	Mode uint32
}

// Export makes an image set plain files and hands them over in the order of their paths, the set's meta first, as a file without a
// path. Nothing is left of it here that was not here before.
func (h *Holder) Export(ctx context.Context, x ExportOptions, put func(f PlainFile, r io.Reader) error) error {
	return h.fault(h.export(ctx, x, put))
}

func (h *Holder) export(ctx context.Context, x ExportOptions, put func(f PlainFile, r io.Reader) error) (err error) {
	if err := checkKey(x.Key); err != nil {
		return err
	}
	done, err := h.fetch(x.Key)
	if err != nil {
		return err
	}
	defer done()
	if _, err := h.cfg.Store.Manifest(x.Key); errors.Is(err, images.ErrNotFound) {
		// It comes here for the export alone.
		defer func() { err = errors.Join(err, h.SettleCopy(x.Key, false)) }()
	}
	if _, err := h.cfg.Store.Fetch(ctx, x.Key, x.Digest, false, h.sources(x.Sources, x.Vaults)); err != nil {
		return DiskFull(h.cfg.Dir, err)
	}
	if err := h.fitsInScratch(x.Key); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(h.cfg.Scratch, "export-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	dir := filepath.Join(tmp, "set")
	index, err := h.cfg.Store.Unpack(ctx, x.Key, x.Digest, x.JobKey, dir, nil)
	if err != nil {
		return DiskFull(tmp, err)
	}
	if err := put(PlainFile{Size: int64(len(index.Meta))}, bytes.NewReader(index.Meta)); err != nil {
		return err
	}
	for _, f := range index.Files { // by path
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := exportFile(dir, f, put); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return nil
}

func exportFile(dir string, f pack.File, put func(f PlainFile, r io.Reader) error) error {
	r, err := os.Open(filepath.Join(dir, filepath.FromSlash(f.Path)))
	if err != nil {
		return err
	}
	defer r.Close()
	return put(PlainFile{Path: f.Path, Size: f.Size, Mode: f.Mode}, r)
}

func (h *Holder) fitsInScratch(key images.Key) error {
	man, err := h.cfg.Store.Manifest(key)
	if err != nil {
		return err
	}
	free, err := disk.Free(h.cfg.Scratch)
	if err != nil {
		return err
	}
	if man.Bytes > free {
		return fault.New(fault.Refused, fmt.Sprintf("the plain files need %d MiB in %s, and %d MiB are free there", mib(man.Bytes), h.cfg.Scratch, free>>20), roomNext)
	}
	return nil
}

// fetch takes an image set for one fetch at a time: what an export brings here in passing, another must not believe to have.
func (h *Holder) fetch(key images.Key) (done func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fetching[key] {
		return nil, fault.New(fault.Conflict, fmt.Sprintf("the images %s are being fetched or exported already", key), "try again when that is over")
	}
	h.fetching[key] = true
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.fetching, key)
	}, nil
}

// Fetch makes an image set whole here, every object of it read, and those that are missing or damaged fetched from the hosts
// and vaults. It is committed if the manifest of its cut is here, and in doubt otherwise, until PutCut.
func (h *Holder) Fetch(ctx context.Context, key images.Key, digest string, hosts []Peer, vaults []string) (images.Moved, error) {
	moved, err := h.fetchDeep(ctx, key, digest, hosts, vaults)
	return moved, h.fault(err)
}

func (h *Holder) fetchDeep(ctx context.Context, key images.Key, digest string, hosts []Peer, vaults []string) (images.Moved, error) {
	if err := checkKey(key); err != nil {
		return images.Moved{}, err
	}
	done, err := h.fetch(key)
	if err != nil {
		return images.Moved{}, err
	}
	defer done()
	moved, err := h.cfg.Store.Fetch(ctx, key, digest, true, h.sources(hosts, vaults))
	if err != nil {
		return moved, DiskFull(h.cfg.Dir, err)
	}
	cuts, err := h.cfg.Store.Cuts(ctx)
	if err != nil {
		return moved, err
	}
	if _, ok := cuts[key.Job][key.Snapshot]; ok {
		return moved, h.cfg.Store.Commit(key)
	}
	return moved, nil
}

// Push puts an image set that this host holds into a vault.
func (h *Holder) Push(ctx context.Context, key images.Key, digest, vault string) (images.Moved, error) {
	moved, err := h.pushTo(ctx, key, digest, vault)
	return moved, h.fault(err)
}

func (h *Holder) pushTo(ctx context.Context, key images.Key, digest, vault string) (images.Moved, error) {
	if err := checkKey(key); err != nil {
		return images.Moved{}, err
	}
	man, err := h.cfg.Store.Manifest(key)
	if err != nil {
		return images.Moved{}, err
	}
	if man.Digest != digest {
		return images.Moved{}, &images.IntegrityError{Object: images.SetName(key), Detail: fmt.Sprintf("its digest is %s, and the cut's %s", man.Digest, digest)}
	}
	return h.push(ctx, key, vault)
}
