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

// criu is the CRIU that the lab's agents are to use; "" leaves it to them. It is a script that starts the real one, so that FailDumps can make it fail. Where
// the machine's root lacks CAP_SYS_RESOURCE, CRIU cannot read the limits of a process of another user (prlimit(2)), and so dumps none. There it gets a
// stand-in for that call, for tests only, and the test's output says so.
func (l *Lab) criu() (string, error) {
	path := criuPath
	if _, err := os.Stat(path); err != nil {
		path, _ = exec.LookPath("criu")
	}
	if path == "" {
		return "", nil // the agent says what is missing, and what to do
	}
	wrapper := filepath.Join(l.dir, "criu")
	if _, err := os.Stat(wrapper); err == nil {
		return wrapper, nil
	}
	has, err := hasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil || has {
		return wrapper, errors.Join(err, l.wrapCRIU(wrapper, path, ""))
	}
	gcc, _ := exec.LookPath("gcc")
	if gcc == "" {
		l.tb.Logf("lab: root lacks CAP_SYS_RESOURCE here and there is no gcc to build a stand-in: members of other users cannot be dumped")
	} else {
		l.tb.Logf("lab: root lacks CAP_SYS_RESOURCE here: CRIU runs with a preloaded prlimit(2) that answers from /proc/PID/limits")
	}
	return wrapper, l.wrapCRIU(wrapper, path, gcc)
}

// failDumps is the file on a host that makes its CRIU fail.
const failDumps = "/srv/criu-fails"

// FailedDump is what CRIU says of a dump on a host for which FailDumps was called.
const FailedDump = "fault: Dump VMA pages failure"

// FailDumps makes every dump of a process's memory on the host fail from now on, or no longer: CRIU has faults of its own for its tests
// (FI_DUMP_PAGES of its criu/include/fault-injection.h). Nothing of the agent can know it before.
func (h *Host) FailDumps(fail bool) {
	h.lab.tb.Helper()
	h.flag(failDumps, fail)
}

// holdDumps is the file on a host that makes its CRIU wait.
const holdDumps = "/srv/criu-waits"

// HoldDumps has every CRIU that a snapshot or restore starts on the host wait from now on, until it is called with false.
func (h *Host) HoldDumps(hold bool) {
	h.lab.tb.Helper()
	h.flag(holdDumps, hold)
}

// flag makes a file that the lab's CRIU looks for, or removes it.
func (h *Host) flag(name string, on bool) {
	h.lab.tb.Helper()
	path := h.Path(name)
	err := os.Remove(path)
	if on {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		h.lab.tb.Fatalf("lab: what CRIU does on %s: %v", h.Name, err)
	}
}

// wrapCRIU makes wrapper, a script that starts criu. With a gcc, it builds the stand-in for prlimit and has criu use it.
func (l *Lab) wrapCRIU(wrapper, criu, gcc string) error {
	preload := ""
	if gcc != "" {
		source, library := filepath.Join(l.dir, "prlimit.c"), filepath.Join(l.dir, "prlimit.so")
		if err := os.WriteFile(source, prlimitSource, 0o600); err != nil {
			return fmt.Errorf("the stand-in for prlimit: %w", err)
		}
		if out, err := exec.CommandContext(context.Background(), gcc, "-shared", "-fPIC", "-O2", "-Wall", "-o", library, source, "-ldl").CombinedOutput(); err != nil {
			return fmt.Errorf("build the stand-in for prlimit: %w\n%s", err, out)
		}
		preload = "LD_PRELOAD='" + library + "' "
	}
	script := fmt.Sprintf(`#!/bin/sh
[ -e %s ] && export CRIU_FAULT=3
case " $* " in *" swrk "*) while [ -e %s ]; do sleep 0.02; done ;; esac
%sexec '%s' "$@"
`, failDumps, holdDumps, preload, criu)
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return fmt.Errorf("the lab's CRIU: %w", err)
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
