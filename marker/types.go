package marker

// HostID names a host of the cluster, as `ssctl host add` registered it.
type HostID string

// JobID names a job.
type JobID string

// SnapshotID names one attempt at a cut. If the attempt commits, it is the cut's name as well.
type SnapshotID string

// Epoch numbers the attempts of one job: snapshots, restores and collections draw from the same count. The coordinator draws a higher one for each; a message
// with a lower one than the receiver has seen is ignored (M12).
type Epoch uint64

// Millis is an instant or a span on the caller's own clock, in milliseconds. The core compares
// instants that reach it in Tick and nothing else; it never reads a clock.
type Millis int64

// CoordinatorHost is the HostID that stands for the coordinator in From and To of a Message.
const CoordinatorHost HostID = ""

// Key says which attempt a message or an action belongs to.
type Key struct {
	Job      JobID
	Snapshot SnapshotID
	Epoch    Epoch
}

// End is one end of one TCP connection, as its own host's dump holds it.
// The numbers are TCP sequence numbers modulo 2^32 (RFC 9293, 3.4); a FIN counts one.
type End struct {
	Host   HostID
	Member string
	Local  string // address and port, as netip.AddrPort prints it, v4-mapped addresses unmapped
	Remote string

	SndUna   uint32 // oldest byte sent and not acknowledged
	WriteSeq uint32 // next byte the program will write
	RcvNxt   uint32 // next byte expected from the other end
	Unsent   uint32 // bytes before WriteSeq that have not been sent once: snd_nxt is WriteSeq − Unsent
	Ended    bool   // the other end's FIN was received: nothing more is to come from it
	// Pending says that the connection waits at a listener: its program has not accepted it, so it is in no image. Of the numbers only Unread counts.
	Pending bool
	Unread  uint32 // of a Pending end: bytes that have come, a FIN counting one
	// Outside is what the job's policy says of this end, should it have no partner. The zero value is OutsideRefuse.
	Outside OutsidePolicy
}

// outside is what becomes of the end, if it has no partner, under the attempt's policy.
func (e End) outside(policy OutsidePolicy) OutsidePolicy {
	if e.Outside != OutsideRefuse {
		return e.Outside
	}
	return policy
}

// Channel is one direction of one connection in a cut.
type Channel struct {
	From, To             HostID
	FromMember, ToMember string
	FromAddr, ToAddr     string
	SndUna               uint32 // of the sending end
	WriteSeq             uint32 // of the sending end
	RcvNxt               uint32 // of the receiving end
	InTransit            uint32 // WriteSeq − RcvNxt: bytes that are recorded in the sender's queue

	unsent uint32 // of the sending end
}

// OutsidePolicy says what Check does with an end whose other end is in no member of the job.
type OutsidePolicy int

const (
	// OutsideRefuse makes such an end an error. It is the default.
	OutsideRefuse OutsidePolicy = iota
	// OutsideClosed leaves it out of the channels; it is restored as closed.
	OutsideClosed
	// OutsideKept leaves it out of the channels; it is restored as it was, whatever its other end makes of that.
	OutsideKept
)

// MessageType says what a Message is.
type MessageType int

// The messages of the protocol. The first group goes from the coordinator to a participant, the
// second from a participant to the coordinator, the third from a participant to a participant.
const (
	MsgPrepare     MessageType = iota + 1 // M1: check, lock the job, take the lease; Participants, Initiator, Stop and Lease are set
	MsgStart                              // M1: record; goes to the initiator only
	MsgRenew                              // M11: the lease lives on; answered by repeating what was said last, in case it was lost
	MsgAllRecorded                        // every participant has recorded: gates toward hosts without a channel may open
	MsgCommit                             // M9: the cut exists
	MsgAbort                              // M10: return to running

	MsgPrepared // ready to record
	MsgRecorded // frozen, listed, gates closed
	MsgComplete // M9: dumped and durable, and no gate here is needed for anyone's record any more; Ends is set
	MsgFailed   // cannot go on; Reason is set. Also the answer to a Prepare that is refused
	MsgAborted  // running again with gates open, nothing partial left; Reason says what could not be undone
	MsgDone     // Commit carried out; Reason says what could not be

	MsgMarker   // M3: "I have recorded; these are the channels I share with you"; Channels is set
	MsgDumped   // "my dump is finished"; the members run then, unless Stop holds them. Says what Captured says, too
	MsgCaptured // M6: "my dump holds the state of every connection"

	// MsgLacks goes from a participant to the coordinator: it does not know the participants that a Prepare's Group names.
	MsgLacks
	// MsgHold goes from the coordinator to a participant when all are prepared (M1a): hold the handshakes of new connections. MsgCalm is the answer.
	MsgHold
	MsgCalm
)

// Message is what hosts send each other. Fields that its Type does not name are zero.
type Message struct {
	Type     MessageType
	Key      Key
	From, To HostID

	Group        Digest   // MsgPrepare, MsgLacks: names the list of participants
	Participants []HostID // MsgPrepare: every participant, sorted; only to a host that has answered MsgLacks
	Initiator    HostID   // MsgPrepare
	Stop         bool     // MsgPrepare: members stay frozen until Commit and are killed then
	Lease        Millis   // MsgPrepare, MsgRenew: how long from its arrival
	Settle       Millis   // MsgPrepare: the longest that a recorded host waits for its peers' markers before it dumps

	Channels []string // MsgMarker: "local>remote" of the sender's connections with the receiver
	Ends     []End    // MsgComplete
	Reason   string   // MsgFailed, MsgAbort, MsgAborted, MsgDone
	Cause    Cause    // MsgFailed
}

// Cause sorts the reasons for which an attempt fails, so that nobody has to match their text.
type Cause int

// The causes. The first group comes from a participant in MsgFailed, the second from the coordinator.
const (
	CauseNone     Cause = iota
	CauseRefused        // ActPrepare failed: what could be checked beforehand was in the way; nothing was frozen
	CauseConflict       // another attempt of the job holds the host; it is never robbed, its lease must end first
	CauseStale          // the Prepare's epoch is not newer than the newest that the host has seen
	CauseAction         // record, dump or store failed
	CauseLease          // the host heard nothing of the coordinator for as long as its lease lasted
	CauseRestart        // the host's agent was restarted in the middle
	CausePeer           // the host could not reach another participant

	CauseUnreachable // the coordinator could not reach the host
	CauseTimeout     // something took longer than its limit
	CauseInterrupt   // the caller gave up
	CauseCheck       // M8 does not hold
	CauseCommit      // the cut could not be made durable
	CauseConfig      // the coordinator's Config makes no sense
	CauseResolved    // an attempt that was in doubt is known not to have committed
	CauseOutside     // M8 holds, but for connections whose other end nobody has: they may have been ending at this instant
	CauseUnread      // M8 holds, but for connections that carry bytes and have not been accepted
	CauseJobLost     // the coordinator has lost the lease on the job: another one may be at work on it
)

// Event is something that happened at a participant or the coordinator. Exactly one of the event
// types below.
type Event interface{ event() }

type (
	// Tick says what time it is. Time never goes back; a Tick that does is ignored.
	Tick struct{ Now Millis }
	// Received is a message from another host. A message that is not for this role, or not for
	// this attempt, is ignored or answered as M12 says; it is never an error.
	Received struct{ Message Message }

	// PrepareDone ends ActPrepare well. Calm says that the host does already what ActHold does (M1a): it holds the SYNs that come for the
	// members' listeners, for a second at least, and no connection is half open there.
	PrepareDone struct {
		Key  Key
		Calm bool
	}
	// HoldDone ends ActHold well.
	HoldDone struct{ Key Key }
	// RecordDone ends ActRecord well: members frozen, sockets listed, every gate closed. Peers maps
	// each participant with which this host shares a channel to the channels ("local>remote").
	RecordDone struct {
		Key   Key
		Peers map[HostID][]string
	}
	// Captured comes in the midst of ActDump: the images hold the state of every connection of this host, and
	// what arrives from now on is not part of the record. The members stand still as before. It may be left out:
	// DumpDone says as much.
	Captured struct{ Key Key }
	// DumpDone ends ActDump well.
	DumpDone struct {
		Key  Key
		Ends []End
	}
	// StoreDone ends ActStore well: the images are on as many hosts as the job asks for.
	StoreDone struct{ Key Key }
	// RollbackDone ends ActRollback. Err says what could not be undone; it is empty when members run and gates are open.
	RollbackDone struct {
		Key Key
		Err string
	}
	// FinishDone ends ActFinish.
	FinishDone struct{ Key Key }
	// ActionFailed ends any of the actions above badly. Reason is what a person should read.
	ActionFailed struct {
		Key    Key
		Action ActionType
		Reason string
	}

	// Unwritten says that the entry of the Ready before, which was Binding, could not be made durable, and that nothing else of that Ready was done.
	Unwritten struct {
		Key    Key
		Reason string
	}

	// Begin starts the coordinator's attempt.
	Begin struct{}
	// Interrupt asks the coordinator to give up (Ctrl-C, a deadline of the caller).
	Interrupt struct{ Reason string }
	// JobLost tells the coordinator that it has lost the lease on the job. Reason says who holds it now.
	JobLost struct{ Reason string }
	// Unreachable tells a role that a message to a host could not be delivered. A participant that
	// cannot reach a peer fails the attempt, so that nobody waits behind closed gates for a marker
	// that never comes; of the coordinator's absence only its lease tells a participant.
	Unreachable struct {
		Host   HostID
		Reason string
	}
	// LineLost tells the coordinator what Unreachable does, and that nothing will reach the host or come from it any more in
	// this attempt: nobody waits for its acknowledgement.
	LineLost struct {
		Host   HostID
		Reason string
	}
	// Stores tells the coordinator that a host's members run again, or that Stop holds them, and that storing their images goes on (Config.Standstill).
	Stores struct{ Host HostID }
	// Orphaned tells a participant that the attempt's coordinator is gone for good. Nobody else can commit the attempt, so a
	// participant that is not Complete does not wait for its lease to run out (M11).
	Orphaned struct{ Key Key }
	// Resolved tells a participant the outcome of an attempt that its coordinator has left in doubt (M11). The caller has it from
	// the catalogue, and has made sure that the attempt's own coordinator cannot commit any more. One that is not in doubt is ignored.
	Resolved struct {
		Snapshot  SnapshotID
		Committed bool
	}
	// CommitDone tells the coordinator that Ready.Commit is durable (M9).
	CommitDone struct{}
	// CommitFailed tells the coordinator that it is not.
	CommitFailed struct{ Reason string }
)

func (Tick) event()         {}
func (Received) event()     {}
func (PrepareDone) event()  {}
func (HoldDone) event()     {}
func (RecordDone) event()   {}
func (Captured) event()     {}
func (DumpDone) event()     {}
func (StoreDone) event()    {}
func (RollbackDone) event() {}
func (FinishDone) event()   {}
func (ActionFailed) event() {}
func (Unwritten) event()    {}
func (Begin) event()        {}
func (Interrupt) event()    {}
func (JobLost) event()      {}
func (Unreachable) event()  {}
func (LineLost) event()     {}
func (Stores) event()       {}
func (Orphaned) event()     {}
func (Resolved) event()     {}
func (CommitDone) event()   {}
func (CommitFailed) event() {}

// ActionType says what an Action asks for.
type ActionType int

// The actions of a participant. Those marked (long) end with an event; while one runs, others may
// be asked for. The rest are done when the call that carries them out returns.
const (
	ActPrepare  ActionType = iota + 1 // (long) lock the job, check what can be checked, make room, start what the dump needs; freeze nothing. Ends in PrepareDone
	ActRecord                         // (long) freeze every member, list its sockets, close every gate of the job: toward each participant, and before its listening ports. Ends in RecordDone
	ActSettle                         // Peer has recorded: let what both kernels already hold flow through the closed gate until ActDump
	ActDump                           // (long) seal the gates (ActSettle ends), dump. Ends in DumpDone
	ActThaw                           // let the members run
	ActOpen                           // open the gate toward Peer: release what it holds in order, remove it
	ActStore                          // (long) make the images durable here and elsewhere. Ends in StoreDone
	ActRollback                       // (long) cancel what runs, undo a dump, thaw, open every gate, remove partial images, unlock the job. Ends in RollbackDone
	ActFinish                         // (long) the cut exists: keep the images, unlock the job; with Kill, first kill the members behind closed gates, then open them. Ends in FinishDone
	ActRelease                        // the lease is gone while the outcome is not known: thaw, open every gate, unlock the job, and keep the images until someone says whether the cut exists
	ActDiscard                        // remove the images of Key: a released attempt that a later one has overtaken, and that is now known not to have committed. Touch nothing else
	ActOpenRest                       // ActOpen toward every participant with which this host shares no channel: those that RecordDone did not name, itself excepted
	ActHold                           // (long) M1a: hold the SYNs that come for the members' listeners, until the last gate opens, and wait, for a bounded time, until no connection is half open there. Members run. Ends in HoldDone
)

// Action is one thing for the participant's host to do.
type Action struct {
	Type ActionType
	Key  Key
	Peer HostID // ActSettle, ActOpen
	Kill bool   // ActFinish
	// Reason says why, for logs: ActRollback.
	Reason string
}

// Phase is where a participant stands in one attempt. It only goes forward until it is Idle again.
type Phase int

// The phases of a participant.
const (
	Idle        Phase = iota // no attempt
	Preparing                // ActPrepare runs
	Prepared                 // waits for Start or a Marker
	Recording                // ActRecord runs
	Settling                 // recorded; waits, no longer than Settle, for the markers of its peers
	Dumping                  // ActDump runs
	Storing                  // members run (unless Stop); ActStore runs, or a gate is still needed for a peer's record
	Complete                 // everything this host has to do is done; the outcome is the coordinator's
	Finishing                // ActFinish runs
	RollingBack              // ActRollback runs
)

// Ready is work for the caller, to be done in field order: Journal is durable before the first of
// Actions starts, and Actions that are not (long) are done before the first of Messages leaves.
type Ready struct {
	Journal  *Entry
	Actions  []Action
	Messages []Message

	// Binding says that nothing of this may be done if Journal cannot be made durable: the participant gets an Unwritten then, before any other event. An
	// entry that is not binding ends an attempt, which goes on without it: what a restart finds in its place leads to the same end.
	Binding bool

	// The coordinator's alone.
	Commit  *Commit  // make this durable, then answer CommitDone or CommitFailed
	Outcome *Outcome // the attempt is over
}

// Entry is what a participant must find again after a crash of its agent: which attempt it was in,
// how far it had come, and the highest epoch it has seen. An agent that starts hands it to Recover: a Phase other
// than Idle, Complete or Finishing rolls back; Complete keeps the images until told; Finishing finishes.
type Entry struct {
	Key   Key
	Phase Phase
	Stop  bool

	Fence Epoch // the highest epoch seen, where it is not Key's
	Ends  []End // of a Complete attempt: what MsgComplete says
	Doubt []Key // released attempts whose outcome is not known and that a later attempt has overtaken; their images must be kept
}

// Commit is the cut, checked.
type Commit struct {
	Key      Key
	Channels []Channel
	Outside  []End // ends without a partner, under OutsideClosed: to be restored as closed
	Unheard  []End // ends whose partner is Pending: to be restored in SYN-SENT, so that they connect once more
}

// Outcome is how an attempt ended.
type Outcome struct {
	Committed bool
	// Reason says why it did not commit, naming the host where one is to blame.
	Reason string
	// Cause sorts Reason.
	Cause Cause
	// Blame is the host that Reason speaks of, or CoordinatorHost.
	Blame HostID
	// Unknown are the hosts that did not acknowledge: after an abort, those not known to run again;
	// after a commit, those not known to have finished.
	Unknown []HostID
	// Notes is what hosts could not undo or finish, as "host: what", in order of hosts.
	Notes []string
}
