package store

import "time"

// Cluster is what the catalogue belongs to.
type Cluster struct {
	ID      string    `json:"id"` // as the cluster's authority drew it
	Created time.Time `json:"created"`
	// Recipients are the age recipients that every job's key is wrapped to: the cluster's own first, then those for recovery.
	Recipients []string `json:"recipients"`
	Vaults     []string `json:"vaults,omitempty"` // URLs, for jobs that name none of their own
	Open       bool     `json:"open,omitempty"`   // images of new jobs are not secret: their key is keys.Open
}

// Host is a registered host.
type Host struct {
	Name  string    `json:"name"`
	Addr  string    `json:"addr"` // its agent's endpoint, IP:PORT; the key is from before the two words were told apart
	Added time.Time `json:"added"`
	// Silent is since when it does not answer, as ssctl first found; zero while it answers. It is not in manifests.
	Silent time.Time `json:"silent,omitzero"`
}

// Job is a named set of members that are recorded and restored together.
type Job struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	// Placement maps every host that has or had members of the job to those it has, sorted by name.
	Placement map[string][]Placed `json:"placement"`
	// Drawn is the highest number that was given to a member, by names.Prefix. No number is given twice.
	Drawn  map[string]uint64 `json:"drawn,omitempty"`
	Policy Policy            `json:"policy"`
	// Key is the job's secret, wrapped (keys.Wrap); "" until it is first needed. KeyID is its public name.
	Key   string `json:"key,omitempty"`
	KeyID string `json:"key_id,omitempty"`
	// Restored is the epoch that the members have: of the restore that made Placement, or of the job's making if it was not restored since;
	// 0 for a job that is the first of its name.
	Restored uint64 `json:"restored,omitempty"`
	// Statement says so to the hosts, signed by an admin (package standing); nil without a restore.
	Statement []byte `json:"statement,omitempty"`
	// Unsettled are the hosts that may have older copies of members, since a restore in which they took no part.
	Unsettled []Unsettled `json:"unsettled,omitempty"`
	// Epoch is the last one that was drawn; 0 if none was.
	Epoch uint64 `json:"-"`
}

// Unsettled is a host that a job was restored without, and of which it is not known that its members have ended.
type Unsettled struct {
	Host    string    `json:"host"`
	Since   time.Time `json:"since"` // the restore
	Members []string  `json:"members"`
}

// DefaultCopies is how many hosts and vaults hold each image set where nobody has said otherwise, the host that it comes from counted.
const DefaultCopies = 2

// Policy is what a job's owner may choose about its images.
type Policy struct {
	Copies int `json:"copies,omitempty"` // 0: DefaultCopies
	// Vaults are URLs; each counts as a copy. nil takes the cluster's, an empty list none.
	Vaults []string `json:"vaults"`
	Keep   Keep     `json:"keep"`
	// Outside says what becomes of connections that lead outside of the job: the first rule that fits. Where none does, they refuse a snapshot.
	Outside []OutsideRule `json:"outside,omitempty"`
}

// OutsideRule is one rule for connections whose other end is in no member of the job.
type OutsideRule struct {
	Match string `json:"match,omitempty"` // an address or prefix of the other end, or ":PORT" of either end; "": every connection
	As    string `json:"as"`              // OutsideRefuse, OutsideClose, OutsideKeep
}

// What becomes of a connection that leads outside.
const (
	OutsideRefuse = "refuse" // no snapshot
	OutsideClose  = "close"  // a restore puts it back as closed
	OutsideKeep   = "keep"   // a restore puts it back as it was
)

// Keep says which cuts retention leaves: the union of all that apply. The zero value keeps every cut.
type Keep struct {
	Last   int `json:"last,omitempty"`
	Hourly int `json:"hourly,omitempty"` // the newest of each of so many hours that have one
	Daily  int `json:"daily,omitempty"`
	Weekly int `json:"weekly,omitempty"`
}

// The kinds of attempts.
const (
	KindSnapshot = "snapshot"
	KindRestore  = "restore"
	KindCollect  = "collect" // of a vault: no snapshot of the job may put objects there meanwhile
)

// Attempt is a snapshot, a restore or a collection that has begun and not ended. It is written before the first
// message leaves, so what an ssctl that died left behind can be found.
type Attempt struct {
	ID      string    `json:"id"` // of a snapshot: the cut's, if it commits
	Kind    string    `json:"kind"`
	Job     string    `json:"job"`
	Epoch   uint64    `json:"epoch"`
	Started time.Time `json:"started"`
	Hosts   []string  `json:"hosts"`
	Phase   string    `json:"phase"`
	Pid     int       `json:"pid"` // of the ssctl that made it, for people
	// Live says that its ssctl is alive. With bolt the kernel says so, by a lock. Where it is not, the attempt is
	// stale: it blocks nothing, and EndAttempt is due once its hosts have been told.
	Live bool `json:"-"`
}

// Cut is one recorded state of a job.
type Cut struct {
	ID       string       `json:"id"`
	Job      string       `json:"job"`
	Epoch    uint64       `json:"epoch"`
	Time     time.Time    `json:"time"`
	Label    string       `json:"label,omitempty"`
	Stopped  bool         `json:"stopped"` // the members were stopped with it
	Hosts    []CutHost    `json:"hosts"`
	Channels []CutChannel `json:"channels"`
	// Ends are the ends of connections that a restore does not put back as the images have them.
	Ends        []CutEnd `json:"ends,omitempty"`
	TotalMs     float64  `json:"total_ms"` // from the first message until all ran again
	CRIUVersion string   `json:"criu_version"`
	Pinned      bool     `json:"pinned,omitempty"` // retention leaves it
	// Imported says where a cut comes from that was not taken here; nil of one that was. Its Epoch says when it came, and Time when it was taken.
	Imported *Imported `json:"imported,omitempty"`
	// EndedWell are the members that had done their work before the cut, and so are not in it. Without are those that had ended
	// otherwise, and that the cut was taken without on its owner's word.
	EndedWell []string `json:"ended_well,omitempty"`
	Without   []string `json:"without,omitempty"`
	// Key and KeyID are the job's at the time.
	Key   string `json:"key,omitempty"`
	KeyID string `json:"key_id,omitempty"`
}

// Imported says where an imported cut comes from.
type Imported struct {
	From string    `json:"from"` // id of the cluster that exported it: perhaps this one
	Time time.Time `json:"time"` // when it was imported
}

// CutHost is one host's part of a cut.
type CutHost struct {
	Host string `json:"host"`
	// Snapshot is the one that the part was recorded in; "" is the cut's own. Cut.PartID is its identity.
	Snapshot string `json:"snapshot,omitempty"`
	// Key and KeyID are the job's when the part was recorded; "" where they are the cut's.
	Key      string      `json:"key,omitempty"`
	KeyID    string      `json:"key_id,omitempty"`
	Addrs    []string    `json:"addrs"`
	Members  []CutMember `json:"members"`
	Phases   []CutPhase  `json:"phases"`
	Manifest string      `json:"manifest"` // digest of its images' manifest, hex SHA-256
	Copies   []string    `json:"copies"`   // hosts that hold its images
	Vaults   []string    `json:"vaults,omitempty"`
	// What storing it cost: bytes that were not stored on the host before, what was written for them, what went elsewhere.
	NewBytes   int64 `json:"new_bytes"`
	WroteBytes int64 `json:"wrote_bytes"`
	MovedBytes int64 `json:"moved_bytes"`
}

// CutMember is one member in a cut.
type CutMember struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	Env     []string `json:"env,omitempty"`
	Dir     string   `json:"dir,omitempty"`
	Log     string   `json:"log,omitempty"`
	Folders []string `json:"folders,omitempty"` // whose files are part of the cut
	Aliases Aliases  `json:"aliases,omitempty"`
	Names   Aliases  `json:"names,omitempty"` // the reverse: an address in use to the one under which its programs know it
	Pid     int      `json:"pid"`
	// InnerPid is 0 in cuts that are taken today, and nothing reads it. It stays, because a signed manifest is only read in the form it was signed in.
	InnerPid   int     `json:"inner_pid"`
	ImageBytes int64   `json:"image_bytes"`
	FrozenMs   float64 `json:"frozen_ms"` // how long it stood still
	StallMs    float64 `json:"stall_ms"`  // how long its channels did

	Memory CutMemory `json:"memory,omitzero"` // absent from cuts of earlier versions
	// MemoryFrozen: its memory is copied while it stands still, also where it could be tracked.
	MemoryFrozen bool `json:"memory_frozen,omitempty"`
}

// Aliases say where addresses are now that the programs of a member may still use: old address to new address.
type Aliases map[string]string

// CutMemory says how a member's memory came into a cut.
type CutMemory struct {
	Tracked     bool     `json:"tracked"`        // some of it was copied while the member ran
	Rounds      int64    `json:"rounds"`         // of copying, before it stood still
	CopiedBytes int64    `json:"copied_bytes"`   // while it ran, a page as often as it was
	FrozenBytes int64    `json:"frozen_bytes"`   // while it stood still, without what CRIU copied
	TwinBytes   int64    `json:"twin_bytes"`     // when it ran again, from twins of its processes
	Pages       int64    `json:"pages"`          // of 4 KiB, in the images; all others are what CRIU copied
	Left        []string `json:"left,omitempty"` // what was copied while it stood still, and why
}

// CutPhase is one phase of a host's snapshot. The offset counts from the attempt's start.
type CutPhase struct {
	Name       string  `json:"name"`
	StartMs    float64 `json:"start_ms"`
	DurationMs float64 `json:"duration_ms"`
}

// CutChannel is one direction of one connection, with the TCP sequence numbers of both recorded ends
// (RFC 9293, 3.4).
type CutChannel struct {
	FromHost   string `json:"from_host"`
	FromMember string `json:"from_member"`
	FromAddr   string `json:"from_addr"`
	ToHost     string `json:"to_host"`
	ToMember   string `json:"to_member"`
	ToAddr     string `json:"to_addr"`
	InTransit  uint32 `json:"in_transit_bytes"`
	SndUna     uint32 `json:"snd_una"`
	RcvNxt     uint32 `json:"rcv_nxt"`
	WriteSeq   uint32 `json:"write_seq"`
}

// CutEnd is one end of a connection that is put back otherwise than it was.
type CutEnd struct {
	Host   string `json:"host"`
	Member string `json:"member"`
	Local  string `json:"local"`  // address and port, as the member had them
	Remote string `json:"remote"` // likewise
	As     string `json:"as"`     // EndClosed or EndConnecting
}

// What an end is put back as.
const (
	// EndClosed is a connection with a program outside of the job. The member finds it closed by the other side.
	EndClosed = "closed"
	// EndConnecting is a connection that no program had accepted yet. It connects once more.
	EndConnecting = "connecting"
)

// Bytes is the size of all the cut's images, each counted once.
func (c Cut) Bytes() int64 {
	var n int64
	for _, h := range c.Hosts {
		for _, m := range h.Members {
			n += m.ImageBytes
		}
	}
	return n
}

// InTransit is the number of bytes that were in transit when the cut was recorded.
func (c Cut) InTransit() int64 {
	var n int64
	for _, ch := range c.Channels {
		n += int64(ch.InTransit)
	}
	return n
}
