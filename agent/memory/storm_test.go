package memory

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// TestStorm makes userfaultfds in a program that starts programs, replaces itself, is stopped and continued, takes signals and waits with other signal masks,
// as fast as it goes. The program checks what an injection might disturb (testdata/storm.c). SS_MEMORY_STORM says in how many processes.
func TestStorm(t *testing.T) {
	wanted := 300
	if n, err := strconv.Atoi(os.Getenv("SS_MEMORY_STORM")); err == nil {
		wanted = n
	}
	r := newRig(t)
	log := filepath.Join(r.dir, "storm.log")
	m := r.start(compile(t, "storm"), log)
	defer func() {
		if text, err := os.ReadFile(m.Log); t.Failed() && err == nil {
			t.Logf("the program says:\n%s", text)
		}
	}()
	eventually(t, "the program's first check", func() bool { return checks(t, log) > 0 })
	h, err := startHelper(r.tracker.cfg.Exe)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { h.stop() }()
	said := map[string]int{}
	for made := 0; made < wanted; {
		all, err := pids(m.Units()[0])
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			checks(t, log)
			t.Fatal("the program is gone, and has not said why")
		}
		for _, pid := range all {
			fd, err := h.ask(request{Pid: pid})
			if err == nil {
				made++
				_ = unix.Close(fd)
				continue
			}
			said[strings.TrimRight(err.Error(), "0123456789")]++
			if !leftAlone(err) {
				t.Fatalf("process %d: %v", pid, err)
			}
		}
		checks(t, log)
	}
	t.Logf("%d made, and not: %v", wanted, said)
	// Two checks later nothing that was disturbed at the end has gone unnoticed.
	before := checks(t, log)
	eventually(t, "two more checks", func() bool { return checks(t, log) > before+1 })
	eventually(t, "the program to be traced by nobody", func() bool {
		all, err := pids(m.Units()[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range all {
			if proc.Tracer(pid) != 0 {
				return false
			}
		}
		return true
	})
}

// leftAlone says whether a process may be one in which nothing can be made: it has ended, or is about to, or is stopped, or is where no call can be made.
func leftAlone(err error) bool {
	for _, known := range []string{errBusyThread.Error(), errReplaced.Error(), errStopped.Error(), "no such process", "no such file", "it has no vDSO"} {
		if strings.Contains(err.Error(), known) {
			return true
		}
	}
	return proc.Gone(err)
}
