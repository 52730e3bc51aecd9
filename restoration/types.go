package restoration

// HostID names a host of the cluster.
type HostID string

// ID names one restore. No two restores of a cluster share one.
type ID string

// Millis is an instant or a span on the caller's own clock, in milliseconds.
type Millis int64

// CoordinatorHost is the HostID that stands for the coordinator in From and To of a Message.
const CoordinatorHost HostID = ""

// Phase is where a target stands. It only goes forward. On disk it is its name (String), on the wire an enum.
type Phase int

// The phases of a target. Whole, Stopped and Left are ends: see Over.
const (
	PhaseUnknown Phase = iota // in a Report: the host knows nothing of this restore
	Planned                   // R1: the plan is here
	Checking                  // ActCheck runs
	Checked                   // it has said what would be missing
	Fetching                  // R2: ActFetch runs
	Armed                     // everything is here; nothing has been ended
	Fencing                   // R3: ActFence runs. On the deciding host: the fence is decided
	Fenced                    // gates closed, live members gone
	Restoring                 // R4: ActRestore runs
	Standing                  // every member stands restored, and no task has run
	Resuming                  // R5: ActResume runs. On the deciding host: the resume is decided
	Resumed                   // the members run, or have run and ended. Whether those of the other targets do is not known yet
	Whole                     // all targets' members run, or have run: over
	Stopping                  // ActStop runs: whatever is here of the job, live or restored, ends
	Stopped                   // nothing of the job is left here: over
	Left                      // this host has ended nothing and will not any more: over
)

// Over says whether the restore is over on a host in that phase.
func (p Phase) Over() bool { return p == Whole || p == Stopped || p == Left }

// stops says whether the host has lost its part, so that the job cannot be whole any more.
func (p Phase) stops() bool { return p == Stopping || p == Stopped }

// decided says whether the host knows that the resume was decided.
func (p Phase) decided() bool { return p == Resuming || p == Resumed || p == Whole }

// MessageType says what a Message is.
type MessageType int

// The messages. The first group goes from the coordinator to a target.
const (
	MsgCheck   MessageType = iota + 1 // R1
	MsgFetch                          // R2
	MsgFence                          // R3; the deciding host's alone until it has said Fencing
	MsgRestore                        // R4
	MsgResume                         // R5; the deciding host's alone until it has said Resuming
	MsgAbort                          // end it; Ended and Lost say how far
	MsgFinish                         // all targets run: forget it
	MsgAsk                            // where do you stand? From the coordinator: and ask the deciding host. From a target: I have lost the coordinator, and stand at Phase
	MsgReport                         // where the sender stands, to the coordinator or in answer to an Ask
)

// Message is what hosts send each other. Fields that its Type does not name are zero.
type Message struct {
	Type     MessageType
	ID       ID
	From, To HostID

	Ended bool // MsgAbort: the fence was decided, so live members end, too
	Lost  bool // MsgAbort: a target has lost its part, so members that were resumed end, too

	Phase    Phase  // MsgAsk of a target, MsgReport
	Problems int    // MsgReport of Checked: how much would make the restore fail on that host
	Reason   string // MsgReport of Left, Stopping, Stopped: why, where the sender knows
}

// Event is something that happened. Exactly one of the event types below.
type Event interface{ event() }

type (
	// Tick says what time it is. Time never goes back; a Tick that does is ignored.
	Tick struct{ Now Millis }
	// Received is a message from another host. One that is not for this role or this restore is ignored.
	Received struct{ Message Message }

	// CheckDone ends ActCheck well, whatever it found.
	CheckDone struct{ Problems int }
	// FetchDone ends ActFetch well.
	FetchDone struct{}
	// FenceDone ends ActFence well.
	FenceDone struct{}
	// RestoreDone ends ActRestore well.
	RestoreDone struct{}
	// ResumeDone ends ActResume well: every member runs, or has run and ended since.
	ResumeDone struct{}
	// StopDone ends ActStop well.
	StopDone struct{}
	// ActionFailed ends any of these actions badly. Reason is what a person should read.
	ActionFailed struct {
		Action ActionType
		Reason string
	}
	// Unwritten says that the entry of the Ready before, which was Binding, could not be made durable, and that nothing else of that Ready was done.
	Unwritten struct{ Reason string }
	// Gone tells a target that its line to the coordinator has ended, for whatever reason.
	Gone struct{}
	// Overrule tells a target that a person has ended the job on this host, or has another restore do so.
	Overrule struct{ Reason string }

	// Begin starts the coordinator.
	Begin struct{}
	// Interrupt asks the coordinator to give up. From R5 on it comes too late.
	Interrupt struct{ Reason string }
	// JobLost tells the coordinator that it has lost the lease on the job. Reason says who holds it now. From R5 on it comes too late.
	JobLost struct{ Reason string }
	// Lost tells the coordinator that a host cannot be reached, or that its line has ended. It may still get messages: the caller
	// makes another connection where it can.
	Lost struct {
		Host   HostID
		Reason string
	}
)

func (Tick) event()         {}
func (Received) event()     {}
func (CheckDone) event()    {}
func (FetchDone) event()    {}
func (FenceDone) event()    {}
func (RestoreDone) event()  {}
func (ResumeDone) event()   {}
func (StopDone) event()     {}
func (ActionFailed) event() {}
func (Unwritten) event()    {}
func (Gone) event()         {}
func (Overrule) event()     {}
func (Begin) event()        {}
func (JobLost) event()      {}
func (Interrupt) event()    {}
func (Lost) event()         {}

// ActionType says what an action is.
type ActionType int

// The actions of a target. Each but ActRelease ends with an event; ActStop and ActRelease first cancel whatever else runs, and
// wait until it has ended.
const (
	ActCheck   ActionType = iota + 1 // look for what would make the restore fail here. Ends in CheckDone
	ActFetch                         // bring the images here and make them ready. Ends in FetchDone
	ActFence                         // close the gates for the connections to come, then end the live members. Ends in FenceDone
	ActRestore                       // restore every member up to the instant before its tasks run. Ends in RestoreDone
	ActResume                        // let them run and open the gates. Ends in ResumeDone; it must end by itself
	ActStop                          // end the job's members here, live and restored, and open the gates. Ends in StopDone; tried again if it fails
	ActRelease                       // the restore is over here: remove the work folder, let the job go
)

// Ready is work for the caller, to be done in field order: Journal is durable before the first of Actions starts, and before the
// first of Messages leaves.
type Ready struct {
	Journal  *Entry
	Binding  bool // nothing of this may be done if Journal cannot be made durable: the target gets an Unwritten then, before any other event
	Actions  []ActionType
	Messages []Message
	Outcome  *Outcome // the coordinator's alone: the restore is over
}

// Entry is what a target must find again after a crash of its agent. One of a phase that is over is kept for a while: other
// hosts may ask. Phase is Armed, Fencing, Resumed, or one of the last four.
type Entry struct {
	ID    ID
	Phase Phase
	Told  bool // of Stopped: the deciding host knows, or need not
}

// Result is how a restore ended, as far as the coordinator knows.
type Result int

// The results.
const (
	ResultNone      Result = iota
	ResultChecked          // CheckOnly, and nothing would be missing
	ResultUntouched        // nothing was ended
	ResultStopped          // the job stands nowhere
	ResultResumed          // the job runs everywhere
	ResultUnknown          // the deciding host, or a target after the decision, did not answer: see Outcome.Decided
)

// Cause sorts the reasons for which a restore did not succeed.
type Cause int

// The causes.
const (
	CauseNone        Cause = iota
	CauseProblems          // R1 found what would make the restore fail
	CauseAction            // an action failed on Blame
	CauseUnreachable       // Blame could not be reached
	CauseTimeout           // Blame took longer than the step's limit
	CauseInterrupt         // the caller gave up
	CauseSettled           // Blame had lost the coordinator, and the hosts have settled it among themselves
	CauseJobLost           // the coordinator has lost the lease on the job: another one may be at work on it
)

// Outcome is how a restore ended.
type Outcome struct {
	Result Result
	Cause  Cause
	Blame  HostID // the host that Reason speaks of, or CoordinatorHost
	Reason string
	// Decided is set in ResultUnknown if the resume was decided: the job runs, but for what Unknown hosts have lost. If it is
	// not set, the deciding host has not been heard of since it was told to fence or to resume.
	Decided bool
	// Unknown are the hosts that have not said how it ended there.
	Unknown []HostID
}
