package cgroup

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ss/agent/proc"
)

// folders makes an empty cgroup in each hierarchy that can freeze here. Needs root.
func folders(t *testing.T) map[string]Dir {
	t.Helper()
	mounts, err := proc.Mounts("cgroup", "cgroup2")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Dir{}
	for _, m := range mounts {
		name := "v2"
		if m.FSType == "cgroup" {
			if !slices.Contains(strings.Split(m.VFSOptions, ","), "freezer") {
				continue
			}
			name = "v1"
		}
		if out[name] != "" {
			continue
		}
		dir, err := os.MkdirTemp(m.Mountpoint, "ss-test-")
		if err != nil {
			t.Fatalf("make a cgroup, which needs root: %v", err)
		}
		t.Cleanup(func() {
			if err := errors.Join(Dir(dir).Kill(context.Background()), Dir(dir).Remove()); err != nil {
				t.Error(err)
			}
		})
		if _, err := os.Stat(filepath.Join(dir, "cgroup.freeze")); err == nil || name == "v1" {
			out[name] = Dir(dir)
		}
	}
	if len(out) == 0 {
		t.Fatal("no hierarchy here can freeze")
	}
	return out
}

// tree starts a shell in the cgroup that starts processes all the time, one of them in a cgroup below it.
func tree(t *testing.T, d Dir) *exec.Cmd {
	t.Helper()
	below := filepath.Join(string(d), "below")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	script := `echo $$ >` + d.file("cgroup.procs") + `; sleep 1000 & echo $! >` + below + `/cgroup.procs; echo ready; while :; do (sleep 0.001; :) & sleep 0.002; done`
	cmd := exec.CommandContext(context.Background(), "sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestKill: a tree that makes processes all the time, in cgroups below, running or frozen, is gone when the call returns, whichever way the kernel has.
// Its root is not reaped before, so a process that has ended does not count.
func TestKill(t *testing.T) {
	for hierarchy, d := range folders(t) {
		for name, kill := range map[string]func(context.Context) error{"kernel's": d.Kill, "one by one": d.killEach} {
			for _, frozen := range []bool{false, true} {
				t.Run(hierarchy+" "+name+" "+map[bool]string{true: "frozen", false: "running"}[frozen], func(t *testing.T) {
					cmd := tree(t, d)
					if frozen {
						if err := d.Freeze(limit(t)); err != nil {
							t.Fatal(err)
						}
					}
					before, err := d.Live()
					if err != nil || !slices.Contains(before, cmd.Process.Pid) || len(before) < 2 {
						t.Fatalf("%v, %v: the tree is not there", before, err)
					}
					if err := kill(limit(t)); err != nil {
						t.Fatal(err)
					}
					if left, err := d.Live(); err != nil || len(left) > 0 {
						t.Errorf("%v are left, %v", left, err)
					}
					for _, pid := range before {
						if s, err := proc.ReadStat(pid); err == nil && !s.Dead() {
							t.Errorf("process %d lives", pid)
						}
					}
					if err := cmd.Wait(); err == nil || cmd.ProcessState.String() != "signal: killed" {
						t.Errorf("the root ended with %v", cmd.ProcessState)
					}
					if err := d.Thaw(limit(t)); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// TestFreeze: what is frozen stands still until it is thawed.
func TestFreeze(t *testing.T) {
	for hierarchy, d := range folders(t) {
		t.Run(hierarchy, func(t *testing.T) {
			cmd := tree(t, d)
			defer func() { _ = d.Kill(context.Background()); _ = cmd.Wait() }()
			if err := d.Freeze(limit(t)); err != nil {
				t.Fatal(err)
			}
			frozen, err := d.Frozen()
			first, err1 := d.Procs()
			second, err2 := d.Procs()
			if err := errors.Join(err, err1, err2); err != nil || !frozen || !slices.Equal(first, second) {
				t.Errorf("frozen %v: %v, then %v; %v", frozen, first, second, err)
			}
			if err := d.Thaw(limit(t)); err != nil {
				t.Fatal(err)
			}
			if frozen, err := d.Frozen(); err != nil || frozen {
				t.Errorf("thawed: frozen %v, %v", frozen, err)
			}
		})
	}
}

// TestWhatIsNotThere: a cgroup that was removed has no processes, is not frozen, and is killed, thawed and removed already.
func TestWhatIsNotThere(t *testing.T) {
	for hierarchy, d := range folders(t) {
		t.Run(hierarchy, func(t *testing.T) {
			if err := d.Remove(); err != nil {
				t.Fatal(err)
			}
			live, err := d.Live()
			frozen, err2 := d.Frozen()
			if err := errors.Join(err, err2, d.Kill(limit(t)), d.killEach(limit(t)), d.Thaw(limit(t)), d.Remove()); err != nil || frozen || len(live) > 0 {
				t.Errorf("frozen %v, %v, %v", frozen, live, err)
			}
			if _, err := d.Procs(); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its processes: %v", err)
			}
		})
	}
}

// TestLimitOfAKill: a kill that does not come to its end says so. Here its limit is over before it begins, so nothing is killed.
func TestLimitOfAKill(t *testing.T) {
	for hierarchy, d := range folders(t) {
		t.Run(hierarchy, func(t *testing.T) {
			cmd := tree(t, d)
			defer func() { _ = d.Kill(context.Background()); _ = cmd.Wait() }()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := d.killEach(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			if s, err := proc.ReadStat(cmd.Process.Pid); err != nil || s.Dead() {
				t.Errorf("the tree was killed after the limit: %v", err)
			}
		})
	}
}

// TestKillWithoutALeader ends a process whose first thread has ended while another one waits. Needs root and python3.
func TestKillWithoutALeader(t *testing.T) {
	for name, d := range folders(t) {
		t.Run(name, func(t *testing.T) {
			script := `import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall(60, 0)`
			cmd := exec.CommandContext(t.Context(), "sh", "-c", `echo $$ >`+d.file("cgroup.procs")+`; exec python3 -c "$0"`, script)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
				t.Fatalf("%q, %v", line, err)
			}
			for {
				s, err := proc.ReadStat(cmd.Process.Pid)
				if err != nil || s.Dead() {
					t.Fatalf("%+v, %v", s, err)
				}
				if s.Ended() {
					break
				}
			}
			if live, err := d.Live(); err != nil || len(live) != 1 {
				t.Errorf("living: %v, %v", live, err)
			}
			if err := d.Kill(limit(t)); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait() // it was killed
		})
	}
}
