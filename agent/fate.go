package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/agent/files"
	"ss/fault"
	"ss/store/sealed"
)

// Fate is what has become of a restore on a host, as other hosts ask.
type Fate int

// The fates.
const (
	FateUnknown   Fate = iota // it knows nothing of that restore
	FateUntouched             // it has ended nothing for it, and will not any more
	FateStopped               // it has ended the job's members
	FateResumed               // the restored members run, or will
)

// fates remembers how the latest restores ended here. The zero value is empty.
type fates struct {
	byID map[string]Fate
	ids  []string // oldest first
}

// fatesKept bounds fates. Who asks was there when the restore ended, or comes back from a crash in it.
const fatesKept = 64

func (f *fates) put(id string, fate Fate) {
	if f.byID == nil {
		f.byID = map[string]Fate{}
	}
	if len(f.ids) == fatesKept {
		delete(f.byID, f.ids[0])
		f.ids = f.ids[1:]
	}
	f.byID[id] = fate
	f.ids = append(f.ids, id)
}

// fateTimeout bounds a question about a restore. A peer answers from memory.
const fateTimeout = 5 * time.Second

// ask asks a peer for the fate of a restore.
func (a *Agent) ask(ctx context.Context, p Participant, plan RestorePlan, resume bool) (Fate, error) {
	ctx, cancel := context.WithTimeout(ctx, fateTimeout)
	defer cancel()
	return a.cfg.Peers.RestoreFate(ctx, p, string(plan.Key.Job), plan.ID, resume)
}

// stoppedElsewhere asks every other participant, all at once, whether it has ended the job's members for this restore. One
// that has not will not any more. One that does not answer counts for nothing: its own agent asks when it is back.
func (a *Agent) stoppedElsewhere(ctx context.Context, plan RestorePlan) bool {
	stopped := make([]bool, len(plan.Participants))
	var wg sync.WaitGroup
	for i, p := range plan.Participants {
		if p.Host == a.cfg.Host {
			continue
		}
		wg.Go(func() {
			fate, err := a.ask(ctx, p, plan, false)
			if err != nil {
				a.log.Warn("fate of a restore", "job", plan.Key.Job, "restore", plan.ID, "host", p.Host, "error", err)
			}
			stopped[i] = fate == FateStopped
		})
	}
	wg.Wait()
	return slices.Contains(stopped, true)
}

func (r *Restoration) stoppedElsewhere(ctx context.Context) bool {
	return r.a.stoppedElsewhere(ctx, r.plan)
}

// Fate answers another agent that asks what has become of a restore here. A host that has not ended its live members yet will not do so
// after this answer, and one that decides and has not been told to resume will not resume: so the answer stays true.
// With resume, the caller has been told to resume and asks this host, which decides, to let it.
func (a *Agent) Fate(from, id string, resume bool) (Fate, error) {
	a.mu.Lock()
	r, fate := a.restores[id], a.fates.byID[id]
	a.mu.Unlock()
	if r == nil {
		return fate, nil
	}
	if !slices.ContainsFunc(r.plan.Participants, func(p Participant) bool { return p.Host == from }) {
		return FateUnknown, fault.New(fault.Denied, fmt.Sprintf("%s takes no part in this restore", from), "")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	decides := r.plan.Participants[0].Host == a.cfg.Host
	switch {
	case r.state == restorePlanned, r.state == restoreArmed:
		r.state = restoreOver
	case r.state == restoreStanding && decides && resume:
		r.state = restoreDecided
	case r.state == restoreStanding && decides:
		r.state = restoreFenced
	}
	return r.fateNow(), nil
}

func (r *Restoration) fate() Fate {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fateNow()
}

// fateNow is called with mu held.
func (r *Restoration) fateNow() Fate {
	switch {
	case r.state == restoreDecided, r.state == restoreResumed && r.resumeErr == nil:
		return FateResumed
	case r.stopped, r.state == restoreFenced, r.state == restoreStanding, r.state == restoreResumed:
		return FateStopped
	}
	return FateUntouched
}

// noteSchema is the version of what a note says.
const noteSchema = 1

// restoreNote is what a restarted agent must know of a restore that it was in.
type restoreNote struct {
	Plan  RestorePlan  `json:"plan"`
	State restoreState `json:"state"`
}

// note writes down what a restart of the agent would have to settle. It is there for an agent that dies, and not for a
// host that does, which has no members to settle any more: so nothing waits for the disk. The caller holds mu.
func (r *Restoration) note() error {
	plan := r.plan
	plan.Parts, plan.Moved = nil, nil
	if err := sealed.WriteVolatile(r.noteFile(), noteSchema, restoreNote{Plan: plan, State: r.state}); err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	return nil
}

// noteFile is the note's path. It names the job, so that a damaged note still says whose it is.
func (r *Restoration) noteFile() string {
	return filepath.Join(filepath.Dir(r.dir), r.job()+noteSeparator+r.plan.ID+".json")
}

// recoverRestores settles restores that a crash of this agent cut short, and removes their work folders.
func (a *Agent) recoverRestores(ctx context.Context) error {
	dir := filepath.Join(a.cfg.StateDir, "restore")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			if err := a.recoverRestore(ctx, filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("unfinished restore %s: %w", e.Name(), err)
			}
		}
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if a.isAside(path) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// recoverRestore ends the job's members here if the restore has ended those of other hosts: what had not resumed
// when the agent died does not live, or is the half-dead job that was to be replaced.
func (a *Agent) recoverRestore(ctx context.Context, path string) error {
	var n restoreNote
	if _, err := sealed.Read(path, noteSchema, &n); err != nil {
		return a.asideNote(path, err)
	}
	job := string(n.Plan.Key.Job)
	fate := FateStopped
	if n.State != restoreFenced && !a.stoppedElsewhere(ctx, n.Plan) {
		fate = FateUntouched
		if n.State == restoreResumed {
			fate = FateResumed
		}
	}
	a.fates.put(n.Plan.ID, fate)
	a.log.Info("restore cut short", "job", job, "restore", n.Plan.ID, "stopped", fate == FateStopped)
	if fate == FateStopped {
		if _, err := a.killMembers(ctx, job); err != nil {
			return err
		}
	}
	work := workFolder(path)
	if work == "" { // of a program before this one
		work = strings.TrimSuffix(path, ".json")
	}
	undo, err := files.Reopen(filepath.Join(work, undoFolder))
	if err != nil {
		return fmt.Errorf("files that were put back: %w", err)
	}
	return settleUndo(undo, fate == FateResumed)
}
