package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ss/agent"
	"ss/names"
)

// ErrExists says that a member of that name is here already, running or ended.
var ErrExists = errors.New("a member of this name exists already; forget it first")

// ErrUnknown says that no such member is here.
var ErrUnknown = errors.New("no such member on this host")

// ErrRunning says that a member still runs and the operation wants an ended one.
var ErrRunning = errors.New("the member still runs; kill it first")

// Names of the hidden subcommands that Config.Exe must serve, with InitMain and WatchMain.
const (
	InitCommand  = "cell-init"
	WatchCommand = "cell-watch"
)

// Config says where a Manager works.
type Config struct {
	StateDir     string        // for example /var/lib/ss; made 0700
	CgroupParent string        // below the hierarchy's mount, for example "ss"; hosts that share one kernel differ in it
	Exe          []string      // how to run this program again, up to the subcommand's name; empty means the running executable
	ForceV1      bool          // use the v1 freezer though cgroup v2 could freeze
	Grace        time.Duration // how long a watcher waits for a CRIU whose agent died before it kills it; 0 means 10 s
}

// Manager implements agent.Cells. It keeps no state of its own but the processes it must reap, and
// is safe for concurrent use.
type Manager struct {
	cfg Config
	cg  hierarchies

	mu    sync.Mutex
	busy  map[string]chan struct{} // a member's lock: one change at a time, see lock
	inits map[int]chan struct{}    // PID 1s that this process started; closed when reaped
}

var _ agent.Cells = (*Manager)(nil)

// New prepares dirs and cgroups' parents, and removes what a Start that its agent did not survive
// left behind. No other Manager may be starting members below the same StateDir.
func New(cfg Config) (*Manager, error) {
	g, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(g.membersDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of members: %w", err)
	}
	if err := g.sweep(); err != nil {
		return nil, fmt.Errorf("remove unfinished cells: %w", err)
	}
	return g, nil
}

// open is New without any change to the host: what the watcher uses.
func open(cfg Config) (*Manager, error) {
	if cfg.StateDir == "" || !filepath.IsAbs(cfg.StateDir) {
		return nil, fmt.Errorf("cell: StateDir %q: want an absolute path", cfg.StateDir)
	}
	if cfg.CgroupParent == "" || !filepath.IsLocal(cfg.CgroupParent) {
		return nil, fmt.Errorf("cell: CgroupParent %q: want a relative path that stays below the mount", cfg.CgroupParent)
	}
	if len(cfg.Exe) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the own executable: %w", err)
		}
		cfg.Exe = []string{exe}
	}
	if cfg.Grace == 0 {
		cfg.Grace = 10 * time.Second
	}
	cg, err := findHierarchies(cfg.CgroupParent, cfg.ForceV1)
	if err != nil {
		return nil, err
	}
	return &Manager{cfg: cfg, cg: cg, busy: map[string]chan struct{}{}, inits: map[int]chan struct{}{}}, nil
}

// checkNames refuses what is not a safe path component: job and member names become folders and cgroups.
func checkNames(m agent.Member) error {
	return errors.Join(names.Check("job", m.Job), names.Check("member", m.Name))
}

// lock makes the caller the only one to change this member, until unlock.
func (g *Manager) lock(ctx context.Context, m agent.Member) (unlock func(), err error) {
	if err := checkNames(m); err != nil {
		return nil, err
	}
	key := m.Job + "/" + m.Name
	for {
		g.mu.Lock()
		held, taken := g.busy[key]
		if !taken {
			free := make(chan struct{})
			g.busy[key] = free
			g.mu.Unlock()
			return func() {
				g.mu.Lock()
				delete(g.busy, key)
				g.mu.Unlock()
				close(free)
			}, nil
		}
		g.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, fmt.Errorf("member %s is busy: %w", key, ctx.Err())
		}
	}
}
