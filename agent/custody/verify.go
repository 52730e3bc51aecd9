package custody

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"ss/fault"
	"ss/marker"
	"ss/store/images"
	"ss/store/keys"
)

// Verification says what to verify.
type Verification struct {
	Key      images.Key
	Digest   string    // of the set's manifest
	JobKey   *keys.Job // nil: only what can be said without it
	ReadData bool      // decode every chunk, and compare it with its name
	Vault    string    // URL; "": on this host
}

// Verified is what Verify found in an image set that is whole.
type Verified struct {
	Ends  []marker.End // of a host's copy, with a key: M8 can be checked again
	Bytes int64
	Files int
}

// Verify reads every object of an image set and compares it with its digest; with ReadData it decodes every chunk, too, and compares it
// with its name. With a key it reads the connections in the images. Of a vault's copy only the digests are verified, whatever is asked
// for, and no ends are returned: an object that has its digest is the one that a host's copy has.
func (h *Holder) Verify(ctx context.Context, v Verification) (Verified, error) {
	if err := checkKey(v.Key); err != nil {
		return Verified{}, h.fault(err)
	}
	man, err := h.manifest(ctx, v)
	if err != nil {
		return Verified{}, h.fault(err)
	}
	out := Verified{Files: man.Files, Bytes: man.Bytes}
	if v.JobKey == nil || v.Vault != "" {
		return out, nil
	}
	if out.Ends, err = h.endsOf(ctx, v.Key, man.Digest, *v.JobKey); err != nil {
		return Verified{}, h.fault(err)
	}
	return out, nil
}

func (h *Holder) manifest(ctx context.Context, v Verification) (images.Manifest, error) {
	switch {
	case v.Vault != "":
		vault, err := h.vault(ctx, v.Vault)
		if err != nil {
			return images.Manifest{}, err
		}
		return images.VerifyIn(ctx, vault, v.Key, v.Digest)
	case !v.ReadData:
		return h.cfg.Store.Verify(ctx, v.Key, v.Digest)
	case v.JobKey == nil:
		return images.Manifest{}, fault.New(fault.Usage, "data cannot be read without the job's key", "use an ssctl of the agent's version")
	}
	return h.cfg.Store.VerifyData(ctx, v.Key, v.Digest, *v.JobKey)
}

// endsOf reads the connections in an image set. Memory is left where it is.
func (h *Holder) endsOf(ctx context.Context, key images.Key, digest string, k keys.Job) (ends []marker.End, err error) {
	tmp, err := os.MkdirTemp(h.cfg.Scratch, "verify-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	dir := filepath.Join(tmp, "set")
	index, err := h.cfg.Store.Unpack(ctx, key, digest, k, dir, noMemory)
	if err != nil {
		return nil, DiskFull(tmp, err)
	}
	members, err := memberNames(index.Meta)
	if err != nil {
		return nil, fmt.Errorf("the images of %s: %w", key, err)
	}
	for _, name := range members {
		of, err := h.cfg.Ends.Ends(filepath.Join(dir, name, ImagesFolder))
		if err != nil {
			return nil, &fault.Error{Kind: fault.Integrity, Err: fmt.Errorf("read the connections of %s: %w", name, err)}
		}
		for i := range of {
			of[i].Host, of[i].Member = marker.HostID(key.Host), name
		}
		ends = append(ends, of...)
	}
	return ends, nil
}

// noMemory wants CRIU's images, but for the memory of processes (pages-*.img).
func noMemory(p string) bool {
	dir, file := path.Split(p)
	return path.Base(dir) == ImagesFolder && !strings.HasPrefix(file, "pages-")
}
