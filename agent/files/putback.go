package files

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
	"ss/internal/disk"
)

// Source is a file of a cut that is to be put back.
type Source struct {
	Stored

	Content string // a file of our own with its content
	InPlace bool   // the file is of this host, so that Dev and Ino say which one it was
}

// temporary begins the names that files have while they are put back.
const temporary = ".ss-"

func temporaryName() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // it never fails (crypto/rand)
	return temporary + hex.EncodeToString(b[:])
}

// PutBack makes every file what it was in the cut, and notes in undo, a folder of our own that is made, how to take all of that back. A
// file that is there and is the right one keeps its inode, so that others who have it open go on with it. Before that it puts aside what is in folders and not in the
// cut, and makes the folders and FIFOs of places that are missing, outer ones first. When it fails, what it did is undone.
func PutBack(undo string, places []Seen, folders []string, sources []Source) (*Undo, error) {
	u, err := newUndo(undo)
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	for _, s := range sources {
		keep[s.Path] = true
		for _, name := range s.Links {
			keep[name] = true
		}
	}
	for _, dir := range folders {
		if err := u.clear(dir, keep); err != nil {
			return nil, errors.Join(fmt.Errorf("put aside what is in %s and not in the cut: %w", dir, err), u.Back())
		}
	}
	if err := u.makePlaces(places); err != nil { // a file may have been in the place of a folder
		return nil, errors.Join(err, u.Back())
	}
	for _, s := range sources {
		err := s.Check()
		if err == nil {
			err = u.putBack(s)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("put back %q: %w", s.Names(), err), u.Back())
		}
	}
	return u, nil
}

func (u *Undo) putBack(s Source) error {
	content, err := os.Open(s.Content)
	if err != nil {
		return err
	}
	defer content.Close()
	names := s.Names()
	if s.Path != "" {
		names = names[:1+len(s.Links)] // what was removed is not made again
	} else {
		names = names[:0]
	}
	file, at, err := u.findRight(s, names)
	if err == nil && file == nil && s.InPlace && s.Path == "" && s.Handle != "" && len(s.Gone) > 0 {
		file, at, err = u.findNameless(s)
	}
	if err != nil {
		return err
	}
	if file != nil {
		defer file.Close()
		err = u.overwrite(s, file, at, content)
	} else {
		at = s.Names()[0]
		if file, err = u.create(s, at, content); file != nil {
			defer file.Close()
		}
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if name != at {
			if err := u.link(s, file, name); err != nil {
				return err
			}
		}
	}
	if err := s.settle(file); err != nil {
		return err
	}
	return u.record(s, file)
}

// Placed is where a file of a cut is now. Its own name is not the cut's if that was removed.
type Placed struct {
	Path     string
	Dev, Ino uint64
}

// Taken is what a file of a cut will take of the host when it is put back, in bytes.
type Taken struct {
	Kept  int64 // of the undo folder: how much more than at the cut is there now, so much at least PutBack has to keep
	Made  bool  // the file is made: none that is there is overwritten
	Grown int64 // of the file system that the file is on: what is put aside there keeps its own until the restore has succeeded
}

// Check says beforehand what would keep PutBack from putting the file back. nil: nothing that can be seen.
func Check(s Source) (Taken, error) {
	taken := Taken{Grown: s.needed()}
	found := false
	for _, name := range append([]string{s.Path}, s.Links...) {
		if name == "" {
			continue
		}
		there, err := s.check(name)
		if err != nil {
			return Taken{}, fmt.Errorf("%s cannot be put back: %w", name, err)
		}
		if there == nil {
			continue
		}
		taken.Kept = max(taken.Kept, min(there.Blocks*512, there.Size)-s.Size, 0)
		if !found { // the first that is right is the one that is overwritten
			taken.Grown, found = max(s.needed()-there.Blocks*512, 0), true
		}
	}
	if have := s.nameless(); have > 0 {
		taken.Grown, found = max(s.needed()-have, 0), true
	}
	taken.Made = !found
	return taken, nil
}

// needed is how many bytes the file takes of a disk. Cuts of earlier versions do not say it of sparse files.
func (s Source) needed() int64 {
	if s.Blocks == 0 && s.Modified == 0 {
		return s.Size
	}
	return s.Blocks
}

// nameless is how many bytes of its disk a file without a name has that PutBack finds by its handle.
func (s Source) nameless() int64 {
	if !s.InPlace || s.Path != "" || s.Handle == "" || len(s.Gone) == 0 {
		return 0
	}
	p, err := locate("/", s.Gone[0], nil)
	if err != nil {
		return 0
	}
	defer p.close()
	file, err := p.openHandle(s.Handle)
	if err != nil || file == nil {
		return 0
	}
	defer file.Close()
	var st unix.Stat_t
	if unix.Fstat(int(file.Fd()), &st) != nil || idOf(&st) != (id{s.Dev, s.Ino}) || st.Nlink == 0 {
		return 0
	}
	return st.Blocks * 512
}

// check returns the file that has the name if it is one that PutBack overwrites.
func (s Source) check(name string) (there *unix.Stat_t, err error) {
	p, err := locate("/", name, nil)
	if err != nil {
		return nil, ignoreGone(err) // folders that are missing are made
	}
	defer p.close()
	fd, st, err := p.look()
	if err == nil {
		err, mounted := changeable(fd, name), mountedOver(fd)
		_ = unix.Close(fd)
		if err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil, fmt.Errorf("a folder has its name: %w", unix.EISDIR)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG && int(st.Uid) == s.UID && int(st.Gid) == s.GID && (s.InPlace && idOf(&st) == (id{s.Dev, s.Ino}) || !s.InPlace && st.Nlink == 1) {
			return &st, nil // whoever may write in the folder
		}
		if mounted {
			return nil, fmt.Errorf("another file is mounted over it: umount %s", name)
		}
	}
	err = p.as(s, func() error { return unix.Faccessat(p.fd, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS) })
	if err != nil {
		return nil, p.advise(s, &os.PathError{Op: "write in", Path: p.dir, Err: err})
	}
	return nil, nil
}

// record notes where the file is, by all names that the images may have for it.
func (u *Undo) record(s Source, file *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	path := s.Path
	if path == "" {
		path = u.steps[len(u.steps)-1].Path // under the name of ours that create gave it
	}
	for _, name := range s.Names() {
		at := path
		if s.Path != "" && !slices.Contains(s.Gone, name) {
			at = name
		}
		u.placed[s.key(name, slices.Contains(s.Gone, name))] = Placed{Path: at, Dev: st.Dev, Ino: st.Ino}
	}
	return nil
}

type placedKey struct {
	name string
	gone bool
	ino  uint64 // of a file without a name at the cut, as several may have lost the same; 0 of others
}

func (s Stored) key(name string, gone bool) placedKey {
	if s.Deleted {
		return placedKey{name, true, s.Ino}
	}
	return placedKey{name, gone, 0}
}

// Placed tells where a file of the cut is now, by a name that it had, or by one that was removed. ino is that of the cut if it had no name then, else 0.
func (u *Undo) Placed(name string, gone bool, ino uint64) (Placed, bool) {
	p, ok := u.placed[placedKey{name, gone, ino}]
	return p, ok
}

// findRight opens the file of the cut if it is there under one of its names.
func (u *Undo) findRight(s Source, names []string) (*os.File, string, error) {
	for _, name := range names {
		p, err := locate("/", name, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		file, err := p.right(s)
		p.close()
		if err != nil || file != nil {
			return file, name, err
		}
	}
	return nil, "", nil
}

// findNameless opens the file of the cut if it still lives, by whatever name, and gives it one of ours beside the one that it has lost.
func (u *Undo) findNameless(s Source) (*os.File, string, error) {
	p, err := locate("/", s.Gone[0], nil)
	if err != nil {
		return nil, "", ignoreGone(err)
	}
	defer p.close()
	file, err := p.openHandle(s.Handle)
	if file == nil || err != nil {
		return nil, "", err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(file.Fd()), &st)
	if err != nil || idOf(&st) != (id{s.Dev, s.Ino}) || st.Nlink == 0 || int(st.Uid) != s.UID || int(st.Gid) != s.GID {
		return nil, "", errors.Join(err, file.Close())
	}
	tmp := temporaryName()
	if err := u.linkAs(s, p, tmp, file, &st); err != nil {
		return nil, "", errors.Join(err, file.Close())
	}
	return file, filepath.Join(p.dir, tmp), nil
}

// linkAs gives the file a name of ours in the folder of the place.
func (u *Undo) linkAs(s Source, p *place, tmp string, file *os.File, st *unix.Stat_t) error {
	if err := u.madeOwn(p, tmp, st); err != nil {
		return err
	}
	err := p.as(s, func() error {
		return unix.Linkat(unix.AT_FDCWD, proc.OwnFd(int(file.Fd())), p.fd, tmp, unix.AT_SYMLINK_FOLLOW)
	})
	if err != nil {
		return p.advise(s, &os.PathError{Op: "link", Path: p.path(), Err: err})
	}
	return nil
}

// right opens the file if it is the one that was in the cut: on its own host by its identity; elsewhere, where none can be, a file of the
// same owner that has no other name.
func (p *place) right(s Source) (*os.File, error) {
	fd, st, err := p.look()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil, &os.PathError{Op: "open", Path: p.path(), Err: fmt.Errorf("a folder is in its place: %w", unix.EISDIR)}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != s.UID || int(st.Gid) != s.GID {
		return nil, nil
	}
	known := s.InPlace && s.Ino != 0
	if known && idOf(&st) != (id{s.Dev, s.Ino}) || !known && st.Nlink != 1 {
		return nil, nil
	}
	return overtake(fd, unix.O_RDWR, p.path())
}

// overwrite changes what differs, and keeps in the undo folder what was there.
func (u *Undo) overwrite(s Source, file *os.File, path string, content *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	same, err := commonPrefix(file, content, min(st.Size, s.Size))
	if err != nil {
		return err
	}
	if same == st.Size && same == s.Size && st.Mode&0o7777 == s.Mode {
		return nil
	}
	if err := u.save(file, path, same, &st); err != nil {
		return err
	}
	if err := copyData(file, content, same, s.Size, true); err != nil {
		return err
	}
	return unix.Fchmod(int(file.Fd()), s.Mode)
}

// commonPrefix is how many whole blocks, or all of the limit, two files begin alike.
func commonPrefix(a, b io.ReaderAt, limit int64) (int64, error) {
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := int64(0); at < limit; {
		n := int(min(int64(len(x)), limit-at))
		for _, r := range []struct {
			from io.ReaderAt
			to   []byte
		}{{a, x[:n]}, {b, y[:n]}} {
			if m, err := r.from.ReadAt(r.to, at); m < n {
				return 0, fmt.Errorf("read at byte %d: %w", at, err)
			}
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return at, nil
		}
		at += int64(n)
	}
	return limit, nil
}

// create makes the file under a name of ours, and then gives it its own, in one step.
func (u *Undo) create(s Source, path string, content *os.File) (*os.File, error) {
	p, err := locate("/", path, u.makeDir(s))
	if err != nil {
		return nil, err
	}
	defer p.close()
	tmp := temporaryName()
	var file *os.File
	err = p.as(s, func() error {
		fd, err := unix.Openat(p.fd, tmp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return &os.PathError{Op: "create a file in", Path: p.dir, Err: err}
		}
		file = os.NewFile(uintptr(fd), path)
		return nil
	})
	if err != nil {
		return nil, p.advise(s, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(int(file.Fd()), &st)
	if err == nil {
		err = u.madeOwn(p, tmp, &st)
	}
	if err == nil {
		err = copyData(file, content, 0, s.Size, true)
	}
	// The mode comes last: a change of the owner takes the set-user and set-group bits away.
	err = errors.Join(err, unix.Fchown(int(file.Fd()), s.UID, s.GID), unix.Fchmod(int(file.Fd()), s.Mode))
	if err == nil && s.Path != "" {
		err = u.rename(s, p, tmp, &st)
	}
	return file, err
}

// rename gives a file that we have made its name. What has the name now is put aside.
func (u *Undo) rename(s Source, p *place, tmp string, st *unix.Stat_t) error {
	if err := u.aside(s, p); err != nil {
		return err
	}
	if err := u.made(p, p.name, st); err != nil {
		return err
	}
	err := p.as(s, func() error { return unix.Renameat(p.fd, tmp, p.fd, p.name) })
	if err != nil {
		return p.advise(s, &os.PathError{Op: "rename to", Path: p.path(), Err: err})
	}
	return nil
}

// link gives the file one more name.
func (u *Undo) link(s Source, file *os.File, path string) error {
	p, err := locate("/", path, u.makeDir(s))
	if err != nil {
		return err
	}
	defer p.close()
	var want, have unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &want); err != nil {
		return err
	}
	if unix.Fstatat(p.fd, p.name, &have, unix.AT_SYMLINK_NOFOLLOW) == nil && idOf(&have) == idOf(&want) {
		return nil
	}
	tmp := temporaryName()
	if err := u.linkAs(s, p, tmp, file, &want); err != nil {
		return err
	}
	return u.rename(s, p, tmp, &want)
}

// makeDir makes missing folders with the rights of the file's owner, where root is not alone.
func (u *Undo) makeDir(s Source) makeDir {
	return func(w *walker, name string) error {
		p := place{fd: w.fd, dir: w.dir, name: name, trusted: w.trusted()}
		err := p.as(s, func() error { return unix.Mkdirat(w.fd, name, 0o755) })
		if err != nil {
			return p.advise(s, &os.PathError{Op: "mkdir", Path: p.path(), Err: err})
		}
		return nil
	}
}

// as calls do with the rights that are due in the folder: root's where root alone changes anything, and elsewhere those of the owner of the
// file, so that nothing can be done through us that the owner could not do as well.
func (p *place) as(s Source, do func() error) error {
	if p.trusted {
		return do()
	}
	return as(s.UID, s.GID, do)
}

// advise says what helps where the owner may not do what a restore has to.
func (p *place) advise(s Source, err error) error {
	if s.UID != 0 && !p.trusted && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		return fmt.Errorf("%w: user %d owns the file and may not put it there; let that user write in %s, or remove what has the name", err, s.UID, p.dir)
	}
	return err
}

// Paths are all names that sources put back, sorted.
func Paths(sources []Source) []string {
	var out []string
	for _, s := range sources {
		out = append(out, s.Names()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(dir))
}
