package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// id names a file on this host.
type id struct{ dev, ino uint64 }

func idOf(st *unix.Stat_t) id { return id{st.Dev, st.Ino} }

// handle is one way to reach a file: a descriptor of a process, or a mapping.
type handle struct {
	pid    int
	fd     int      // -1 for a mapping
	region string   // START-END of a mapping, as in /proc/PID/map_files
	own    *os.File // of a file that is in a folder of the member's: our own hold on it (O_PATH)

	read, write, append, leased bool
}

// open opens the file for reading if the handle still leads to it, and opens nothing else: a member that runs may have put a descriptor in its place
// that it cannot read itself (O_PATH), or one of a device.
func (h handle) open(want id) (*os.File, error) {
	fd, err := unix.Open(h.path(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if idOf(&st) != want || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errExchanged
	}
	return reopen(fd, unix.O_RDONLY, h.path())
}

var errExchanged = errors.New("another file is in its place")

func (h handle) path() string {
	if h.own != nil {
		return proc.OwnFd(int(h.own.Fd()))
	}
	if h.fd < 0 {
		return proc.MappedFile(h.pid, h.region)
	}
	return proc.FdPath(h.pid, h.fd)
}

// held is a regular file that members hold.
type held struct {
	Stored

	st      unix.Stat_t
	handles []handle
	links   map[string]string // what /proc says it is called → the root to look below
	members []string          // in order of their first handle
	leased  bool
	own     bool // a handle is our own
	file    *os.File
	shared  bool // file is the member's own open file: its position must not move

	early *early // a copy that was made before the members stood still; nil if there is none
	clone bool   // it is on a file system that can clone it to where it is copied

	inFolders map[string]bool // its names in folders, of a file with several
	foreign   string          // one of them that somebody else than its owner may have made; "" if there is none

	begins, ends []byte // the first and last block, where the copy is made when the members run again
}

// written says whether a member can change the file.
func (h *held) written() bool {
	return slices.ContainsFunc(h.handles, func(x handle) bool { return x.write })
}

// kept says whether the content is to be in the cut: of what members can write, and of what is not found by its name because that was removed. What has no
// name at all, CRIU keeps in the images of each member. Only what two members share has to come back as one.
func (h *held) kept() bool {
	if h.st.Nlink == 0 {
		return h.written() && len(h.members) > 1
	}
	return h.written() || h.nameless()
}

// nameless says whether members hold the file by names alone that it has not any more, though it has others.
func (h *held) nameless() bool {
	for link, root := range h.links {
		if !strings.HasSuffix(link, deleted) || h.is(root, link) {
			return false
		}
	}
	return len(h.handles) > 0
}

// appended says whether all that members can do to it is to write at its end. A leased one is not held longer than its owner stands
// still, as the lease would live on through us.
func (h *held) appended() bool {
	return !h.leased && !slices.ContainsFunc(h.handles, func(x handle) bool { return x.write && !x.append })
}

// scan is what members hold, as far as /proc tells.
type scan struct {
	files map[id]*held
	order []id
	seen  map[string][]Seen // by member
	known map[string]int    // member and path → where it is in seen
	made  map[uint64]bool   // file systems whose files the kernel makes up

	dirs    map[string][]Seen // by member: its folders and all below, outer ones first
	refused []string          // what is in folders and cannot be part of a cut
	owned   int64             // holds of our own
	text    int64             // bytes that were noted of folders

	programs bool // build ids are read
	builds   map[id]string
}

func look(ctx context.Context, trees []Tree, programs bool) (*scan, error) {
	s := &scan{
		files: map[id]*held{}, seen: map[string][]Seen{}, known: map[string]int{}, made: map[uint64]bool{},
		dirs: map[string][]Seen{}, programs: programs, builds: map[id]string{},
	}
	for _, t := range trees {
		for _, pid := range t.Pids {
			if err := ctx.Err(); err != nil {
				return nil, errors.Join(err, s.close())
			}
			err := errors.Join(s.descriptors(t, pid), s.mappings(t, pid))
			s.places(t, pid)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				return nil, errors.Join(fmt.Errorf("files of process %d: %w", pid, err), s.close())
			}
		}
		for _, dir := range t.Folders {
			if err := s.inFolder(ctx, t, dir); err != nil {
				return nil, errors.Join(fmt.Errorf("folder %s of %s: %w", dir, t.Member, err), s.close())
			}
		}
	}
	s.foreignLinks()
	return s, nil
}

// descriptors notes what a process has open.
func (s *scan) descriptors(t Tree, pid int) error {
	var errs []error
	err := proc.EachFd([]int{pid}, func(pid, fd int, link string) {
		if strings.HasPrefix(link, "/") { // a file
			errs = append(errs, s.descriptor(t, pid, fd, link))
		}
	})
	return errors.Join(append(errs, err)...)
}

func (s *scan) descriptor(t Tree, pid, fd int, link string) error {
	h := handle{pid: pid, fd: fd}
	f, err := s.note(t, h, link)
	if err != nil || f == nil {
		return err
	}
	info, err := proc.ReadFdInfo(pid, fd)
	if err != nil {
		return ignoreGone(err) // closed meanwhile by a member that runs
	}
	if info.Flags&unix.O_PATH != 0 {
		return nil
	}
	access := info.Flags & unix.O_ACCMODE
	h.read, h.write = access != unix.O_WRONLY, access != unix.O_RDONLY
	h.append = info.Flags&unix.O_APPEND != 0
	h.leased = info.Leased
	f.leased = f.leased || info.Leased
	f.handles = append(f.handles, h)
	return nil
}

// note takes up what a handle leads to, and returns it if it is a regular file of a real file system that has a name.
func (s *scan) note(t Tree, h handle, link string) (*held, error) {
	var st unix.Stat_t
	if err := unix.Stat(h.path(), &st); err != nil {
		return nil, ignoreGone(err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR && kind != unix.S_IFIFO {
		return nil, nil
	}
	if made, err := s.kernelMade(h.path(), st.Dev); err != nil || made {
		return nil, ignoreGone(err)
	}
	s.see(t, Seen{Path: link, Mode: st.Mode, UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino, Size: st.Size})
	if kind != unix.S_IFREG {
		return nil, nil
	}
	key := idOf(&st)
	f := s.files[key]
	if f == nil {
		f = &held{st: st, links: map[string]string{}}
		s.files[key] = f
		s.order = append(s.order, key)
	}
	f.links[link] = t.Root
	if !slices.Contains(f.members, t.Member) {
		f.members = append(f.members, t.Member)
	}
	return f, nil
}

// see notes what a member has, once. A member may have tens of thousands of files, so nothing here goes through all of them for each.
func (s *scan) see(t Tree, x Seen) {
	key := t.Member + "\x00" + x.Path
	if _, ok := s.known[key]; ok {
		return
	}
	s.known[key] = len(s.seen[t.Member])
	s.seen[t.Member] = append(s.seen[t.Member], x)
}

// kernelMade says whether a file is made up by the kernel, as in /proc and /sys: there is nothing to put back.
func (s *scan) kernelMade(path string, dev uint64) (bool, error) {
	if made, ok := s.made[dev]; ok {
		return made, nil
	}
	made, err := madeByKernel(path)
	if err == nil {
		s.made[dev] = made
	}
	return made, err
}

// madeByKernel says whether the kernel makes up what is on the file system of a path (statfs(2)).
func madeByKernel(path string) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return false, err
	}
	switch fs.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
		unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.NSFS_MAGIC, unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.SELINUX_MAGIC,
		unix.BINFMTFS_MAGIC, unix.EFIVARFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, mqueueMagic, secretMagic:
		return true, nil
	}
	return false, nil
}

// Of ipc/mqueue.c, and include/uapi/linux/magic.h.
const (
	mqueueMagic = 0x19800202
	secretMagic = 0x5345434d // memory that the kernel shows to nobody else (memfd_secret(2))
)

// mappings notes the files that a process has mapped. A descriptor may be closed and the mapping go on.
func (s *scan) mappings(t Tree, pid int) error {
	done := map[string]bool{} // one mapping of a file is as good as another: shared ones, and all others
	for m, err := range proc.Mappings(pid) {
		if err != nil {
			return err
		}
		key := fmt.Sprintf("%s %s %s %v %v", m.Device, m.Inode, m.Path, m.Shared, m.Executable)
		if m.Inode == "0" || !strings.HasPrefix(m.Path, "/") || done[key] {
			continue
		}
		h := handle{pid: pid, fd: -1, region: m.Range}
		writable := false
		if m.Shared {
			// The link's permissions are those of the open file: one that could be written may be mapped so at any time.
			var st unix.Stat_t
			if err := unix.Lstat(h.path(), &st); err != nil {
				if ignoreGone(err) == nil {
					continue
				}
				return err
			}
			writable = st.Mode&0o200 != 0
		}
		held, err := s.note(t, h, m.Path)
		if err != nil {
			return err
		}
		if m.Executable {
			s.program(t, h, m.Path)
		}
		done[key] = !m.Shared || writable
		if held != nil && m.Shared {
			h.read, h.write = true, writable
			held.handles = append(held.handles, h)
		}
	}
	return nil
}

// program reads the build id of a file that is mapped as a program. A file of which none can be read has none.
func (s *scan) program(t Tree, h handle, link string) {
	i, ok := s.known[t.Member+"\x00"+link]
	if !s.programs || !ok {
		return
	}
	seen := &s.seen[t.Member][i]
	key := id{seen.Dev, seen.Ino}
	build, ok := s.builds[key]
	if !ok {
		fd, err := unix.Open(h.path(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			f := os.NewFile(uintptr(fd), link)
			build = ReadBuildID(f)
			_ = f.Close()
		}
		s.builds[key] = build
	}
	seen.BuildID = build
}

// places notes where a process works, and what its root is.
func (s *scan) places(t Tree, pid int) {
	for _, name := range []string{"cwd", "root"} {
		path := proc.Path(pid, name)
		link, err := os.Readlink(path)
		var st unix.Stat_t
		if err != nil || unix.Stat(path, &st) != nil {
			continue
		}
		s.see(t, Seen{Path: link, Mode: st.Mode, UID: int(st.Uid), GID: int(st.Gid), Dev: st.Dev, Ino: st.Ino})
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
