package files

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// deleted is what /proc appends to the name of a file that was removed.
const deleted = " (deleted)"

// Capture holds the files of members that stand still, until Close. What becomes of their names meanwhile changes nothing.
type Capture struct {
	stored []*held
	seen   map[string][]Seen
	scan   *scan
}

// Take takes hold of the files that the members, which stand still, can write. It opens none of their paths: a descriptor that
// can be read is copied (pidfd_getfd(2)), and only one without a lease is opened again. names and ahead
// are those of Survey.
func Take(ctx context.Context, trees []Tree, names Names, ahead *Ahead) (*Capture, error) {
	s, err := look(ctx, trees, true)
	if err != nil {
		return nil, err
	}
	c := &Capture{seen: s.seen, scan: s}
	if err := s.tooMany(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if len(s.refused) > 0 {
		return nil, errors.Join(errors.New(s.refused[0]), c.Close())
	}
	early, sum, text := int64(earlyMax), int64(0), s.text
	for _, key := range s.order {
		f := s.files[key]
		if !f.kept() {
			continue
		}
		f.clone = ahead.cloned(f)
		if ahead != nil {
			f.early = ahead.copies[key]
		}
		if err := f.take(len(c.stored), names[key], &early); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.stored = append(c.stored, f)
		if !f.clone {
			sum += f.Blocks
		}
		for name, value := range f.Attributes {
			text += int64(len(name) + len(value))
		}
		err := ahead.grown(sum)
		if text > maxText {
			err = errTooMuchText
		}
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// earlyMax is how many bytes of files that are only appended to are copied while the members stand still. That takes 0.3 ms a MiB, and keeps the many small
// logs of this world safe from being truncated (logrotate's copytruncate) before they are copied.
const earlyMax = 8 << 20

// take opens the file and says what it is. names are some that it may have,
// early is how much may still be copied early, and is lowered by what will be.
func (f *held) take(number int, names []string, early *int64) error {
	f.name(names)
	if len(f.Names()) == 0 {
		return fmt.Errorf("%s: its name changed while it was looked at: try again", f.handles[0].path())
	}
	err := f.open()
	if err != nil {
		return fmt.Errorf("%s: %w", f.any(), err)
	}
	if err := unix.Stat(f.handles[0].path(), &f.st); err != nil {
		return fmt.Errorf("%s: %w", f.any(), err)
	}
	f.Name, f.Holder = strconv.Itoa(number), f.members[0]
	f.Size, f.Blocks, f.Mode = f.st.Size, min(f.st.Blocks*512, f.st.Size), f.st.Mode&0o7777
	f.Deleted = f.st.Nlink == 0
	f.Modified, f.Attributes = f.st.Mtim.Nano(), attributesOf(f.handles[0].path())
	f.UID, f.GID, f.Dev, f.Ino = int(f.st.Uid), int(f.st.Gid), f.st.Dev, f.st.Ino
	f.After = f.appended() && !f.clone
	if f.After && f.Blocks <= *early {
		*early -= f.Blocks
		f.After = false
	}
	if !f.After {
		return nil
	}
	if f.begins, f.ends, err = edges(f.file, f.Size); err != nil {
		return fmt.Errorf("%s: %w", f.any(), err)
	}
	return nil
}

// edges are the first and the last block of what a file holds up to size.
func edges(file io.ReaderAt, size int64) (first, last []byte, err error) {
	n := min(size, blockSize)
	first, last = make([]byte, n), make([]byte, n)
	_, err = io.ReadFull(io.NewSectionReader(file, 0, n), first)
	if err == nil {
		_, err = io.ReadFull(io.NewSectionReader(file, size-n, n), last)
	}
	return first, last, err
}

func (f *held) any() string { return cmp.Or(append(f.Names(), f.handles[0].path())...) }

// open takes hold of the content by the way that disturbs nobody: an open file of our own, unless opening would break a lease. A copy of a
// member's descriptor is the second choice, as locks and leases live on in it.
func (f *held) open() error {
	if !f.leased {
		file, err := f.handles[0].open(idOf(&f.st))
		if err == nil {
			f.file = file
			return nil
		}
		if errors.Is(err, errExchanged) {
			return err
		}
	}
	for _, h := range f.handles {
		if h.fd < 0 || !h.read {
			continue
		}
		file, err := h.borrow()
		if err != nil {
			return err
		}
		f.file, f.shared = file, true
		return nil
	}
	for _, h := range f.handles {
		if !h.leased {
			continue
		}
		file, err := h.copyLeased()
		f.file = file
		return err
	}
	return errors.New("it cannot be opened for reading, not even by root")
}

// borrow copies a descriptor of the process.
func (h handle) borrow() (*os.File, error) {
	pidfd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", h.pid, err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, h.fd, 0)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d of process %d: %w", h.fd, h.pid, err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), h.path()), nil
}

// name finds out what the file is called now, and how it is found again in place if that is not known.
func (f *held) name(others []string) {
	f.Links = f.live()
	for link, root := range f.links {
		if was, ok := strings.CutSuffix(link, deleted); ok && !f.is(root, link) { // else it has moved since, by a process that runs
			f.Gone = append(f.Gone, was)
		}
		for _, other := range others {
			if f.is(root, other) {
				f.Links = append(f.Links, other)
			}
		}
	}
	slices.Sort(f.Links)
	f.Links = slices.Compact(f.Links)
	slices.Sort(f.Gone)
	if len(f.Links) > 0 {
		f.Path, f.Links = f.Links[0], f.Links[1:]
	} else if f.st.Nlink > 0 {
		f.Handle = handleOf(f.handles[0].path())
	}
}

// is says whether path is a name of the file.
func (f *held) is(root, path string) bool {
	var st unix.Stat_t
	return unix.Lstat(filepath.Join(root, path), &st) == nil && idOf(&st) == idOf(&f.st)
}

// siblings are the names that a file has in the folder of one that was removed: sem_open(3) and all who link a complete file to its
// name and remove the first one leave such.
func siblings(root, path string, st *unix.Stat_t) []string {
	p, err := locate(root, path, nil)
	if err != nil {
		return nil
	}
	defer p.close()
	var found []string
	for _, name := range p.names(st) {
		if !strings.HasPrefix(name, linkRemap) {
			found = append(found, filepath.Join(p.dir, name))
		}
	}
	return found
}

// names are those that the file has in the folder.
func (p *place) names(st *unix.Stat_t) []string {
	fd, err := unix.Openat(p.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	dir := os.NewFile(uintptr(fd), p.dir)
	defer dir.Close()
	var found []string
	all, _ := dir.Readdirnames(maxEntries) // a part of them is better than none
	for _, name := range all {
		var other unix.Stat_t
		if unix.Fstatat(fd, name, &other, unix.AT_SYMLINK_NOFOLLOW) == nil && idOf(&other) == idOf(st) {
			found = append(found, name)
		}
	}
	return found
}

// linkRemap begins the names that CRIU gives for a moment to files whose own were removed.
const linkRemap = "link_remap."

// Stored lists the files that the member holds, those whose content is in another member's folder too.
func (c *Capture) Stored(member string) []Stored {
	var out []Stored
	for _, f := range c.stored {
		if slices.Contains(f.members, member) {
			out = append(out, f.Stored)
		}
	}
	return out
}

// Seen lists what the member had open, mapped, or worked in.
func (c *Capture) Seen(member string) []Seen { return c.seen[member] }

// Removed says whether the member holds a file by a name that was removed while the file has others. CRIU links such a file
// to a name of its own in that folder while it dumps.
func (c *Capture) Removed(member string) bool {
	return slices.ContainsFunc(c.stored, func(f *held) bool { return len(f.Gone) > 0 && !f.Deleted && slices.Contains(f.members, member) })
}

// Sweep removes the names that a CRIU which was killed has left of the member's files. No CRIU may be at it.
func (c *Capture) Sweep(member string) {
	for _, f := range c.stored {
		if !slices.Contains(f.members, member) {
			continue
		}
		for link, root := range f.links {
			was, ok := strings.CutSuffix(link, deleted)
			if !ok {
				continue
			}
			p, err := locate(root, was, nil)
			if err != nil {
				continue
			}
			for _, name := range p.names(&f.st) {
				if strings.HasPrefix(name, linkRemap) {
					_ = unix.Unlinkat(p.fd, name, 0) // a name too many harms nobody
				}
			}
			p.close()
		}
	}
}

// Frozen is how many bytes are to be read while the members stand still, and the files, the largest first. Memory (tmpfs) does not count, nor does
// what is cloned, what has not changed since it was copied, and what is only appended to: little of that is copied so early.
func (c *Capture) Frozen() (int64, []Large) {
	var sum int64
	var largest []Large
	for _, f := range c.stored {
		if !f.appended() && !inMemory(f) && !f.clone && (f.early == nil || !f.early.unchanged(f)) {
			sum += f.Blocks
			largest = append(largest, Large{Path: f.any(), Member: f.Holder, Bytes: f.Blocks})
		}
	}
	slices.SortStableFunc(largest, func(a, b Large) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return sum, largest
}

// Copy copies the contents, those that were only appended to (after) or all others, each to dir(holder)/Name.
func (c *Capture) Copy(ctx context.Context, after bool, dir func(holder string) string) error {
	for _, f := range c.stored {
		if f.After != after {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.copyTo(filepath.Join(dir(f.Holder), f.Name)); err != nil {
			return fmt.Errorf("copy %s: %w", f.any(), err)
		}
		if err := f.file.Close(); err != nil {
			return fmt.Errorf("copy %s: %w", f.any(), err)
		}
		f.file = nil
	}
	return nil
}

// Close lets go of the files.
func (c *Capture) Close() error {
	var errs []error
	for _, f := range c.stored {
		if f.file != nil {
			errs = append(errs, f.file.Close())
			f.file = nil
		}
	}
	if c.scan != nil {
		errs = append(errs, c.scan.close())
		c.scan = &scan{dirs: c.scan.dirs}
	}
	return errors.Join(errs...)
}
