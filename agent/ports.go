package agent

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"ss/agent/target"
	"ss/marker"
)

// Member is one program of a job on this host, with all that it has started. What it is stands in the Member itself; where it lives is its Cell;
// what CRIU dumps of it, and restores, are its Units.
type Member struct {
	Job  string
	Name string // unique in the job, for its whole life: the host it was started on, a dash, a number

	Command []string // as it was started; of an attached tree, its root's /proc/PID/cmdline
	Env     []string // K=V, added to a minimal environment; empty for attached trees
	Dir     string   // working directory; "" means /
	Log     string   // where standard output and error go, appended; "" means a file that Agent.Run makes below its state folder

	Folders []string // absolute paths: the files in them are part of each cut, open or not
	Aliases []Alias  // where the addresses that its programs know are now (R6); empty unless a restore moved one
	Names   []Alias  // the reverse: under which address, To, its programs know one that is in use, From

	Attached bool // taken over while it ran: no PID 1 of its own until it is restored

	MemoryFrozen bool // its memory is copied while it stands still, also where it could be tracked (Memory)

	Cell
	Tree

	// Epoch is that of the restore that the member belongs to: it made the member, or was the job's last when the member was started. 0
	// if the job had not been restored by then.
	Epoch uint64

	State  MemberState
	Exit   string // of an ended member: "exit status 0", "signal: killed"
	Frozen bool
}

// ErrNoRedirect is in errors that say why this host cannot have a member's connections go where its Aliases say.
var ErrNoRedirect = errors.New("old addresses cannot be redirected")

// Alias is where an address is now that programs of a member may still use.
type Alias struct {
	From netip.Addr `json:"from"` // the old address
	To   netip.Addr `json:"to"`
}

// Cell is where a member lives on its host. It is there before a member is restored into it, and may outlive the member: what the
// kernel keeps of a member that has ended is in it until Forget.
type Cell struct {
	InitPid  int    // its PID 1, as this host sees it; 0 if there is none, as for attached trees
	Cgroup   string // folder of the cgroup that holds the member and nothing else
	CgroupID uint64 // its inode number in the v2 hierarchy, 0 where there is none: what nftables matches sockets with
	JobGroup uint64 // that of the folder which holds the cgroups of all the job's members here
}

// Tree is a process with all its descendants.
type Tree struct {
	Pid      int // the root, as this host sees it; 0 when it has ended
	InnerPid int // the root in its own PID namespace; Pid for attached trees
}

// Unit is what one CRIU dumps, or restores into a cell: one process tree.
type Unit struct {
	Job, Member string
	Cell
	Tree
}

// Units are those of a member: one today. A dump goes through all that there are, but into one image folder of the member, and a restore takes
// the first. For several, each unit would need a folder of its own, and a restore would have to start one CRIU for each.
func (m Member) Units() []Unit {
	return []Unit{{Job: m.Job, Member: m.Name, Cell: m.Cell, Tree: m.Tree}}
}

// MemberState is what a member does.
type MemberState string

// The states of a member.
const (
	Running MemberState = "running"
	Exited  MemberState = "exited"
	// Aside is a member of which a state file is damaged: it may run. Exit says what is wrong. Kill ends it and whatever is left of it.
	Aside MemberState = "set aside"
)

// Process is one process of a member's tree.
type Process struct {
	Pid     int
	Command string
	RSS     int64 // bytes
}

// UDP is the Protocol of UDP sockets.
const UDP = "udp"

// Socket is one TCP or UDP socket held by a member.
type Socket struct {
	Member  string
	Pid     int // one of the processes that hold it
	Command string
	Inode   uint64

	Local, Remote netip.AddrPort // v4-mapped addresses unmapped; Remote is the zero value of a listener, and of a UDP socket that is not connected
	Wildcard      bool           // a listener, or a UDP socket that is not connected, on every address
	V6Only        bool           // of such an IPv6 socket: it takes no IPv4
	Listening     bool
	Connecting    bool   // SYN-SENT: the other end has not answered
	HalfOpen      bool   // SYN-RECV, or established, and not accepted yet
	Unread        uint32 // of a HalfOpen one: bytes that have come, a FIN counting one
	Ended         bool   // the other end has closed: its FIN was received
	Protocol      string // "tcp", or what else it is and CRIU cannot dump, e.g. "mptcp"; UDP
}

// Flow is what one connection has under way.
type Flow struct {
	Remote  netip.AddrPort
	Unacked uint32 // segments sent and not acknowledged
}

// Wait is a system call that a thread stood in when its member was frozen.
type Wait struct {
	Thread   int    // in the member's own PID namespace
	Call     int    // its number
	Again    uint64 // address of the instruction that makes the call
	Return   uint64 // address of the one after it
	Restarts bool   // a signal whose handler says so (SA_RESTART) does not end it
}

// Cells is all that agent/cell does for the agent. It is split by purpose. Restores and standings use most of the parts,
// others one or two.
type Cells interface {
	Members
	CellMaker
	Freezer
	Observer
	Host
}

// Members starts, finds and ends members.
type Members interface {
	// Start makes a cell and starts m in it. It fills in all that m does not say.
	Start(ctx context.Context, m Member) (Member, error)
	// Attach takes the running tree whose root is m.Pid in: into a cgroup of its own.
	Attach(ctx context.Context, m Member) (Member, error)
	// Members lists what lives on this host, ended members too until Forget. It finds what an earlier agent left.
	Members(ctx context.Context) ([]Member, error)
	// Kill ends the whole tree, frozen or not, waits until it is gone, and removes cell and cgroup.
	// What its sockets leave in the kernel (FIN-WAIT and so on) is destroyed.
	Kill(ctx context.Context, m Member) error
	// Forget removes the last traces of an ended member.
	Forget(ctx context.Context, m Member) error
	// AwaitEnd returns m as it is when it has ended, or when ctx ends.
	AwaitEnd(ctx context.Context, m Member) (Member, error)
}

// CellMaker makes cells for members that are restored.
type CellMaker interface {
	// NewCell makes a cell with nothing in it, for CRIU to restore m into.
	NewCell(ctx context.Context, m Member) (Member, error)
	// Vacant returns nil if nothing lives in the cgroup that m's cell would have, or what lives there is a member of this host, and else what it is.
	Vacant(ctx context.Context, m Member) error
	// Adopt records that the tree restored into m's cell has the root innerPid.
	Adopt(ctx context.Context, m Member, innerPid int) (Member, error)
	// Redirect has the connections that m opens from now on go where m's Aliases say, and has m told the addresses that its Names say.
	Redirect(ctx context.Context, m Member) error
}

// Freezer makes members stand still and lets them run again.
type Freezer interface {
	// Freeze returns when every task of m stands still.
	Freeze(ctx context.Context, m Member) error
	// Thaw lets m run. Thawing a running member is not an error.
	Thaw(ctx context.Context, m Member) error
	// Heal undoes what a CRIU that was killed leaves behind: sockets in repair mode, traced or stopped tasks.
	Heal(ctx context.Context, m Member) error
	// Watch starts a process that outlives this agent: when the agent ends without having called stop,
	// it waits until no CRIU holds lockFile (flock), heals the members and thaws them.
	Watch(ctx context.Context, members []Member, lockFile string) (stop func() error, err error)
	// Waits lists the system calls that m's threads stood in when it was frozen last, those that a signal would interrupt.
	Waits(ctx context.Context, m Member) ([]Wait, error)
}

// Observer looks into members.
type Observer interface {
	Processes(ctx context.Context, m Member) ([]Process, error)
	Sockets(ctx context.Context, m Member) ([]Socket, error)
	// PushAcks makes the kernel send the acknowledgements it is delaying for m's connections, and lists these.
	PushAcks(ctx context.Context, m Member) ([]Flow, error)
	// Obstacles lists what CRIU could not dump of m, each with the process and what to do about it.
	Obstacles(ctx context.Context, m Member) ([]string, error)
}

// Host looks at what lives on the host beside the members.
type Host interface {
	// Objects lists what lives on this host that a restore of the job could be in the way of.
	Objects(ctx context.Context, job string) (target.HostObjects, error)
	// Holders names the processes that hold sockets, by inode.
	Holders(ctx context.Context, inodes []uint64) (map[uint64]string, error)
	// Locks lists the locks on these files that other processes than the job's members hold.
	Locks(ctx context.Context, job string, files []target.FileID) ([]target.HostLock, error)
	// Freed says how many bytes the end of the job's members frees, by the device of the file system: of files without a name that they hold.
	Freed(ctx context.Context, job string) (map[uint64]int64, error)
	// Opens lists which other processes than the job's members have these files open or mapped.
	Opens(ctx context.Context, job string, files map[target.FileID]bool) ([]target.HostOpen, error)
	// Clear destroys TCP sockets that no program holds any more and that stand in the way of those that are to come (FIN-WAIT, TIME-WAIT and so on).
	Clear(ctx context.Context, coming []target.NeededSocket) error
}

// Conn is one TCP connection as this host sees it.
type Conn struct{ Local, Remote netip.AddrPort }

// Transit is how much of what a connection's local end has to send its other end has not received.
type Transit struct {
	Conn  Conn
	Bytes uint32
}

// Gate describes one job's gate toward one peer host.
type Gate struct {
	Job   string
	Peer  string       // the peer host's name; this host's own, for connections between two members here
	Addrs []netip.Addr // every address of the peer host

	Conns   []Conn           // connections there are: their packets are held in both directions
	Listen  []netip.AddrPort // listening ports of the job here (the address may be unspecified): packets from Addrs to them, and back, are held
	Cgroups []uint64         // v2 ids of the members' cgroups: packets that their sockets send to Addrs are held

	// SYNs says that, of all packets, only the SYNs that come in for Listen are held, from whatever address: no new connection is made, and
	// those that are under way go on. Addrs, Conns and Cgroups do not count then.
	SYNs bool
}

// Block describes packets of a job that are dropped, both ways: those between its sockets here and certain addresses. Its sockets are
// the listening ports, the connections and all that processes in the cgroups have made.
type Block struct {
	Job      string
	Everyone bool         // whatever the address; From does not count then
	From     []netip.Addr // addresses of other hosts, as they are on the wire
	Listen   []netip.AddrPort
	Conns    []Conn
	Cgroups  []uint64 // v2 ids; whatever is below them belongs to them
}

// Gates holds and releases packets. agent/gate implements it. All methods are safe for concurrent use.
type Gates interface {
	// Close closes all the given gates in one atomic step. When it returns, no packet that they describe passes, and none is lost.
	Close(ctx context.Context, gates []Gate) error
	// Settle lets packets of existing connections flow through a closed gate, those it holds first, in order; it keeps holding handshakes.
	Settle(ctx context.Context, job, peer string) error
	// Seal ends Settle for all gates of the job.
	Seal(ctx context.Context, job string) error
	// Open releases what the gate holds, in order, and removes it. Opening what is not closed is not an error.
	Open(ctx context.Context, job, peer string) error
	// Discard drops what the job's closed gates hold, which keeps them closed.
	Discard(ctx context.Context, job string) error
	// OpenAll opens every gate of the job.
	OpenAll(ctx context.Context, job string) error
	// Block makes blocks all that there are, of all jobs, in one atomic step. When it returns, no packet that they describe passes. Blocks
	// outlive this agent.
	Block(ctx context.Context, blocks []Block) error
	// Mode says how packets are held here: "nft-queue", "xt-queue", or "drop".
	Mode() string
}

// DumpSpec says what CRIU is to dump and where to.
type DumpSpec struct {
	Unit     Unit
	Dir      string // images and log; made by the caller, 0700
	LockFile string // CRIU holds a shared flock on it while it lives
	Omits    bool   // Omit may be called. No process of the unit may have a seccomp filter then: CRIU could not look at it
}

// DumpResult says what a finished dump was.
type DumpResult struct {
	Bytes  int64         // of the images
	Frozen time.Duration // from CRIU's statistics
	Ends   []marker.End  // the connections in the images, as Checkpointer.Ends reads them
}

// Dump is one CRIU on its way to dump one unit.
type Dump interface {
	// Omit makes the ranges, by the PIDs that CRIU sees, look empty to it. To be called before Run, if at all.
	Omit(ranges map[int][]PageRange) error
	// Show gives CRIU what /proc/PID/smaps says of processes, by the PIDs that it sees, so that it does not read that itself. It has to be what was read
	// since the unit was frozen. CRIU waits for it. To be called before Run, if at all.
	Show(smaps <-chan map[int][]byte) error
	// Run lets CRIU go on and returns when the images are complete and CRIU is gone. The member is left frozen as
	// it was before. conns are the inodes of the TCP connections that the member has: captured is called, at most once and before
	// Run returns, when the images hold the state of all of them. CRIU goes on with the memory then.
	Run(ctx context.Context, conns []uint64, captured func()) (DumpResult, error)
	// Cancel ends it, before, in or after Run, and returns when CRIU is gone. The member is left as a failed dump leaves it: unharmed, frozen.
	Cancel(ctx context.Context) error
}

// PageRange is a range of addresses of one process, in whole pages.
type PageRange struct{ Start, End uint64 }

// ProcessPages are pages of one process that go into its images.
type ProcessPages struct {
	InnerPid int         // as CRIU sees it
	Ranges   []PageRange // mappings that CRIU was to find empty
	Runs     []PageRange // pages in a row, in the order of the addresses; whatever else is in Ranges is zero
	// Write writes the contents of Runs[i].
	Write func(w io.Writer, i int) error
}

// Memory copies the memory of members while they run. agent/memory implements it.
type Memory interface {
	// Mode says whether it can, and if not, why.
	Mode() (tracked bool, reason string)
	// Omits says whether CRIU may be kept from memory of u: no process of it has a seccomp filter, which CRIU could not read then.
	Omits(u Unit) bool
	// Small says, of a running unit, that it has so little memory that CRIU copies it as quickly; "": it has more.
	Small(u Unit) string
	// Track begins to copy the memory of a running unit to files in dir, and returns when what is left to copy is small, or does not become
	// less. It goes on until Divide. What cannot be copied so is left to CRIU.
	Track(ctx context.Context, u Unit, dir string) TrackedMemory
	// Release ends the tracking of all units that are kept (TrackedMemory.Keep), and gives back the room of their copies.
	Release()
}

// TrackedMemory is the memory of one unit, on its way into a cut. One goroutine at a time calls its methods, in this order; Close may come
// at any time, and more than once.
type TrackedMemory interface {
	MemoryCopying
	MemoryCopied
}

// MemoryCopying takes a unit's memory until the unit runs again.
type MemoryCopying interface {
	// Halt ends the copying before the freeze.
	Halt()
	// Divide says, of the frozen unit, which memory is copied here and not by CRIU (Dump.Omit).
	Divide() (map[int][]PageRange, error)
	// Smaps is what /proc/PID/smaps says of the processes that Divide has named, for Dump.Show. It may be called while CopyRest is at work.
	Smaps() map[int][]byte
	// CopyRest copies what is left of it while the unit is frozen. CRIU may dump meanwhile.
	CopyRest(ctx context.Context) error
	// MakeTwins makes the twins of processes of which more is left than can be copied soon, when CRIU has finished and the unit is still frozen. Whoever
	// holds lockFile keeps the watcher from thawing the unit (Cells.Watch).
	MakeTwins(ctx context.Context, lockFile string) error
}

// MemoryCopied is what was taken, when the unit runs again.
type MemoryCopied interface {
	// Pages are for Checkpointer.AddPages, when the member runs again.
	Pages() ([]ProcessPages, error)
	// Report says what became of it.
	Report() MemoryReport
	// Keep goes on to track the memory when Pages are in the images, so that the next Track of this unit copies only what is written from now on.
	Keep() error
	// Close ends the tracking and removes the copies, but not of what is kept. It may be called more than once.
	Close() error
}

// MemoryReport says how the memory of a member came into a cut.
type MemoryReport struct {
	Tracked      bool     // some of it was copied while the member ran
	Rounds       int      // of copying before the freeze
	Copied       int64    // bytes, before the freeze; a page may count more than once
	CopiedFrozen int64    // bytes, by us during the freeze
	CopiedTwin   int64    // bytes, from twins, after the freeze
	Pages        int64    // that we put into the images, of 4 KiB
	Left         []string // what was copied while it stood still, by CRIU or, where a process could have no twin, by us, and why
}

// RestoreSpec says what CRIU is to restore and from where.
type RestoreSpec struct {
	Unit     Unit   // its Cell is there, its Tree is not yet
	Dir      string // images, rewritten already
	LogDir   string // CRIU's log goes here
	LockFile string
	// Hand says which files CRIU gets as descriptors, because another user could change what their names lead to while it
	// restores. nil: none. The images in Dir are changed for it.
	Hand func(ImageFile) (*Handed, error)
}

// ImageFile is a file or folder as the images name it.
type ImageFile struct {
	Name    string
	Mode    uint32 // with the type
	Removed bool   // the name was removed at the dump
	Ino     uint64 // the file's number at the dump, if it had no name at all; else 0
}

// Handed is a file that CRIU's keeper opens, in the member's cell, and CRIU does not.
type Handed struct {
	Path     string
	Dev, Ino uint64 // what Path must lead to
	AnySize  bool   // it may have another size than at the dump
}

// Restore is one CRIU that has restored a unit and stands at its post-restore notification:
// no task runs, sockets are still in repair mode.
type Restore interface {
	InnerPid() int
	// Resume lets the tree run and returns when CRIU is gone.
	Resume(ctx context.Context) error
	// Cancel backs out and returns when CRIU and the tree are gone.
	Cancel(ctx context.Context) error
}

// Checkpointer runs CRIU and works on its images. agent/criu implements it.
type Checkpointer interface {
	Dumper
	ImageEditor
}

// Dumper runs CRIU.
type Dumper interface {
	// Check says which CRIU there is, and whether it works here. A failure says why not, and what to do.
	Check(ctx context.Context) (version string, err error)
	// StartDump starts CRIU up to the last point at which it has not touched the member; the member runs on.
	StartDump(ctx context.Context, spec DumpSpec) (Dump, error)
	// StartRestore returns when the member stands restored and waits for Resume.
	StartRestore(ctx context.Context, spec RestoreSpec) (Restore, error)
}

// ImageEditor reads and changes the images of CRIU, which lie in folders of plain files.
type ImageEditor interface {
	// AddPages puts pages into the images that a dump has left without them (Dump.Omit). Whoever reads the images finds them as if CRIU had
	// dumped the pages itself. It fails where the pages and what CRIU did not look at do not match exactly.
	AddPages(dir string, pages []ProcessPages) error
	// Ends reads the connections of an image folder. Host and Member are left for the caller to fill in.
	Ends(dir string) ([]marker.End, error)
	// Needs reads what the images need of the host they are restored on.
	Needs(dir string) (target.Needs, error)
	// Interrupt sees to it that signals with handlers that are in the images of dir interrupt the system calls that threads wait in.
	Interrupt(dir string, waits []Wait) error
	// Rewrite makes dst hold the images of src with every moved address replaced, and the given ends, with the addresses of src, in
	// another state: what does not change is linked, src is not touched.
	Rewrite(src, dst string, moved map[netip.Addr]netip.Addr, ends []EndChange) error
	// Unsend makes the images of dir, which it may change, hold bytes in transit as bytes that were never sent.
	Unsend(dir string, transit []Transit) error
	// ShareFIFOs has what a FIFO held restored once, if several of the image folders, all of one host, have it. It changes them.
	ShareFIFOs(dirs []string) error
}

// EndChange is an end of a connection that a restore does not put back as the images have it.
type EndChange struct {
	Member string
	Conn   Conn
	As     EndState
}

// EndState is what such an end is put back as. The values are those of the catalogue.
type EndState string

// The states.
const (
	// EndClosed is a connection that the other side has closed.
	EndClosed EndState = "closed"
	// EndConnecting is a connection that is being made: in SYN-SENT.
	EndConnecting EndState = "connecting"
)
