package cell

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/target"
)

// TestLocks: a lock is named with who holds it, whoever took it, and not if a member of the job holds it. A member that shares one with a program outside cannot be
// recorded.
func TestLocks(t *testing.T) {
	g := newManager(t, Config{})
	path := filepath.Join(t.TempDir(), "file")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	holder := exec.Command("sleep", "1000") // it did not take the lock
	holder.ExtraFiles = []*os.File{file}
	holder.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	awaitArguments(t, holder.Process.Pid)
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	id := target.FileID{Dev: st.Dev, Ino: st.Ino}
	owners := func(job string) string {
		locks, err := g.Locks(limit(t), job, []target.FileID{id})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, l := range locks {
			if !l.Flock || !l.Write || l.File != id || l.Path != path {
				t.Errorf("%+v", l)
			}
			out = append(out, l.Owner)
		}
		return strings.Join(out, ", ")
	}
	if got := owners("j"); !strings.Contains(got, "(sleep 1000)") || !strings.Contains(got, os.Args[0]) {
		t.Errorf("held by %q", got)
	}
	m, err := g.Attach(limit(t), agent.Member{Job: "j", Name: "m", Tree: agent.Tree{Pid: holder.Process.Pid}})
	if err != nil {
		t.Fatal(err)
	}
	if got := owners("j"); strings.Contains(got, "sleep") {
		t.Errorf("a lock of the job's own member is another's: %q", got)
	}
	if got := owners("other"); !strings.Contains(got, "member m of job j") {
		t.Errorf("held by %q", got)
	}
	outside := exec.Command("sleep", "1001")
	outside.ExtraFiles = []*os.File{file}
	if err := outside.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Process.Kill(); _ = outside.Wait() })
	awaitArguments(t, outside.Process.Pid)
	found := strings.Join(obstaclesOf(t, g, m), "\n")
	for _, w := range []string{path + " open (descriptor 3)", "lock that", "(sleep 1001) holds as well", "close its descriptor"} {
		if !strings.Contains(found, w) {
			t.Errorf("no %q in %q", w, found)
		}
	}
	_ = outside.Process.Kill()
	_ = outside.Wait()
	if found := obstaclesOf(t, g, m); len(found) != 0 {
		t.Errorf("nobody shares it any more: %q", found)
	}
}
