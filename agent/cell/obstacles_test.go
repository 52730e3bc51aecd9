package cell

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

func obstaclesOf(t *testing.T, g *Manager, m agent.Member) []string {
	t.Helper()
	o, err := g.Obstacles(limit(t), m)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestObstacles(t *testing.T) {
	g := newManager(t, Config{})
	sock := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for _, c := range []struct {
		name string
		act  []string
		want []string // what the one obstacle must speak of; nothing for no obstacle
	}{
		{"a tree", []string{"tree"}, nil},
		{"a tcp listener", []string{"listen", "tcp", "127.0.0.1"}, nil},
		{"a pair of unix sockets", []string{"unix"}, nil},
		{"a harmless device", []string{"device", "/dev/zero"}, nil},
		{"io_uring", []string{"io_uring"}, []string{"io_uring", "turn it off"}},
		{"perf", []string{"perf"}, []string{"perf_event", "close it"}},
		{"mptcp", []string{"listen", "mptcp", "127.0.0.1"}, []string{"multipath TCP", "GODEBUG=multipathtcp=0"}},
		{"a Go program that listens, as Start sets GODEBUG", []string{"talk", "127.0.0.1:0"}, nil},
		{"vsock", []string{"vsock"}, []string{"AF_VSOCK"}},
		{"System V shared memory, of the cell's own namespace", []string{"sysv"}, nil},
		{"a device", []string{"device", "/dev/kmsg"}, []string{"/dev/kmsg"}},
		{"a unix socket to another process", []string{"unix", sock}, []string{"UNIX socket", "process " + strconv.Itoa(os.Getpid()) + " (", "not part of the member"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _ := acting(t, g, c.act[0], c.act[1:]...)
			if c.act[0] == "unix" && len(c.act) > 1 {
				defer (<-accepted).Close()
			}
			got := obstaclesOf(t, g, m)
			if len(c.want) == 0 {
				if len(got) != 0 {
					t.Errorf("%q", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("want one obstacle, have %q", got)
			}
			for _, w := range append(c.want, "process "+strconv.Itoa(m.Pid)+" (") {
				if !strings.Contains(got[0], w) {
					t.Errorf("%q does not say %q", got[0], w)
				}
			}
		})
	}
}

func TestObstacleDebugger(t *testing.T) {
	g := newManager(t, Config{})
	m := start(t, g, agent.Member{Command: []string{"sleep", "1000"}})
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(m.Pid), 0, 0, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	got := obstaclesOf(t, g, m)
	if len(got) != 1 || !strings.Contains(got[0], "traced by") {
		t.Errorf("%q", got)
	}
	// What is traced is gone only when its tracer has heard of its end, or has let go.
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_INTERRUPT, uintptr(m.Pid), 0, 0, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	if _, err := unix.Wait4(m.Pid, nil, unix.WALL, nil); err != nil {
		t.Fatal(err)
	}
	if err := unix.PtraceDetach(m.Pid); err != nil {
		t.Fatal(err)
	}
}

func TestObstacleSeveralTrees(t *testing.T) {
	g := newManager(t, Config{})
	b := newBell(t)
	m := start(t, g, agent.Member{Command: shell("for i in a b; do setsid sh -c 'echo $0 > " + b.path + "; exec sleep 1000' $i & done; exit 0")})
	b.wait(t)
	b.wait(t)
	var got []string
	eventually(t, "the orphans' obstacle", func() bool { got = obstaclesOf(t, g, m); return len(got) == 1 })
	if !strings.Contains(got[0], "does not descend") {
		t.Errorf("%q", got)
	}
}

func TestObstacleForeignMount(t *testing.T) {
	g := newManager(t, Config{})
	// A file that was opened here is on a mount that the cell's namespace does not have.
	m := start(t, g, agent.Member{Command: []string{"nsenter", "--mount=/proc/" + "1/ns/mnt", "sleep", "1000"}})
	eventually(t, "sleep", func() bool { return proc.Command(m.Pid) == "sleep 1000" })
	// nsenter entered the cell's own mounts again: nothing is foreign there.
	if got := obstaclesOf(t, g, m); len(got) != 0 {
		t.Errorf("%q", got)
	}
	b := newBell(t)
	m = start(t, g, agent.Member{Command: []string{"unshare", "--mount", "sh", "-c", "echo ready > " + b.path + "; exec sleep 1000"}})
	b.wait(t)
	eventually(t, "sleep", func() bool { return proc.Command(m.Pid) == "sleep 1000" })
	got := obstaclesOf(t, g, m)
	if len(got) == 0 || !strings.Contains(got[0], "another mount namespace") {
		t.Errorf("%q", got)
	}
}

// TestObstaclesOfAMemberThatForks: a child that comes while the member is looked at is the member's, with its pipes.
func TestObstaclesOfAMemberThatForks(t *testing.T) {
	g := newManager(t, Config{})
	m := start(t, g, agent.Member{Job: "job", Name: "forks", Command: []string{"/bin/bash", "-c", "while :; do echo x | cat | cat >/dev/null; done"}})
	for range 100 {
		found, err := g.Obstacles(limit(t), m)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			t.Fatal(found)
		}
	}
}

// TestWorksInProc: the folder of a process is not there when a restore sets working folders.
func TestWorksInProc(t *testing.T) {
	g := newManager(t, Config{})
	for dir, words := range map[string][]string{
		"/proc":         nil,
		"/proc/self":    {"works in /proc/", "cd /"},
		"/proc/self/fd": {"works in /proc/", "/fd, a folder of a process"},
		"/proc/sys/net": nil,
		os.TempDir():    nil,
	} {
		cmd := exec.Command("sleep", "1000")
		cmd.Dir = dir
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		m, err := g.Attach(limit(t), agent.Member{Job: "j", Name: "m" + strconv.Itoa(cmd.Process.Pid), Tree: agent.Tree{Pid: cmd.Process.Pid}})
		if err != nil {
			t.Fatal(err)
		}
		found := strings.Join(obstaclesOf(t, g, m), "\n")
		if (found == "") != (words == nil) {
			t.Errorf("%s: %q", dir, found)
		}
		for _, w := range words {
			if !strings.Contains(found, w) {
				t.Errorf("%s: no %q in %q", dir, w, found)
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}
