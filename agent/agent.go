package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ss/agent/custody"
	"ss/agent/proc"
	"ss/fault"
	"ss/marker"
	"ss/restoration"
	"ss/store/images"
	"ss/store/tombstone"
)

// Participant says how to reach a host's agent and which addresses are the host's own.
type Participant struct {
	custody.Peer
	Addrs []netip.Addr
}

// Peers reaches other agents, for the work on attempts and restores. agent/rpc implements it over gRPC.
type Peers interface {
	// Reach makes the connection and asks the peer whether it serves.
	Reach(ctx context.Context, to custody.Peer) error
	Deliver(ctx context.Context, to custody.Peer, m marker.Message) error
	// AskRestore asks a peer where it stands in a restore; see Agent.AnswerRestore. Silence is an error, and says nothing about that.
	AskRestore(ctx context.Context, to custody.Peer, job string, m restoration.Message) (restoration.Message, error)
	// Stand says to a peer what this host knows of a job's last restore, and returns what the peer knows; see Agent.Stand, which answers. It
	// makes a connection of its own, since one that the network cut short may take long to find that out.
	Stand(ctx context.Context, to custody.Peer, s Standing) (Standing, error)
	// Receives asks a peer which of the ways, from UDP sockets here to addresses there, end at a member of the job; see Agent.Receives.
	Receives(ctx context.Context, to custody.Peer, job string, ways []Conn) ([]bool, error)
}

// Config is what an Agent is made of.
type Config struct {
	Host     string
	StateDir string // 0700, survives reboots
	Cells    Cells
	Gates    Gates
	CRIU     Checkpointer
	Peers    Peers
	Memory   Memory          // nil: members' memory is copied by CRIU, while they stand still
	Images   *custody.Holder // the Agent serves it
	Quiet    *Quiet          // the same that the store of Images waits for (images.Options.Pause); nil: its own
	Log      *slog.Logger
	// FilesLimit is how many bytes of files that a job's members have open are read, at most, while they stand still. 0: DefaultFilesLimit.
	FilesLimit int64
	Verifier   tombstone.Verifier // opens what an admin of the cluster signed
	Members    Membership         // which hosts were removed; nil: none
}

// Agent is one host's agent. Its methods are safe for concurrent use.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	journal journal

	linking   sync.Mutex // held while CRIU dumps a member whose files it gives names
	standings *standings

	mu       sync.Mutex
	runners  map[string]*runner      // by job
	rosters  map[string]roster       // by job
	busy     map[string]string       // job → what holds it: "snapshot ID", "restore ID"
	restores map[string]*Restoration // by restore id
	fates    fates                   // of restores that are over
	recordMu sync.Mutex              // of the records of restores
	heard    memory
	turn     turn
	aside    map[string][]SetAside // by job: state files that are damaged, of attempts and restores
	closed   bool
	work     sync.WaitGroup

	background context.CancelFunc // ends what Close need not wait long for
}

// New makes an agent and undoes what an earlier one left unfinished: it rolls back attempts, removes
// partial images and half-restored trees. When it returns, every member runs, except old copies, which
// stay frozen (F3), and every gate is open. The caller must Close it.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	if cfg.Quiet == nil {
		cfg.Quiet = &Quiet{}
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log, journal: journal{dir: filepath.Join(cfg.StateDir, "journal")},
		runners: map[string]*runner{}, rosters: map[string]roster{}, busy: map[string]string{}, restores: map[string]*Restoration{}, aside: map[string][]SetAside{},
	}
	a.standings = newStandings(a)
	for _, d := range []string{"journal", "locks", "restore", "restored", "standing"} {
		if err := os.MkdirAll(filepath.Join(cfg.StateDir, d), 0o700); err != nil {
			return nil, fmt.Errorf("prepare the state folder: %w", err)
		}
	}
	if err := a.standings.load(); err != nil { // before anything is let run
		return nil, err
	}
	a.recall()
	a.cfg.Images.Serve(jobs{a})
	if err := a.recover(ctx); err != nil {
		return nil, err
	}
	if err := a.standings.recover(ctx); err != nil {
		return nil, err
	}
	a.startBackground()
	return a, nil
}

// Host is the name of the agent's host.
func (a *Agent) Host() string { return a.cfg.Host }

// AwaitQuiet returns when no member of this host stands still. What others make this host do for them waits for it.
func (a *Agent) AwaitQuiet(ctx context.Context) error { return a.cfg.Quiet.Wait(ctx) }

// Close rolls back what runs and waits until it is done.
func (a *Agent) Close(ctx context.Context) error {
	a.mu.Lock()
	a.closed = true
	runners := a.runners
	for _, r := range a.restores {
		close(r.quit)
	}
	a.mu.Unlock()
	a.background()
	for _, r := range runners {
		r.stop()
	}
	done := make(chan struct{})
	go func() { a.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for what runs to end: %w", ctx.Err())
	}
}

// recover replays the journal.
func (a *Agent) recover(ctx context.Context) error {
	entries, bad, err := a.journal.load()
	if err != nil {
		return err
	}
	for job, err := range bad {
		if err := a.adoptWithoutJournal(ctx, job, err); err != nil {
			return err
		}
	}
	for job, e := range entries {
		r := a.newRunner(job)
		p, ready := marker.Recover(marker.HostID(a.cfg.Host), marker.JobID(job), e)
		r.p = p
		if err := r.replay(ctx, e, ready); err != nil {
			return fmt.Errorf("undo the unfinished snapshot %s of job %s: %w", e.Key.Snapshot, job, err)
		}
		a.runners[job] = r
		r.start()
	}
	if err := a.recoverRestores(ctx); err != nil {
		return err
	}
	return a.cfg.Images.RemovePartials(ctx)
}

// Info is what `ssctl host list` shows of a host.
type Info struct {
	Host      string
	Kernel    string
	Addrs     []netip.Addr
	Networks  []netip.Prefix // each of Addrs with the length of its network's prefix
	CRIU      string
	CRIUError string
	Gate      string
	Memory    string // why members' memory is copied while they stand still; "": it is copied while they run
	custody.State
	SetAside  []SetAside // state files that are damaged
	Standings []Standing // of every job that was restored, as far as this host knows
}

// Info says who this host is and whether it can take part in a snapshot.
func (a *Agent) Info(ctx context.Context) (Info, error) {
	networks, err := localNetworks()
	if err != nil {
		return Info{}, err
	}
	info := Info{Host: a.cfg.Host, Kernel: proc.Sysctl("kernel/osrelease"), Addrs: addrsOf(networks), Networks: networks, Gate: a.cfg.Gates.Mode(), Memory: a.untracked()}
	if info.CRIU, err = a.cfg.CRIU.Check(ctx); err != nil {
		info.CRIUError = err.Error()
	}
	if info.State, err = a.cfg.Images.State(); err != nil {
		return Info{}, err
	}
	if info.SetAside, err = a.setAside(ctx, ""); err != nil {
		return Info{}, err
	}
	info.Standings, err = a.standings.list(ctx)
	return info, err
}

// startBackground starts what the agent does of its own accord. Close ends it, and waits.
func (a *Agent) startBackground() {
	ctx, cancel := context.WithCancel(context.Background())
	a.background = cancel
	a.work.Go(func() { a.standings.run(ctx) })
	a.work.Go(func() { a.cfg.Images.Run(ctx) })
}

// jobs tells the holder of the host's images of the work under way.
type jobs struct{ a *Agent }

func (j jobs) Lock(job, what string) (func(), error) { return j.a.lockJob(job, what) }

func (j jobs) UnderWay(key images.Key) bool {
	j.a.mu.Lock()
	defer j.a.mu.Unlock()
	what := j.a.busy[key.Job]
	return what == "snapshot "+key.Snapshot || what == "import "+key.Snapshot
}

func (j jobs) Known(job string) bool { return j.a.knows(job) }

func (j jobs) Resolved(ctx context.Context, key images.Key, committed bool) {
	j.a.tellRunner(ctx, key, committed)
}

// lockJob takes the job for one operation at a time (M1).
func (a *Agent) lockJob(job, what string) (release func(), err error) {
	if err := a.refuseAside(job, what); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if other, ok := a.busy[job]; ok {
		return nil, a.busyWith(job, other)
	}
	if a.closed {
		return nil, fault.New(fault.Unreachable, "the agent is stopping", "try again when it is back")
	}
	a.busy[job] = what
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.busy[job] == what {
			delete(a.busy, job)
		}
	}, nil
}

func (a *Agent) fail(op, job string, err error) error {
	return &fault.Error{Op: op, Host: a.cfg.Host, Job: job, Err: err}
}

// cleanup gives work that must be done after a cancel its own deadline.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
}
