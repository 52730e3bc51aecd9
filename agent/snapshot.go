package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ss/agent/custody"
	"ss/agent/files"
	"ss/agent/inventory"
	"ss/fault"
	"ss/marker"
	"ss/store/images"
)

// work is what one attempt holds on this host: the members and their CRIUs, the image folder, the
// gates. One action runs at a time, but for the short ones, which touch only the gates, and the thaw.
type work struct {
	a    *Agent
	key  marker.Key
	open Open
	out  *Attempt // nil when the agent was restarted

	ctx     context.Context // ends when the attempt is rolled back
	cancel  context.CancelFunc
	life    context.Context // ends when the attempt is over, however it ends
	end     context.CancelFunc
	running sync.WaitGroup
	ending  sync.WaitGroup // the rollback or the finish

	held     bool   // the job is this attempt's: its members and gates are its to touch
	free     func() // lets the job go
	members  []Member
	lockFile string
	dumps    [][]Dump                // by member, then by unit
	size     int64                   // of what is dumped, about, in bytes
	fileSize int64                   // of the files among that
	plain    [][]string              // by member, then by unit: why CRIU copies all its memory; "": it is tracked
	memory   [][]TrackedMemory       // likewise; nil: CRIU copies all of it
	rests    [][]*rest               // likewise
	frozen   string                  // why CRIU copies all memory of all; "": plain and memory say it
	files    *files.Capture          // of the members, from the freeze on until they are stored
	names    files.Names             // of those, found before the freeze
	dirs     map[string][]files.Seen // by member: its folders and all below
	ahead    *files.Ahead            // of those, copies that were made before the freeze
	holdings []inventory.Inventory   // what else each member held when it was recorded
	recorded time.Time               // when all members stood still, by this host's clock: a little before the recorded instant. Only files are compared with it
	conns    [][]uint64              // the inodes of the connections that each member had when it was recorded
	pending  bool                    // a listener had connections that nobody had accepted when the gates were closed
	partial  *images.Partial
	sealed   bool
	unwatch  func() error
	dumping  bool   // a CRIU has been let go: its end may leave something to heal
	calm     func() // ends the attempt's hold of Agent.Quiet
	behind   func() // ends the attempt's hold of Agent.turn
	copies   *custody.Copies

	mu       sync.Mutex
	begun    time.Time
	frozenAt time.Time
	thawedAt time.Time
	openedAt time.Time
	gates    map[string]bool            // closed gates by peer
	peers    map[marker.HostID][]string // the channels, by the host at their other end
	phases   []PhaseTiming
	stores   bool // ActStore has begun
	reports  []MemberReport
	settled  map[string]bool
	holds    bool // SYNs are held (M1a)
	early    earlyHold
	listed   []Socket // what the members had while the host prepared
}

func (r *runner) newWork(key marker.Key) *work {
	w := &work{
		a: r.a, key: key, free: func() {}, calm: func() {}, behind: func() {}, begun: time.Now(),
		gates: map[string]bool{}, settled: map[string]bool{},
		lockFile: filepath.Join(r.a.cfg.StateDir, "locks", r.job+".criu"),
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.life, w.end = context.WithCancel(context.Background())
	if at := r.attempts[key]; at != nil {
		w.open, w.out = at.open, at
	}
	return w
}

func (w *work) job() string { return string(w.key.Job) }
func (w *work) images() images.Key {
	return images.Key{Job: w.job(), Snapshot: string(w.key.Snapshot), Host: w.a.cfg.Host}
}

func (w *work) putFailure(err error) {
	if w.out != nil {
		w.out.putFailure(err)
	}
}

func (w *work) participant(host string) (Participant, bool) {
	i := slices.IndexFunc(w.open.Participants, func(p Participant) bool { return p.Host == host })
	if i < 0 {
		return Participant{}, false
	}
	return w.open.Participants[i], true
}

// phase notes when an action began, for the report and the person who watches.
func (w *work) phase(act marker.Action) {
	if act.Type == marker.ActOpen || act.Type == marker.ActOpenRest || act.Type == marker.ActSettle || act.Type == marker.ActThaw {
		return
	}
	if act.Type == marker.ActStore {
		w.mu.Lock()
		w.stores = true
		w.mu.Unlock()
	}
	w.enter(actionName(act.Type))
}

func (w *work) enter(phase string) {
	w.mu.Lock()
	w.phases = append(w.phases, PhaseTiming{Name: phase, Start: time.Since(w.begun)})
	w.mu.Unlock()
	w.progress(0, 0)
}

func (w *work) progress(bytes, total int64) {
	if w.out == nil {
		return
	}
	w.mu.Lock()
	p := Progress{Phase: w.phases[len(w.phases)-1].Name, Bytes: bytes, Total: total, Storing: w.stores}
	w.mu.Unlock()
	w.out.put(Out{Progress: &p})
}

// each runs do for every member at once and joins the errors.
func (w *work) each(do func(i int, m Member) error) error {
	errs := make([]error, len(w.members))
	var wg sync.WaitGroup
	for i, m := range w.members {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := do(i, m); err != nil {
				errs[i] = fmt.Errorf("%s: %w", m.Name, w.a.ended(m, err))
			}
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// prepare is M1: everything that can fail without touching a member fails here.
func (w *work) prepare(ctx context.Context) (marker.Event, error) {
	free, err := w.a.lockJob(w.job(), "snapshot "+string(w.key.Snapshot))
	if err != nil {
		return nil, err
	}
	w.free, w.held = free, true
	if w.members, err = w.a.entitled(ctx, w.open); err != nil {
		return nil, err
	}
	if err := w.a.standings.met(w.job(), w.open.peers()); err != nil {
		return nil, err
	}
	if _, err := w.a.cfg.CRIU.Check(ctx); err != nil {
		return nil, &fault.Error{Kind: fault.Refused, Err: err}
	}
	if w.partial, err = w.a.cfg.Images.Begin(w.images()); err != nil {
		return nil, cmp.Or(w.preflight(ctx), err)
	}
	if err := w.makeReady(ctx); err != nil {
		return nil, err
	}
	if err := w.copyAhead(ctx); err != nil {
		return nil, err
	}
	if err := w.trackMemory(ctx); err != nil {
		return nil, err
	}
	if !w.quick() {
		if err := w.holdAhead(ctx); err != nil {
			return nil, err
		}
	}
	return marker.PrepareDone{Key: w.key, Calm: w.early.promise()}, nil
}

// makeReady does what needs no order.
func (w *work) makeReady(ctx context.Context) error {
	w.behind = w.a.turn.take()
	w.divideUnits()
	// Nothing of this touches a member, so all goes on at once; if there is a refusal, the rollback ends the rest. CRIU starts now and waits,
	// so that its start is not part of the time the members stand still.
	var refused, unreached, watched error
	var wg sync.WaitGroup
	wg.Go(func() {
		// CRIU takes longer to start than this does.
		if refused = w.preflight(ctx); refused == nil && w.quick() {
			refused = w.holdAhead(ctx)
		}
	})
	wg.Go(func() { unreached = w.reachPeers(ctx) })
	wg.Go(func() { w.unwatch, watched = w.a.cfg.Cells.Watch(ctx, w.members, w.lockFile) })
	w.dumps = make([][]Dump, len(w.members))
	err := w.each(func(i int, m Member) error {
		dir, err := w.imageDir(m)
		if err != nil {
			return err
		}
		for j := range m.Units() {
			d, err := w.a.cfg.CRIU.StartDump(ctx, w.dumpSpec(i, j, dir))
			if err != nil {
				return err
			}
			w.dumps[i] = append(w.dumps[i], d)
		}
		return nil
	})
	wg.Wait()
	if !w.quick() {
		w.behind() // what takes long makes way for the job
	}
	if err := cmp.Or(refused, unreached); err != nil {
		return err
	}
	if watched != nil {
		err = errors.Join(err, fmt.Errorf("start the watcher: %w", watched))
	}
	if err != nil {
		return w.a.cfg.Images.Staged(err)
	}
	return nil
}

// quick says that nothing is to be copied before the freeze that takes long.
func (w *work) quick() bool { return w.fileSize <= quickFiles && !w.tracks() }

// reachTimeout is ample: nobody stands still meanwhile, and a host may be busy.
const reachTimeout = 15 * time.Second

// reachPeers makes the connections that markers will travel on: while members stand still there is no
// time for a TLS handshake, and no use in finding out that a peer cannot be reached.
func (w *work) reachPeers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	errs := make([]error, len(w.open.Participants))
	var wg sync.WaitGroup
	for i, p := range w.open.Participants {
		if p.Host == w.a.cfg.Host {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = w.a.cfg.Peers.Reach(ctx, p.Peer)
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *work) imageDir(m Member) (string, error) {
	dir, err := w.partial.Dir(m.Name)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, custody.ImagesFolder)
	return dir, os.MkdirAll(dir, 0o700)
}

// preflight refuses what CRIU could not dump, what has a connection to the outside, and what would not fit.
func (w *work) preflight(ctx context.Context) error {
	found, size, err := w.obstacles(ctx)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return &fault.Error{Kind: fault.Refused, Err: errors.New(fault.Problems(found))}
	}
	w.size = size
	return w.a.fits(w.size)
}

// obstacles lists what keeps the members from being recorded, and says how large their images will be at most, about, in bytes.
func (w *work) obstacles(ctx context.Context) (found []string, size int64, err error) {
	socks, err := w.sockets(ctx)
	if err != nil {
		return nil, 0, err
	}
	w.listed = socks
	for _, m := range w.members {
		obs, err := w.a.cfg.Cells.Obstacles(ctx, m)
		if err != nil {
			return nil, 0, fmt.Errorf("look for what CRIU cannot dump: %w", err)
		}
		found = append(found, obs...)
		procs, err := w.a.cfg.Cells.Processes(ctx, m)
		if err != nil {
			return nil, 0, err
		}
		for _, p := range procs {
			size += p.RSS
		}
	}
	unreadable, filesSize, err := w.surveyFiles(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("look at the open files: %w", err)
	}
	size += filesSize
	w.fileSize = filesSize
	out, err := w.stillOutside(ctx, socks)
	if err != nil {
		return nil, 0, err
	}
	misplaced, err := w.placeRunning(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("look whether the members could be put back here: %w", err)
	}
	return slices.Concat(found, unreadable, shared(socks), out, misplaced), size + size/10 + 16<<20, nil
}

func (w *work) sockets(ctx context.Context) ([]Socket, error) {
	all := make([][]Socket, len(w.members))
	err := w.each(func(i int, m Member) (err error) {
		all[i], err = w.a.cfg.Cells.Sockets(ctx, m)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	return slices.Concat(all...), nil
}

// announcer returns what each dump calls when it holds its member's connections. When the last one has, they may speak
// again (M6).
func (w *work) announcer(ctx context.Context, captured func()) func() {
	var left atomic.Int64
	left.Store(int64(len(slices.Concat(w.dumps...))))
	return func() {
		if left.Add(-1) > 0 {
			return
		}
		// CRIU leaves repair mode, in which a socket sends nothing, only at its end.
		err := w.each(func(_ int, m Member) error { return w.a.cfg.Cells.Heal(ctx, m) })
		if err != nil {
			w.a.log.Warn("connections stand still until the dump is finished", "job", w.job(), "snapshot", w.key.Snapshot, "error", err)
			return
		}
		w.enter("dumping memory")
		captured()
	}
}

// dump is M5 and M7. It calls captured when the images hold the state of every connection.
func (w *work) dump(ctx context.Context, captured func()) (marker.Event, error) {
	taken := make(chan error, 1)
	go func() { taken <- errors.Join(w.takeFiles(ctx), w.takeInventory(ctx)) }()
	if err := w.quiesce(ctx); err != nil {
		// Whatever is in flight is sent again later.
		w.a.log.Warn("connections did not settle", "job", w.job(), "snapshot", w.key.Snapshot, "error", err)
	}
	if err := <-taken; err != nil {
		return nil, err
	}
	if err := w.a.cfg.Gates.Seal(ctx, w.job()); err != nil {
		return nil, fmt.Errorf("seal the gates: %w", err)
	}
	waiting, err := w.pendingEnds(ctx)
	if err != nil {
		return nil, err
	}
	stop := w.watchSize(ctx)
	defer stop()
	w.dumping = true
	announce := w.announcer(ctx, captured)
	copied := make(chan error, 1) // CRIU dumps meanwhile
	go func() { copied <- w.copyFrozen(ctx) }()
	ends := make([][]marker.End, len(w.members))
	reports := make([]MemberReport, len(w.members))
	err = w.each(func(i int, m Member) error {
		res, err := w.dumpOne(ctx, i, m, announce)
		if err != nil {
			return err
		}
		reports[i] = MemberReport{Member: m, ImageBytes: res.Bytes, Memory: MemoryReport{Left: w.left(i)}}
		dir, err := w.imageDir(m)
		if err != nil {
			return err
		}
		ends[i] = res.Ends
		for j := range ends[i] {
			e := &ends[i][j]
			e.Host, e.Member, e.Outside = marker.HostID(w.a.cfg.Host), m.Name, w.policyOf(e.Local, e.Remote)
		}
		return w.indexFiles(m, dir)
	})
	if err = errors.Join(err, <-copied); err != nil {
		return nil, w.a.cfg.Images.Staged(err)
	}
	w.dumping = false
	w.mu.Lock()
	w.reports = reports
	w.mu.Unlock()
	return marker.DumpDone{Key: w.key, Ends: append(waiting, slices.Concat(ends...)...)}, nil
}

// thaw lets the members run. The gate toward this host itself has nothing to wait for.
func (w *work) thaw(ctx context.Context) error {
	if err := w.each(func(_ int, m Member) error { return w.a.thaw(ctx, m) }); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	w.ease()
	w.mu.Lock()
	w.thawedAt = time.Now()
	self := w.gates[w.a.cfg.Host]
	w.mu.Unlock()
	if self {
		return w.openGate(ctx, w.a.cfg.Host)
	}
	return w.releaseNew(ctx)
}

// ease ends what other work makes way for: members run again, or --stop holds them.
func (w *work) ease() {
	w.calm()
	w.behind()
}

// openGate opens the gate toward one peer.
func (w *work) openGate(ctx context.Context, peer string) error {
	if err := w.a.cfg.Gates.Open(ctx, w.job(), peer); err != nil {
		return fmt.Errorf("open the gate toward %s: %w", peer, err)
	}
	w.opened(peer)
	return w.releaseNew(ctx)
}

// openRest opens the gates toward all other hosts with which this one shares no channel.
func (w *work) openRest(ctx context.Context) error {
	w.mu.Lock()
	var rest []string
	for peer := range w.gates {
		if _, channel := w.peers[marker.HostID(peer)]; !channel && peer != w.a.cfg.Host {
			rest = append(rest, peer)
		}
	}
	w.mu.Unlock()
	for _, peer := range rest {
		if err := w.openGate(ctx, peer); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) opened(peers ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range peers {
		if !w.gates[p] {
			continue
		}
		delete(w.gates, p)
		if len(w.gates) == 0 {
			w.openedAt = time.Now()
		}
	}
}

// openAll opens whatever is closed.
func (w *work) openAll(ctx context.Context) error {
	err := w.a.cfg.Gates.OpenAll(ctx, w.job())
	w.mu.Lock()
	peers := make([]string, 0, len(w.gates))
	for p := range w.gates {
		peers = append(peers, p)
	}
	w.mu.Unlock()
	w.opened(peers...)
	return err
}
