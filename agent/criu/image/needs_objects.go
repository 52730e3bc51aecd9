package image

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	packet_sock "github.com/checkpoint-restore/go-criu/v7/crit/images/packet-sock"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_unix "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"
	"golang.org/x/sys/unix"

	"ss/agent/target"
)

// neededObjects reads the kernel objects and paths that CRIU will make or open again.
func neededObjects(dir string, files []*fdinfo.FileEntry, ghosts map[uint32]bool) (target.NeededObjects, error) {
	var n target.NeededObjects
	tree, err := readTree(dir)
	if err != nil {
		return n, err
	}
	pids := map[int]bool{1: true} // the cell's own PID 1 is there as well
	for _, p := range tree {
		pids[int(p.GetPid())] = true
		for _, th := range p.GetThreads() {
			pids[int(th)] = true
		}
	}
	for _, f := range files {
		if err := addObject(&n, f, ghosts, pids); err != nil {
			return n, err
		}
	}
	if n.Unlinked, err = unlinked(dir, files); err != nil {
		return n, err
	}
	locks, err := heldLocks(dir, files, ghosts)
	if err != nil {
		return n, err
	}
	n.Locks, n.Leases = neededLocks(locks), neededLeases(locks)
	sortUnique(&n)
	return n, nil
}

// lastNames are the paths of files by their numbers in the images. Of a file that was removed it is the one that it had.
func lastNames(files []*fdinfo.FileEntry) map[uint32]string {
	names := map[uint32]string{}
	for _, f := range files {
		if reg := f.GetReg(); reg != nil {
			names[reg.GetId()] = filepath.Join("/", strings.TrimSuffix(reg.GetName(), deletedSuffix))
		}
	}
	return names
}

// unlinked lists the names of the files that had lost them at the dump.
func unlinked(dir string, files []*fdinfo.FileEntry) ([]string, error) {
	remaps, err := readRemaps(dir)
	if err != nil {
		return nil, err
	}
	names := lastNames(files)
	var out []string
	for _, e := range remaps.entries() {
		if name := names[e.GetOrigId()]; name != "" && named(e) {
			out = append(out, name)
		}
	}
	return out, nil
}

// ghostsOf lists what had no name at all at the dump, under each that it had. The first has its bytes.
func ghostsOf(dir string, files []*fdinfo.FileEntry, set *fileSet) ([]target.NeededGhost, error) {
	remaps, err := readRemaps(dir)
	if err != nil {
		return nil, err
	}
	names := lastNames(files)
	var out []target.NeededGhost
	counted := map[uint32]bool{}
	for _, e := range remaps.entries() {
		name := names[e.GetOrigId()]
		if e.GetRemapType() != remap_file_path.RemapType_GHOST || name == "" {
			continue
		}
		image := ghostFile(dir, e.GetRemapId())
		head, err := readHead(image, "ghost-file", &ghost_file.GhostFileEntry{})
		if err != nil {
			return nil, err
		}
		g := target.NeededGhost{Path: name, Mode: head.GetMode(), Ino: head.GetIno(), Program: set.programs[e.GetOrigId()], Mapped: set.mapped[e.GetOrigId()]}
		if st, err := os.Stat(image); err == nil && !counted[e.GetRemapId()] && g.Mode&unix.S_IFMT == unix.S_IFREG {
			g.Bytes = st.Size() // CRIU writes no holes there
			counted[e.GetRemapId()] = true
		}
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out, nil
}

func addObject(n *target.NeededObjects, f *fdinfo.FileEntry, ghosts map[uint32]bool, pids map[int]bool) error {
	switch f.GetType() {
	case fdinfo.FdTypes_REG:
		if reg := f.GetReg(); reg != nil && !ghosts[reg.GetId()] {
			addPath(n, reg)
			if pid, ok := processFile(reg.GetName()); ok && !pids[pid] {
				n.Ended = append(n.Ended, filepath.Join("/", reg.GetName()))
			}
		}
	case fdinfo.FdTypes_INETSK:
		return addSocket(n, f.GetIsk())
	case fdinfo.FdTypes_PACKETSK:
		addDevices(n, f.GetPsk())
	case fdinfo.FdTypes_UNIXSK:
		addUnix(n, f.GetUsk())
	case fdinfo.FdTypes_INOTIFY:
		for _, w := range f.GetIfy().GetWd() {
			n.Watched = append(n.Watched, w.GetFHandle().GetPath())
		}
	case fdinfo.FdTypes_FANOTIFY:
		for _, m := range f.GetFfy().GetMark() {
			path := m.GetIe().GetFHandle().GetPath()
			if m.GetMe() != nil {
				path = "/" + strings.TrimPrefix(m.GetMe().GetPath(), "/")
			}
			n.Watched = append(n.Watched, path)
		}
	}
	return nil
}

// addDevices adds what a packet socket is bound to, and where it has joined groups.
func addDevices(n *target.NeededObjects, sk *packet_sock.PacketSockEntry) {
	add := func(index uint32) {
		d := target.NeededDevice{Index: int(index)}
		if index != 0 && !slices.Contains(n.Devices, d) {
			n.Devices = append(n.Devices, d)
		}
	}
	add(sk.GetIfindex())
	for _, m := range sk.GetMclist() {
		add(m.GetIndex())
	}
}

// addPath adds a path that CRIU opens. It compares the mode, and of a regular file the size if the file is not a log.
func addPath(n *target.NeededObjects, reg *regfile.RegFileEntry) {
	path := filepath.Join("/", reg.GetName())
	if target.OfTheKernel(path) {
		n.Paths = append(n.Paths, target.NeededPath{Path: path, Size: -1})
		return
	}
	if kernelMade(path) || strings.HasSuffix(path, deletedSuffix) || terminal(path) || strings.HasPrefix(filepath.Base(path), linkRemap) {
		return
	}
	p := target.NeededPath{Path: path, Mode: reg.GetMode(), Size: -1}
	if reg.Size != nil && reg.GetMode()&unix.S_IFMT == unix.S_IFREG {
		p.Size = int64(reg.GetSize())
	}
	n.Paths = append(n.Paths, p)
}

// processFile says of which process a file in /proc tells.
func processFile(name string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "/"), "proc/")
	if !ok {
		return 0, false
	}
	first, _, _ := strings.Cut(rest, "/")
	pid, err := strconv.Atoi(first)
	return pid, err == nil
}

// terminal says whether a path is that of a terminal, which CRIU makes by its number.
func terminal(path string) bool {
	number, ok := strings.CutPrefix(path, "/dev/pts/")
	return ok && number != "ptmx" || path == "/dev/tty"
}

// linkRemap begins the names that CRIU gives, while it dumps, to files whose own were removed. They are handed to it (giveFiles).
const linkRemap = "link_remap."

// deletedSuffix ends the name of a file that has none any more, as the kernel prints it.
const deletedSuffix = " (deleted)"

func addSocket(n *target.NeededObjects, sk *sk_inet.InetSkEntry) error {
	if sk == nil || sk.GetSrcPort() == 0 {
		return nil
	}
	var protocol string
	switch sk.GetProto() {
	case unix.IPPROTO_TCP:
		protocol = "tcp"
	case unix.IPPROTO_UDP:
		protocol = "udp"
	case unix.IPPROTO_UDPLITE:
		protocol = "udplite"
	default:
		return nil // raw sockets and pings share what they are bound to
	}
	local, remote, err := SockAddrs(sk)
	if err != nil {
		return err
	}
	s := target.NeededSocket{
		Protocol: protocol, Local: local, Listening: listening(sk), V6Only: sk.GetV6Only(),
		Shares: sk.GetOpts().GetReuseaddr() || sk.GetOpts().GetSoReuseport(), Device: cmp.Or(sk.GetIfname(), sk.GetOpts().GetSoBoundDev()),
		Anywhere: sk.GetIpOpts().GetFreebind(),
	}
	if connected(sk) || connecting(sk) || protocol != "tcp" && sk.GetDstPort() != 0 {
		s.Remote = remote
	}
	n.Sockets = append(n.Sockets, s)
	return nil
}

// externalSocket is CRIU's USK_EXTERN: the entry is of a socket of another program, which a socket of the member is connected to.
const externalSocket = 1

// addUnix adds a socket that is bound. One that a listener has accepted has its listener's name, and is not bound to it.
func addUnix(n *target.NeededObjects, sk *sk_unix.UnixSkEntry) {
	name := sk.GetName()
	if len(name) == 0 || sk.GetDeleted() {
		return
	}
	if sk.GetUflags()&externalSocket != 0 {
		n.Dialled = append(n.Dialled, strings.TrimRight(string(name), "\x00"))
		return
	}
	u := target.NeededUnix{Stream: sk.GetType() != unix.SOCK_DGRAM}
	if name[0] == 0 {
		u.Abstract = string(name[1:])
	} else {
		u.Path = strings.TrimRight(string(name), "\x00")
		if !filepath.IsAbs(u.Path) {
			if sk.GetNameDir() == "" {
				return
			}
			u.Path = filepath.Join("/", sk.GetNameDir(), u.Path)
		}
	}
	n.Unix = append(n.Unix, u)
}

// sortUnique leaves each object once.
func sortUnique(n *target.NeededObjects) {
	slices.SortFunc(n.Paths, func(a, b target.NeededPath) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(b.Size, a.Size), cmp.Compare(b.Mode, a.Mode))
	})
	// The first of a path has the size, if any of its descriptors has.
	n.Paths = slices.CompactFunc(n.Paths, func(a, b target.NeededPath) bool { return a.Path == b.Path })
	slices.SortFunc(n.Unix, func(a, b target.NeededUnix) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Abstract, b.Abstract))
	})
	n.Unix = slices.CompactFunc(n.Unix, func(a, b target.NeededUnix) bool { return a.Path == b.Path && a.Abstract == b.Abstract })
	slices.Sort(n.Dialled)
	n.Dialled = slices.Compact(n.Dialled)
	slices.Sort(n.Ended)
	n.Ended = slices.Compact(n.Ended)
	slices.Sort(n.Unlinked)
	n.Unlinked = slices.Compact(n.Unlinked)
	slices.Sort(n.Watched)
	n.Watched = slices.Compact(n.Watched)
}
