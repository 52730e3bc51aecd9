package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/agent/custody"
)

// images says which image set a part is, and where it may be.
func (r *Restoration) images(part RestorePart) custody.Part {
	return custody.Part{Key: r.key(part), Digest: part.Digest, JobKey: part.JobKey, Sources: part.Sources, Vaults: part.Vaults}
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
		wg.Go(func() { errs[i] = r.a.cfg.Images.Unpack(ctx, r.images(part), r.unpacked(part.Host), part.wants) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, r.wrap("fetching", err)
	}
	if err := r.rewrite(); err != nil {
		return nil, r.wrap("rewriting", err)
	}
	if notices, err = r.a.cfg.Images.Healed(r.job(), since); err != nil {
		return nil, r.wrap("fetching", err)
	}
	return notices, nil
}

// wants says whether a file of the set belongs to a member that is to be restored here.
func (part RestorePart) wants(p string) bool {
	member, _, _ := strings.Cut(path.Clean(p), "/")
	return slices.ContainsFunc(part.Members, func(m Member) bool { return m.Name == member })
}

// endsOf are the changes of one member's ends.
func (p RestorePart) endsOf(member string) []EndChange {
	return slices.DeleteFunc(slices.Clone(p.Ends), func(e EndChange) bool { return e.Member != member })
}

func (r *Restoration) rewrite() error {
	for _, part := range r.plan.Parts {
		var dirs []string
		for _, m := range part.Members {
			src := filepath.Join(r.unpacked(part.Host), m.Name, custody.ImagesFolder)
			dst := filepath.Join(r.dir, "rewritten", m.Name, custody.ImagesFolder)
			if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
				return err
			}
			if err := r.a.cfg.CRIU.Rewrite(src, dst, r.plan.Moved, part.endsOf(m.Name)); err != nil {
				return custody.DiskFull(r.dir, fmt.Errorf("addresses in the images of %s: %w", m.Name, err))
			}
			if err := r.a.cfg.CRIU.Unsend(dst, r.transit()); err != nil {
				return custody.DiskFull(r.dir, fmt.Errorf("bytes in transit of %s: %w", m.Name, err))
			}
			r.members = append(r.members, restoring{part: part, member: m, images: dst})
			dirs = append(dirs, dst)
		}
		if err := r.a.cfg.CRIU.ShareFIFOs(dirs); err != nil {
			return custody.DiskFull(r.dir, err)
		}
	}
	return nil
}

// transit is the plan's, under the addresses that connections have after the restore.
func (r *Restoration) transit() []Transit {
	to := func(a netip.AddrPort) netip.AddrPort {
		if moved, ok := r.plan.Moved[a.Addr()]; ok {
			return netip.AddrPortFrom(moved, a.Port())
		}
		return a
	}
	out := make([]Transit, len(r.plan.Transit))
	for i, t := range r.plan.Transit {
		out[i] = Transit{Conn{to(t.Conn.Local), to(t.Conn.Remote)}, t.Bytes}
	}
	return out
}
