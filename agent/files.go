package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ss/agent/files"
	"ss/fault"
)

// StoredFile is a file of a cut whose content is in the images.
type StoredFile = files.Stored

const (
	filesFolder = "files"
	filesIndex  = "files.json"
	seenIndex   = "seen.json"
	// frozenCopyMax bounds what is copied of one member while it stands still.
	frozenCopyMax = 64 << 20
)

// trees are the members as the files package looks at them.
func (w *work) trees(ctx context.Context) ([]files.Tree, error) {
	var trees []files.Tree
	for _, m := range w.members {
		procs, err := w.a.cfg.Cells.Processes(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("processes of %s: %w", m.Name, err)
		}
		// A member may have changed its own root: its cell's PID 1 has not.
		t := files.Tree{Member: m.Name, Root: fmt.Sprintf("/proc/%d/root", m.InitPid)}
		if m.InitPid == 0 {
			t.Root = fmt.Sprintf("/proc/%d/root", m.Pid)
		}
		for _, p := range procs {
			t.Pids = append(t.Pids, p.Pid)
		}
		trees = append(trees, t)
	}
	return trees, nil
}

// surveyFiles says before the freeze which files could not be taken into the cut, and what those that are will take, in bytes.
func (w *work) surveyFiles(ctx context.Context) (refused []string, size int64, err error) {
	trees, err := w.trees(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, t := range trees {
		not, _, frozen, err := files.Survey(ctx, []files.Tree{t})
		if err != nil {
			return nil, 0, err
		}
		refused = append(refused, not...)
		if frozen > frozenCopyMax {
			refused = append(refused, tooMuchFrozen(t.Member, frozen))
		}
	}
	_, size, _, err = files.Survey(ctx, trees) // a file that two members hold is stored once
	return refused, size, err
}

func tooMuchFrozen(member string, frozen int64) string {
	return fmt.Sprintf("%s has %d MiB of files open that it may write anywhere in, and at most %d MiB are copied while it stands still: close them, or open them for appending", member, frozen>>20, frozenCopyMax>>20)
}

// takeFiles takes hold of the files of the members, which stand still, and copies those that must be copied before they run.
func (w *work) takeFiles(ctx context.Context) error {
	trees, err := w.trees(ctx)
	if err != nil {
		return err
	}
	c, err := files.Take(ctx, trees)
	if err != nil {
		return fmt.Errorf("the open files: %w", err)
	}
	w.files = c
	for member, frozen := range c.Frozen() {
		if frozen > frozenCopyMax {
			return fault.New(fault.Refused, tooMuchFrozen(member, frozen), "")
		}
	}
	return nil
}

// copyFrozen copies the files that the members may write anywhere in, while they stand still.
func (w *work) copyFrozen(ctx context.Context) error {
	for _, m := range w.members {
		dir, err := w.filesDir(m.Name)
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
		if err != nil {
			return err
		}
	}
	return w.copyFiles(ctx, false)
}

// copyAppended copies the heads of the files that are only appended to: what stood in them at the cut still does.
func (w *work) copyAppended(ctx context.Context) error {
	err := w.copyFiles(ctx, true)
	return errors.Join(err, w.closeFiles())
}

func (w *work) copyFiles(ctx context.Context, after bool) error {
	var failed error
	err := w.files.Copy(ctx, after, func(member string) string {
		dir, err := w.filesDir(member)
		failed = errors.Join(failed, err)
		return dir
	})
	return errors.Join(failed, err)
}

func (w *work) filesDir(member string) (string, error) {
	dir, err := w.partial.Dir(member)
	return filepath.Join(dir, filesFolder), err
}

func (w *work) closeFiles() error {
	c := w.files
	w.files = nil
	if c == nil {
		return nil
	}
	return c.Close()
}

// indexFiles writes into the member's part of the image set which files it held.
func (w *work) indexFiles(m Member, images string) error {
	for name, list := range map[string]any{filesIndex: w.files.Stored(m.Name), seenIndex: w.files.Seen(m.Name)} {
		b, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("encode the list of files: %w", err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(images), name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func storedFiles(images string) ([]StoredFile, error) {
	return readIndex[StoredFile](filepath.Join(filepath.Dir(images), filesIndex))
}

func seenFiles(images string) ([]files.Seen, error) {
	return readIndex[files.Seen](filepath.Join(filepath.Dir(images), seenIndex))
}

// readIndex reads a list of files. Cuts of earlier versions may lack it.
func readIndex[T any](path string) ([]T, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []T
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("list of files %s: %w", filepath.Base(path), err)
	}
	return list, nil
}

// sources are the files of the cut that come to this host, each once. Two files that want one name are an error.
func (r *Restoration) sources() ([]files.Source, error) {
	var out []files.Source
	type file struct{ host, holder, name string }
	done := map[file]bool{}
	owner := map[string]file{}
	for _, rm := range r.members {
		set := r.unpacked(rm.part.Host)
		stored, err := storedFiles(filepath.Join(set, rm.member.Name, imagesFolder))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rm.member.Name, err)
		}
		for _, s := range stored {
			if s.Holder == "" {
				s.Holder = rm.member.Name
			}
			key := file{rm.part.Host, s.Holder, s.Name}
			if done[key] {
				continue
			}
			done[key] = true
			for _, name := range append([]string{s.Path}, s.Links...) {
				if other, taken := owner[name]; taken && name != "" {
					return nil, fmt.Errorf("%s of %s and of %s have different contents: they cannot both come to one host", name, other.host, key.host)
				}
				owner[name] = key
			}
			out = append(out, files.Source{
				Stored: s, Content: filepath.Join(set, filepath.Base(s.Holder), filesFolder, filepath.Base(s.Name)), InPlace: rm.part.Host == r.a.cfg.Host,
			})
		}
	}
	return out, nil
}

const undoFolder = "undo"

// putFilesBack makes the files of the cut what they were, before any CRIU looks at them, each once for all members of this host.
func (r *Restoration) putFilesBack() error {
	sources, err := r.sources()
	if err != nil {
		return err
	}
	undo, err := files.PutBack(filepath.Join(r.dir, undoFolder), sources)
	if err != nil {
		return fmt.Errorf("files of the cut: %w", err)
	}
	r.undo = undo
	return nil
}

// settleFiles makes what was put back final, or takes it back.
func (r *Restoration) settleFiles(final bool) error {
	undo := r.undo
	r.undo = nil
	return settleUndo(undo, final)
}

func settleUndo(undo *files.Undo, final bool) error {
	switch {
	case undo == nil:
		return nil
	case final:
		return undo.Done()
	}
	if err := undo.Back(); err != nil {
		return fmt.Errorf("files of the cut: %w", err)
	}
	return nil
}
