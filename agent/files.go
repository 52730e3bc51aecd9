package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/custody"
	"ss/agent/files"
	"ss/agent/proc"
	"ss/agent/target"
	"ss/fault"
)

// StoredFile is a file of a cut whose content is in the images.
type StoredFile = files.Stored

const (
	filesFolder = "files"
	filesIndex  = "files.json"
	seenIndex   = "seen.json"

	foldersIndex = "folders.json"
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
		t := files.Tree{Member: m.Name, Root: proc.Path(m.InitPid, "root"), Folders: m.Folders}
		if m.InitPid == 0 {
			t.Root = proc.Path(m.Pid, "root")
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
	for _, m := range w.members {
		if err := w.a.checkFolders(ctx, w.job(), m.Folders); err != nil {
			return []string{fmt.Sprintf("%s: %v", m.Name, err)}, 0, nil // and nothing of them is looked at
		}
	}
	s, err := files.Survey(ctx, trees, w.a.cfg.Images.Staging())
	if err != nil {
		return nil, 0, err
	}
	w.names, w.ahead = s.Names, s.Ahead
	if most := w.a.cfg.filesLimit(); s.Frozen > most {
		s.Refused = append(s.Refused, tooMuchFrozen(s.Frozen, most, s.Largest))
	}
	return s.Refused, s.Size, nil
}

// DefaultFilesLimit is what is read of files that a job's members have open, at most, while they stand still. To read a MiB takes 0.4 ms.
const DefaultFilesLimit = 512 << 20

func (c Config) filesLimit() int64 { return cmp.Or(c.FilesLimit, DefaultFilesLimit) }

// tooMuchFrozen says what is too large, and where, for a person to choose what to do.
func tooMuchFrozen(frozen, most int64, largest []files.Large) string {
	var b strings.Builder
	fmt.Fprintf(&b, "the members here have %d MiB of files open that they may write anywhere in, and at most %d MiB are read while they stand still: ", frozen>>20, most>>20)
	for i, l := range largest {
		if i == 3 {
			fmt.Fprintf(&b, "and %d more; ", len(largest)-i)
			break
		}
		fmt.Fprintf(&b, "%s (%d MiB, of %s); ", l.Path, l.Bytes>>20, l.Member)
	}
	b.WriteString("raise files_limit in agent.yaml (a MiB takes 0.4 ms), put the staging folder on a file system that can clone these files (Btrfs, XFS), or open them for appending")
	return b.String()
}

// aheadDir is where files are copied to before the members stand still: beside where they will be.
func (w *work) aheadDir() (string, error) {
	if len(w.members) == 0 {
		return "", nil
	}
	dir, err := w.filesDir(w.members[0].Name)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o700)
}

// copyAhead copies large files while the members run.
func (w *work) copyAhead(ctx context.Context) error {
	dir, err := w.aheadDir()
	if err != nil || dir == "" {
		return err
	}
	trees, err := w.trees(ctx)
	if err != nil {
		return err
	}
	if err := w.ahead.Copy(ctx, trees, dir, w.a.cfg.Quiet.Wait); err != nil {
		return w.a.cfg.Images.Staged(fmt.Errorf("the open files: %w", err))
	}
	return nil
}

// takeFiles takes hold of the files of the members, which stand still, and copies those that must be copied before they run.
func (w *work) takeFiles(ctx context.Context) error {
	trees, err := w.trees(ctx)
	if err != nil {
		return err
	}
	c, err := files.Take(ctx, trees, w.names, w.ahead)
	if err != nil {
		return fmt.Errorf("the open files: %w", err)
	}
	w.files, w.dirs = c, map[string][]files.Seen{}
	for _, m := range w.members {
		w.dirs[m.Name] = c.Dirs(m.Name)
	}
	if frozen, largest := c.Frozen(); frozen > w.a.cfg.filesLimit() {
		return fault.New(fault.Refused, tooMuchFrozen(frozen, w.a.cfg.filesLimit(), largest), "")
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
	return errors.Join(err, w.ahead.Drop(), w.closeFiles())
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
		if err := writeIndex(filepath.Join(filepath.Dir(images), name), list); err != nil {
			return err
		}
	}
	return nil
}

func writeIndex(path string, list any) error {
	b, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("encode the list of files: %w", err)
	}
	return os.WriteFile(path, b, 0o600)
}

// folders are the paths of the folders that a restore of the member needs: of its files, sockets and FIFOs, and those that it works in or watches.
func (mm MemberMeta) folders() []string {
	var out []string
	for _, f := range mm.Files {
		for _, name := range f.Names() {
			out = append(out, filepath.Dir(name))
		}
	}
	for _, u := range mm.Needs.Objects.Unix {
		if u.Path != "" {
			out = append(out, filepath.Dir(u.Path))
		}
	}
	for _, s := range mm.fifos() {
		out = append(out, filepath.Dir(s.Path))
	}
	return slices.Concat(out, mm.Needs.Objects.Watched, mm.Needs.Dirs)
}

// fifos are the FIFOs that the member has open.
func (mm MemberMeta) fifos() []files.Seen {
	var out []files.Seen
	for _, s := range mm.Seen {
		if s.Mode&unix.S_IFMT == unix.S_IFIFO && !strings.HasSuffix(s.Path, " (deleted)") {
			out = append(out, s)
		}
	}
	return out
}

// places are what a restore of the member makes where it is missing.
func (mm MemberMeta) places() []files.Seen { return slices.Concat(mm.Folders, mm.fifos()) }

// places are what is made for all members that come to this host.
func (r *Restoration) places() ([]files.Seen, error) {
	var out []files.Seen
	for _, rm := range r.members {
		images := filepath.Join(r.unpacked(rm.part.Host), rm.member.Name, custody.ImagesFolder)
		folders, err := readIndex[files.Seen](filepath.Join(filepath.Dir(images), foldersIndex))
		if err != nil {
			return nil, err
		}
		seen, err := seenFiles(images)
		if err != nil {
			return nil, err
		}
		out = append(out, MemberMeta{Folders: folders, Seen: seen}.places()...)
	}
	return files.SortPlaces(out), nil
}

func storedFiles(images string) ([]StoredFile, error) {
	list, err := readIndex[StoredFile](filepath.Join(filepath.Dir(images), filesIndex))
	if err == nil {
		err = files.CheckAll(list)
	}
	return list, err
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
		stored, err := storedFiles(filepath.Join(set, rm.member.Name, custody.ImagesFolder))
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
	places, err := r.places()
	if err != nil {
		return err
	}
	var folders []string
	for _, rm := range r.members {
		folders = append(folders, rm.member.Folders...)
		if log := rm.member.Log; log != "" && filepath.Dir(log) == r.a.logFolder(r.job()) {
			if _, err := r.a.makeLog(r.job(), rm.member.Name); err != nil {
				return err // the agent's own disk
			}
		}
	}
	undo, err := files.PutBack(filepath.Join(r.dir, undoFolder), places, folders, sources)
	if err != nil {
		return fmt.Errorf("files of the cut: %w", err)
	}
	r.undo = undo
	return nil
}

// endFiles makes what was put back final, or takes it back.
func (r *Restoration) endFiles(final bool) error {
	undo := r.undo
	r.undo = nil
	return endUndo(undo, final)
}

func endUndo(undo *files.Undo, final bool) error {
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

// dumpOne lets CRIU dump the units of a member. CRIU gives a file whose name was removed while it has others a name for as long as it dumps, beside the
// removed one, and numbers these names for itself: so only one of such members is dumped at a time.
func (w *work) dumpOne(ctx context.Context, i int, m Member, announce func()) (DumpResult, error) {
	if w.files.Removed(m.Name) {
		w.a.linking.Lock()
		defer w.a.linking.Unlock()
		w.files.Sweep(m.Name)
		defer w.files.Sweep(m.Name)
	}
	var sum DumpResult
	for j := range w.dumps[i] {
		res, err := w.dumpUnit(ctx, i, j, announce)
		if err != nil {
			return sum, err
		}
		sum.Bytes, sum.Frozen, sum.Ends = sum.Bytes+res.Bytes, max(sum.Frozen, res.Frozen), append(sum.Ends, res.Ends...)
	}
	return sum, nil
}

// hand chooses the files that CRIU gets as descriptors: those whose names were removed, and those to whose names, or to a folder on the way, a user
// other than root could give another meaning while CRIU restores.
func (r *Restoration) hand(rm *restoring) (func(ImageFile) (*Handed, error), error) {
	seen, err := seenFiles(filepath.Join(r.unpacked(rm.part.Host), rm.member.Name, custody.ImagesFolder))
	if err != nil {
		return nil, err
	}
	was := map[string]files.Seen{}
	for _, s := range seen {
		was[s.Path] = s
	}
	return func(f ImageFile) (*Handed, error) {
		if p, ok := r.undo.Placed(f.Name, f.Removed, f.Ino); ok {
			trusted, err := files.Trusted(p.Path)
			if err != nil || trusted && !f.Removed {
				return nil, err
			}
			return &Handed{Path: p.Path, Dev: p.Dev, Ino: p.Ino}, nil
		}
		if f.Removed {
			return nil, nil // of a cut that does not say
		}
		return handSeen(f, was)
	}, nil
}

// handSeen hands a file that was not put back, if it is what the member had: of the same kind and owner.
func handSeen(f ImageFile, was map[string]files.Seen) (*Handed, error) {
	trusted, err := files.Trusted(f.Name)
	old, known := was[f.Name]
	more := known && files.Rewritten(f.Name, []files.Seen{old})
	if err != nil || trusted && !more {
		return nil, ignoreGone(err) // CRIU says what is missing
	}
	st, err := files.Stat(f.Name)
	if err != nil {
		return nil, ignoreGone(err)
	}
	if f.Mode != 0 && st.Mode&unix.S_IFMT != f.Mode&unix.S_IFMT {
		return nil, fault.New(fault.Refused, fmt.Sprintf("%s is no longer the kind of file that the member had open", f.Name), "put it back as it was")
	}
	if known && (int(st.Uid) != old.UID || int(st.Gid) != old.GID) {
		return nil, fault.New(fault.Refused, fmt.Sprintf("%s belongs to user %d and group %d, and what the member had open there to user %d and group %d", f.Name, st.Uid, st.Gid, old.UID, old.GID), "put the same file there")
	}
	return &Handed{Path: f.Name, Dev: st.Dev, Ino: st.Ino, AnySize: more}, nil
}

// addBuildIDs completes what the images need by what was read of the programs that the member ran. CRIU does not note it.
func addBuildIDs(needs *target.Needs, seen []files.Seen) {
	builds := map[string]string{}
	for _, s := range seen {
		builds[s.Path] = s.BuildID
	}
	for i, f := range needs.Files {
		if id := builds[f.Path]; id != "" {
			needs.Files[i].BuildID = id
		}
	}
}

// checkFiles says of the member's files what would keep the restore from putting them back, or from handing them to CRIU. It adds to room what
// has to be kept of those that are there, and what the file systems of the host have to have.
func (r *Restoration) checkFiles(part RestorePart, mm MemberMeta, room *custody.Room) []string {
	var problems []string
	stored := map[string]bool{}
	for _, s := range mm.Files {
		for _, name := range s.Names() {
			stored[name] = true
		}
		taken, err := files.Check(files.Source{Stored: s, InPlace: part.Host == r.a.cfg.Host})
		if err != nil {
			problems = append(problems, err.Error())
		}
		room.Keep(taken.Kept)
		room.PutBack(part.Host, s.Names()[0], s.Ino, taken.Grown)
		if err == nil && taken.Made {
			room.Make(part.Host, s.Names()[0], s.Ino)
		}
	}
	for _, g := range mm.Needs.Objects.Ghosts {
		if !g.In(mm.Files) {
			room.PutBack("", g.Path, 0, g.Bytes)
			room.Make("", g.Path, 0)
		}
	}
	made := map[string]bool{}
	for _, s := range files.SortPlaces(mm.places()) {
		if files.Missing(s.Path) {
			if err := files.CheckFolder(s, made); err != nil {
				problems = append(problems, err.Error())
			}
			made[s.Path] = true
			room.Make(part.Host, s.Path, s.Ino)
		}
	}
	was := map[string]files.Seen{}
	for _, s := range mm.Seen {
		was[s.Path] = s
	}
	for _, s := range mm.Seen {
		if stored[s.Path] || strings.HasSuffix(s.Path, " (deleted)") || strings.HasPrefix(s.Path, "/proc/") {
			continue
		}
		if _, err := handSeen(ImageFile{Name: s.Path, Mode: s.Mode}, was); err != nil {
			problems = append(problems, err.Error())
		}
	}
	return problems
}
