package memory

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/cell"
	"ss/agent/criu"
)

const patience = 60 * time.Second

// The test binary is also the helper, CRIU's keeper, and the first process of cells. The tests run real programs in real cells and dump them with real
// CRIU, so they need root, gcc and what scripts/install-criu brings.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		programs := map[string]func([]string) int{
			"memory-helper": HelperMain, "track": trackProgram, "twin": twinProgram, "criu-exec": criu.ExecMain, cell.InitCommand: cell.InitMain, cell.WatchCommand: cell.WatchMain,
		}
		if run, ok := programs[os.Args[1]]; ok {
			os.Exit(run(os.Args[2:]))
		}
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of agent/memory trace and dump programs: run them as root")
		os.Exit(1)
	}
	// Whatever whoever started the tests has left open must not end up in what is dumped.
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func criuPath() string {
	if path := os.Getenv("SS_CRIU"); path != "" {
		return path
	}
	return "/opt/ss/criu/bin/criu"
}

// eventually waits for a state of the kernel or of another process that sends no event.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// rig is a host's cells, CRIU and tracker.
type rig struct {
	t       testing.TB
	dir     string
	cells   *cell.Manager
	criu    *criu.Runner
	tracker *Tracker
	n       int

	beforeTwins func() (after func())
}

func newRig(t testing.TB) *rig {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: t.TempDir()}
	if r.cells, err = cell.New(cell.Config{StateDir: filepath.Join(r.dir, "cells"), CgroupParent: fmt.Sprintf("ss-memory-test-%d", os.Getpid()), Exe: []string{exe}}); err != nil {
		t.Fatal(err)
	}
	if r.criu, err = criu.New(criu.Config{Path: criuPath(), Exe: []string{exe, "criu-exec"}, WorkDir: filepath.Join(r.dir, "criu")}); err != nil {
		t.Fatal(err)
	}
	r.tracker = New(Config{Exe: []string{exe, "memory-helper"}, TwinsFrom: 64 << 20})
	if ok, why := r.tracker.Mode(); !ok {
		t.Skip("this kernel cannot track memory: " + why) // it is then copied while frozen, by CRIU
	}
	return r
}

func (r *rig) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

// start starts a member and returns it with its log.
func (r *rig) start(command ...string) agent.Member {
	r.t.Helper()
	r.n++
	m, err := r.cells.Start(r.context(), agent.Member{Job: "job", Name: fmt.Sprintf("m-%d", r.n), Command: command, Log: filepath.Join(r.dir, fmt.Sprintf("m-%d.log", r.n))})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { r.kill(m) })
	return m
}

func (r *rig) kill(m agent.Member) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.cells.Kill(ctx, m); err != nil {
		r.t.Errorf("kill %s: %v", m.Name, err)
	}
	if err := r.cells.Forget(ctx, m); err != nil {
		r.t.Errorf("forget %s: %v", m.Name, err)
	}
}

func (r *rig) folder(name string) string {
	r.t.Helper()
	dir, err := os.MkdirTemp(r.dir, name+"-*")
	if err != nil {
		r.t.Fatal(err)
	}
	return dir
}

func (r *rig) startDump(m agent.Member, omits bool) (agent.Dump, string) {
	r.t.Helper()
	dir := r.folder("images")
	d, err := r.criu.StartDump(r.context(), agent.DumpSpec{Unit: m.Units()[0], Dir: dir, LockFile: filepath.Join(r.dir, "lock"), Omits: omits})
	if err != nil {
		r.t.Fatal(err)
	}
	return d, dir
}

func (r *rig) run(d agent.Dump) {
	r.t.Helper()
	if _, err := d.Run(r.context(), nil, func() {}); err != nil {
		r.t.Fatal(err)
	}
}

// compile makes one of the programs in testdata.
func compile(t testing.TB, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	if text, err := exec.Command("gcc", "-O1", "-Wall", "-pthread", "-o", out, filepath.Join("testdata", name+".c")).CombinedOutput(); err != nil {
		t.Fatalf("compile %s: %v\n%s", name, err, text)
	}
	return out
}
