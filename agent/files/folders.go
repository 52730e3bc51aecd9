package files

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// Folders describes folders and all that lead to them, outer ones first, as they are now. It leaves out what is not a folder and what cannot be looked at.
func Folders(dirs []string) []Seen {
	var out []Seen
	done := map[string]bool{"/": true, ".": true}
	var add func(dir string)
	add = func(dir string) {
		if done[dir] || !filepath.IsAbs(dir) {
			return
		}
		done[dir] = true
		add(filepath.Dir(dir))
		st, err := Stat(dir)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			out = append(out, Seen{Path: dir, Mode: st.Mode, UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino})
		}
	}
	for _, dir := range dirs {
		add(filepath.Clean(dir))
	}
	return out
}

// CheckFolder says why a folder or FIFO that is missing could not be made. nil: it is there, or nothing that can be seen is in the way. known are the
// paths of those that are made before it.
func CheckFolder(s Seen, known map[string]bool) error {
	if err := s.makeable(); err != nil {
		return err
	}
	if known[filepath.Dir(s.Path)] {
		return nil
	}
	p, err := locate("/", s.Path, nil)
	if err != nil {
		return fmt.Errorf("%s cannot be made: %w", s.Path, err)
	}
	defer p.close()
	owner := Source{Stored: Stored{UID: s.UID, GID: s.GID}}
	err = p.as(owner, func() error { return unix.Faccessat(p.fd, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS) })
	if err != nil {
		return fmt.Errorf("%s cannot be made: %w", s.Path, p.advise(owner, &os.PathError{Op: "write in", Path: p.dir, Err: err}))
	}
	return nil
}

// Missing says whether nothing has that name.
func Missing(path string) bool {
	var st unix.Stat_t
	return errors.Is(unix.Lstat(path, &st), fs.ErrNotExist)
}

// makeable refuses what no Folders can have said.
func (s Seen) makeable() error {
	const most = math.MaxUint32 - 1 // (uid_t) -1 means no user at all
	kind := s.Mode & unix.S_IFMT
	if !filepath.IsAbs(s.Path) || filepath.Clean(s.Path) != s.Path || kind != unix.S_IFDIR && kind != unix.S_IFIFO || s.UID < 0 || s.GID < 0 || s.UID > most || s.GID > most {
		return fmt.Errorf("%q with the mode %#o, of user %d and group %d, cannot be a folder or FIFO of a cut", s.Path, s.Mode, s.UID, s.GID)
	}
	return nil
}

// makePlaces makes the folders and FIFOs that are missing, with the owner and the mode that they had.
func (u *Undo) makePlaces(places []Seen) error {
	for _, s := range places {
		if err := s.makeable(); err != nil {
			return err
		}
		if err := u.makePlace(s); err != nil {
			return fmt.Errorf("make %s: %w", s.Path, err)
		}
	}
	return nil
}

func (u *Undo) makePlace(s Seen) error {
	p, err := locate("/", s.Path, nil)
	if err != nil {
		return err
	}
	defer p.close()
	var st unix.Stat_t
	if unix.Fstatat(p.fd, p.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return nil // CRIU says if it is the wrong one
	}
	owner := Source{Stored: Stored{UID: s.UID, GID: s.GID}}
	err = p.as(owner, func() error {
		var err error
		if s.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = unix.Mkdirat(p.fd, p.name, 0o700)
		} else {
			err = unix.Mknodat(p.fd, p.name, unix.S_IFIFO|0o600, 0)
		}
		if err == nil {
			err = unix.Fstatat(p.fd, p.name, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
		return err
	})
	if err != nil {
		return p.advise(owner, err)
	}
	if err := u.made(p, p.name, &st); err != nil {
		return err
	}
	// In a folder that others can write in, nothing is done that the owner could not do.
	return p.as(owner, func() error { return p.finish(s, &st) })
}

// finish gives what was made its owner and its mode, through a descriptor of that very folder or FIFO: where others can write, its name may lead
// elsewhere by now.
func (p *place) finish(s Seen, made *unix.Stat_t) error {
	fd, err := unix.Openat(p.fd, p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if idOf(&st) != idOf(made) || st.Mode&unix.S_IFMT != s.Mode&unix.S_IFMT || int(st.Uid) != s.UID && !p.trusted {
		return fmt.Errorf("%s was exchanged while it was made", s.Path)
	}
	if !p.trusted && s.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := emptyFolder(fd, s.Path); err != nil {
			return err
		}
	}
	if p.trusted {
		if err := unix.Fchownat(fd, "", s.UID, s.GID, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	return unix.Chmod(proc.OwnFd(fd), s.Mode&0o7777)
}

// emptyFolder refuses one that holds something: it is not the one that was made a moment ago.
func emptyFolder(fd int, path string) error {
	in, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(in), path)
	defer dir.Close()
	if names, _ := dir.Readdirnames(1); len(names) > 0 {
		return fmt.Errorf("%s was exchanged while it was made", path)
	}
	return nil
}

// SortPlaces leaves each path once, outer ones first.
func SortPlaces(places []Seen) []Seen {
	slices.SortStableFunc(places, func(a, b Seen) int { return len(a.Path) - len(b.Path) })
	done := map[string]bool{}
	return slices.DeleteFunc(places, func(s Seen) bool {
		was := done[s.Path]
		done[s.Path] = true
		return was
	})
}
