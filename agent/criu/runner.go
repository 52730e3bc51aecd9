package criu

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ss/agent"
	"ss/agent/criu/image"
)

// Config says how to start CRIU.
type Config struct {
	// Path is CRIU's executable, an absolute path that means the same in every cell.
	Path string
	// Exe is the command that runs ExecMain with what is appended to it, e.g. {"/usr/sbin/ssagent", "criu-exec"}.
	Exe []string
	// WorkDir is a folder of our own for what an operation needs while it runs. It must be on a file
	// system from which programs may be started (not mounted noexec). It is made if it is missing.
	WorkDir string
	// LogLevel is what CRIU logs, as its -v has it; 0 takes errors and warnings. More is written while the members stand
	// still, from 3 on a line for each stretch of memory.
	LogLevel int
}

// defaultLogLevel is CRIU's own: errors and warnings.
const defaultLogLevel = 2

func (c Config) logLevel() *int32 {
	return proto.Int32(int32(cmp.Or(c.LogLevel, defaultLogLevel)))
}

// Runner runs CRIU. Its methods are safe for concurrent use.
type Runner struct {
	image.Editor

	cfg        Config
	startLimit time.Duration
	lockWait   time.Duration // see watchLocks

	// naming is held while a CRIU restores files without a name: two that restore the same program, replaced since, would draw the same name for it.
	naming chan struct{}

	mu       sync.Mutex
	version  string    // of a CRIU that passed Check
	checking *checking // the check that is under way, or nil
}

var _ agent.Checkpointer = (*Runner)(nil)

// New returns a Runner. It removes from WorkDir what operations of agents that are gone left there.
func New(cfg Config) (*Runner, error) {
	switch {
	case !filepath.IsAbs(cfg.Path):
		return nil, fmt.Errorf("criu: path %q is not absolute", cfg.Path)
	case len(cfg.Exe) == 0 || !filepath.IsAbs(cfg.Exe[0]):
		return nil, errors.New("criu: the command that starts the keeper is missing or not an absolute path")
	case !filepath.IsAbs(cfg.WorkDir):
		return nil, fmt.Errorf("criu: work folder %q is not absolute", cfg.WorkDir)
	}
	if err := os.MkdirAll(cfg.WorkDir, 0o700); err != nil {
		return nil, fmt.Errorf("criu: make the work folder: %w", err)
	}
	removeStale(cfg.WorkDir)
	return &Runner{cfg: cfg, startLimit: startLimit, lockWait: lockWait, naming: make(chan struct{}, 1)}, nil
}

// keeperEnv is the environment that CRIU and its keeper get: nothing of the agent's that could change
// what they do.
func keeperEnv() []string {
	return agent.HelperEnv("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C")
}

// Operation folders are named op-PID-…, after the agent that made them.
func opPattern() string { return fmt.Sprintf("op-%d-*", os.Getpid()) }

func removeStale(dir string) {
	found, _ := filepath.Glob(filepath.Join(dir, "op-*-*"))
	for _, path := range found {
		pid, err := strconv.Atoi(strings.SplitN(filepath.Base(path), "-", 3)[1])
		if err != nil || unix.Kill(pid, 0) != unix.ESRCH {
			continue
		}
		_ = os.RemoveAll(path)
	}
}
