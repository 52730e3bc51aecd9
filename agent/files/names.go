package files

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxEntries bounds the search for another name of a file in one folder, and maxSearched that in all folders around it.
const (
	maxEntries  = 100_000
	maxSearched = 200_000
)

// Names are further names of files that have lost the one they were opened by. Survey looks for them while the members run, as that may take a
// while; Take believes one only if it still is a name of the file.
type Names map[id][]string

// find looks for the names of the files that have none which /proc tells of.
func (n Names) find(ctx context.Context, s *scan) error {
	for _, key := range s.order {
		f := s.files[key]
		if !f.kept() || f.st.Nlink == 0 || len(f.live()) > 0 {
			continue
		}
		for link, root := range f.links {
			was, removed := strings.CutSuffix(link, deleted)
			if !removed {
				continue
			}
			x := search{root: root, want: key, left: maxSearched, done: map[id]bool{}}
			if err := x.around(ctx, filepath.Dir(was)); err != nil {
				return err
			}
			n[key] = append(n[key], x.found...)
		}
	}
	return nil
}

// live are the names that the file has now, of those that /proc tells of, and beside them.
func (f *held) live() []string {
	var live []string
	for link, root := range f.links {
		if f.is(root, link) {
			live = append(live, link)
		} else if was, ok := strings.CutSuffix(link, deleted); ok {
			live = append(live, siblings(root, was, &f.st)...)
		}
	}
	slices.Sort(live)
	return slices.Compact(live)
}

// search looks for names of a file around a folder, on the file's own file system.
type search struct {
	root  string
	want  id
	left  int // entries that may still be looked at
	done  map[id]bool
	found []string
}

// around searches the folder and all below it, then the folder above, and so on, until a name is found.
func (x *search) around(ctx context.Context, dir string) error {
	for ; len(x.found) == 0 && x.left > 0; dir = filepath.Dir(dir) {
		fd, err := unix.Open(filepath.Join(x.root, dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			err = x.below(ctx, fd, dir)
		}
		if ctx.Err() != nil {
			return err
		}
		if dir == "/" {
			break
		}
	}
	return nil
}

// below searches a folder and all below it. It closes the descriptor. What cannot be read is passed over.
func (x *search) below(ctx context.Context, fd int, dir string) error {
	folder := os.NewFile(uintptr(fd), dir)
	defer folder.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Dev != x.want.dev || x.done[idOf(&st)] {
		return err
	}
	x.done[idOf(&st)] = true
	for x.left > 0 {
		names, err := folder.Readdirnames(min(x.left, 1000))
		if err != nil {
			return nil //nolint:nilerr // the end of the folder, or one that cannot be read
		}
		x.left -= len(names)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue // removed meanwhile
			}
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFREG:
				if idOf(&st) == x.want && !strings.HasPrefix(name, linkRemap) {
					x.found = append(x.found, filepath.Join(dir, name))
				}
			case unix.S_IFDIR:
				sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
				if err != nil {
					continue
				}
				if err := x.below(ctx, sub, filepath.Join(dir, name)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// handleOf names a file for as long as it lives, whatever its names are (name_to_handle_at(2)); "" where the file system has no such.
func handleOf(path string) string {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d:%s", h.Type(), hex.EncodeToString(h.Bytes()))
}

var errHandle = errors.New("not a file handle")

// openHandle opens the file of a handle, which lives on the file system of the place. nil: it does not live any more.
func (p *place) openHandle(handle string) (*os.File, error) {
	var kind int32
	var text string
	if n, err := fmt.Sscanf(handle, "%d:%s", &kind, &text); n != 2 {
		return nil, fmt.Errorf("%w: %q: %w", errHandle, handle, err)
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", errHandle, handle, err)
	}
	dir, err := unix.Openat(p.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.OpenByHandleAt(dir, unix.NewFileHandle(kind, b), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return nil, nil //nolint:nilerr // a handle that leads nowhere any more (ESTALE), or a file system that has none
	}
	defer unix.Close(fd)
	return reopen(fd, unix.O_RDWR, p.path())
}
