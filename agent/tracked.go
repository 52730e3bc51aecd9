package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// memoryFolder is where copies of a member's memory lie, in its part of a partial image set, until they are in its images.
const memoryFolder = "memory"

// untracked says why members' memory is copied while they stand still, or "" if it is not.
func (a *Agent) untracked() string {
	if a.cfg.Memory == nil {
		return "memory is not tracked here"
	}
	_, reason := a.cfg.Memory.Mode()
	return reason
}

// untrackedUnit says why the memory of a unit is copied while it stands still, or "" if it is tracked.
func (a *Agent) untrackedUnit(m Member, u Unit) string {
	if why := a.untracked(); why != "" {
		return why
	}
	if m.MemoryFrozen {
		return "the member was started with --memory frozen"
	}
	if !a.cfg.Memory.Omits(u) {
		return "a process of it has a seccomp filter"
	}
	return a.cfg.Memory.Small(u)
}

// divideUnits decides which units are tracked.
func (w *work) divideUnits() {
	w.plain = make([][]string, len(w.members))
	for i, m := range w.members {
		for _, u := range m.Units() {
			w.plain[i] = append(w.plain[i], w.a.untrackedUnit(m, u))
		}
	}
}

// tracks says whether any unit is tracked.
func (w *work) tracks() bool {
	return slices.ContainsFunc(w.plain, func(units []string) bool { return slices.Contains(units, "") })
}

// left is what a report says of the memory of a member that nobody has tracked.
func (w *work) left(i int) []string {
	if w.frozen != "" {
		return []string{w.frozen}
	}
	return slices.DeleteFunc(slices.Clone(w.plain[i]), func(why string) bool { return why == "" })
}

// dumpSpec describes the dump of one unit.
func (w *work) dumpSpec(i, j int, dir string) DumpSpec {
	u := w.members[i].Units()[j]
	return DumpSpec{Unit: u, Dir: dir, LockFile: w.lockFile, Omits: w.plain[i][j] == ""}
}

// trackMemory copies the members' memory while they run. It is the last that copies anything before the freeze, since it is the first that touches a member.
func (w *work) trackMemory(ctx context.Context) error {
	if !w.tracks() {
		return nil
	}
	if err := w.a.fits(2 * w.size); err != nil {
		w.frozen = "there is no room for copies: " + err.Error()
		return nil //nolint:nilerr // CRIU copies all memory then
	}
	w.enter("copying memory")
	tracked := make([][]TrackedMemory, len(w.members))
	err := w.each(func(i int, m Member) error {
		for j, u := range m.Units() {
			if w.plain[i][j] != "" {
				tracked[i] = append(tracked[i], nil)
				continue
			}
			dir, err := w.memoryDir(m)
			if err != nil {
				return err
			}
			tracked[i] = append(tracked[i], w.a.cfg.Memory.Track(ctx, u, dir))
		}
		return nil
	})
	w.mu.Lock()
	w.memory = tracked
	w.mu.Unlock()
	return err
}

// fits says whether images of a size fit here, and lets go of the copies that are kept since earlier cuts if they are in the way.
func (a *Agent) fits(size int64) error {
	err := a.cfg.Images.Fits(size)
	if err == nil || a.cfg.Memory == nil {
		return err
	}
	a.cfg.Memory.Release()
	return a.cfg.Images.Fits(size)
}

func (w *work) memoryDir(m Member) (string, error) {
	dir, err := w.partial.Dir(m.Name)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, memoryFolder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for copies of memory: %w", err)
	}
	return dir, nil
}

// tracked are the memories of a member's units that are tracked. Actions and the end of an attempt may ask at once.
func (w *work) tracked(member int) []TrackedMemory {
	w.mu.Lock()
	defer w.mu.Unlock()
	if member >= len(w.memory) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(w.memory[member]), func(t TrackedMemory) bool { return t == nil })
}

// trackedUnit is the memory of one unit, or nil if it is not tracked.
func (w *work) trackedUnit(member, unit int) TrackedMemory {
	w.mu.Lock()
	defer w.mu.Unlock()
	if member >= len(w.memory) || unit >= len(w.memory[member]) {
		return nil
	}
	return w.memory[member][unit]
}

// haltMemory ends the copying before the freeze: a freeze would find the helper at work in a member.
func (w *work) haltMemory() {
	for i := range w.members {
		for _, t := range w.tracked(i) {
			t.Halt()
		}
	}
}

// rest is the work on the tracked memory of one unit that begins at the freeze.
type rest struct {
	divided chan struct{} // closed when the next three are known
	plain   bool          // a process has set a seccomp filter meanwhile: CRIU copies all memory
	ranges  map[int][]PageRange
	err     error
	smaps   chan map[int][]byte
	copied  chan error
}

// copyRest begins to copy what is left of tracked memory as soon as the members stand still. CRIU's turn comes when the gates are closed and nothing is in
// flight any more: what is copied until then costs no time.
func (w *work) copyRest(ctx context.Context) {
	w.rests = make([][]*rest, len(w.members))
	for i, m := range w.members {
		w.rests[i] = make([]*rest, len(m.Units()))
		for j, u := range m.Units() {
			t := w.trackedUnit(i, j)
			if t == nil {
				continue
			}
			r := &rest{divided: make(chan struct{}), smaps: make(chan map[int][]byte, 1), copied: make(chan error, 1)}
			w.rests[i][j] = r
			w.running.Go(func() { // a rollback waits for it
				if r.plain = !w.a.cfg.Memory.Omits(u); !r.plain {
					r.ranges, r.err = t.Divide()
				}
				close(r.divided)
				if r.plain || r.err != nil {
					return
				}
				w.running.Go(func() { r.smaps <- t.Smaps() })
				r.copied <- t.CopyRest(ctx)
			})
		}
	}
}

// dumpUnit dumps a frozen unit: CRIU what it can be seen by, and we its tracked memory at the same time.
func (w *work) dumpUnit(ctx context.Context, i, j int, announce func()) (DumpResult, error) {
	r := w.rests[i][j]
	if r != nil {
		<-r.divided
	}
	if r != nil && r.plain {
		if err := w.dumpWithout(ctx, i, j); err != nil {
			return DumpResult{}, err
		}
		r = nil
	}
	if r == nil {
		return w.dumps[i][j].Run(ctx, w.conns[i], announce)
	}
	if r.err != nil {
		return DumpResult{}, r.err
	}
	if err := w.dumps[i][j].Omit(r.ranges); err != nil {
		return DumpResult{}, err
	}
	if err := w.dumps[i][j].Show(r.smaps); err != nil {
		return DumpResult{}, err
	}
	res, err := w.dumps[i][j].Run(ctx, w.conns[i], announce)
	if err = errors.Join(err, <-r.copied); err == nil {
		err = w.trackedUnit(i, j).MakeTwins(ctx, w.lockFile)
	}
	return res, err
}

// dumpWithout makes sure that CRIU looks at all memory of a unit of which a process has a seccomp filter: a CRIU that is kept from memory could not
// read the filter. One that was started before the filter was set is started again.
func (w *work) dumpWithout(ctx context.Context, i, j int) error {
	m := w.members[i]
	dir, err := w.imageDir(m)
	if err != nil {
		return err
	}
	if err := w.dumps[i][j].Cancel(ctx); err != nil {
		return err
	}
	if err = errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return fmt.Errorf("empty the folder for images: %w", err)
	}
	spec := w.dumpSpec(i, j, dir)
	spec.Omits = false
	w.dumps[i][j], err = w.a.cfg.CRIU.StartDump(ctx, spec)
	return err
}

// addMemory puts the tracked memory into the images that CRIU has left without it. The members run.
func (w *work) addMemory() error {
	return w.each(func(i int, m Member) error {
		dir, err := w.imageDir(m)
		if err != nil {
			return err
		}
		for _, t := range w.tracked(i) {
			pages, err := t.Pages()
			if err == nil {
				err = w.a.cfg.CRIU.AddPages(dir, pages)
			}
			report := t.Report()
			if err == nil {
				w.keepMemory(t)
			}
			if err == nil {
				err = os.Remove(filepath.Join(filepath.Dir(dir), memoryFolder)) // empty: nothing but images goes into the cut
			}
			if err != nil {
				return err
			}
			w.mu.Lock()
			w.reports[i].Memory = report
			w.reports[i].ImageBytes += report.Pages * int64(os.Getpagesize())
			w.mu.Unlock()
		}
		return nil
	})
}

// keepMemory lets the next cut build on this one where there is room for its copies too. Without that the next cut copies all memory.
func (w *work) keepMemory(t TrackedMemory) {
	end := t.Keep
	if w.a.cfg.Images.Fits(2*w.size) != nil {
		end = t.Close
	}
	if err := end(); err != nil {
		w.a.log.Warn("keep the copies of memory for the next cut", "job", w.job(), "snapshot", w.key.Snapshot, "error", err)
	}
}

// endMemory ends all tracking. It may be called more than once.
func (w *work) endMemory() {
	for i := range w.members {
		for _, t := range w.tracked(i) {
			if err := t.Close(); err != nil {
				w.a.log.Warn("end the tracking of memory", "job", w.job(), "snapshot", w.key.Snapshot, "error", err)
			}
		}
	}
}
