package cell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
)

// holdLock starts a process of another program that holds the file's shared flock, as CRIU does.
func holdLock(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// waiting reports whether somebody waits for the file's lock, from /proc/locks (proc_locks(5)).
func waiting(t *testing.T, path string) bool {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if s := string(line); strings.Contains(s, "-> FLOCK") && strings.Contains(s, fmt.Sprintf(":%d ", st.Ino)) {
			return true
		}
	}
	return false
}

func TestWatcherThawsWhenTheAgentDies(t *testing.T) {
	flavours(t, func(t *testing.T, g *Manager) {
		for _, polite := range []bool{true, false} {
			b := newBell(t)
			lock := filepath.Join(t.TempDir(), "lock")
			file := filepath.Join(t.TempDir(), "counter")
			cfg := g.cfg
			cfg.Grace = time.Minute
			if !polite {
				cfg.Grace = 50 * time.Millisecond
			}
			holder := holdLock(t, lock)
			name := fmt.Sprint("m-", polite)
			a := runAgent(t, b, agentOrder{Config: cfg, Watch: lock, Member: agent.Member{Job: "job", Name: name, Command: member("count", file, b.path)}})
			m := find(t, g, name)
			if !m.Frozen {
				t.Fatalf("the agent froze it, but: %+v", m)
			}
			c, err := mapCounter(file)
			if err != nil {
				t.Fatal(err)
			}
			_ = a.Process.Kill()
			_ = a.Wait()
			if polite {
				eventually(t, "the watcher to wait for the lock", func() bool { return waiting(t, lock) })
				if !find(t, g, name).Frozen {
					t.Error("thawed while CRIU holds the lock")
				}
				_ = holder.Process.Kill()
			}
			_ = holder.Wait() // the watcher kills one that goes on
			c.passes(t, c.value())
			if find(t, g, name).Frozen {
				t.Error("the counter moves, but the member is frozen")
			}
		}
	})
}

func TestWatcherStops(t *testing.T) {
	g := newManager(t, Config{})
	m, c := counting(t, g)
	tick := clock(t)
	begin := time.Now()
	stop, err := g.Watch(limit(t), []agent.Member{m}, filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("watcher ready in %v", time.Since(begin))
	if err := g.Freeze(limit(t), m); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("watcher stopped in %v", time.Since(begin))
	c.stands(t, tick)
	if err := g.Thaw(limit(t), m); err != nil {
		t.Fatal(err)
	}
}

func TestWatcherFailures(t *testing.T) {
	g := newManager(t, Config{})
	if _, err := g.Watch(limit(t), nil, "/no/such/dir/lock"); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("a lock file that can't be: %v", err)
	}
	if _, err := g.Watch(limit(t), []agent.Member{{Job: "..", Name: "x"}}, "lock"); err == nil {
		t.Error("a job name that can't be")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Watch(ctx, nil, filepath.Join(t.TempDir(), "lock")); !errors.Is(err, context.Canceled) {
		t.Errorf("under a lost lease: %v", err)
	}
}
