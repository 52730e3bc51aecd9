package criu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeCRIU makes a Runner whose CRIU is a shell script, in which $dir is a folder of the test's own.
func fakeCRIU(t *testing.T, script string) (r *Runner, dir string) {
	t.Helper()
	r, dir = newRunner(t), t.TempDir()
	r.cfg.Path = filepath.Join(dir, "criu")
	text := "#!/bin/sh\ndir=" + dir + "\n[ $2 = --version ] && { echo Version: 9.0; exit; }\n" + script + "\n"
	if err := os.WriteFile(r.cfg.Path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return r, dir
}

// TestCheckOutlivesItsCaller: who gives up does not wait, and the next caller gets what the first one asked for.
func TestCheckOutlivesItsCaller(t *testing.T) {
	r, dir := fakeCRIU(t, `echo once >>$dir/runs; read go <$dir/gate`)
	gate := filepath.Join(dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Check(gone); !errors.Is(err, context.Canceled) {
		t.Fatalf("a caller that has given up: %v", err)
	}
	open, err := os.OpenFile(gate, os.O_WRONLY, 0) // waits until the check stands there
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	open.Close()
	if version, err := r.Check(testContext(t)); err != nil || version != "9.0" {
		t.Fatalf("the next caller: %q, %v", version, err)
	}
	if runs, err := os.ReadFile(filepath.Join(dir, "runs")); err != nil || string(runs) != "once\n" {
		t.Errorf("the check ran: %q, %v", runs, err)
	}
}

// TestCheckLeavesNothingBehind: a check that takes too long ends with all that it has started, stopped children too.
func TestCheckLeavesNothingBehind(t *testing.T) {
	usual := checkTimeout
	checkTimeout = 500 * time.Millisecond
	t.Cleanup(func() { checkTimeout = usual })
	r, dir := fakeCRIU(t, `(sh -c 'echo $$ >'$dir'/child; kill -STOP $$') & wait`)
	if _, err := r.Check(testContext(t)); err == nil || !strings.Contains(err.Error(), "did not end") {
		t.Fatalf("a check that does not end: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); n != 1 || err != nil {
		t.Errorf("process %d, which the check has started, is still there (%d, %v)", pid, n, err)
	}
}
