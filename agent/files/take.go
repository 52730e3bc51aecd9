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
	"unicode/utf8"

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

// Surveyed is what Survey has seen.
type Surveyed struct {
	Refused []string // why Take could not do its work
	Size    int64    // bytes that the files take on their disks
	Frozen  int64    // how many of them would have to be read while the members stand still
	Largest []Large  // of those, the largest first
	Names   Names    // for Take
	Ahead   *Ahead   // for Take
}

// Large is a file that makes members stand still for long.
type Large struct {
	Path   string
	Member string // one that holds it
	Bytes  int64  // that it takes on its disk
}

// Survey looks at what running members hold. dir is where the files will be copied to, which says whether they can be cloned; "" if there is no such folder.
func Survey(ctx context.Context, trees []Tree, dir string) (Surveyed, error) {
	s, err := look(ctx, trees, false)
	if err != nil {
		return Surveyed{}, err
	}
	defer s.close() //nolint:errcheck // holds on files that nothing was written to
	out := Surveyed{Names: Names{}, Ahead: &Ahead{}}
	if err := out.Names.find(ctx, s); err != nil {
		return Surveyed{}, err
	}
	out.Refused = append(s.sameLostName(), s.refused...)
	for _, t := range trees {
		out.Refused = append(out.Refused, unspeakable(t.Member, s.seen[t.Member])...)
	}
	if err := s.tooMany(); err != nil {
		out.Refused = append(out.Refused, err.Error())
	}
	for _, key := range s.order {
		f := s.files[key]
		if !f.kept() {
			out.ghost(f)
			continue
		}
		if why := f.lost(out.Names[key]); why != "" {
			out.Refused = append(out.Refused, why)
		}
		taken := f.st.Blocks * 512
		out.Size += taken
		if !f.appended() && !inMemory(f) && !out.Ahead.clonable(dir, f) {
			out.Frozen += taken
			out.Largest = append(out.Largest, Large{Path: cmp.Or(append(f.live(), f.handles[0].path())...), Member: f.members[0], Bytes: taken})
		}
	}
	slices.SortStableFunc(out.Largest, func(a, b Large) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return out, nil
}

// Holding is what a running member has open or mapped.
type Holding struct {
	Seen    []Seen
	Written []string // paths of the files whose content would be in a cut
}

// Look lists what a running member has open or mapped.
func Look(ctx context.Context, t Tree) (Holding, error) {
	s, err := look(ctx, []Tree{t}, true)
	if err != nil {
		return Holding{}, err
	}
	defer s.close() //nolint:errcheck // holds on files that nothing was written to
	h := Holding{Seen: s.seen[t.Member]}
	for _, key := range s.order {
		f := s.files[key]
		for link := range f.links {
			if f.kept() && !strings.HasSuffix(link, deleted) {
				h.Written = append(h.Written, link)
			}
		}
	}
	return h, nil
}

// maxGhost is the largest file without a name that CRIU puts into its images.
const maxGhost = 1<<32 - 1

// ghost counts a file that has no name any more: CRIU copies it while the members stand still.
func (out *Surveyed) ghost(f *held) {
	taken := f.st.Blocks * 512
	if f.st.Nlink > 0 || len(f.handles) == 0 || inMemory(f) {
		return
	}
	l := Large{Path: f.handles[0].path(), Member: f.members[0], Bytes: taken}
	if link, err := os.Readlink(l.Path); err == nil {
		l.Path = link
	}
	if f.st.Size > maxGhost {
		out.Refused = append(out.Refused, fmt.Sprintf("process %d has %s open, which has %d MiB and no name any more, and CRIU takes at most 4 GiB of such a file: close it, or give it a name", f.handles[0].pid, l.Path, f.st.Size>>20))
	}
	out.Size += taken
	out.Frozen += taken
	out.Largest = append(out.Largest, l)
}

// unspeakable refuses names that are not UTF-8: no list of a cut can hold them.
func unspeakable(member string, seen []Seen) []string {
	var out []string
	for _, s := range seen {
		if !utf8.ValidString(s.Path) {
			out = append(out, fmt.Sprintf("%s has %q open, or works in it, and that name is not UTF-8: rename it", member, s.Path))
		}
	}
	return out
}

// sameLostName refuses two files that were opened by one name, which each has lost while it has others: the images name both alike.
func (s *scan) sameLostName() []string {
	var out []string
	seen := map[string]bool{}
	for _, key := range s.order {
		f := s.files[key]
		if f.st.Nlink == 0 || !f.kept() {
			continue
		}
		for link, root := range f.links {
			if !strings.HasSuffix(link, deleted) || f.is(root, link) {
				continue
			}
			if seen[link] {
				out = append(out, fmt.Sprintf("process %d holds one of two files that were opened as %s and lost that name while they have others: open each by the name that it has", f.handles[0].pid, strings.TrimSuffix(link, deleted)))
			}
			seen[link] = true
		}
	}
	return out
}

// lost says why the file could not be found again in place, "" if it could: it has no name that is known, and its file system knows no other way.
func (f *held) lost(names []string) string {
	h := f.handles[0]
	link, err := os.Readlink(h.path())
	if f.st.Nlink == 0 || err != nil || !strings.HasSuffix(link, deleted) || len(f.live()) > 0 || len(names) > 0 || handleOf(h.path()) != "" {
		return ""
	}
	return fmt.Sprintf("process %d opened %s by a name that was removed, and which other name the file has is not to be found: open it by the name that it has", h.pid, strings.TrimSuffix(link, deleted))
}

// tooMany says if members hold more files that they can write than this process may hold with them: a descriptor is needed for each, and
// the agent's other jobs and callers need some, too.
func (s *scan) tooMany() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of descriptors: %w", err)
	}
	n := 0
	for _, f := range s.files {
		if f.kept() {
			n++
		}
	}
	if most := limit.Cur / 4; uint64(n) > most {
		return fmt.Errorf("the members have %d files open that they may write, and the agent can hold %d with them: close some, or raise LimitNOFILE of ssagent (it is %d)", n, most, limit.Cur)
	}
	return nil
}

// inMemory says whether the file is on a tmpfs: memory, like the rest of the member's.
func inMemory(f *held) bool {
	var fs unix.Statfs_t
	return unix.Statfs(f.handles[0].path(), &fs) == nil && fs.Type == unix.TMPFS_MAGIC
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
	early := int64(earlyMax)
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
		fd, err := unix.Open(f.handles[0].path(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			f.file = os.NewFile(uintptr(fd), f.any())
			return nil
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
