package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ss/agent/files"
	"ss/names"
	"ss/restoration"
	"ss/store/sealed"
)

const (
	// noteSchema is the version of what a note says. Version 1, and a note without a version, names its phase by a number.
	noteSchema = 2
	// endingsSchema is the version of what a record of restores says.
	endingsSchema = 1
	// recordsKept is how many restores of a job are on record when they are over.
	recordsKept = 8
)

// restoreNote is what a restarted agent must know of a restore that it was in: the plan's hosts, and the target's journal.
type restoreNote struct {
	Plan  RestorePlan `json:"plan"`
	Phase string      `json:"phase,omitempty"` // a name of restoration.Phase
	Told  bool        `json:"told,omitempty"`
	State int         `json:"state,omitempty"` // before version 2: the phase, as a number
}

// restoreRecord is how the latest restores of a job ended here, oldest first.
type restoreRecord struct {
	Restores []restoreEnding `json:"restores"`
}

type restoreEnding struct {
	ID    string `json:"id"`
	Phase string `json:"phase"`
}

// noteFile is the note's path. It names the job, so that a damaged note still says whose it is.
func (r *Restoration) noteFile() string {
	return filepath.Join(filepath.Dir(r.dir), r.job()+noteSeparator+r.plan.ID+".json")
}

// note writes the target's journal. What is over, and has been told, goes on record, and needs no note any more.
func (r *Restoration) note(e restoration.Entry) error {
	if e.Phase == restoration.Whole || e.Phase == restoration.Stopped {
		if err := r.a.record(r.job(), r.plan.ID, e.Phase); err != nil {
			return err
		}
	}
	if e.Phase.Over() && (e.Phase != restoration.Stopped || e.Told) {
		return ignoreGone(os.Remove(r.noteFile()))
	}
	plan := r.plan
	plan.Parts, plan.Moved, plan.Transit, plan.Statement = nil, nil, nil, nil
	if err := sealed.Write(r.noteFile(), noteSchema, restoreNote{Plan: plan, Phase: e.Phase.String(), Told: e.Told}); err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	return nil
}

func (a *Agent) recordFile(job string) string {
	return filepath.Join(a.cfg.StateDir, "restored", job+".json")
}

// record keeps how a restore ended, for hosts that ask.
func (a *Agent) record(job, id string, phase restoration.Phase) error {
	a.recordMu.Lock()
	defer a.recordMu.Unlock()
	rec := a.readRecord(job)
	for i := range rec.Restores {
		if rec.Restores[i].ID == id {
			rec.Restores = append(rec.Restores[:i], rec.Restores[i+1:]...)
			break
		}
	}
	rec.Restores = append(rec.Restores, restoreEnding{ID: id, Phase: phase.String()})
	rec.Restores = rec.Restores[max(0, len(rec.Restores)-recordsKept):]
	if err := sealed.Write(a.recordFile(job), endingsSchema, rec); err != nil {
		return fmt.Errorf("record the restore: %w", err)
	}
	return nil
}

// readRecord reads a job's record. One that cannot be read is as good as none: hosts that ask hear that this one does not know.
func (a *Agent) readRecord(job string) restoreRecord {
	var rec restoreRecord
	if _, err := sealed.Read(a.recordFile(job), endingsSchema, &rec); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			a.log.Error("record of restores", "job", job, "error", err)
		}
		return restoreRecord{}
	}
	return rec
}

// recorded is how a restore ended here, restoration.PhaseUnknown if that is not on record.
func (a *Agent) recorded(job, id string) restoration.Phase {
	if !names.Valid(job) {
		return restoration.PhaseUnknown
	}
	a.recordMu.Lock()
	defer a.recordMu.Unlock()
	for _, e := range a.readRecord(job).Restores {
		if e.ID == id {
			phase, _ := restoration.ParsePhase(e.Phase) // unknown, if it is of a later version
			return phase
		}
	}
	return restoration.PhaseUnknown
}

// recoverRestores goes on with restores that the end of an earlier agent cut short, and removes what is left of others.
func (a *Agent) recoverRestores(ctx context.Context) error {
	dir := filepath.Join(a.cfg.StateDir, "restore")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasSuffix(path, ".json") {
			continue
		}
		r, err := a.recoverRestore(ctx, path)
		if err != nil {
			return fmt.Errorf("unfinished restore %s: %w", e.Name(), err)
		}
		if r != nil {
			kept[r.noteFile()], kept[r.dir] = true, true
		}
	}
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); !kept[path] && !a.isAside(path) {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// recoverRestore goes on with one restore; nil if there is nothing to go on with.
func (a *Agent) recoverRestore(ctx context.Context, path string) (*Restoration, error) {
	var n restoreNote
	schema, err := sealed.Read(path, noteSchema, &n)
	if err != nil {
		return nil, a.asideNote(path, err)
	}
	entry, ok := n.entry(schema)
	if !ok {
		return nil, nil
	}
	job := string(n.Plan.Key.Job)
	free, err := a.lockJob(job, "restore "+n.Plan.ID)
	if err != nil {
		free = func() {} // an older one, of which only others have to be told; or the job is set aside
	}
	r := a.newRestoration(n.Plan, free)
	if r.undo, err = files.Reopen(filepath.Join(r.dir, undoFolder)); err != nil {
		free()
		return nil, fmt.Errorf("files that were put back: %w", err)
	}
	if entry.Phase == restoration.Resumed {
		if err := r.endFiles(true); err != nil {
			a.log.Warn("what the files of the cut have replaced", "job", job, "error", err)
		}
	}
	t, ready, err := restoration.Recover(r.config(), entry)
	if err != nil {
		free()
		return nil, err
	}
	a.log.Info("restore cut short", "job", job, "restore", n.Plan.ID, "was", entry.Phase.String(), "is", t.Phase().String())
	r.t = t
	if entry.Phase == restoration.Fencing || entry.Phase == restoration.Stopping {
		// Nobody is served before what the restore has left here is ended, as far as that can be done.
		if err := r.stop(ctx); err != nil {
			a.log.Error("end what a restore has left", "job", job, "restore", n.Plan.ID, "error", err)
		}
	}
	if path != r.noteFile() { // of a program before this one
		if err := r.note(entry); err != nil {
			free()
			return nil, err
		}
	}
	r.execute(ready)
	r.start()
	return r, nil
}

// entry is the target's journal. ok is false for a restore that is over.
func (n *restoreNote) entry(schema int) (e restoration.Entry, ok bool) {
	e = restoration.Entry{ID: restoration.ID(n.Plan.ID), Told: n.Told}
	if schema >= 2 {
		e.Phase, ok = restoration.ParsePhase(n.Phase)
		return e, ok
	}
	// All hosts counted alike, and a host that had resumed was done.
	n.Plan.Targets = len(n.Plan.Participants)
	switch n.State {
	case 1:
		e.Phase = restoration.Armed
	case 2:
		e.Phase = restoration.Fencing
	default:
		return e, false
	}
	return e, true
}
