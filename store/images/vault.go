package images

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ss/names"
	"ss/store/blob"
)

// partialTime is when a Put into a vault that has not ended is taken for one whose process was killed. No object takes that long, and clocks may differ.
const partialTime = 24 * time.Hour

// CollectIn does the same as Collect in a vault, for one job. Nobody may put a set of that job there meanwhile. It also removes what is left of
// transfers, of any job, that were killed long ago.
func CollectIn(ctx context.Context, v blob.Store, job string, dry bool) (Garbage, error) {
	var g Garbage
	if !names.Valid(job) {
		return g, fmt.Errorf("collect in a vault: job %q: %w", job, ErrInvalid)
	}
	garbage, _, err := unused(ctx, v, job)
	for _, info := range garbage {
		if err = context.Cause(ctx); err != nil {
			break
		}
		if !dry {
			if err = v.Remove(ctx, info.Name); err != nil {
				break
			}
		}
		g.Objects++
		g.Bytes += info.Size
	}
	if err == nil && !dry {
		err = blob.RemovePartials(ctx, v, partialTime)
		if errors.Is(err, blob.ErrDenied) { // credentials need not allow that much: in S3 it is a right of its own
			err = nil
		}
	}
	if err != nil {
		return g, fmt.Errorf("collect what no images of job %s use in a vault: %w", job, err)
	}
	return g, nil
}

// SetsIn lists the sets of a job ("": of all) that a vault or another host holds, by key.
func SetsIn(ctx context.Context, v blob.Reader, job string) ([]Key, error) {
	keys, err := keysIn(ctx, v, job)
	if err != nil {
		return nil, fmt.Errorf("list image sets: %w", err)
	}
	return keys, nil
}

// ManifestIn reads the manifest of a set that a vault or another host holds. It checks its form, and not the objects.
func ManifestIn(ctx context.Context, v blob.Reader, key Key) (Manifest, error) {
	m, _, err := readManifest(ctx, v, key, "")
	if err != nil {
		return Manifest{}, fmt.Errorf("images of %s: %w", key, err)
	}
	return m, nil
}

// RemoveIn removes a cut's sets and manifest from a vault, and returns how many sets there were. The cut's manifest goes first, so
// that it is not taken for one that is whole. Its objects go with the next CollectIn.
func RemoveIn(ctx context.Context, v blob.Store, job, snapshot string) (int, error) {
	removed := 0
	err := func() error {
		if _, _, ok := parseCutName(CutName(job, snapshot)); !ok {
			return ErrInvalid
		}
		if err := v.Remove(ctx, CutName(job, snapshot)); err != nil {
			return err
		}
		var found []string
		for info, err := range v.List(ctx, job+"/"+setsFolder+"/"+snapshot+"/") {
			if err != nil {
				return err
			}
			found = append(found, info.Name)
		}
		for _, name := range found {
			if err := v.Remove(ctx, name); err != nil {
				return err
			}
			removed++
		}
		return nil
	}()
	if err != nil {
		return removed, fmt.Errorf("remove cut %s of job %q from a vault: %w", snapshot, job, err)
	}
	return removed, nil
}
