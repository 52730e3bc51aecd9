package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ss/agent/custody"
	"ss/fault"
	"ss/marker"
	"ss/names"
	"ss/store/images"
	"ss/store/keys"
)

// Open is what a participant must know of an attempt beside the marker messages.
type Open struct {
	Key          marker.Key
	Participants []Participant
	Digest       marker.Digest  // names the list of participants; what differs in a name, an endpoint or an address has another one
	Members      []string       // those of this host that take part: they must run, and no other does
	Copies       []custody.Peer // where this host may put a copy of its images, best first
	CopiesWanted int            // how many of them must take one
	Vaults       []string       // URLs of vaults, which all must
	JobKey       keys.Job       // what the images are encrypted under; in memory only
	Outside      []OutsideRule  // the first that fits a connection counts; none: it is refused
	Settle       time.Duration  // the longest that the members get to accept connections before they are frozen (M1a)
	Restored     uint64         // epoch of the job's last restore, from the catalogue
}

// peers are the hosts that this one has to do with in the attempt.
func (o Open) peers() []custody.Peer {
	var out []custody.Peer
	for _, p := range o.Participants {
		out = append(out, p.Peer)
	}
	return append(out, o.Copies...)
}

// Out is one thing for the coordinator. Exactly one field is set.
type Out struct {
	Message  *marker.Message
	Progress *Progress
	Report   *HostReport
	Failure  error
}

// Progress says how far a phase is. Total is 0 where it is not known.
type Progress struct {
	Phase        string // for a person
	Bytes, Total int64
	Storing      bool // the members run, or --stop holds them
}

// HostReport is what one host did in an attempt.
type HostReport struct {
	Members  []MemberReport
	Phases   []PhaseTiming
	Manifest string // digest of the image set
	Copies   []string
	Vaults   []string
	CRIU     string
	Bytes    int64 // of the images
	// What storing them cost: bytes that were not stored here yet, what was written for them, and what went to other hosts and vaults.
	NewBytes, WroteBytes, MovedBytes int64
	Running                          time.Duration // when all members ran with their gates open, after the attempt's start; 0 if they did not
}

// MemberReport is one member's part of a HostReport.
type MemberReport struct {
	Member     Member
	ImageBytes int64
	Frozen     time.Duration // from the freeze until it ran again
	Stall      time.Duration // from the freeze until its last gate opened
	Memory     MemoryReport
}

// PhaseTiming is when a phase began, counted from the attempt's first action on this host, and how long it took.
type PhaseTiming struct {
	Name            string
	Start, Duration time.Duration
}

// Attempt is the coordinator's line to this host for one attempt.
type Attempt struct {
	*line[Out]
	r    *runner
	open Open
}

// Join opens the line for an attempt. The caller must Hangup.
func (a *Agent) Join(open Open) (*Attempt, error) {
	if err := a.checkOpen(string(open.Key.Job), string(open.Key.Snapshot), open.Participants); err != nil {
		return nil, a.fail("snapshot", string(open.Key.Job), err)
	}
	r, err := a.runnerOf(string(open.Key.Job))
	if err != nil {
		return nil, a.fail("snapshot", string(open.Key.Job), err)
	}
	at := &Attempt{line: newLine[Out](), r: r, open: open}
	a.keepRoster(string(open.Key.Job), roster{open.Digest, open.Participants})
	r.put(input{opened: at})
	return at, nil
}

// roster is the list of those that took part in a job's last snapshot or restore.
type roster struct {
	digest marker.Digest
	hosts  []Participant
}

func (a *Agent) keepRoster(job string, r roster) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rosters[job] = r
}

// Participants returns the list that digest names if it is that of the job's last snapshot or restore here, and nil if this host lacks it.
func (a *Agent) Participants(job string, digest marker.Digest) []Participant {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.rosters[job]; r.digest == digest {
		return r.hosts
	}
	return nil
}

// checkOpen refuses what would not be safe to work with: job and id become names of files, and this host must be among those
// that take part.
func (a *Agent) checkOpen(job, id string, participants []Participant) error {
	if !names.Valid(job) || !names.Valid(id) {
		return fault.New(fault.Usage, fmt.Sprintf("invalid name of a job (%q) or an attempt (%q)", job, id), "use an ssctl of the agent's version")
	}
	if !slices.ContainsFunc(participants, func(p Participant) bool { return p.Host == a.cfg.Host }) {
		return fault.New(fault.Usage, fmt.Sprintf("%s is not among the hosts that take part", a.cfg.Host), "use an ssctl of the agent's version")
	}
	return nil
}

// Receive takes a message of the coordinator.
func (at *Attempt) Receive(m marker.Message) { at.r.post(marker.Received{Message: m}) }

// Hangup says that the coordinator's line is closed, and with it that the coordinator is gone.
func (at *Attempt) Hangup() {
	at.r.put(input{closed: at.open.Key, event: marker.Orphaned{Key: at.open.Key}})
}

func (at *Attempt) putFailure(err error) { at.put(Out{Failure: err}) }

// Deliver takes a marker message of another agent. Messages of jobs that have no attempt here are
// ignored (M12).
func (a *Agent) Deliver(m marker.Message) {
	a.mu.Lock()
	r := a.runners[string(m.Key.Job)]
	a.mu.Unlock()
	if r != nil {
		r.post(marker.Received{Message: m})
	}
}

// tellRunner hands the outcome of an attempt in doubt to the job's participant. It returns when the participant has carried it out, so that an
// attempt that is begun next does not meet this one's end, or with ctx.
func (a *Agent) tellRunner(ctx context.Context, k images.Key, committed bool) {
	a.mu.Lock()
	r := a.runners[k.Job]
	a.mu.Unlock()
	if r == nil || k.Host != a.cfg.Host {
		return
	}
	settled := make(chan struct{})
	r.put(input{event: marker.Resolved{Snapshot: marker.SnapshotID(k.Snapshot), Committed: committed}, settled: settled})
	select {
	case <-settled:
	case <-r.quit:
	case <-ctx.Done():
	}
}
