package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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

// checkTimeout bounds CRIU's own check, which takes 50 ms on a machine that has nothing else to do.
var checkTimeout = time.Minute

// checking is a check under way. It is not its first caller's: it goes on when that one gives up, and serves the next.
type checking struct {
	done    chan struct{} // closed when the rest is set
	version string
	err     error
}

// Check says which CRIU there is, and whether it is new enough and passes its own check on this
// kernel. Success is remembered for the life of the Runner; a failure is looked at again.
func (r *Runner) Check(ctx context.Context) (string, error) {
	r.mu.Lock()
	if r.version != "" {
		defer r.mu.Unlock()
		return r.version, nil
	}
	c := r.checking
	if c == nil {
		c = &checking{done: make(chan struct{})}
		r.checking = c
		go r.finish(c) // ends within checkTimeout
	}
	r.mu.Unlock()
	select {
	case <-c.done:
		return c.version, c.err
	case <-ctx.Done():
		return "", fmt.Errorf("criu: its own check is not over yet: %w", context.Cause(ctx))
	}
}

func (r *Runner) finish(c *checking) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	c.version, c.err = r.check(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checking = nil
	if c.err == nil {
		r.version = c.version
	}
	close(c.done)
}

func (r *Runner) check(ctx context.Context) (string, error) {
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
	out, err = r.run(ctx, "check")
	if ctx.Err() != nil {
		return version, fmt.Errorf("criu: its own check did not end within %v: is this machine overloaded?", checkTimeout)
	}
	if err != nil {
		lines, last := errorLines([]byte(out))
		if len(lines) == 0 && last != "" {
			lines = []string{last}
		}
		return version, &Error{Op: "check", Lines: lines, Hint: hintFor(lines), Err: err}
	}
	return version, nil
}

// run runs CRIU for what it prints. When ctx ends, whatever it has started ends with it: a check stops children of its
// own (SIGSTOP), which would otherwise stand there for ever, and keep what they inherited open.
func (r *Runner) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, r.cfg.Path, append([]string{"--no-default-config"}, args...)...)
	cmd.Env = keeperEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		if errors.Is(err, unix.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = killWait
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
