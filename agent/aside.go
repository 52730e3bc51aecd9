package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ss/agent/files"
	"ss/fault"
	"ss/marker"
	"ss/names"
)

// SetAside is a state file that is damaged. Its job is set aside on this host: what lives of it runs on, its images stay, and nothing is
// begun with it, until somebody kills the job here. Other jobs are not disturbed.
type SetAside struct {
	Job    string
	File   string // its path
	Detail string // what is wrong with it
	Next   string // what to do
}

func (a *Agent) newAside(job, file string, err error) SetAside {
	return SetAside{Job: job, File: file, Detail: err.Error(),
		Next: fmt.Sprintf("what runs of job %s here runs on; ssctl kill %s ends it and clears this, and ssctl restore then brings the job back from a cut", job, job)}
}

// adoptWithoutJournal is what a start does with a job whose journal is damaged. Nobody knows what was under way: so every member runs, every
// image stays, in doubt if it was, and the job takes no part in anything.
func (a *Agent) adoptWithoutJournal(ctx context.Context, job string, damage error) error {
	a.log.Error("job set aside", "job", job, "error", damage)
	a.aside[job] = append(a.aside[job], a.newAside(job, a.journal.path(job), damage))
	members, err := a.running(ctx, job)
	if err != nil {
		return err
	}
	for _, m := range members {
		if err := errors.Join(a.cfg.Cells.Heal(ctx, m), a.cfg.Cells.Thaw(ctx, m)); err != nil {
			a.log.Error("member of a job that is set aside", "job", job, "member", m.Name, "error", err)
		}
	}
	if err := a.cfg.Gates.OpenAll(ctx, job); err != nil {
		a.log.Error("gates of a job that is set aside", "job", job, "error", err)
	}
	// M12: an epoch that was seen here must not come again. The images tell the highest that came to anything.
	highest, err := a.cfg.Images.HighestEpoch(job)
	if err != nil {
		return err
	}
	r := a.newRunner(job)
	r.p = marker.NewParticipant(marker.HostID(a.cfg.Host), marker.JobID(job), marker.Epoch(highest))
	a.runners[job] = r
	r.start()
	return nil
}

// asideNote is what a start does with the note of a restore that is damaged: whether the restore has ended the job elsewhere is not known, so nothing is
// ended here, and nothing begun. The file's name says whose job it is.
func (a *Agent) asideNote(path string, damage error) error {
	job, _, ok := strings.Cut(filepath.Base(path), noteSeparator)
	if !ok || !names.Valid(job) { // of a program before this one
		a.log.Error("note of a restore", "path", path, "error", damage)
		return nil
	}
	a.log.Error("job set aside", "job", job, "error", damage)
	a.aside[job] = append(a.aside[job], a.newAside(job, path, damage))
	return nil
}

// isAside says whether a file, or a folder that belongs to it, is kept since it is damaged.
func (a *Agent) isAside(path string) bool {
	for _, of := range a.aside {
		if slices.ContainsFunc(of, func(s SetAside) bool { return s.File == path || workFolder(s.File) == path }) {
			return true
		}
	}
	return false
}

// setAside lists what is set aside of a job ("": of all), by file.
func (a *Agent) setAside(ctx context.Context, job string) ([]SetAside, error) {
	var out []SetAside
	a.mu.Lock()
	for of, list := range a.aside {
		if job == "" || of == job {
			out = append(out, list...)
		}
	}
	a.mu.Unlock()
	members, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.State == Aside && (job == "" || m.Job == job) {
			out = append(out, a.newAside(m.Job, filepath.Join(a.cfg.StateDir, "members", m.Job, m.Name), errors.New(m.Exit)))
		}
	}
	slices.SortFunc(out, func(x, y SetAside) int { return strings.Compare(x.File, y.File) })
	return out, nil
}

// refuseAside refuses to begin anything with a job that is set aside, but to kill it.
func (a *Agent) refuseAside(job, what string) error {
	if what == "kill" {
		return nil
	}
	aside, err := a.setAside(context.Background(), job)
	if err != nil || len(aside) == 0 {
		return err
	}
	s := aside[0]
	return &fault.Error{Kind: fault.Integrity, Host: a.cfg.Host, Err: fmt.Errorf("job %s is set aside on this host, %s is damaged: %s", job, s.File, s.Detail), Next: s.Next}
}

// clearAside removes what was damaged of a job's attempts and restores: nothing of the job lives here any more. Files that a restore has put back
// stay as they are.
func (a *Agent) clearAside(ctx context.Context, job string) error {
	a.mu.Lock()
	list := a.aside[job]
	a.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	for _, s := range list {
		if folder := workFolder(s.File); folder != "" {
			undo, err := files.Reopen(filepath.Join(folder, undoFolder))
			if err == nil {
				err = endUndo(undo, true)
			}
			if err = errors.Join(err, os.RemoveAll(folder)); err != nil {
				return fmt.Errorf("files that were put back: %w", err)
			}
		}
		if err := ignoreGone(os.Remove(s.File)); err != nil {
			return err
		}
		a.log.Info("no longer set aside", "job", job, "file", s.File)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.aside, job)
	return ctx.Err()
}

// noteSeparator stands between the job and the restore in the name of a note. No name has it in it.
const noteSeparator = "@"

// workFolder is the folder of the restore that a note is of; "" if path is not a note's.
func workFolder(path string) string {
	_, id, ok := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".json"), noteSeparator)
	if !ok {
		return ""
	}
	return filepath.Join(filepath.Dir(path), id)
}
