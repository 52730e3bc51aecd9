package target

import (
	"net/netip"
	"slices"

	"ss/agent/files"
)

// Needs is what an image folder needs of a host.
type Needs struct {
	Files  []NeededFile     // executables and libraries, mapped or open
	Dirs   []string         // working directories and roots
	Listen []netip.AddrPort // listening ports
	Conns  []NeededConn
	Pids   []int // in the member's own PID namespace

	Objects NeededObjects `json:"objects"`
}

// Sockets are what the images say of their sockets. Those of earlier versions say less.
func (n Needs) Sockets() []NeededSocket {
	if n.Objects.Sockets != nil {
		return n.Objects.Sockets
	}
	var out []NeededSocket
	for _, l := range n.Listen {
		out = append(out, NeededSocket{Protocol: "tcp", Local: l, Listening: true})
	}
	for _, c := range n.Conns {
		out = append(out, NeededSocket{Protocol: "tcp", Local: c.Local, Remote: c.Remote})
	}
	return out
}

// NeededFile is a regular file that an image folder refers to.
type NeededFile struct {
	Path    string
	BuildID string // hex, "" if it has none
	Size    int64
	Program bool // of a process: the kernel must be able to execute it
	Mapped  bool // as an executable mapping: it must be the same build
	Write   bool // open for writing, or mapped of a file that was opened so
	Append  bool // open with O_APPEND
}

// NeededConn is one end of a TCP connection.
type NeededConn struct{ Local, Remote netip.AddrPort }

// NeededObjects are the objects of a host's kernel and file system that an image folder names and CRIU makes or opens again. Two
// members, or a member and a stranger, can be in each other's way with any of them.
type NeededObjects struct {
	Paths   []NeededPath   `json:"paths,omitempty"`
	Sockets []NeededSocket `json:"sockets,omitempty"`
	Unix    []NeededUnix   `json:"unix,omitempty"`
	Dialled []string       `json:"dialled,omitempty"` // paths of datagram sockets of other programs that sockets are connected to, such as /dev/log
	Watched []string       `json:"watched,omitempty"` // paths of inotify and fanotify watches; "" is one that has none
	Ended   []string       `json:"ended,omitempty"`   // files in /proc of processes that had ended
	Devices []NeededDevice `json:"devices,omitempty"` // that packet sockets are bound to
	// Unlinked are the names that files had which have none any more, or another one: CRIU gives them these names for a moment.
	Unlinked []string `json:"unlinked,omitempty"`
	// Ghosts are those of them that had no name at all, whose content only the images hold: CRIU makes each again beside where it was. Cuts of earlier
	// versions do not say.
	Ghosts []NeededGhost `json:"ghosts,omitempty"`
	// Locks are those that CRIU takes again, on files that have a name.
	Locks []NeededLock `json:"locks,omitempty"`
	// Leases are those that CRIU takes again, on files that have a name.
	Leases []NeededLease `json:"leases,omitempty"`
}

// NeededGhost is a file or folder that had no name any more, under the one that it had.
type NeededGhost struct {
	Path  string `json:"path"`
	Mode  uint32 `json:"mode"` // st_mode
	Ino   uint64 `json:"ino"`  // on the host of the cut
	Bytes int64  `json:"bytes,omitempty"`

	Program bool `json:"program,omitempty"` // the file that a process was started from
	Mapped  bool `json:"mapped,omitempty"`  // to be run
}

// In says whether the file is one of those that the cut holds. These are put back before CRIU, which makes none of them.
func (g NeededGhost) In(list []files.Stored) bool {
	return slices.ContainsFunc(list, func(f files.Stored) bool {
		return f.Deleted && f.Ino == g.Ino && slices.Contains(f.Gone, g.Path)
	})
}

// NeededLock is a lock on a file or folder.
type NeededLock struct {
	Path  string `json:"path"`
	Flock bool   `json:"flock,omitempty"` // flock(2); else one of fcntl(2), of a range of bytes
	Write bool   `json:"write,omitempty"` // exclusive
	Start int64  `json:"start"`           // of a range: its first byte
	End   int64  `json:"end"`             // and its last
}

// NeededDevice is a network device, as a packet socket has it: by the number that it has on the host of the dump. Name is what that host called it.
type NeededDevice struct {
	Index int    `json:"index"`
	Name  string `json:"name"`
}

// NeededPath is a path that CRIU opens, with what it compares then.
type NeededPath struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"` // st_mode; 0 where the images do not say it
	Size int64  `json:"size"` // -1 where CRIU does not compare it
}

// NeededSocket is an IPv4 or IPv6 socket that is bound. IPv4-mapped addresses are unmapped.
type NeededSocket struct {
	Protocol  string         `json:"protocol"` // "tcp", "udp", "udplite"
	Local     netip.AddrPort `json:"local"`
	Remote    netip.AddrPort `json:"remote"` // the zero value if it is not connected
	Listening bool           `json:"listening,omitempty"`
	Shares    bool           `json:"shares,omitempty"`   // its program has set SO_REUSEADDR or SO_REUSEPORT
	V6Only    bool           `json:"v6only,omitempty"`   // of an IPv6 socket: it takes no IPv4
	Device    string         `json:"device,omitempty"`   // SO_BINDTODEVICE
	Anywhere  bool           `json:"anywhere,omitempty"` // IP_FREEBIND: its address need not be of this host
}

// Connected says whether it is one end of a connection.
func (s NeededSocket) Connected() bool { return s.Remote.Port() != 0 }

// datagrams says whether what it gets are datagrams, and no stream.
func (s NeededSocket) datagrams() bool { return s.Protocol != "tcp" }

// NeededUnix is the name of a UNIX socket that is bound: a path, or an abstract name.
type NeededUnix struct {
	Path     string `json:"path,omitempty"`
	Abstract string `json:"abstract,omitempty"` // without the zero byte before it
	Stream   bool   `json:"stream,omitempty"`
}

// HostObjects are the objects that live on a host, as far as a restore could be in their way, or they in its.
type HostObjects struct {
	Sockets []HostSocket
	Unix    []HostUnix
	Written []HostFile // regular files that members of other jobs have open for writing
}

// HostSocket is a TCP, UDP or UDP-Lite socket of a host.
type HostSocket struct {
	NeededSocket
	Inode  uint64
	Ours   bool // a member of the job holds it, or one of its listeners is about to: it ends before the restore
	Orphan bool // no program holds it: what a closed connection has left
	Over   bool // of an orphan: everything was delivered, and only its time is waited for (FIN-WAIT-2, TIME-WAIT)
}

// HostUnix is a UNIX socket with a name.
type HostUnix struct {
	Abstract string
	Path     string // as its program gave it
	Dev      uint64 // of a socket with a path: device and inode of its file, as stat(2) has them
	Ino      uint64
	Inode    uint64
	Ours     bool
}

// FileID names a file of a host, by its device and inode, as stat(2) has them.
type FileID struct{ Dev, Ino uint64 }

// HostLock is a lock that a process of the host holds, and who that is. Its Path is as that process has it.
type HostLock struct {
	NeededLock
	File  FileID
	Owner string
}

// HostFile is a regular file and who has it open.
type HostFile struct {
	Dev, Ino uint64
	Path     string
	Owner    string // "member hostA-1 of job j"
}
