package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

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

// MissingFolders are notices of folders of a member that are not there. Its program may make them yet; or the name is wrong.
func (a *Agent) MissingFolders(m Member) (notices []string) {
	for _, dir := range m.Folders {
		if _, err := files.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			notices = append(notices, fmt.Sprintf("the folder %s does not exist on %s yet: cuts hold it from when it does", dir, a.cfg.Host))
		}
	}
	return notices
}

// checkCleared says what a restore would put aside in folders of a member, and why it could not.
func (r *Restoration) checkCleared(ctx context.Context, m Member, keep map[string]bool) (problems []string) {
	if err := r.a.checkFolders(ctx, r.job(), m.Folders); err != nil {
		return []string{err.Error()}
	}
	for _, dir := range m.Folders {
		extra, err := files.Extra(ctx, dir, keep)
		if err != nil {
			problems = append(problems, fmt.Sprintf("what is in %s and not in the cut cannot be put aside: %v", dir, err))
		}
		if len(extra) > 0 {
			r.notice(fmt.Sprintf("%s: %d files in %s are not in the cut, and are removed when its members run: %s", m.Name, len(extra), dir, fewOf(extra, some)))
		}
	}
	return problems
}

// inPlace is a member that comes back to the host where it was recorded.
type inPlace struct {
	member   Member
	meta     MemberMeta
	recorded time.Time // by this host's clock
}

// noticeChanged names files that have changed since the cut beside those that it holds. The restore leaves them as they are, and the program may not expect
// them so.
func (r *Restoration) noticeChanged(ctx context.Context, members []inPlace, kept map[string]bool, all []Member) error {
	if len(members) == 0 {
		return nil
	}
	skip := []string{r.a.cfg.StateDir, r.a.cfg.Images.Staging()}
	for _, m := range all {
		skip = append(skip, m.Folders...)
	}
	since := members[0].recorded // the cut may have parts of several snapshots
	for _, m := range members {
		if m.recorded.Before(since) {
			since = m.recorded
		}
	}
	b, err := files.NewBeside(since, kept, skip)
	if err != nil {
		return err
	}
	for _, m := range members {
		var held []string
		for _, f := range m.meta.Files {
			for _, name := range append([]string{f.Path}, f.Links...) {
				if name != "" && name != m.member.Log { // the agent has it written
					held = append(held, name)
				}
			}
		}
		found, err := b.Look(ctx, held, m.meta.Needs.Dirs)
		if err != nil {
			return err
		}
		for _, c := range found {
			r.notice(m.member.Name + ": " + changedText(c, m.recorded))
		}
	}
	return nil
}

// changedText says what has changed in a folder, and what helps.
func changedText(c files.Changed, recorded time.Time) string {
	at := recorded.Format(time.DateTime)
	var what []string
	if n := len(c.Files); n > 0 {
		where := " and below"
		if c.Shared {
			where = ""
		}
		what = append(what, fmt.Sprintf("%d files in %s%s have changed since the cut (%s) and are not in it: %s", n, c.Folder, where, at, fewOf(c.Files, 10)))
	}
	if n := len(c.Folders); n > 0 {
		what = append(what, fmt.Sprintf("names were made or removed since the cut (%s) in %d folders: %s", at, n, fewOf(c.Folders, some)))
	}
	if c.Bounded != "" {
		what = append(what, fmt.Sprintf("%s was not looked through: %s", c.Folder, c.Bounded))
	}
	if c.Unknown != "" {
		what = append(what, fmt.Sprintf("whether files in %s have changed since the cut that are not in it is not known: %s", c.Folder, c.Unknown))
	}
	remedy := fmt.Sprintf("to have them in later cuts, start the program with ssctl run --files %s", c.Folder)
	if c.Shared {
		remedy = "to have them in later cuts, let the program keep its files in a folder of its own, and start it with ssctl run --files and that folder"
	}
	return strings.Join(what, "; ") + ". The restore leaves them as they are, and the program may not expect that; " + remedy
}

// notice tells the person who restores something that keeps nothing from going on.
func (r *Restoration) notice(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notices = append(r.notices, text)
}

// some is how many paths a sentence names if nothing else is said.
const some = 3

// fewOf names the first few paths.
func fewOf(paths []string, few int) string {
	if len(paths) <= few {
		return strings.Join(paths, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(paths[:few], ", "), len(paths)-few)
}
