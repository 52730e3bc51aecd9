package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"ss/fault"
	"ss/store/images"
	"ss/store/keys"
	"ss/store/pack"
)

// Export says which image set to stream, and where it may be if it is not whole here.
type Export struct {
	Key     images.Key
	Digest  string
	JobKey  keys.Job
	Sources []Participant
	Vaults  []string
}

// PlainFile is a file of an image set, outside it.
type PlainFile struct {
	Path string // with slashes; MEMBER/…. The set's meta has none
	Size int64
	Mode uint32
}

// ExportImages makes an image set plain files and hands them over in the order of their paths, the set's meta first, as a file without a
// path. Nothing is left of it here that was not here before.
func (a *Agent) ExportImages(ctx context.Context, x Export, put func(f PlainFile, r io.Reader) error) error {
	return a.imageFault(a.export(ctx, x, put))
}

func (a *Agent) export(ctx context.Context, x Export, put func(f PlainFile, r io.Reader) error) (err error) {
	if err := checkKey(x.Key); err != nil {
		return err
	}
	done, err := a.fetch(x.Key)
	if err != nil {
		return err
	}
	defer done()
	if _, err := a.cfg.Images.Manifest(x.Key); errors.Is(err, images.ErrNotFound) {
		// It comes here for the export alone.
		defer func() { err = errors.Join(err, a.SettleCopy(x.Key, false)) }()
	}
	if _, err := a.cfg.Images.Fetch(ctx, x.Key, x.Digest, false, a.sources(x.Sources, x.Vaults)); err != nil {
		return diskFull(a.cfg.ImageDir, err)
	}
	if err := a.fitsInScratch(x.Key); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(a.scratch(), "export-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	dir := filepath.Join(tmp, "set")
	index, err := a.cfg.Images.Unpack(ctx, x.Key, x.Digest, x.JobKey, dir, nil)
	if err != nil {
		return diskFull(tmp, err)
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

func (a *Agent) fitsInScratch(key images.Key) error {
	man, err := a.cfg.Images.Manifest(key)
	if err != nil {
		return err
	}
	free, err := freeIn(a.scratch())
	if err != nil {
		return err
	}
	if man.Bytes > free {
		return fault.New(fault.Refused, fmt.Sprintf("the plain files need %d MiB in %s, and %d MiB are free there", mib(man.Bytes), a.scratch(), free>>20), roomNext)
	}
	return nil
}

// fetch takes an image set for one fetch at a time: what an export brings here in passing, another must not believe to have.
func (a *Agent) fetch(key images.Key) (done func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fetching[key] {
		return nil, fault.New(fault.Conflict, fmt.Sprintf("the images %s are being fetched or exported already", key), "try again when that is over")
	}
	a.fetching[key] = true
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.fetching, key)
	}, nil
}

// FetchImages makes an image set whole here, every object of it read, and those that are missing or damaged fetched from the hosts
// and vaults. It is committed if the manifest of its cut is here, and in doubt otherwise, until PutCut.
func (a *Agent) FetchImages(ctx context.Context, key images.Key, digest string, hosts []Participant, vaults []string) (images.Moved, error) {
	moved, err := a.fetchDeep(ctx, key, digest, hosts, vaults)
	return moved, a.imageFault(err)
}

func (a *Agent) fetchDeep(ctx context.Context, key images.Key, digest string, hosts []Participant, vaults []string) (images.Moved, error) {
	if err := checkKey(key); err != nil {
		return images.Moved{}, err
	}
	done, err := a.fetch(key)
	if err != nil {
		return images.Moved{}, err
	}
	defer done()
	moved, err := a.cfg.Images.Fetch(ctx, key, digest, true, a.sources(hosts, vaults))
	if err != nil {
		return moved, diskFull(a.cfg.ImageDir, err)
	}
	cuts, err := a.cfg.Images.Cuts(ctx)
	if err != nil {
		return moved, err
	}
	if _, ok := cuts[key.Job][key.Snapshot]; ok {
		return moved, a.cfg.Images.Commit(key)
	}
	return moved, nil
}

// PushImages puts an image set that this host holds into a vault.
func (a *Agent) PushImages(ctx context.Context, key images.Key, digest, vault string) (images.Moved, error) {
	moved, err := a.pushTo(ctx, key, digest, vault)
	return moved, a.imageFault(err)
}

func (a *Agent) pushTo(ctx context.Context, key images.Key, digest, vault string) (images.Moved, error) {
	if err := checkKey(key); err != nil {
		return images.Moved{}, err
	}
	man, err := a.cfg.Images.Manifest(key)
	if err != nil {
		return images.Moved{}, err
	}
	if man.Digest != digest {
		return images.Moved{}, &images.IntegrityError{Object: images.SetName(key), Detail: fmt.Sprintf("its digest is %s, and the cut's %s", man.Digest, digest)}
	}
	return a.push(ctx, key, vault)
}
