package memory

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// trackProgram is an agent that tracks a unit again and again: for each time it writes a line.
func trackProgram(args []string) int {
	var u agent.Unit
	if err := json.Unmarshal([]byte(args[0]), &u); err != nil {
		return 2
	}
	exe, err := os.Executable()
	if err != nil {
		return 2
	}
	t := New(Config{Exe: []string{exe, "memory-helper"}})
	for n := 0; ; n++ {
		dir := filepath.Join(args[1], strconv.Itoa(n))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return 3
		}
		fmt.Println("begins", n)
		k := t.Track(context.Background(), u, dir)
		if err := k.Close(); err != nil {
			return 4
		}
	}
}

// TestAgentIsKilled kills an agent at all kinds of instants while it tracks a program. The helper finishes what it is at; nothing of the program is as it was
// not before: no tracer, no descriptor, no mapping that is registered, no signal blocked, and its memory is as it must be. SS_MEMORY_KILLS says how often.
func TestAgentIsKilled(t *testing.T) {
	kills := 20
	if n, err := strconv.Atoi(os.Getenv("SS_MEMORY_KILLS")); err == nil {
		kills = n
	}
	r := newRig(t)
	log := filepath.Join(r.dir, "churn.log")
	m := r.start(compile(t, "churn"), "3", "100000000", "100", log)
	eventually(t, "the program's first check", func() bool { return checks(t, log) > 0 })
	unit, err := json.Marshal(m.Units()[0])
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range kills {
		cmd := exec.Command(exe, "track", string(unit), r.folder("killed"))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "begins") {
			t.Fatalf("the agent says %q: %v", line, err)
		}
		timer := time.NewTimer(time.Duration(rand.IntN(60_000)) * time.Microsecond) // an instant is what the test is about
		<-timer.C
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		eventually(t, "the program to be as before: "+trace(m), func() bool { return trace(m) == "" })
		before := checks(t, log)
		eventually(t, "a further check", func() bool { return checks(t, log) > before })
	}
}

// trace says what is left of a tracker in a member.
func trace(m agent.Member) string {
	all, err := pids(m.Units()[0])
	if err != nil {
		return err.Error()
	}
	for _, pid := range all {
		tids, _ := proc.Threads(pid) // none of one that has ended
		for _, tid := range tids {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
				value = strings.TrimSpace(value)
				if name == "TracerPid" && value != "0" || name == "SigBlk" && strings.Trim(value, "0") != "" || name == "State" && strings.HasPrefix(value, "t") {
					return fmt.Sprintf("thread %d: %s %s", tid, name, value)
				}
			}
		}
		found := ""
		if err := proc.EachFd([]int{pid}, func(_, fd int, link string) {
			if link == uffdLink {
				found = fmt.Sprintf("process %d has a userfaultfd as %d", pid, fd)
			}
		}); err != nil || found != "" {
			return found
		}
		s, err := openScanner(pid, 0)
		if err != nil {
			continue
		}
		maps, _ := mappings(pid)
		for _, x := range maps {
			if x.ours() && s.registered(x.Start) {
				found = fmt.Sprintf("process %d: %#x is registered", pid, x.Start)
			}
		}
		s.close()
		if found != "" {
			return found
		}
	}
	return ""
}

// TestInjectionKeepsState makes userfaultfds in a program that waits in a call, over and over: its call goes on as if nothing had happened.
func TestInjectionKeepsState(t *testing.T) {
	r := newRig(t)
	m := r.start("/bin/sh", "-c", "trap 'echo usr1' USR1; while :; do sleep 0.05; echo slept; done")
	eventually(t, "the shell to sleep", func() bool { text, _ := os.ReadFile(m.Log); return strings.Contains(string(text), "slept") })
	unit := m.Units()[0]
	h, err := startHelper(r.tracker.cfg.Exe)
	if err != nil {
		t.Fatal(err)
	}
	defer h.stop()
	made := 0
	for range 200 {
		all, err := pids(unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range all {
			fd, err := h.ask(request{Pid: pid})
			if err == nil {
				made++
				_ = unix.Close(fd)
			} else if stat, gone := proc.ReadStat(pid); gone == nil && !stat.Dead() && !proc.Gone(err) && !strings.Contains(err.Error(), "no such process") && !strings.Contains(err.Error(), "no vDSO") {
				t.Errorf("process %d: %v", pid, err)
			}
		}
	}
	if made < 200 {
		t.Errorf("%d userfaultfds were made", made)
	}
	eventually(t, "the program to be as before", func() bool { return trace(m) == "" })
	text, err := os.ReadFile(m.Log)
	if err != nil || strings.Trim(strings.ReplaceAll(string(text), "slept\n", ""), "\n") != "" {
		t.Errorf("the shell says %q: %v", text, err)
	}
}
