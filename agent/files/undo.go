package files

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Undo takes back what PutBack did. It is for one goroutine.
type Undo struct {
	dir    string
	notes  *os.File
	steps  []step
	placed map[placedKey]Placed
}

// step is one change, noted before it is made. All identities are as the change found them.
type step struct {
	Path string `json:"path"`
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`

	// Of a file that was overwritten: what stood from byte Same on is in the undo folder.
	Saved string   `json:"saved,omitempty"`
	Same  int64    `json:"same,omitempty"`
	Size  int64    `json:"size,omitempty"`
	Mode  uint32   `json:"mode,omitempty"`
	file  *os.File // the overwritten file itself (O_PATH), where PutBack has opened it

	Temporary bool `json:"temporary,omitempty"` // the name goes when all is well

	// Of what had a name that a file of the cut was given: the name that it has meanwhile, in the same folder.
	Aside string `json:"aside,omitempty"`

	// With whose rights it was put aside, or whose file was overwritten.
	UID int `json:"uid,omitempty"`
	GID int `json:"gid,omitempty"`
}

const notesFile = "steps"

func newUndo(dir string) (*Undo, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	notes, err := os.OpenFile(filepath.Join(dir, notesFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &Undo{dir: dir, notes: notes, placed: map[placedKey]Placed{}}, nil
}

// note writes a step down before it is made, for an agent that is killed in it.
func (u *Undo) note(s step) error {
	noted := s
	noted.Path = strconv.QuoteToASCII(s.Path) // JSON holds no name that is not UTF-8
	line, err := json.Marshal(noted)
	if err != nil {
		return err
	}
	if _, err := u.notes.Write(append(line, '\n')); err != nil {
		return err
	}
	u.steps = append(u.steps, s)
	return nil
}

// save keeps what an overwritten file held from byte same on.
func (u *Undo) save(file *os.File, path string, same int64, st *unix.Stat_t) error {
	if err := u.fits(path, min(st.Blocks*512, st.Size)-same); err != nil {
		return err
	}
	name := strconv.Itoa(len(u.steps))
	out, err := os.OpenFile(filepath.Join(u.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	// At their own places: what comes before is a hole.
	if err := errors.Join(copyData(out, file, same, st.Size, true), out.Close()); err != nil {
		return err
	}
	// The user may exchange the name before the undo. A descriptor that opens nothing (O_PATH) keeps nobody from taking a lease.
	fd, err := unix.Open(proc.OwnFd(int(file.Fd())), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return u.note(step{
		Path: path, Dev: st.Dev, Ino: st.Ino, Saved: name, Same: same, Size: st.Size, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid),
		file: os.NewFile(uintptr(fd), path),
	})
}

// spare is what an undo leaves free on its disk, in bytes: whose file it is must not be able to fill the agent's disk through us.
const spare = 32 << 20

// fits says whether there is room for what an overwritten file held.
func (u *Undo) fits(path string, kept int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(u.dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: u.dir, Err: err}
	}
	if free := int64(st.Bavail)*st.Bsize - spare; kept > 0 && kept > free {
		return fmt.Errorf("%s holds %d MiB that have to be kept until the restore has succeeded, and %d MiB are free for that in %s: move the file away, or make room: %w",
			path, kept>>20, max(free, 0)>>20, u.dir, unix.ENOSPC)
	}
	return nil
}

// made notes a name that a file of ours gets.
func (u *Undo) made(p *place, name string, st *unix.Stat_t) error {
	return u.note(step{Path: filepath.Join(p.dir, name), Dev: st.Dev, Ino: st.Ino})
}

// madeOwn notes a name of our own that a file of ours gets for as long as the restore goes on.
func (u *Undo) madeOwn(p *place, name string, st *unix.Stat_t) error {
	return u.note(step{Path: filepath.Join(p.dir, name), Dev: st.Dev, Ino: st.Ino, Temporary: true})
}

// aside gives what has the name of the place another one, until all is well.
func (u *Undo) aside(s Source, p *place) error {
	var st unix.Stat_t
	err := unix.Fstatat(p.fd, p.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: p.path(), Err: err}
	}
	tmp := temporaryName()
	uid, gid := s.UID, s.GID
	if p.trusted {
		uid, gid = 0, 0
	}
	if err := u.note(step{Path: p.path(), Dev: st.Dev, Ino: st.Ino, Aside: tmp, UID: uid, GID: gid}); err != nil {
		return err
	}
	err = as(uid, gid, func() error { return unix.Renameat(p.fd, p.name, p.fd, tmp) })
	if err != nil {
		return p.advise(s, &os.PathError{Op: "put aside", Path: p.path(), Err: err})
	}
	return nil
}

// Done makes what PutBack did final.
func (u *Undo) Done() error {
	errs := []error{u.notes.Close()}
	defer u.close()
	for _, s := range u.steps {
		if s.Aside != "" {
			errs = append(errs, s.drop(s.Aside))
		} else if s.Temporary {
			errs = append(errs, s.drop(filepath.Base(s.Path)))
		}
	}
	return errors.Join(append(errs, removeAll(u.dir))...)
}

// Back takes everything back, the last step first.
func (u *Undo) Back() error {
	errs := []error{u.notes.Close()}
	defer u.close()
	for i := len(u.steps) - 1; i >= 0; i-- {
		if err := u.steps[i].back(u.dir); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", u.steps[i].Path, err))
		}
	}
	return errors.Join(append(errs, removeAll(u.dir))...)
}

func (u *Undo) close() {
	for _, s := range u.steps {
		if s.file != nil {
			_ = s.file.Close()
		}
	}
}

// Reopen returns what an agent that died had noted in dir; nil if there is nothing.
func Reopen(dir string) (*Undo, error) {
	text, err := os.ReadFile(filepath.Join(dir, notesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	u := &Undo{dir: dir}
	for line := range bytes.Lines(text) {
		var s step
		if json.Unmarshal(line, &s) != nil {
			break // cut short: the step was not made
		}
		if path, err := strconv.Unquote(s.Path); err == nil { // earlier versions did not quote
			s.Path = path
		}
		u.steps = append(u.steps, s)
	}
	u.notes, err = os.Open(filepath.Join(dir, notesFile))
	return u, err
}

// back takes one step back. Where the file is not the one of that step any more, there is nothing to take back.
func (s step) back(dir string) error {
	switch {
	case s.Saved != "":
		return s.unwrite(dir)
	case s.Aside != "":
		return s.at(s.Aside, func(p *place) error {
			return as(s.UID, s.GID, func() error { return unix.Renameat(p.fd, s.Aside, p.fd, p.name) })
		})
	}
	return s.drop(filepath.Base(s.Path))
}

// at calls do with the place of the step if the named entry of its folder is the file of the step.
func (s step) at(name string, do func(p *place) error) error {
	p, err := locate("/", filepath.Join(filepath.Dir(s.Path), temporary), nil) // a last element that is a link is not followed
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrLink) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	p.name = filepath.Base(s.Path)
	var st unix.Stat_t
	if err := unix.Fstatat(p.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || idOf(&st) != (id{s.Dev, s.Ino}) {
		return ignoreGone(err)
	}
	return do(p)
}

// drop removes a name of the file.
func (s step) drop(name string) error {
	return s.at(name, func(p *place) error {
		err := unix.Unlinkat(p.fd, name, 0)
		if errors.Is(err, unix.EISDIR) { // a folder that a restore made
			if err = unix.Unlinkat(p.fd, name, unix.AT_REMOVEDIR); errors.Is(err, unix.ENOTEMPTY) {
				return nil // somebody has put something there
			}
		}
		return ignoreGone(err)
	})
}

// unwrite gives an overwritten file back what it held.
func (s step) unwrite(dir string) error {
	file, err := s.open()
	if file == nil {
		return err
	}
	defer file.Close()
	saved, err := os.Open(filepath.Join(dir, s.Saved))
	if err != nil {
		return err
	}
	defer saved.Close()
	return errors.Join(copyData(file, saved, s.Same, s.Size, true), unix.Fchmod(int(file.Fd()), s.Mode))
}

// open opens the file of a step again, by its name if nothing better is there; nil if that leads to another one.
func (s step) open() (*os.File, error) {
	if s.file != nil {
		return reopen(int(s.file.Fd()), unix.O_RDWR, s.Path)
	}
	p, err := locate("/", s.Path, nil)
	if err != nil {
		return nil, ignoreGone(err)
	}
	defer p.close()
	fd, st, err := p.look()
	if err != nil {
		return nil, ignoreGone(err)
	}
	defer unix.Close(fd)
	// Another user's is another file, which has got the number of the one that was removed.
	if idOf(&st) != (id{s.Dev, s.Ino}) || st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != s.UID || int(st.Gid) != s.GID {
		return nil, nil
	}
	return reopen(fd, unix.O_RDWR, s.Path)
}
