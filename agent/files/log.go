package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// appendTries bounds how often a name is looked at that others make and remove meanwhile.
const appendTries = 10

// Append opens a file for appending, as a member's standard output, and makes it, 0644, if it is not there. In a folder that others than
// root can write, it follows no link and takes no file with another name, unless it is of the folder's own user: who may make links may
// have linked anybody's file there. It waits for nobody at a FIFO: that is refused.
func Append(path string) (*os.File, error) {
	p, err := locate("/", path, nil)
	if err != nil {
		return nil, err
	}
	defer p.close()
	for range appendTries {
		f, err := p.append()
		if err == nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("it is made and removed all the time")}
}

func (p *place) append() (*os.File, error) {
	fd, st, err := p.look()
	if errors.Is(err, fs.ErrNotExist) {
		return p.makeAppended()
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	refuse := func(why string) (*os.File, error) {
		return nil, &os.PathError{Op: "open", Path: p.path(), Err: errors.New(why)}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if own, err := p.ownedBy(st.Uid); err != nil {
			return nil, err
		} else if !p.trusted && !own && st.Nlink > 1 {
			return refuse(fmt.Sprintf("it is a file of user %d with another name elsewhere, in a folder where others can make names: name another file", st.Uid))
		}
	case unix.S_IFCHR:
		if !p.trusted {
			return refuse("it is a device in a folder that is not root's alone: name a regular file")
		}
	case unix.S_IFLNK:
		return nil, &os.PathError{Op: "open", Path: p.path(), Err: fmt.Errorf("%w: name the file itself", ErrLink)}
	default:
		return refuse("it is neither a regular file nor a device: name a regular file")
	}
	f, err := reopen(fd, unix.O_WRONLY|unix.O_APPEND, p.path())
	if err != nil {
		return nil, err
	}
	return f, waitAgain(f)
}

// ownedBy says whether the folder belongs to a user other than root.
func (p *place) ownedBy(uid uint32) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(p.fd, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: p.dir, Err: err}
	}
	return uid != 0 && st.Uid == uid && st.Mode&0o022 == 0, nil
}

func (p *place) makeAppended() (*os.File, error) {
	fd, err := unix.Openat(p.fd, p.name, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: p.path(), Err: err}
	}
	return os.NewFile(uintptr(fd), p.path()), nil
}

// waitAgain takes off O_NONBLOCK, which whoever inherits the open file would not expect.
func waitAgain(f *os.File) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags&^unix.O_NONBLOCK)
	}
	if err != nil {
		return errors.Join(&os.PathError{Op: "open", Path: f.Name(), Err: err}, f.Close())
	}
	return nil
}
