package cell

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
)

// TestFreed: what a member holds that has no name is free when the member has ended. What has a name is not, and nothing counts twice.
func TestFreed(t *testing.T) {
	g := newManager(t, Config{})
	dir := t.TempDir()
	holder := exec.Command("sleep", "1000")
	holder.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	var dev uint64
	var want int64
	for _, name := range []string{"removed", "stays"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		holder.ExtraFiles = append(holder.ExtraFiles, f, f)
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if name == "removed" {
			var st unix.Stat_t
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				t.Fatal(err)
			}
			dev, want = st.Dev, st.Blocks*512
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	if _, err := g.Attach(limit(t), agent.Member{Job: "j", Name: "m", Tree: agent.Tree{Pid: holder.Process.Pid}}); err != nil {
		t.Fatal(err)
	}
	for job, want := range map[string]int64{"j": want, "other": 0} {
		if freed, err := g.Freed(limit(t), job); err != nil || freed[dev] != want {
			t.Errorf("%s: %v, %v, want %d", job, freed, err, want)
		}
	}
}
