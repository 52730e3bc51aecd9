package obstacles

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/cgroup"
	"ss/agent/files"
	"ss/agent/proc"
	"ss/agent/sockets"
)

// Member is what is looked at.
type Member struct {
	// Procs lists the processes of the member, as they are now; those that have ended and are not reaped yet may be among them.
	Procs func() ([]int, error)
	// Others lists the processes of all members of the job on this host, as they are now: two of them may share a FIFO.
	Others func() ([]int, error)
	// Frozen says whether the member is frozen: its threads wait in the freezer then, and for nothing else. nil: it is not.
	Frozen func() (bool, error)
	// IsMember says whether a process belongs to a member of any job.
	IsMember func(pid int) bool
}

// Find lists what CRIU (4.2) could not dump of m, each with the process and what to do about it. An empty list is not a promise: CRIU has the
// last word. The member may run meanwhile.
func Find(ctx context.Context, m Member) ([]string, error) {
	first, err := look(ctx, m)
	if err == nil && len(first.found) > 0 {
		err = first.lasting(ctx)
	}
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, o := range first.found {
		texts = append(texts, o.text)
	}
	return texts, nil
}

// lastingPause is the time between two looks at what a program may have for an instant: a child before its exec(2) or at its end, an answer that it is
// about to read.
const lastingPause = 30 * time.Millisecond

// lasting leaves of what was found what is found again. A member runs while it is looked at: of a process that ends meanwhile, /proc tells the half.
func (s *survey) lasting(ctx context.Context) error {
	select {
	case <-time.After(lastingPause):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.unending(ctx); err != nil || len(s.found) == 0 {
		return err
	}
	second, err := look(ctx, s.member)
	if err != nil {
		return err
	}
	again := map[obstacleKey]bool{}
	for _, o := range second.found {
		again[o.key] = true
	}
	s.found = slices.DeleteFunc(s.found, func(o obstacle) bool { return !again[o.key] })
	return nil
}

// look makes a survey of the member as it is now.
func look(ctx context.Context, m Member) (s *survey, err error) {
	s = &survey{member: m, seen: map[string]bool{}, vforks: map[[2]int]bool{}, keyed: map[uint64]sockets.Holder{}}
	all, err := m.Procs()
	if err != nil {
		return nil, err
	}
	s.pids = cgroup.Living(all)
	slices.Sort(s.pids)
	if s.held, err = sockets.Held(s.pids); err != nil {
		return nil, err
	}
	if m.Frozen != nil {
		if s.frozen, err = m.Frozen(); err != nil {
			return nil, err
		}
	}
	s.trees()
	s.sessions()
	s.mounted()
	for _, pid := range s.pids {
		s.process(pid)
		s.namespaces(pid)
		s.leader(pid)
		s.threads(pid)
		s.scheduling(pid)
		s.mappings(pid)
		s.largeMappings(pid)
		if !s.frozen {
			s.unstoppableWaits(pid)
		}
	}
	s.sharedMemory()
	return s, errors.Join(s.descriptors(), s.sockets(ctx), s.signing(), s.unixSockets(), s.queues(ctx), ctx.Err())
}

// obstacle is one that a survey has found.
type obstacle struct {
	key  obstacleKey
	text string
	wait *wait // that is the obstacle; nil: there is none
}

// obstacleKey tells obstacles apart where a program's title changes.
type obstacleKey struct {
	pid  int
	kind string
}

// survey collects obstacles, each text once.
type survey struct {
	member  Member
	pids    []int // of the member
	frozen  bool
	held    map[uint64]sockets.Holder
	seen    map[string]bool
	outside []int                     // all other processes of the host; nil: not listed yet
	vforks  map[[2]int]bool           // parents that wait for a child with their memory
	home    uint64                    // the agent's network namespace, as its sockets name it; 0: not asked yet, or not known
	keyed   map[uint64]sockets.Holder // TCP sockets that may have keys, by inode
	found   []obstacle
}

func (s *survey) add(pid int, format string, args ...any) {
	text := proc.Whose(pid) + " " + fmt.Sprintf(format, args...)
	if !s.seen[text] {
		s.seen[text] = true
		s.found = append(s.found, obstacle{key: obstacleKey{pid, format}, text: text})
	}
}

// trees checks that the member is one tree, whole.
func (s *survey) trees() {
	all := proc.Tops(s.pids)
	for _, pid := range all[min(1, len(all)):] {
		s.add(pid, "does not descend from %s: CRIU dumps one tree; have the member's first process stay until all others have ended (in a shell: wait), or make it a member of its own", proc.Whose(all[0]))
	}
	for _, root := range all {
		desc, err := proc.Tree(root)
		if err != nil {
			continue // it ended
		}
		now, err := s.member.Procs() // after tree, so that it has what was born meanwhile
		if err != nil {
			continue
		}
		for _, p := range desc {
			if _, err := proc.ReadStat(p.Pid); !p.Dead() && !slices.Contains(now, p.Pid) && err == nil {
				s.add(p.Pid, "has left the member's cgroup, so it would not be frozen with the rest; do not let it manage cgroups of its own")
			}
		}
	}
}

// process looks at what /proc/PID says of a process as a whole.
func (s *survey) process(pid int) {
	if v, err := proc.StatusField(pid, "TracerPid"); err == nil && v != "0" {
		tracer, _ := strconv.Atoi(v)
		s.add(pid, "is being traced by %s, and a process has one tracer only: end that debugger or strace", proc.Whose(tracer))
	}
	s.worksInProc(pid)
	s.procFolder(pid)
	s.socketsInRoot(pid)
	s.program(pid)
	s.descriptorLimit(pid)
}

// worksInProc looks for a process that works in the folder of a process in /proc: there is none when its working folder is restored.
func (s *survey) worksInProc(pid int) {
	dir := strings.TrimSuffix(proc.WorkingDir(pid), deletedSuffix)
	rest, ok := strings.CutPrefix(dir, proc.Root+"/")
	first, _, _ := strings.Cut(rest, "/")
	if _, err := strconv.Atoi(first); ok && err == nil {
		s.add(pid, "works in %s, a folder of a process, which no restore can make: have it change to another folder, such as with cd /", dir)
	}
}

// mappings looks for memory that is not the process's alone to restore.
func (s *survey) mappings(pid int) {
	for m, err := range proc.Mappings(pid) {
		if err != nil {
			return // it ended
		}
		s.removedBelow(pid, m)
		switch path := m.Path; {
		case strings.Contains(path, "anon_inode:[io_uring]"):
			s.ioUring(pid)
		case strings.HasPrefix(path, "/SYSV") && s.hostIPC(pid):
			s.add(pid, "uses System V shared memory (%s) of the host's own IPC namespace, which other programs share: start the program with ssctl run, which gives it a namespace of its own", path)
		case strings.HasPrefix(path, "/secretmem"):
			s.add(pid, "maps secret memory (memfd_secret), which the kernel shows to nobody else: have it use ordinary memory, locked with mlock")
		case strings.HasPrefix(path, "anon_inode:"):
			s.add(pid, "maps a %s of the kernel, which CRIU can't dump, whether its descriptor is open or closed: have it unmap that, or run it without", strings.Trim(strings.TrimPrefix(path, "anon_inode:"), "[]"))
		case isDevice(path):
			s.add(pid, "maps the device %s, whose state CRIU can't save: close it before the snapshot, or run it without", path)
		}
	}
}

// hostIPC says whether a process has no IPC namespace other than the agent's: it was attached, not started in a cell.
func (s *survey) hostIPC(pid int) bool {
	theirs, err1 := proc.Namespace(pid, "ipc")
	ours, err2 := proc.Namespace(os.Getpid(), "ipc")
	return err1 == nil && err2 == nil && theirs == ours
}

func (s *survey) ioUring(pid int) {
	s.add(pid, "uses io_uring, which CRIU can't dump: turn it off in the program (libuv and Node: UV_USE_IO_URING=0), or with sysctl kernel.io_uring_disabled=2 before it starts")
}

// dumpableDevices are the device files that CRIU reopens as they are.
var dumpableDevices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/ptmx", "/dev/pts/ptmx"}

func isDevice(path string) bool {
	return strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/") && !strings.HasPrefix(path, "/dev/mqueue/") &&
		!slices.Contains(dumpableDevices, strings.TrimSuffix(path, " (deleted)"))
}

// dumpableAnon are the anonymous inodes that CRIU knows.
var dumpableAnon = []string{"[eventfd]", "[eventpoll]", "inotify", "[signalfd]", "[timerfd]", "[fanotify]", "[pidfd]"}

// descriptors looks at every open file but sockets.
func (s *survey) descriptors() error {
	ptmx := map[int]bool{}
	mounts := map[int]map[int]bool{}
	programs := s.programs()
	var files []openFile
	walkErr := proc.EachFd(s.pids, func(pid, fd int, link string) {
		files = append(files, openFile{pid, fd, link})
		ptmx[pid] = ptmx[pid] || strings.HasSuffix(link, "/ptmx")
	})
	for _, f := range files {
		anon, isAnon := strings.CutPrefix(f.link, "anon_inode:")
		var info proc.FdInfo
		if strings.HasPrefix(f.link, "/") {
			var err error
			if info, err = proc.ReadFdInfo(f.pid, f.fd); err != nil {
				continue // closed meanwhile
			}
		}
		s.ofStranger(f)
		s.removedLease(f, info)
		switch {
		case info.Flags&unix.O_PATH != 0 && s.pathOnly(f, programs):
		case otherThread(f.link) && onFileSystem(f.pid, f.fd, unix.PROC_SUPER_MAGIC):
			s.add(f.pid, "has %s open (descriptor %d), which tells of a thread and that CRIU can't open again before it has made the thread: close it before the snapshot", f.link, f.fd)
		case anon == "[io_uring]":
			s.ioUring(f.pid)
		case anon == "[eventfd]" || anon == "[eventpoll]":
			s.eventDescriptor(f.pid, f.fd, anon)
		case anon == "inotify" || anon == "[fanotify]":
			s.marks(f.pid, f.fd, strings.Trim(anon, "[]"))
		case isAnon && !slices.Contains(dumpableAnon, anon):
			s.add(f.pid, "holds a %s descriptor (%d), which CRIU can't dump: close it before the snapshot", strings.Trim(anon, "[]"), f.fd)
		case strings.HasPrefix(f.link, "/dev/pts/") || f.link == "/dev/tty" || f.link == "/dev/console":
			if strings.HasSuffix(f.link, " (deleted)") { // its master is closed, which CRIU restores
				s.foreignMount(f, info, mounts)
			} else if !slices.ContainsFunc(s.pids, func(pid int) bool { return ptmx[pid] }) {
				s.add(f.pid, "has the terminal %s open (descriptor %d), whose other end is not part of the member: start it with its input and output redirected", f.link, f.fd)
			}
		case isDevice(f.link) && !isFolder(f):
			s.add(f.pid, "has the device %s open (descriptor %d), whose state CRIU can't save: close it before the snapshot", f.link, f.fd)
		case strings.HasPrefix(f.link, "pipe:["):
			if info, err := proc.ReadFdInfo(f.pid, f.fd); err == nil && info.Flags&unix.O_DIRECT != 0 {
				s.add(f.pid, "has a pipe of packets open (descriptor %d, O_DIRECT), which CRIU can't dump: have it use a pipe without, or a SOCK_SEQPACKET socket pair", f.fd)
			}
		case strings.HasPrefix(f.link, "/") && onFileSystem(f.pid, f.fd, mqueueMagic):
			s.add(f.pid, "has the POSIX message queue %s open (descriptor %d), which CRIU can't dump: close it before the snapshot", f.link, f.fd)
		case strings.HasPrefix(f.link, "/") && !strings.HasSuffix(f.link, " (deleted)"):
			s.foreignMount(f, info, mounts)
			s.appendOnly(f, info)
		}
	}
	return errors.Join(walkErr, s.pipes(files), s.shared(files))
}

// logs takes away those that CRIU connects to the same path again: datagram sockets to a path where another program receives that is not a member of any
// job, and that is for everybody, as /dev/log is. What is on its way to it is the other program's.
func (s *survey) logs(outside map[uint64]sockets.Holder, owners map[uint64]int) {
	for peer, h := range outside {
		owner := owners[peer]
		if owner == 0 || s.member.IsMember(owner) {
			continue
		}
		var path string
		err := sockets.Borrow(context.Background(), map[uint64]sockets.Holder{0: h}, func(_ sockets.Holder, fd int) {
			kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
			to, err2 := unix.Getpeername(fd)
			at, isUnix := to.(*unix.SockaddrUnix)
			if err == nil && err2 == nil && kind == unix.SOCK_DGRAM && isUnix && strings.HasPrefix(at.Name, "/") {
				path = at.Name
			}
		})
		if err != nil || path == "" {
			continue
		}
		if err := files.Public(path); err != nil {
			s.add(h.Pid, "has a UNIX socket (descriptor %d) connected to %s of %s, which is not part of the member, and would be connected to it again with the rights of root: %v", h.Fd, path, proc.Whose(owner), err)
		}
		delete(outside, peer)
	}
}

// mqueueMagic is MQUEUE_MAGIC of ipc/mqueue.c.
const mqueueMagic = 0x19800202

// isFolder says whether an open file is a folder, such as /dev/shm.
func isFolder(f openFile) bool {
	var st unix.Stat_t
	return unix.Stat(proc.FdPath(f.pid, f.fd), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// onFileSystem says whether a descriptor is of a file on a file system of that kind (statfs(2)). It opens nothing.
func onFileSystem(pid, fd int, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(proc.FdPath(pid, fd), &st) == nil && st.Type == magic
}

// sockets looks at every socket's family and protocol.
func (s *survey) sockets(ctx context.Context) error {
	return sockets.Borrow(ctx, s.held, func(h sockets.Holder, fd int) {
		domain, err1 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		protocol, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err1 != nil || err2 != nil {
			return
		}
		switch domain {
		case unix.AF_INET, unix.AF_INET6:
			s.inetSocket(h, fd, protocol)
		case unix.AF_UNIX, unix.AF_NETLINK, unix.AF_PACKET: // see queued
		default:
			s.add(h.Pid, "holds a socket of family %s (descriptor %d), which CRIU can't dump: close it before the snapshot", familyName(domain), h.Fd)
		}
	})
}

// queues looks at what waits in sockets.
func (s *survey) queues(ctx context.Context) error {
	return sockets.Borrow(ctx, s.held, func(h sockets.Holder, fd int) {
		domain, err1 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		protocol, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err1 == nil && err2 == nil {
			s.queued(h, fd, domain, protocol)
		}
	})
}

func (s *survey) inetSocket(h sockets.Holder, fd, protocol int) {
	switch protocol {
	case unix.IPPROTO_TCP:
		if ulp, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP); err == nil && ulp != "" {
			s.add(h.Pid, "has handed TLS to the kernel for a connection (descriptor %d, %s), which CRIU can't dump: turn kernel TLS off in the program", h.Fd, ulp)
		}
		s.keys(h, fd)
		s.connectedElsewhere(h, fd)
	case unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
	case sockets.ProtocolMPTCP:
		s.add(h.Pid, "uses multipath TCP (descriptor %d), which CRIU can't dump; Go programs do so since Go 1.24: start it with GODEBUG=multipathtcp=0 in its environment", h.Fd)
	default:
		if t, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && t == unix.SOCK_RAW {
			return
		}
		s.add(h.Pid, "holds a socket of IP protocol %d (descriptor %d), which CRIU can't dump: close it before the snapshot", protocol, h.Fd)
	}
}

func familyName(domain int) string {
	names := map[int]string{
		unix.AF_VSOCK: "AF_VSOCK", unix.AF_ALG: "AF_ALG (the kernel's cryptography)", unix.AF_XDP: "AF_XDP", unix.AF_RDS: "AF_RDS",
		unix.AF_IB: "AF_IB (RDMA)", unix.AF_SMC: "AF_SMC", unix.AF_TIPC: "AF_TIPC", unix.AF_CAN: "AF_CAN", unix.AF_BLUETOOTH: "AF_BLUETOOTH",
	}
	if n, ok := names[domain]; ok {
		return n
	}
	return strconv.Itoa(domain)
}

// unixSockets looks for connections to processes that are not part of the member.
func (s *survey) unixSockets() error {
	if len(s.held) == 0 {
		return nil
	}
	all, err := sockets.Unix()
	if err != nil {
		return err
	}
	var waiting []uint64
	outside := map[uint64]sockets.Holder{} // peer inode → our end
	for _, u := range all {
		waiting = append(waiting, u.Waiting...)
		h, ours := s.held[u.Inode]
		if ours && slices.Contains(u.Waiting, 0) {
			s.add(h.Pid, "listens on a UNIX socket (descriptor %d) and has not accepted a connection whose other end was closed, which CRIU can't dump: have it accept it", h.Fd)
		}
		if _, inside := s.held[u.Peer]; ours && !inside && u.Peer != 0 {
			outside[u.Peer] = h
		}
	}
	if err := s.unaccepted(waiting); err != nil || len(outside) == 0 {
		return err
	}
	pids, err := proc.Pids()
	if err != nil {
		return err
	}
	owners := map[uint64]int{}
	err = proc.EachFd(pids, func(pid, _ int, link string) {
		if ino, ok := proc.SocketInode(link); ok {
			if _, want := outside[ino]; want && owners[ino] == 0 {
				owners[ino] = pid
			}
		}
	})
	s.logs(outside, owners)
	for peer, h := range outside {
		to := "a socket that no process here holds"
		if pid := owners[peer]; pid != 0 {
			to = proc.Whose(pid)
		}
		s.add(h.Pid, "has a UNIX socket (descriptor %d) connected to %s, which is not part of the member: start both as one member (sh -c 'one & two & wait'), close it before the snapshot, or have the program do without", h.Fd, to)
	}
	return err
}
