package orchestrator

import (
	"context"
	"net/netip"
	"time"

	"ss/marker"
	"ss/restoration"
	"ss/store"
	"ss/store/keys"
)

// Host is a host's agent, as the catalogue knows it.
type Host struct {
	Name     string
	Endpoint string
}

// HostInfo is what an agent says of itself.
type HostInfo struct {
	Host      string
	Version   string
	Kernel    string
	Addrs     []netip.Addr
	Networks  []netip.Prefix // each of Addrs with the length of its network's prefix
	CRIU      string
	CRIUError string
	Memory    string // why members' memory is copied while they stand still; "": it is copied while they run
	Gate      string
	FreeBytes int64
	InDoubt   []InDoubt
	SetAside  []SetAside
	Catalogue store.Mark // the newest generation of a catalogue that the agent has seen; zero: none
	Damage    []Damage
	Standings []Standing // of the jobs of which it has members, or knows of a restore
	// RemovedHosts is the newest signed list of removed hosts that the agent knows.
	RemovedHosts []byte
}

// SetAside is a damaged state file of a job on a host. The job stands still there until somebody does what Next says.
type SetAside struct {
	Job, File, Detail, Next string
}

// Damage is an object of an image set that was found damaged on a host.
type Damage struct {
	Job    string
	Digest string
	Detail string
	Found  time.Time
	Healed bool
}

// Member is a member as its agent sees it.
type Member struct {
	Host     string
	Job      string
	Name     string
	Command  []string
	Env      []string
	Dir      string
	Log      string
	Folders  []string      // whose files are part of each cut
	Aliases  store.Aliases // where addresses are now that its programs may still use (R6)
	Names    store.Aliases // under which address its programs know one that is in use
	Pid      int
	State    string
	Exit     string
	Since    time.Time // of StateUnreachable: when its host was first found silent; zero if that is not known
	RSS      int64     // bytes, of all its processes; 0 if it does not run
	Channels int
	LogBytes int64 // how long the log is; -1 where that is not known
	Attached bool
	Frozen   bool
	// MemoryFrozen: its memory is copied while it stands still, also where it could be tracked.
	MemoryFrozen bool
	Epoch        uint64 // of the restore that it belongs to; 0 if the job had not been restored when it was started
	// Notices are what its host has to say of the start that Run has made: nothing that it failed for.
	Notices []string
	// SupersededBy is the epoch of the restore that was made without it; 0 of a member that stands. Cluster.Members fills it in.
	SupersededBy uint64
}

// What a Member's State may be.
const (
	StateRunning = "running"
	StateExited  = "exited"
	// StateUnreachable: its host does not answer. The catalogue has it there.
	StateUnreachable = "unreachable"
)

// Participant is a host that takes part, with its addresses.
type Participant struct {
	Host
	Addrs []netip.Addr
}

// Agent is one host's agent.
type Agent interface {
	// Info asks what the host is, and tells its agent what it should know of the catalogue.
	Info(ctx context.Context, word Word) (HostInfo, error)
	// Stand shows the statement of a job's last restore and returns what the host knows.
	Stand(ctx context.Context, s Standing) (Standing, error)
	// Check looks at members, and at the host as a target for others, and changes nothing.
	Check(ctx context.Context, q CheckQuestion) (CheckAnswer, error)
	MemberAgent
	ImageHolder
	ProtocolAgent
}

// MemberAgent is what an agent does with the members on its host.
type MemberAgent interface {
	// Members lists the members of a job on the host, or of all jobs if job is empty.
	Members(ctx context.Context, job string) ([]Member, error)
	// Run starts a member under the name that the catalogue has drawn. One of that name makes a fault.Conflict.
	Run(ctx context.Context, m Member) (Member, error)
	// Attach makes the process tree below m.Pid a member under m.Name. Its programs run on.
	Attach(ctx context.Context, m Member) (Member, error)
	// Kill ends every member of a job on the host, forgets them and returns their names.
	Kill(ctx context.Context, job string) ([]string, error)
	// ForgetJob removes what the host keeps of a job in which nothing lives.
	ForgetJob(ctx context.Context, job string) error
	// LogTime says when a member's log was last written to.
	LogTime(ctx context.Context, job, member string) (time.Time, error)
	// Logs hands a member's log over, piece by piece, until its end, or take fails.
	Logs(ctx context.Context, job, member string, opt LogOptions, take func([]byte) error) error
}

// ProtocolAgent takes part in snapshots and restores.
type ProtocolAgent interface {
	// Snapshot opens the line for one attempt. It lives until ctx ends or Close.
	Snapshot(ctx context.Context, open Open) (SnapshotLine, error)
	// Restore opens the line for one restore.
	Restore(ctx context.Context, plan HostPlan) (RestoreLine, error)
	// RestoreWord sends one order of a restore to a host whose line has ended.
	RestoreWord(ctx context.Context, job string, m restoration.Message) (FromTarget, error)
}

// Open is what a participant must know of an attempt beside the marker messages.
type Open struct {
	Key          marker.Key
	Participants []Participant
	Members      []string      // those of the host that take part: they must run
	Copies       []Participant // hosts that may hold a copy of the host's images, best first
	CopiesWanted int           // how many of them must
	Vaults       []string      // all of them must hold one, too
	JobKey       keys.Job
	Restored     uint64 // epoch of the job's last restore, from the catalogue
	Outside      []store.OutsideRule
	Settle       time.Duration // the longest that the members get to accept connections before they are frozen
}

// SnapshotLine is the coordinator's line to one participant.
type SnapshotLine interface {
	// Send hands one message over. It waits for no answer; an error means that the line is gone.
	Send(m marker.Message) error
	// Recv waits for the next thing; any error means that the line is gone.
	Recv() (FromHost, error)
	// Close ends the line.
	Close() error
}

// FromHost is one thing that came over a SnapshotLine. Exactly one field is set.
type FromHost struct {
	Message  *marker.Message
	Progress *Progress
	Report   *HostReport
	Failure  error
}

// Progress says how far a host is.
type Progress struct {
	Host         string
	Phase        string // for a person
	Bytes, Total int64
	Storing      bool // its members run, or --stop holds them
}

// HostReport is what one host did in an attempt.
type HostReport struct {
	Members  []MemberReport
	Phases   []store.CutPhase
	Manifest string
	Copies   []string
	Vaults   []string
	CRIU     string
	Bytes    int64
	// What storing them cost, in bytes: new on the host before compression, written for that, moved to other hosts and vaults.
	NewBytes, WroteBytes, MovedBytes int64
	RunningMs                        float64 // when all members ran with their gates open, after the attempt's start; 0 if they did not
}

// MemberReport is one member's part of it.
type MemberReport struct {
	Member     Member
	ImageBytes int64
	FrozenMs   float64
	StallMs    float64
	Memory     store.CutMemory
}

// RestoreLine is the line to one host of a restore. One goroutine sends on it, another one receives.
type RestoreLine interface {
	// Send hands one message over. It waits for no answer; an error means that the line is gone.
	Send(m restoration.Message) error
	// Recv waits for the next report; any error means that the line is gone.
	Recv() (FromTarget, error)
	// Hangup says that nothing more will be sent. The host closes its side when it has let go of the job, or waits for another host's word.
	Hangup() error
	// Close ends the line at once.
	Close()
}

// FromTarget is one report of a host in a restore.
type FromTarget struct {
	Message  restoration.Message
	Problems []string // all that its check has found
	Notices  []string // what should be known of damage that was healed
	Failure  error    // why the restore has failed there
}

// HostPlan is one host's part of a restore.
type HostPlan struct {
	ID           string
	Key          marker.Key
	Parts        []Part
	Moved        map[netip.Addr]netip.Addr
	Transit      []store.CutChannel // those that lead away from the parts' members, and in which something was in transit
	Participants []Participant
	Targets      int // so many of the participants, from the first on, get a part; the first decides
	CheckOnly    bool
	Statement    []byte // where the members stand afterwards; empty for a plan that is only checked
}

// Part is one source host's image set, by its own identity: the parts of a restore may be of several snapshots.
type Part struct {
	Snapshot string // that it was recorded in
	Host     string
	Digest   string
	JobKey   keys.Job // that it is encrypted with
	Members  []store.CutMember
	Sources  []Participant
	Vaults   []string
	Ends     []store.CutEnd // of the host: those that are not put back as the images have them
}
