package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/agent/files"
	"ss/agent/proc"
	"ss/agent/target"
	"ss/fault"
	"ss/marker"
	"ss/names"
	"ss/store/images"
	"ss/store/pack"
)

// SetMeta is what an image set's index says of its members: enough to check a host before the
// images are on it.
type SetMeta struct {
	CRIU      string                `json:"criu"`
	Members   map[string]MemberMeta `json:"members"`
	Processor proc.Processor        `json:"processor"` // of the host that they were recorded on; absent from cuts of earlier versions
	// Recorded is when all members there stood still, in nanoseconds since 1970 by that host's clock; absent from cuts of earlier versions.
	Recorded int64 `json:"recorded,omitempty"`
}

// metaOf reads what a set's index says of its members, whose names become names of folders.
func metaOf(key images.Key, index pack.Index) (SetMeta, error) {
	var meta SetMeta
	if err := json.Unmarshal(index.Meta, &meta); err != nil {
		return SetMeta{}, fmt.Errorf("what the images of %s say of themselves: %w", key, err)
	}
	for name, m := range meta.Members {
		if !names.Valid(name) {
			return SetMeta{}, fmt.Errorf("the images of %s: %q is not a member's name", key, name)
		}
		if err := files.CheckAll(m.Files); err != nil {
			return SetMeta{}, fmt.Errorf("the images of %s: member %s: %w", key, name, err)
		}
	}
	return meta, nil
}

// MemberMeta is one member's part of SetMeta.
type MemberMeta struct {
	Needs target.Needs `json:"needs"`
	Files []StoredFile `json:"files"`
	Seen  []files.Seen `json:"seen,omitempty"` // what tells the files that were open from others; absent from cuts of version 1
	// Folders are those that lead to all of this, to sockets and to what is watched: what is missing is made. Absent from older cuts.
	Folders []files.Seen `json:"folders,omitempty"`
}

// store makes the images durable here, on other hosts and in vaults. The members run meanwhile.
func (w *work) store(ctx context.Context) (marker.Event, error) {
	// Members that --stop will end stand still from here on: nobody waits for them, and their images must not wait for that.
	w.ease()
	if err := w.addMemory(); err != nil {
		return nil, w.a.cfg.Images.Staged(err)
	}
	meta, size, err := w.describe(ctx)
	if err != nil {
		return nil, w.a.cfg.Images.Staged(err)
	}
	raw, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("encode what the images hold: %w", err)
	}
	w.copies = w.a.cfg.Images.Copy(w.images(), w.open.Copies, w.open.CopiesWanted, w.open.Vaults)
	sealed, err := w.copies.Store(ctx, w.partial, images.Info{
		Epoch: uint64(w.key.Epoch), Meta: raw, JobKey: w.open.JobKey, Progress: w.storing(size),
	})
	if err != nil {
		return nil, err
	}
	w.sealed = true
	w.report(sealed, meta.CRIU)
	return marker.StoreDone{Key: w.key}, nil
}

// describe completes the dumped files, says what is in them, and how large they are.
func (w *work) describe(ctx context.Context) (SetMeta, int64, error) {
	meta := SetMeta{Members: map[string]MemberMeta{}, Processor: proc.ReadProcessor(), Recorded: w.recorded.UnixNano()}
	var size int64
	var err error
	if meta.CRIU, err = w.a.cfg.CRIU.Check(ctx); err != nil {
		return SetMeta{}, 0, err
	}
	if err := w.copyAppended(ctx); err != nil {
		return SetMeta{}, 0, err
	}
	for i, m := range w.members {
		dir, err := w.imageDir(m)
		if err == nil {
			err = w.indexInventory(i, dir)
		}
		if err != nil {
			return SetMeta{}, 0, err
		}
		if err := w.interruptWaits(ctx, m, dir); err != nil {
			return SetMeta{}, 0, err
		}
		needs, err := w.a.cfg.CRIU.Needs(dir)
		if err != nil {
			return SetMeta{}, 0, fmt.Errorf("read what the images of %s need: %w", m.Name, err)
		}
		stored, err := storedFiles(dir)
		if err != nil {
			return SetMeta{}, 0, err
		}
		seen, err := seenFiles(dir)
		if err != nil {
			return SetMeta{}, 0, err
		}
		addBuildIDs(&needs, seen)
		nameDevices(needs.Objects.Devices)
		mm := MemberMeta{Needs: needs, Files: stored, Seen: seen}
		mm.Folders = files.SortPlaces(slices.Concat(files.Folders(slices.Concat(mm.folders(), m.Folders, logFolders(m))), w.dirs[m.Name]))
		if err := writeIndex(filepath.Join(filepath.Dir(dir), foldersIndex), mm.Folders); err != nil {
			return SetMeta{}, 0, err
		}
		meta.Members[m.Name] = mm
		size += folderSize(filepath.Dir(dir))
	}
	return meta, size, w.checkPlace(ctx, meta)
}

// checkPlace refuses images that could not be put back on this very host: what R1 would refuse is not a cut (M9). The members run meanwhile, so this
// costs no frozen time.
func (w *work) checkPlace(ctx context.Context, meta SetMeta) error {
	var coming []target.Arrival
	for _, m := range w.members {
		coming = append(coming, arrival(w.a.cfg.Host, m, meta.Members[m.Name]))
	}
	found, err := w.a.planTarget(ctx, w.job(), nil, coming)
	if err != nil {
		return fmt.Errorf("check whether the images can be put back here: %w", err)
	}
	if len(found) == 0 {
		return nil
	}
	return fault.New(fault.Refused, "this host could not restore the images where they come from: "+fault.Problems(found), "fix that, and take the snapshot again")
}

// interruptWaits makes pending signals in the images of m end the waits of their threads, as they have in the running member.
func (w *work) interruptWaits(ctx context.Context, m Member, dir string) error {
	waits, err := w.a.cfg.Cells.Waits(ctx, m)
	if err == nil {
		err = w.a.cfg.CRIU.Interrupt(dir, waits)
	}
	if err != nil {
		return fmt.Errorf("interrupt what threads of %s wait in: %w", m.Name, err)
	}
	return nil
}

// progressEvery is how often a person is told how far storing is.
const progressEvery = 250 * time.Millisecond

// storing returns what tells the person who watches how much of the files has been read. Any goroutine may call it.
func (w *work) storing(total int64) func(bytes int64) {
	var mu sync.Mutex
	var last time.Time
	return func(bytes int64) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			w.progress(bytes, total)
		}
	}
}

func (w *work) report(sealed images.Sealed, criu string) {
	if w.out == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rep := HostReport{
		Members: w.reports, Phases: w.timings(), Manifest: sealed.Manifest.Digest, CRIU: criu, Bytes: sealed.Manifest.Bytes,
		Copies: w.copies.Holders(), Vaults: w.copies.Vaults(), NewBytes: sealed.Ingested.New, WroteBytes: sealed.Ingested.Wrote,
		MovedBytes: w.copies.Moved(), Running: w.ranAt(),
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
	if at := w.ranAt(); at > 0 {
		out = append(out, PhaseTiming{Name: "running", Start: at})
	}
	return out
}

// ranAt is when all members ran with their gates open, after the attempt's start; 0 if they did not. The caller holds mu.
func (w *work) ranAt() time.Duration {
	last := w.openedAt
	if w.thawedAt.After(last) {
		last = w.thawedAt
	}
	if last.IsZero() {
		return 0
	}
	return last.Sub(w.begun)
}

// watchSize reports how large the images have become until stop is called.
func (w *work) watchSize(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(progressEvery)
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
	w.endMemory()
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	for _, d := range slices.Concat(w.dumps...) {
		try("cancel the dump", d.Cancel(ctx))
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
	defer w.ease()
	w.early.keep()
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
		errs = append(errs, w.a.thaw(ctx, m))
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
	errs = append(errs, w.a.cfg.Images.Discard(w.images()))
	if w.copies != nil {
		errs = append(errs, w.copies.Undo(ctx))
	}
	return errors.Join(errs...)
}

// over ends the attempt on this host.
func (w *work) over() {
	w.ease()
	w.endMemory()
	if err := w.closeFiles(); err != nil {
		w.a.log.Warn("let go of the members' files", "job", w.job(), "error", err)
	}
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
	if w.copies != nil {
		w.copies.Settle(ctx)
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

// nameDevices notes what this host calls the devices of packet sockets, which images have by their numbers.
func nameDevices(devices []target.NeededDevice) {
	for i, d := range devices {
		if here, err := net.InterfaceByIndex(d.Index); err == nil {
			devices[i].Name = here.Name
		}
	}
}
