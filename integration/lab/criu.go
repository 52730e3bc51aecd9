package lab

import (
	"context"
	_ "embed" // of the stand-in's source
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// criuPath is where scripts/install-criu puts the CRIU that fits this kernel.
const criuPath = "/opt/ss/criu/bin/criu"

//go:embed testdata/prlimit.c
var prlimitSource []byte

// criu is the CRIU that the lab's agents are to use; "" leaves it to them. Where the machine's root lacks CAP_SYS_RESOURCE, CRIU
// cannot read the limits of a process of another user (prlimit(2)), and so dumps none. There it gets a stand-in for that call, for tests only,
// and the test's output says so.
func (l *Lab) criu() (string, error) {
	path := criuPath
	if _, err := os.Stat(path); err != nil {
		path = ""
	}
	has, err := hasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil || has {
		return path, err
	}
	if path == "" {
		path, _ = exec.LookPath("criu")
	}
	if path == "" {
		return "", nil // the agent says what is missing, and what to do
	}
	gcc, _ := exec.LookPath("gcc")
	if gcc == "" {
		l.tb.Logf("lab: root lacks CAP_SYS_RESOURCE here and there is no gcc to build a stand-in: members of other users cannot be dumped")
		return path, nil
	}
	wrapper := filepath.Join(l.dir, "criu")
	if _, err := os.Stat(wrapper); err == nil {
		return wrapper, nil
	}
	l.tb.Logf("lab: root lacks CAP_SYS_RESOURCE here: CRIU runs with a preloaded prlimit(2) that answers from /proc/PID/limits")
	return wrapper, l.wrapCRIU(wrapper, path, gcc)
}

// wrapCRIU builds the stand-in and makes wrapper, a script that starts criu with it.
func (l *Lab) wrapCRIU(wrapper, criu, gcc string) error {
	source, library := filepath.Join(l.dir, "prlimit.c"), filepath.Join(l.dir, "prlimit.so")
	if err := os.WriteFile(source, prlimitSource, 0o600); err != nil {
		return fmt.Errorf("the stand-in for prlimit: %w", err)
	}
	if out, err := exec.CommandContext(context.Background(), gcc, "-shared", "-fPIC", "-O2", "-Wall", "-o", library, source, "-ldl").CombinedOutput(); err != nil {
		return fmt.Errorf("build the stand-in for prlimit: %w\n%s", err, out)
	}
	script := fmt.Sprintf("#!/bin/sh\nLD_PRELOAD='%s' exec '%s' \"$@\"\n", library, criu)
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return fmt.Errorf("the stand-in for prlimit: %w", err)
	}
	return nil
}

// hasCapability says whether this process has the capability in effect (proc(5), CapEff).
func hasCapability(number int) (bool, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			var set uint64
			if _, err := fmt.Sscanf(strings.TrimSpace(value), "%x", &set); err != nil {
				return false, fmt.Errorf("read the capabilities of this process: %w", err)
			}
			return set>>number&1 == 1, nil
		}
	}
	return false, errors.New("/proc/self/status says nothing of capabilities")
}
