package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"ss/agent/custody"
	"ss/agent/files"
	"ss/fault"
)

// Check is R1 on this host: everything that would make the restore fail here, at once. Nothing is touched. Images of which no copy is
// whole are an error, of kind fault.Integrity: that is for nobody to put right here.
func (r *Restoration) Check(ctx context.Context) ([]string, error) {
	var faults []string
	var damaged []error
	if _, err := r.a.cfg.CRIU.Check(ctx); err != nil {
		faults = append(faults, err.Error())
	}
	lost := r.checkPeers(ctx)
	var coming []arrival
	var room custody.Room
	for _, part := range r.plan.Parts {
		man, index, err := r.a.cfg.Images.Index(ctx, r.images(part))
		if custody.Kind(err) == fault.Integrity {
			damaged = append(damaged, fmt.Errorf("images of %s: %w", part.Host, err))
			continue
		}
		if err != nil {
			faults = append(faults, fmt.Sprintf("images of %s: %v", part.Host, err))
			continue
		}
		if err := r.a.cfg.Images.Count(ctx, &room, man); err != nil {
			return nil, r.wrap("checking", err)
		}
		meta, err := metaOf(man.Key(), index)
		if err != nil {
			faults = append(faults, err.Error())
			continue
		}
		for _, m := range part.Members {
			mm, ok := meta.Members[m.Name]
			if !ok {
				faults = append(faults, fmt.Sprintf("the images of %s hold no member %s", part.Host, m.Name))
				continue
			}
			m.Job = r.job()
			if err := r.a.cfg.Cells.Vacant(ctx, m); err != nil {
				faults = append(faults, fmt.Sprintf("%s: %v", m.Name, err))
			}
			coming = append(coming, arrival{source: part.Host, member: m, meta: mm})
			for _, f := range r.checkPlaces(part, mm, &room) {
				faults = append(faults, m.Name+": "+f)
			}
		}
	}
	found, err := r.a.planTarget(ctx, r.job(), r.plan.Moved, coming)
	if err != nil {
		return nil, r.wrap("checking", err)
	}
	faults = append(append(faults, found...), lost...)
	lacks, err := r.a.cfg.Images.Lacking(filepath.Dir(r.dir), room)
	if err != nil {
		return nil, r.wrap("checking", err)
	}
	if err := errors.Join(damaged...); err != nil {
		return nil, r.wrap("checking", &fault.Error{Kind: fault.Integrity, Err: err, Next: custody.NextVerify})
	}
	return append(faults, lacks...), nil
}

// checkPeers looks whether this host reaches all others that take part: a restore that has ended the live members must not find out then that one
// cannot be asked. The connections are made now, in the place of stale ones to agents that have been restarted.
func (r *Restoration) checkPeers(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	var peers []custody.Peer
	for _, p := range r.plan.Participants {
		peers = append(peers, p.Peer)
	}
	for _, part := range r.plan.Parts { // their images have to come from somewhere
		if !slices.ContainsFunc(part.Sources, func(p custody.Peer) bool { return p.Host == r.a.cfg.Host }) {
			peers = append(peers, part.Sources...)
		}
	}
	errs := make([]error, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		if p.Host != r.a.cfg.Host {
			wg.Go(func() { errs[i] = r.a.cfg.Peers.Reach(ctx, p) })
		}
	}
	wg.Wait()
	var faults []string
	for i, err := range errs {
		if err == nil {
			continue
		}
		p := peers[i]
		text := fmt.Sprintf("it does not reach the agent of %s at %s (%v): mend the network between the two, or restore to other hosts", p.Host, p.Endpoint, err)
		if !slices.Contains(faults, text) {
			faults = append(faults, text)
		}
	}
	return faults
}

// files looks for the files and folders that the images refer to by path and do not hold.
func (t *target) files() {
	for _, c := range t.coming {
		stored := c.meta.storedPaths()
		for _, f := range c.meta.Needs.Files {
			if !stored[f.Path] && !rewritten(f.Path, c.meta.Seen) {
				if err := checkFile(f); err != nil {
					t.add(c, "%v", err)
				}
			}
		}
		for _, d := range c.meta.Needs.Dirs {
			if fi, err := os.Stat(d); err != nil || !fi.IsDir() {
				t.add(c, "there is no folder %s; make it", d)
			}
		}
	}
}

// checkFile compares a file that the images refer to with what this host has.
func checkFile(f NeededFile) error {
	if strings.HasPrefix(f.Path, "/dev/") && !strings.HasPrefix(f.Path, "/dev/shm/") || strings.HasPrefix(f.Path, "/proc/") || strings.HasSuffix(f.Path, " (deleted)") {
		return nil
	}
	st, err := files.Stat(f.Path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no %s; install it", f.Path)
	}
	if err != nil {
		return err
	}
	if f.BuildID != "" {
		if id := BuildID(f.Path); id != f.BuildID {
			return fmt.Errorf("%s is another build (build id %s, the images need %s); install the same package", f.Path, orNone(id), f.BuildID)
		}
	} else if f.Size > 0 && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size != f.Size {
		return fmt.Errorf("%s has %d bytes, the images need %d; copy the same file here", f.Path, st.Size, f.Size)
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// storedPaths are the paths of the files that the cut holds.
func (mm MemberMeta) storedPaths() map[string]bool {
	out := map[string]bool{}
	for _, f := range mm.Files {
		if f.Deleted {
			continue
		}
		for _, name := range f.Names() {
			out[name] = true
		}
	}
	return out
}
