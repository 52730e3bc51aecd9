package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"ss/fault"
	"ss/marker"
	"ss/names"
	"ss/store/images"
	"ss/store/keys"
	"ss/store/pack"
)

// scratchFolder is for plain files that nobody needs for long. Whoever puts some there removes them, and so does the start of an
// agent.
const scratchFolder = "scratch"

func (a *Agent) scratch() string { return filepath.Join(a.cfg.StateDir, scratchFolder) }

// Verification says what to verify.
type Verification struct {
	Key      images.Key
	Digest   string    // of the set's manifest
	JobKey   *keys.Job // nil: only what can be said without it
	ReadData bool      // decode every chunk, and compare it with its name
	Vault    string    // URL; "": on this host
}

// Verified is what VerifyImages found in an image set that is whole.
type Verified struct {
	Ends  []marker.End // of a host's copy, with a key: M8 can be checked anew
	Bytes int64
	Files int
}

// VerifyImages reads every object of an image set and compares it with its digest; with ReadData it decodes every chunk, too, and compares it
// with its name. With a key it reads the connections in the images. Of a vault's copy only the digests are verified, whatever is asked
// for, and no ends are returned: an object that has its digest is the one that a host's copy has.
func (a *Agent) VerifyImages(ctx context.Context, v Verification) (Verified, error) {
	if err := checkKey(v.Key); err != nil {
		return Verified{}, a.imageFault(err)
	}
	man, err := a.verify(ctx, v)
	if err != nil {
		return Verified{}, a.imageFault(err)
	}
	out := Verified{Files: man.Files, Bytes: man.Bytes}
	if v.JobKey == nil || v.Vault != "" {
		return out, nil
	}
	if out.Ends, err = a.endsOf(ctx, v.Key, man.Digest, *v.JobKey); err != nil {
		return Verified{}, a.imageFault(err)
	}
	return out, nil
}

func (a *Agent) verify(ctx context.Context, v Verification) (images.Manifest, error) {
	switch {
	case v.Vault != "":
		vault, err := a.vault(ctx, v.Vault)
		if err != nil {
			return images.Manifest{}, err
		}
		return images.VerifyIn(ctx, vault, v.Key, v.Digest)
	case !v.ReadData:
		return a.cfg.Images.Verify(ctx, v.Key, v.Digest)
	case v.JobKey == nil:
		return images.Manifest{}, fault.New(fault.Usage, "data cannot be read without the job's key", "use an ssctl of the agent's version")
	}
	return a.cfg.Images.VerifyData(ctx, v.Key, v.Digest, *v.JobKey)
}

// endsOf reads the connections in an image set. Memory is left where it is.
func (a *Agent) endsOf(ctx context.Context, key images.Key, digest string, k keys.Job) (ends []marker.End, err error) {
	tmp, err := os.MkdirTemp(a.scratch(), "verify-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	dir := filepath.Join(tmp, "set")
	index, err := a.cfg.Images.Unpack(ctx, key, digest, k, dir, noMemory)
	if err != nil {
		return nil, diskFull(tmp, err)
	}
	meta, err := metaOf(key, index)
	if err != nil {
		return nil, err
	}
	for name := range meta.Members {
		of, err := a.cfg.CRIU.Ends(filepath.Join(dir, name, imagesFolder))
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
	return path.Base(dir) == imagesFolder && !strings.HasPrefix(file, "pages-")
}

// metaOf reads what a set's index says of its members, whose names become names of folders.
func metaOf(key images.Key, index pack.Index) (SetMeta, error) {
	var meta SetMeta
	if err := json.Unmarshal(index.Meta, &meta); err != nil {
		return SetMeta{}, fmt.Errorf("what the images of %s say of themselves: %w", key, err)
	}
	for name := range meta.Members {
		if !names.Valid(name) {
			return SetMeta{}, fmt.Errorf("the images of %s: %q is no member's name", key, name)
		}
	}
	return meta, nil
}
