package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// maxLinks is how many symbolic links a path may lead through, as in the kernel.
const maxLinks = 40

// ErrLink says that a path leads through a symbolic link, or to one, that a user other than root could have made.
var ErrLink = errors.New("a symbolic link that a user other than root can change is on the way")

// ErrNotRegular says that what a path leads to is not a regular file.
var ErrNotRegular = errors.New("not a regular file")

// place is the folder of a file, held by a descriptor, and the file's name in it.
type place struct {
	fd      int    // of the folder, O_PATH
	dir     string // its path, without links
	name    string
	trusted bool // root alone can change what is in the folder, and the way to it
}

func (p *place) close() { _ = unix.Close(p.fd) }

func (p *place) path() string { return filepath.Join(p.dir, p.name) }

// walker goes down a path.
type walker struct {
	fd     int
	dir    string
	stable bool // nobody but root can exchange a folder on the way
	st     unix.Stat_t
	links  int
}

func startAt(root string) (*walker, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	w := &walker{fd: fd, dir: "/", stable: true}
	if err := unix.Fstat(fd, &w.st); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "stat", Path: root, Err: err}
	}
	return w, nil
}

// trusted says whether root alone can change what is in the folder.
func (w *walker) trusted() bool {
	return w.stable && w.st.Uid == 0 && w.st.Mode&0o022 == 0
}

// keeps says whether root alone can exchange an entry of the folder that st describes: in a sticky folder of root's that is so for root's own.
func (w *walker) keeps(st *unix.Stat_t) bool {
	return w.trusted() || w.stable && w.st.Uid == 0 && w.st.Mode&unix.S_ISVTX != 0 && st.Uid == 0
}

// step enters a folder. A link is returned as the path that it stands for, if root alone can have made it.
func (w *walker) step(name string) (link string, err error) {
	fd, err := unix.Openat(w.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	path := filepath.Join(w.dir, name)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		defer unix.Close(fd)
		return w.follow(fd, path, &st)
	case unix.S_IFDIR:
		w.stable = w.keeps(&st)
		_ = unix.Close(w.fd)
		w.fd, w.dir, w.st = fd, path, st
		return "", nil
	}
	_ = unix.Close(fd)
	return "", &os.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
}

// follow reads a link that the descriptor is of.
func (w *walker) follow(fd int, path string, st *unix.Stat_t) (string, error) {
	if w.links++; w.links > maxLinks {
		return "", &os.PathError{Op: "open", Path: path, Err: unix.ELOOP}
	}
	if !w.keeps(st) || st.Uid != 0 {
		return "", &os.PathError{Op: "open", Path: path, Err: ErrLink}
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: path, Err: err}
	}
	target := string(buf[:n])
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	return filepath.Clean(target), nil
}

// makeDir makes a folder that is missing on the way. nil: none is made.
type makeDir func(w *walker, name string) error

// locate finds the folder of a path below root. A last element that is a link of root's is followed, too.
func locate(root, path string, mkdir makeDir) (*place, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || strings.ContainsRune(path, 0) {
		return nil, &os.PathError{Op: "open", Path: path, Err: fs.ErrInvalid}
	}
	for links := 0; ; {
		w, err := startAt(root)
		if err != nil {
			return nil, err
		}
		w.links = links
		next, err := w.descend(path, mkdir)
		if err != nil {
			_ = unix.Close(w.fd)
			return nil, err
		}
		if next == "" {
			return &place{fd: w.fd, dir: w.dir, name: filepath.Base(path), trusted: w.trusted()}, nil
		}
		_ = unix.Close(w.fd)
		path, links = next, w.links
	}
}

// descend goes to the folder of path. If it meets a link, it returns the path to go on with, from the root on.
func (w *walker) descend(path string, mkdir makeDir) (next string, err error) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	last := len(parts) - 1
	for i, name := range parts[:last] {
		target, err := w.step(name)
		if errors.Is(err, fs.ErrNotExist) && mkdir != nil {
			if err = mkdir(w, name); err == nil {
				target, err = w.step(name)
			}
		}
		if err != nil {
			return "", err
		}
		if target != "" {
			return filepath.Join(append([]string{target}, parts[i+1:]...)...), nil
		}
	}
	var st unix.Stat_t
	err = unix.Fstatat(w.fd, parts[last], &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK || !w.keeps(&st) || st.Uid != 0 {
		return "", nil // whoever opens it sees to it that it is not a link
	}
	fd, err := unix.Openat(w.fd, parts[last], unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return w.follow(fd, filepath.Join(w.dir, parts[last]), &st)
}

// look takes hold of what has the name, without opening it: of a FIFO that waits for nobody, of a leased file that keeps its lease. It
// returns an O_PATH descriptor, which the caller closes.
func (p *place) look() (int, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Openat(p.fd, p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, st, &os.PathError{Op: "open", Path: p.path(), Err: err}
	}
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, st, &os.PathError{Op: "stat", Path: p.path(), Err: err}
	}
	return fd, st, nil
}

// leasePatience is how long the holder of a lease is given to answer the kernel's request for it (fcntl(2), F_SETLEASE). Programs that use leases
// answer at once. The kernel itself would wait for 45 s.
const (
	leasePatience = 5 * time.Second
	leaseAgain    = 20 * time.Millisecond
)

// overtake is reopen for a file that a process may hold a lease on. It asks for the lease, and waits for a bounded time.
func overtake(fd, flags int, path string) (*os.File, error) {
	for end := time.Now().Add(leasePatience); ; time.Sleep(leaseAgain) { // nothing tells when a lease goes
		f, err := reopen(fd, flags, path)
		if !errors.Is(err, unix.EAGAIN) {
			return f, err
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%w: a process holds a lease on it and does not give it up (/proc/locks names it): end that process", err)
		}
	}
}

// reopen opens the regular file that an O_PATH descriptor holds. It never waits.
func reopen(fd, flags int, path string) (*os.File, error) {
	n, err := unix.Open(proc.OwnFd(fd), flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(n), path), nil
}

// Open opens a regular file for reading. It follows the links of root alone, and never waits: a FIFO, a device or a socket is
// ErrNotRegular.
func Open(path string) (*os.File, error) {
	p, err := locate("/", path, nil)
	if err != nil {
		return nil, err
	}
	defer p.close()
	fd, st, err := p.look()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return reopen(fd, unix.O_RDONLY, path)
	case unix.S_IFLNK:
		return nil, &os.PathError{Op: "open", Path: path, Err: ErrLink}
	}
	return nil, &os.PathError{Op: "open", Path: path, Err: ErrNotRegular}
}

// Stat is what Open would open, or a folder, without opening it.
func Stat(path string) (unix.Stat_t, error) {
	if path == "/" {
		var st unix.Stat_t
		return st, unix.Stat(path, &st)
	}
	p, err := locate("/", path, nil)
	if err != nil {
		return unix.Stat_t{}, err
	}
	defer p.close()
	fd, st, err := p.look()
	if err != nil {
		return st, err
	}
	_ = unix.Close(fd)
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return st, &os.PathError{Op: "open", Path: path, Err: ErrLink}
	}
	return st, nil
}

// Hold takes hold of a file or folder without opening it, if path leads to that very one. The caller closes the O_PATH descriptor.
func Hold(path string, dev, ino uint64) (int, error) {
	p, err := locate("/", path, nil)
	if err != nil {
		return -1, err
	}
	defer p.close()
	fd, st, err := p.look()
	if err != nil {
		return -1, err
	}
	if idOf(&st) != (id{dev, ino}) {
		_ = unix.Close(fd)
		return -1, &os.PathError{Op: "open", Path: path, Err: errors.New("it was exchanged for another file")}
	}
	return fd, nil
}

// nobody is a user with no rights of its own (the kernel's overflowuid).
const nobody = 65534

// Public says why a UNIX socket is not one that every user may connect to by that path. Then it does not matter with whose rights that is done, if
// root alone says where the path leads.
func Public(path string) error {
	trusted, err := Trusted(path)
	switch {
	case err != nil:
		return err
	case !trusted:
		return fmt.Errorf("another user than root can change where %s leads to: have the program use a socket in a folder of root's, such as /dev/log", path)
	}
	err = as(nobody, nobody, func() error { return unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS) })
	if err != nil {
		return fmt.Errorf("not every user may connect to it: %w", &os.PathError{Op: "write to", Path: path, Err: err})
	}
	return nil
}

// Receives says why a program could not connect a datagram socket to that path: nobody is bound there any more, or with a socket of another type. It asks the kernel, as a user with no
// rights of its own, and sends nothing. The path is Public.
func Receives(path string) error {
	return as(nobody, nobody, func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return &os.PathError{Op: "connect to", Path: path, Err: err}
		}
		return nil
	})
}

// Trusted says whether root alone can change what the path leads to.
func Trusted(path string) (bool, error) {
	if path == "/" {
		return true, nil
	}
	p, err := locate("/", path, nil)
	if err != nil {
		return false, err
	}
	defer p.close()
	return p.trusted, nil
}
