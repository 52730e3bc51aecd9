package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ss/fault"
	"ss/marker"
	"ss/store/images"
)

// imagesFolder is the folder of CRIU's images in a member's part of an image set.
const imagesFolder = "images"

// SetMeta is what an image set's manifest says of its members: enough to check a host before the
// images are on it.
type SetMeta struct {
	CRIU    string                `json:"criu"`
	Members map[string]MemberMeta `json:"members"`
}

// MemberMeta is one member's part of SetMeta.
type MemberMeta struct {
	Needs Needs        `json:"needs"`
	Files []StoredFile `json:"files"`
}

// store makes the images durable here and on another host. The members run meanwhile.
func (w *work) store(ctx context.Context) (marker.Event, error) {
	meta := SetMeta{Members: map[string]MemberMeta{}}
	var err error
	if meta.CRIU, err = w.a.cfg.CRIU.Check(ctx); err != nil {
		return nil, err
	}
	for _, m := range w.members {
		dir, err := w.imageDir(m)
		if err != nil {
			return nil, err
		}
		if err := w.copyFiles(ctx, m, dir, afterThaw); err != nil {
			return nil, err
		}
		needs, err := w.a.cfg.CRIU.Needs(dir)
		if err != nil {
			return nil, fmt.Errorf("read what the images of %s need: %w", m.Name, err)
		}
		files, err := storedFiles(dir)
		if err != nil {
			return nil, err
		}
		meta.Members[m.Name] = MemberMeta{Needs: needs, Files: files}
	}
	raw, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	man, err := w.partial.Seal(ctx, images.Info{Epoch: uint64(w.key.Epoch), Meta: raw})
	if err != nil {
		return nil, fmt.Errorf("store the images: %w", err)
	}
	w.sealed = true
	if err := w.replicate(ctx); err != nil {
		return nil, err
	}
	w.report(man, meta.CRIU)
	return marker.StoreDone{Key: w.key}, nil
}

// replicate puts a copy on the first of the hosts offered that takes it.
func (w *work) replicate(ctx context.Context) error {
	var errs []error
	for _, p := range w.open.Copies {
		err := w.a.cfg.Peers.PutImages(ctx, p, w.images())
		if err == nil {
			w.copies = append(w.copies, p)
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", p.Host, err))
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("no other host took a copy of the images: %w", errors.Join(errs...))
}

func (w *work) report(man images.Manifest, criu string) {
	if w.out == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rep := HostReport{Members: w.reports, Phases: w.timings(), Manifest: man.Digest, CRIU: criu, Copies: []string{w.a.cfg.Host}}
	for _, c := range w.copies {
		rep.Copies = append(rep.Copies, c.Host)
	}
	for _, f := range man.Files {
		rep.Bytes += f.Size
	}
	for i := range rep.Members {
		if !w.thawedAt.IsZero() {
			rep.Members[i].Frozen = w.thawedAt.Sub(w.frozenAt)
			rep.Members[i].Stall = max(rep.Members[i].Frozen, w.openedAt.Sub(w.frozenAt))
		}
	}
	w.out.put(Out{Report: &rep})
}

// timings closes each phase at the start of the next. The caller holds mu.
func (w *work) timings() []PhaseTiming {
	var out []PhaseTiming
	for i, p := range w.phases {
		end := time.Since(w.begun)
		if i+1 < len(w.phases) {
			end = w.phases[i+1].Start
		}
		p.Duration = end - p.Start
		out = append(out, p)
	}
	if !w.openedAt.IsZero() || !w.thawedAt.IsZero() {
		all := w.openedAt
		if w.thawedAt.After(all) {
			all = w.thawedAt
		}
		out = append(out, PhaseTiming{Name: "running", Start: all.Sub(w.begun)})
	}
	return out
}

// watchSize reports how large the images have become until stop is called.
func (w *work) watchSize(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				var sum int64
				for _, m := range w.members {
					if dir, err := w.imageDir(m); err == nil {
						sum += folderSize(dir)
					}
				}
				w.progress(sum, 0)
			}
		}
	}()
	return func() { cancel(); <-done }
}

func folderSize(dir string) int64 {
	var sum int64
	// A file that vanishes while CRIU writes is not worth a word: this is a progress display.
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil {
				sum += fi.Size()
			}
		}
		return nil
	})
	return sum
}

// rollback is M10: whatever was done is undone, and then every member runs with its gates open.
func (w *work) rollback(ctx context.Context, reason string) marker.Event {
	w.a.log.Info("rolling back", "job", w.job(), "snapshot", w.key.Snapshot, "reason", reason)
	w.cancel()
	w.running.Wait()
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	for _, d := range w.dumps {
		if d != nil {
			try("cancel the dump", d.Cancel(ctx))
		}
	}
	try("let the members run", w.run(ctx))
	try("discard the images", w.discard(ctx))
	w.over()
	done := marker.RollbackDone{Key: w.key}
	if err := errors.Join(errs...); err != nil {
		done.Err = strings.ReplaceAll(err.Error(), "\n", "; ")
		w.a.log.Error("rollback", "job", w.job(), "error", err)
	}
	return done
}

// run thaws every member of the job, frozen by this attempt or by one that a crash cut short, and
// opens its gates. An attempt that never held the job, or has let it go, touches nothing: a restore may
// be at it.
func (w *work) run(ctx context.Context) error {
	if !w.held {
		return w.stopWatch()
	}
	members := w.members
	if members == nil {
		var err error
		if members, err = w.a.running(ctx, w.job()); err != nil {
			return err
		}
	}
	var errs []error
	for _, m := range members {
		if w.dumping || w.out == nil {
			errs = append(errs, w.a.cfg.Cells.Heal(ctx, m))
		}
		errs = append(errs, w.a.cfg.Cells.Thaw(ctx, m))
	}
	errs = append(errs, w.openAll(ctx), w.stopWatch())
	return errors.Join(errs...)
}

func (w *work) stopWatch() error {
	if w.unwatch == nil {
		return nil
	}
	stop := w.unwatch
	w.unwatch = nil
	return stop()
}

func (w *work) discard(ctx context.Context) error {
	var errs []error
	if w.partial != nil && !w.sealed {
		errs = append(errs, w.partial.Discard())
	}
	// A crash may have cut the attempt short after its images were sealed.
	errs = append(errs, w.a.cfg.Images.Remove(w.images()))
	for _, c := range w.copies {
		errs = append(errs, w.a.cfg.Peers.SettleImages(ctx, c, w.images(), false))
	}
	return errors.Join(errs...)
}

// over ends the attempt on this host.
func (w *work) over() {
	w.cancel()
	w.end()
	w.free()
}

// finish is what follows M9: the images stay, the members of a --stop end behind their gates.
func (w *work) finish(ctx context.Context, kill bool) marker.Event {
	failed := func(err error) marker.Event {
		w.over()
		return marker.ActionFailed{Key: w.key, Action: marker.ActFinish, Reason: err.Error()}
	}
	if err := w.a.cfg.Images.Commit(w.images()); err != nil {
		return failed(fmt.Errorf("mark the images as committed: %w", err))
	}
	for _, c := range w.copies {
		if err := w.a.cfg.Peers.SettleImages(ctx, c, w.images(), true); err != nil {
			// The copy stays in doubt until ssctl next asks that host: nothing is lost.
			w.a.log.Warn("copy not told of the commit", "job", w.job(), "host", c.Host, "error", err)
		}
	}
	var errs []error
	if kill {
		if w.members == nil { // the agent was restarted between the commit and here
			var err error
			if w.members, err = w.a.running(ctx, w.job()); err != nil {
				return failed(err)
			}
		}
		for _, m := range w.members {
			errs = append(errs, w.a.endMember(ctx, m))
		}
		// What they left to say must not reach what will be restored under the same addresses.
		errs = append(errs, w.a.cfg.Gates.Discard(ctx, w.job()), w.openAll(ctx), w.stopWatch())
	} else {
		errs = append(errs, w.run(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return failed(err)
	}
	w.over()
	return marker.FinishDone{Key: w.key}
}

// release lets the members run although nobody knows whether the cut exists; its images stay, in doubt.
func (w *work) release(ctx context.Context) error {
	w.a.log.Warn("lease lost; members run, images kept in doubt", "job", w.job(), "snapshot", w.key.Snapshot)
	err := w.run(ctx)
	w.held = false
	w.free()
	return err
}

// SettleCopy does what the host that the images come from says of the copy that this host holds.
func (a *Agent) SettleCopy(key images.Key, committed bool) error {
	if committed {
		return a.cfg.Images.Commit(key)
	}
	sets, err := a.cfg.Images.Sets()
	if err != nil {
		return err
	}
	for _, set := range sets {
		if set.Key == key && !set.Committed { // a committed one is somebody's cut, whatever the caller believes
			return a.cfg.Images.Remove(key)
		}
	}
	return nil
}

// Resolve settles image sets in doubt: some belong to a cut, some to nothing.
func (a *Agent) Resolve(_ context.Context, committed, aborted []images.Key) error {
	var errs []error
	for _, k := range committed {
		if err := a.cfg.Images.Commit(k); err != nil && !errors.Is(err, images.ErrNotFound) {
			errs = append(errs, err)
		}
		a.tellRunner(k, true)
	}
	doubt, err := a.inDoubt()
	if err != nil {
		return err
	}
	for _, k := range aborted {
		for _, d := range doubt { // never remove what is not in doubt, whatever the caller believes
			if d == k {
				errs = append(errs, a.cfg.Images.Remove(k))
				a.tellRunner(k, false)
			}
		}
	}
	return errors.Join(errs...)
}

// RemoveCut removes every image set of a cut that this host holds.
func (a *Agent) RemoveCut(_ context.Context, job, snapshot string) (int, error) {
	sets, err := a.cfg.Images.Sets()
	if err != nil {
		return 0, a.fail("rm", job, err)
	}
	n := 0
	for _, set := range sets {
		if set.Key.Job != job || set.Key.Snapshot != snapshot {
			continue
		}
		if err := a.cfg.Images.Remove(set.Key); err != nil {
			return n, a.fail("rm", job, err)
		}
		n++
	}
	return n, nil
}

// Verified is what VerifyImages found in an image set that is whole.
type Verified struct {
	Ends  []marker.End
	Bytes int64
	Files int
}

// VerifyImages reads every byte of an image set and the connections in it.
func (a *Agent) VerifyImages(ctx context.Context, key images.Key, digest string) (Verified, error) {
	man, err := a.cfg.Images.Verify(ctx, key, digest)
	if err != nil {
		return Verified{}, &fault.Error{Kind: imageKind(err), Op: "verify", Host: a.cfg.Host, Job: key.Job, Snapshot: key.Snapshot, Err: err}
	}
	meta, err := metaOf(man)
	if err != nil {
		return Verified{}, a.fail("verify", key.Job, err)
	}
	v := Verified{Files: len(man.Files)}
	for _, f := range man.Files {
		v.Bytes += f.Size
	}
	for name := range meta.Members {
		ends, err := a.endsOf(key, name)
		if err != nil {
			return Verified{}, &fault.Error{Kind: fault.Integrity, Op: "verify", Host: a.cfg.Host, Job: key.Job, Snapshot: key.Snapshot, Err: err}
		}
		for i := range ends {
			ends[i].Host, ends[i].Member = marker.HostID(key.Host), name
		}
		v.Ends = append(v.Ends, ends...)
	}
	return v, nil
}

func (a *Agent) endsOf(key images.Key, member string) ([]marker.End, error) {
	dir, err := a.cfg.Images.Dir(key, member)
	if err != nil {
		return nil, err
	}
	return a.cfg.CRIU.Ends(filepath.Join(dir, imagesFolder))
}

func metaOf(man images.Manifest) (SetMeta, error) {
	var meta SetMeta
	if err := json.Unmarshal(man.Meta, &meta); err != nil {
		return SetMeta{}, fmt.Errorf("manifest of %s: %w", man.Snapshot, err)
	}
	return meta, nil
}

func imageKind(err error) fault.Kind {
	var bad *images.IntegrityError
	switch {
	case errors.As(err, &bad):
		return fault.Integrity
	case errors.Is(err, images.ErrNotFound):
		return fault.NotFound
	case errors.Is(err, os.ErrPermission):
		return fault.Denied
	}
	return fault.Failed
}
