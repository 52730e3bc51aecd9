package agent

import (
	"context"
	"fmt"
	"strings"

	"ss/agent/files"
)

// checkFolders says why folders cannot be those of a member of the job on this host: what is in them is made what it was at a cut.
func (a *Agent) checkFolders(ctx context.Context, job string, folders []string) error {
	if len(folders) == 0 {
		return nil
	}
	members, err := a.cfg.Cells.Members(ctx)
	if err != nil {
		return err
	}
	others := map[string]string{}
	for _, m := range members {
		if m.Job == job {
			continue
		}
		for _, dir := range m.Folders {
			others[dir] = fmt.Sprintf("%s of job %s", m.Name, m.Job)
		}
	}
	return files.CheckFolders(folders, []string{a.cfg.StateDir, a.cfg.Images.Staging()}, others)
}

// checkCleared says what a restore would put aside in folders of a member, and why it could not.
func (r *Restoration) checkCleared(ctx context.Context, m Member, keep map[string]bool) (faults []string) {
	if err := r.a.checkFolders(ctx, r.job(), m.Folders); err != nil {
		return []string{err.Error()}
	}
	for _, dir := range m.Folders {
		extra, err := files.Extra(ctx, dir, keep)
		if err != nil {
			faults = append(faults, fmt.Sprintf("what is in %s and not in the cut cannot be put aside: %v", dir, err))
		}
		if len(extra) > 0 {
			r.notice(fmt.Sprintf("%s: %d files in %s are not in the cut, and are removed when its members run: %s", m.Name, len(extra), dir, someOf(extra)))
		}
	}
	return faults
}

// notice tells the person who restores something that keeps nothing from going on.
func (r *Restoration) notice(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notices = append(r.notices, text)
}

// someOf names the first few.
func someOf(paths []string) string {
	const few = 3
	if len(paths) <= few {
		return strings.Join(paths, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(paths[:few], ", "), len(paths)-few)
}
