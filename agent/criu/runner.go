package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"ss/agent"
)

// oldest is the oldest CRIU that this package was tried with.
var oldest = [3]int{4, 1, 0}

// From Linux 6.16 on it takes CRIU 4.2 to dump TCP sockets: older ones read SO_PASSCRED of every socket,
// which those kernels refuse for all but UNIX and netlink sockets.
var (
	passcredKernel = [3]int{6, 16, 0}
	passcredCRIU   = [3]int{4, 2, 0}
)

// needed is the oldest CRIU that will do on a kernel of that release ("6.12.107+deb13-amd64").
func needed(release string) [3]int {
	if kernel, err := parseNumbers(release); err == nil && older(kernel, passcredKernel) {
		return oldest
	}
	return passcredCRIU
}

// Config says how to start CRIU.
type Config struct {
	// Path is CRIU's executable, an absolute path that means the same in every cell.
	Path string
	// Exe is the command that runs ExecMain with what is appended to it, e.g. {"/usr/sbin/ssagent", "criu-exec"}.
	Exe []string
	// WorkDir is a folder of our own for what an operation needs while it runs. It must be on a file
	// system from which programs may be started (not mounted noexec). It is made if it is missing.
	WorkDir string
}

// Runner runs CRIU. Its methods are safe for concurrent use.
type Runner struct {
	cfg Config

	mu      sync.Mutex
	version string // of a CRIU that passed Check
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
	return &Runner{cfg: cfg}, nil
}

// Check says which CRIU there is, and whether it is new enough and passes its own check on this
// kernel. Success is remembered for the life of the Runner; a failure is looked at again.
func (r *Runner) Check(ctx context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.version != "" {
		return r.version, nil
	}
	if _, err := os.Stat(r.cfg.Path); err != nil {
		return "", fmt.Errorf("criu: %w; run scripts/install-criu, or name another CRIU in the configuration", err)
	}
	out, err := r.run(ctx, "--version")
	if err != nil {
		return "", fmt.Errorf("criu: %s --version: %w; run scripts/install-criu, or name another CRIU in the configuration", r.cfg.Path, err)
	}
	version, have, err := parseVersion(out)
	if err != nil {
		return "", fmt.Errorf("criu: %s --version: %w", r.cfg.Path, err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return version, fmt.Errorf("criu: ask the kernel's release: %w", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	if need := needed(release); older(have, need) {
		return version, fmt.Errorf("criu: %s is version %s, and %d.%d is needed on Linux %s; run scripts/install-criu",
			r.cfg.Path, version, need[0], need[1], release)
	}
	if out, err = r.run(ctx, "check"); err != nil {
		lines := errorLines([]byte(out))
		return version, &Error{Op: "check", Lines: lines, Hint: hintFor(lines), Err: err}
	}
	r.version = version
	return version, nil
}

func (r *Runner) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, r.cfg.Path, append([]string{"--no-default-config"}, args...)...)
	cmd.Env = keeperEnv()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// parseVersion finds "Version: 4.2.1" in what CRIU prints.
func parseVersion(out string) (string, [3]int, error) {
	for line := range strings.Lines(out) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "Version:")
		if !ok {
			continue
		}
		text = strings.TrimSpace(text)
		v, err := parseNumbers(text)
		return text, v, err
	}
	return "", [3]int{}, fmt.Errorf("no version in its output %q", strings.TrimSpace(out))
}

// parseNumbers reads the first three numbers of a version, of which the last may be followed by anything.
func parseNumbers(text string) (v [3]int, err error) {
	for i, part := range strings.SplitN(text, ".", 3) {
		digits := part
		if end := strings.IndexFunc(part, func(c rune) bool { return c < '0' || c > '9' }); end >= 0 {
			digits = part[:end]
		}
		if v[i], err = strconv.Atoi(digits); err != nil {
			return v, fmt.Errorf("version %q cannot be read", text)
		}
	}
	return v, nil
}

func older(a, b [3]int) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// keeperEnv is the environment that CRIU and its keeper get: nothing of the agent's that could change
// what they do.
func keeperEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
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
