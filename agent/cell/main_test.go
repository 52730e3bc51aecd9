package cell

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/cgroup"
	"ss/agent/proc"
	"ss/names"
)

// The tests run in namespaces of their own (network, PID, mount), below a process that reaps as a
// host's init does. Whatever a test leaves behind ends with them, and is found out before.
const (
	stageEnv  = "SS_CELL_TEST_STAGE"
	parentEnv = "SS_CELL_TEST_CGROUP"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case InitCommand:
			os.Exit(InitMain(os.Args[2:]))
		case WatchCommand:
			os.Exit(WatchMain(os.Args[2:]))
		case "member":
			os.Exit(memberMain(os.Args[2], os.Args[3:]))
		case "agent":
			os.Exit(agentMain(os.Args[2:]))
		}
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "agent/cell: these tests make namespaces and cgroups: run them as root")
		os.Exit(1)
	}
	switch os.Getenv(stageEnv) {
	case "":
		os.Exit(outside())
	case "init":
		os.Exit(hostInit())
	default:
		code := m.Run()
		_ = os.RemoveAll(waitsDir)
		if left := leftovers(); left != "" {
			fmt.Fprintln(os.Stderr, "agent/cell: left behind:", left)
			code = 1
		}
		os.Exit(code)
	}
}

// outside makes the host that the tests run on.
func outside() int {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // what we were started with is not the tests' to see
	parent := fmt.Sprintf("ss-cell-test-%d", os.Getpid())
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent/cell:", err)
		return 1
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageEnv+"=init", parentEnv+"="+parent)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC, Pdeathsig: unix.SIGKILL,
	}
	err = cmd.Run()
	if _, isExit := errors.AsType[*exec.ExitError](err); err != nil && !isExit {
		fmt.Fprintln(os.Stderr, "agent/cell: make namespaces:", err)
		return 1
	}
	for _, force := range []bool{false, true} {
		h, err := findHierarchies(parent, force)
		if err != nil {
			continue
		}
		for _, mount := range []string{h.v1, h.v2} {
			if mount != "" {
				_ = cgroup.Dir(filepath.Join(mount, parent)).Remove()
			}
		}
	}
	return cmd.ProcessState.ExitCode()
}

// hostInit is PID 1 of the tests' host.
func hostInit() int {
	steps := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
		loopbackUp(),
	)
	if steps != nil {
		fmt.Fprintln(os.Stderr, "agent/cell: make the tests' host:", steps)
		return 1
	}
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	if err := os.Setenv(stageEnv, "tests"); err != nil {
		return 1
	}
	p, err := os.StartProcess(exe, os.Args, &os.ProcAttr{Files: files})
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent/cell: start the tests:", err)
		return 1
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err == nil && pid == p.Pid {
			return ws.ExitStatus()
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 1
		}
	}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// leftovers says what is left of the tests: a process, or a cgroup.
func leftovers() string {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := ""
		all, err := proc.Pids()
		if err != nil {
			return err.Error()
		}
		for _, pid := range all {
			if pid != 1 && pid != os.Getpid() {
				left += " " + proc.Whose(pid)
			}
		}
		for _, force := range []bool{false, true} {
			// Without MkdirAll of the parent, which findHierarchies does for v2.
			h, err := findHierarchies(".", force)
			if err != nil {
				continue
			}
			for _, mount := range []string{h.v1, h.v2} {
				dir := filepath.Join(mount, os.Getenv(parentEnv))
				if subs, err := cgroup.Dir(dir).Below(); mount != "" && err == nil && len(subs) > 0 {
					left += " cgroups " + fmt.Sprint(subs)
				}
			}
		}
		if left == "" || time.Now().After(deadline) {
			return left
		}
		<-time.After(5 * time.Millisecond) // for orphans that the tests' init has not reaped yet
	}
}

// flavours runs a test with the freezer of each cgroup version.
func flavours(t *testing.T, f func(t *testing.T, g *Manager)) {
	for _, force := range []bool{false, true} {
		name := map[bool]string{false: "v2", true: "v1"}[force]
		t.Run(name, func(t *testing.T) {
			g := newManager(t, Config{ForceV1: force})
			if force == (g.cg.v1 == "") {
				t.Fatalf("wanted a %s freezer, have %+v", name, g.cg)
			}
			f(t, g)
		})
	}
}

// newManager returns a Manager with a state of its own. When the test ends, all its members do.
func newManager(t *testing.T, cfg Config) *Manager {
	t.Helper()
	if cfg.StateDir == "" {
		cfg.StateDir = t.TempDir()
	}
	cfg.CgroupParent = os.Getenv(parentEnv)
	cfg.Exe = []string{os.Args[0]}
	if !filepath.IsAbs(os.Args[0]) {
		t.Fatalf("the test binary's path %s is not absolute", os.Args[0])
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		recs, err := g.records()
		if err != nil {
			t.Error(err)
		}
		for _, r := range recs {
			if err := g.Kill(ctx, agent.Member{Job: r.Job, Name: r.Name}); err != nil {
				t.Errorf("clean up: %v", err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(g.membersDir(), "*")); len(left) > 0 {
			t.Errorf("state left behind: %v", left)
		}
	})
	return g
}

// limit is how long a test waits for what must come.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// bell is a pipe with a name, on which members say that they have come somewhere.
type bell struct {
	path string
	f    *os.File
}

func newBell(t *testing.T) bell {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bell")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // both ends, so it has no end of file
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return bell{path, f}
}

// wait returns the next line that a member says.
func (b bell) wait(t *testing.T) string {
	t.Helper()
	if err := b.f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var line []byte
	for c := make([]byte, 1); ; {
		if _, err := b.f.Read(c); err != nil {
			t.Fatalf("no member rang: %v (so far %q)", err, line)
		}
		if c[0] == '\n' {
			return string(line)
		}
		line = append(line, c[0])
	}
}

func ring(path, text string) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text + "\n"); err != nil {
		panic(err)
	}
}

// drawn counts the names that start has given to the members of a Manager.
var drawn = map[*Manager]uint64{}

func start(t *testing.T, g *Manager, m agent.Member) agent.Member {
	t.Helper()
	if m.Job == "" {
		m.Job = "job"
	}
	if m.Name == "" {
		g.mu.Lock()
		n := drawn[g] + 1
		drawn[g] = n
		g.mu.Unlock()
		m.Name = names.Member("hostA", n)
	}
	m, err := g.Start(limit(t), m)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// member is the command of a member that is this test binary.
func member(args ...string) []string { return append([]string{os.Args[0], "member"}, args...) }

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

// end waits until the member's cell has ended by itself and returns what is known of it.
func end(t *testing.T, g *Manager, m agent.Member) agent.Member {
	t.Helper()
	var init proc.Identity
	if err := readState(g.dir(m.Job, m.Name), initFile, &init); err != nil {
		t.Fatal(err)
	}
	if err := init.AwaitEnd(limit(t)); err != nil {
		t.Fatalf("wait for the cell's end: %v", err)
	}
	return find(t, g, m.Name)
}

func find(t *testing.T, g *Manager, name string) agent.Member {
	t.Helper()
	all, err := g.Members(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(m agent.Member) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("no member %s among %+v", name, all)
	}
	return all[i]
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// eventually is for what has no event to wait for.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	within(t, 20*time.Second, what, f)
}

func within(t *testing.T, bound time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(bound); !f(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
