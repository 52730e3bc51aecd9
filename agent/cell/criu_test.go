package cell

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// criuProgram finds the CRIU that scripts/install-criu put in place, or the system's.
func criuProgram(t *testing.T) string {
	t.Helper()
	for _, p := range []string{os.Getenv("SS_CRIU"), "/opt/ss/criu/bin/criu", "criu"} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	t.Fatal("no CRIU here: run scripts/install-criu, or name one in SS_CRIU")
	return ""
}

// runCRIU runs CRIU in the member's namespaces, born in its cgroup if it is to restore.
func runCRIU(t *testing.T, g *Manager, m agent.Member, dir, verb string, args ...string) {
	t.Helper()
	script := ""
	if verb == "restore" {
		for _, d := range g.cg.group(m.Job, m.Name).dirs() {
			script += "echo 0 > " + filepath.Join(d, "cgroup.procs") + "; "
		}
	}
	script += `exec nsenter --target "$0" --pid --mount --ipc -- "$@"`
	all := []string{"-c", script, fmt.Sprint(m.InitPid), criuProgram(t), verb, "--images-dir", dir, "--log-file", verb + ".log", "-v4",
		"--manage-cgroups=ignore", "--network-lock=skip", "--tcp-established"}
	out, err := exec.CommandContext(limit(t), "/bin/sh", append(all, args...)...).CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, verb+".log"))
		lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
		t.Fatalf("criu %s: %v\n%s\n%s", verb, err, out, bytes.Join(lines[max(0, len(lines)-30):], []byte("\n")))
	}
}

// waitLines returns when the log has n lines more than it had.
func waitLines(t *testing.T, log string, n int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, log, unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	want := strings.Count(read(t, log), "\n") + n
	for strings.Count(read(t, log), "\n") < want {
		if err := proc.Poll(limit(t), fd, unix.POLLIN); err != nil {
			t.Fatalf("the member writes nothing more: %v", err)
		}
		if _, err := unix.Read(fd, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
}

// A member counts into its log, is dumped while frozen, killed, restored into a new cell, and counts
// on, without a number twice or left out; and that once more with what was restored.
func TestMemberGoesThroughCRIU(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		log := filepath.Join(t.TempDir(), "log")
		m := start(t, g, agent.Member{Command: shell("n=0; while :; do n=$((n+1)); echo $n; sleep 0.005; done"), Log: log})
		for round := range 2 {
			waitLines(t, log, 5)
			if err := g.Freeze(limit(t), m); err != nil {
				t.Fatal(err)
			}
			if o := obstaclesOf(t, g, m); len(o) != 0 {
				t.Errorf("obstacles: %q", o)
			}
			dir := t.TempDir()
			runCRIU(t, g, m, dir, "dump", "--tree", fmt.Sprint(m.InnerPid), "--freeze-cgroup", m.Cgroup, "--leave-running")
			if !find(t, g, m.Name).Frozen {
				t.Error("not frozen any more after the dump")
			}
			if err := g.Kill(limit(t), m); err != nil {
				t.Fatal(err)
			}
			restored, err := g.NewCell(limit(t), agent.Member{Job: m.Job, Name: m.Name, Command: m.Command, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			runCRIU(t, g, restored, dir, "restore", "--restore-detached")
			restored, err = g.Adopt(limit(t), restored, m.InnerPid)
			if err != nil {
				t.Fatal(err)
			}
			if restored.InnerPid != m.InnerPid || restored.Pid == 0 || restored.CgroupID == 0 {
				t.Errorf("round %d: restored %+v", round, restored)
			}
			m = restored
			waitLines(t, log, 5)
			procs, err := g.Processes(limit(t), m)
			if err != nil || len(procs) == 0 || len(procs) > 2 {
				t.Errorf("processes in the cgroup: %+v, %v", procs, err)
			}
			for _, p := range procs {
				if ns, err := proc.NSPids(p.Pid); err == nil && ns[1] <= firstPid {
					t.Errorf("round %d: the restored tree drew the PID %d", round, ns[1])
				}
			}
		}
		if err := unix.Kill(m.Pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if m = end(t, g, m); m.Exit != "signal: terminated" {
			t.Errorf("the restored member ended: %+v", m)
		}
		for i, line := range strings.Split(strings.TrimSpace(read(t, log)), "\n") {
			if line != fmt.Sprint(i+1) {
				t.Fatalf("line %d of the log is %q", i+1, line)
			}
		}
	})
}
