package cell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

func TestStartRunsInACell(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		b := newBell(t)
		log := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(log, []byte("before\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		m := start(t, g, agent.Member{
			Command: shell(`echo "pid $$ dir $(pwd) foo $FOO"; echo oops >&2; echo ready > ` + b.path + `; exec sleep 1000`),
			Env:     []string{"FOO=bar"}, Dir: "/tmp", Log: log,
		})
		if m.Name != "hostA-1" || m.State != agent.Running || m.Attached {
			t.Errorf("started: %+v", m)
		}
		b.wait(t)
		eventually(t, "sleep", func() bool { return proc.Command(m.Pid) == "sleep 1000" })
		if m.InnerPid <= firstPid || m.Pid == m.InnerPid {
			t.Errorf("pid %d, inside %d: want one above %d inside", m.Pid, m.InnerPid, firstPid)
		}
		want := fmt.Sprintf("before\npid %d dir /tmp foo bar\noops\n", m.InnerPid)
		if got := read(t, log); got != want {
			t.Errorf("log %q, want %q", got, want)
		}
		if f := strings.Fields(read(t, "/proc/"+strconv.Itoa(m.InitPid)+"/statm")); len(f) > 2 {
			t.Logf("PID 1 has %s pages resident, %s of them shared with the file", f[1], f[2])
		}
		checkNamespaces(t, m)
		checkInherited(t, m)
		all, err := g.cg.group("job", m.Name).procs()
		if err != nil || !slices.Contains(all, m.Pid) || slices.Contains(all, m.InitPid) {
			t.Errorf("cgroup holds %v (%v), want %d and not PID 1 (%d)", all, err, m.Pid, m.InitPid)
		}
		if m.CgroupID == 0 || m.Cgroup != g.cg.group("job", m.Name).dir() {
			t.Errorf("cgroup %q %d", m.Cgroup, m.CgroupID)
		}
		if procs, err := g.Processes(limit(t), m); err != nil || len(procs) == 0 || procs[0].RSS == 0 || procs[0].Pid != m.Pid {
			t.Errorf("processes %+v, %v", procs, err)
		}
		if _, err := g.Start(limit(t), agent.Member{Job: "job", Name: m.Name, Command: shell(":")}); !errors.Is(err, ErrExists) {
			t.Errorf("the same name again: %v", err)
		}
		if err := g.Forget(limit(t), m); !errors.Is(err, ErrRunning) {
			t.Errorf("forget a running member: %v", err)
		}
	})
}

func TestExitStatus(t *testing.T) {
	g := newManager(t, Config{})
	for script, want := range map[string]string{
		"exit 0":         "exit status 0",
		"exit 7":         "exit status 7",
		"kill -KILL $$":  "signal: killed",
		"kill -TERM $$":  "signal: terminated",
		"kill -SEGV $$":  "signal: segmentation fault",
		"setsid true; :": "exit status 0",
	} {
		m := start(t, g, agent.Member{Command: shell("ulimit -c 0; " + script)})
		m = end(t, g, m)
		if m.State != agent.Exited || m.Exit != want || m.Pid != 0 || m.InitPid != 0 {
			t.Errorf("%s: %+v, want %s", script, m, want)
		}
		if err := g.Forget(limit(t), m); err != nil {
			t.Error(err)
		}
	}
	if all, err := g.Members(limit(t)); err != nil || len(all) != 0 {
		t.Errorf("after Forget: %+v, %v", all, err)
	}
}

func TestStartFailures(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		dir := t.TempDir()
		plain, bad, script := filepath.Join(dir, "plain"), filepath.Join(dir, "bad"), filepath.Join(dir, "script")
		err := errors.Join(os.WriteFile(plain, []byte("x"), 0o644), os.WriteFile(bad, []byte("#!/no/such/interpreter\n"), 0o755), os.WriteFile(script, []byte("echo\n"), 0o755))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			m    agent.Member
			want string
		}{
			{agent.Member{}, "no command"},
			{agent.Member{Command: []string{"no-such-command"}}, "command not found"},
			{agent.Member{Command: []string{"/no/such/command"}}, "command not found"},
			{agent.Member{Command: []string{plain}}, "not executable"},
			{agent.Member{Command: []string{dir}}, "is a directory"},
			{agent.Member{Command: []string{bad}}, "interpreter"},
			{agent.Member{Command: []string{script}}, "#!/bin/sh"},
			{agent.Member{Command: shell(":"), Dir: "/no/such/dir"}, "working directory"},
			{agent.Member{Command: shell(":"), Dir: plain}, "not a directory"},
			{agent.Member{Command: shell(":"), Log: "/no/such/dir/log"}, "open the log"},
			{agent.Member{Command: shell(":"), Job: "../x"}, "job"},
			{agent.Member{Command: shell(":"), Name: ".x"}, "member"},
			{agent.Member{Command: shell(":"), Name: "-x"}, "member"},
			{agent.Member{Command: shell(":"), Name: strings.Repeat("x", 64)}, "member"},
		} {
			if c.m.Job == "" {
				c.m.Job = "job"
			}
			if c.m.Name == "" {
				c.m.Name = "hostA-1"
			}
			_, err := g.Start(limit(t), c.m)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: %v, want %q", c.m, err, c.want)
			}
		}
		if all, err := g.Members(limit(t)); err != nil || len(all) != 0 {
			t.Errorf("members after failures: %+v, %v", all, err)
		}
		for _, d := range g.cg.group("job", "x").dirs() {
			if _, err := os.Stat(filepath.Dir(d)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("cgroup %s is still there: %v", filepath.Dir(d), err)
			}
		}
	})
}

func TestDaemonIsTheTree(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		b := newBell(t)
		m := start(t, g, agent.Member{Command: shell(`(setsid sh -c 'echo ready > ` + b.path + `; exec sleep 1000' &) ; exit 3`)})
		b.wait(t)
		var exit exitRecord
		eventually(t, "the root's end", func() bool { return readState(g.dir(m.Job, m.Name), exitFile, &exit) == nil })
		m = find(t, g, m.Name)
		if m.State != agent.Running || m.Pid == 0 || m.InnerPid <= firstPid || m.InitPid == 0 {
			t.Fatalf("a daemon lives, but: %+v", m)
		}
		if err := unix.Kill(m.Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if m = end(t, g, m); m.State != agent.Exited || m.Exit != "exit status 3" {
			t.Errorf("after the daemon's end: %+v", m)
		}
	})
}

// TestDaemonStaysInTheTree: a daemon that detaches from its parent, as epmd does, becomes a child of the member's first process.
func TestDaemonStaysInTheTree(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		b := newBell(t)
		m := start(t, g, agent.Member{Command: shell(`(setsid sh -c '(echo ready > ` + b.path + `; exec sleep 1000) &' &) ; sleep 1000; exit 0`)})
		b.wait(t)
		var all []int
		eventually(t, "the daemon's new parent", func() bool {
			all = nil
			processes, err := g.Processes(t.Context(), m)
			for _, p := range processes {
				all = append(all, p.Pid)
			}
			return err == nil && len(all) == 3 && len(proc.Tops(all)) == 1 // the shell, its sleep, and the daemon: what detached it has ended
		})
		if top := proc.Tops(all)[0]; top != m.Pid {
			t.Errorf("the tree's root is %d, and the member's %d", top, m.Pid)
		}
		if got := obstaclesOf(t, g, m); len(got) > 0 {
			t.Errorf("obstacles: %q", got)
		}
	})
}

func TestRestartFindsEverything(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		b := newBell(t)
		fifo := filepath.Join(t.TempDir(), "fifo")
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		a := runAgent(t, b, agentOrder{Config: g.cfg, Member: agent.Member{Job: "job", Name: "m", Command: shell("read x < " + fifo + "; exit 5"), Env: []string{"A=b"}}})
		before := find(t, g, "m")
		if before.Pid == 0 || before.InitPid == 0 {
			t.Fatalf("%+v", before)
		}
		_ = a.Process.Kill()
		_ = a.Wait()
		again := newManager(t, g.cfg) // as the next agent
		m := find(t, again, "m")
		if m.Pid != before.Pid || m.InnerPid != before.InnerPid || m.InitPid != before.InitPid || m.State != agent.Running || m.Env[0] != "A=b" {
			t.Errorf("before %+v\nafter %+v", before, m)
		}
		ring(fifo, "go")
		if m = end(t, again, m); m.Exit != "exit status 5" {
			t.Errorf("%+v", m)
		}
	})
}

func TestKilledCellIsKnownAsEnded(t *testing.T) {
	g := newManager(t, Config{})
	m := start(t, g, agent.Member{Command: []string{"sleep", "1000"}})
	if err := unix.Kill(m.InitPid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if m = end(t, g, m); m.State != agent.Exited || !strings.Contains(m.Exit, "unknown") {
		t.Errorf("%+v", m)
	}
}

func TestSweep(t *testing.T) {
	g := newManager(t, Config{})
	dir, err := g.makeDir("job", "half")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(writeState(dir, memberFile, record{Job: "job", Name: "half", Kind: started}), g.cg.group("job", "half").create())
	if err != nil {
		t.Fatal(err)
	}
	again := newManager(t, g.cfg)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state of an unfinished cell: %v", err)
	}
	if _, err := os.Stat(again.cg.group("job", "half").dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cgroup of an unfinished cell: %v", err)
	}
}

// checkNamespaces checks which namespaces of the cell are its own.
func checkNamespaces(t *testing.T, m agent.Member) {
	t.Helper()
	for _, kind := range []string{"pid", "mnt", "ipc", "net", "uts"} {
		theirs, err1 := proc.Namespace(m.InitPid, kind)
		ours, err2 := proc.Namespace(os.Getpid(), kind)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if own := kind == "pid" || kind == "mnt" || kind == "ipc"; own == (ours == theirs) {
			t.Errorf("%s namespace: want its own %v", kind, own)
		}
	}
}

// checkInherited checks that nothing of the agent's own came along.
func checkInherited(t *testing.T, m agent.Member) {
	t.Helper()
	for _, pid := range []int{m.Pid, m.InitPid} {
		if err := proc.EachFd([]int{pid}, func(pid, fd int, link string) {
			if fd > 4 && !strings.HasPrefix(link, "anon_inode:") {
				t.Errorf("%s inherited descriptor %d, %s", proc.Whose(pid), fd, link)
			}
		}); err != nil {
			t.Error(err)
		}
	}
	// Signals 32 and 33 are the threading library's own; who ignores them is not our business.
	const threading = 1<<31 | 1<<32
	v, err := proc.StatusField(m.Pid, "SigIgn")
	if err != nil {
		t.Fatal(err)
	}
	if set, err := strconv.ParseUint(v, 16, 64); err != nil || set&^threading != 0 {
		t.Errorf("signals ignored in the member: %s, %v", v, err)
	}
}
