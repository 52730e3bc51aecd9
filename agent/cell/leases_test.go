package cell

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
	"ss/agent/target"
)

// awaitArguments returns when a process that was just started tells its arguments: while it executes its program it has none.
func awaitArguments(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "the arguments of its program", func() bool { return len(proc.Arguments(pid)) > 0 })
}

// TestOpens: a process that has a file open or mapped is named, and not if it is of a member of the job. What is open as a path only, and another file, are nobody's. It is not opened for that: its lease
// lives.
func TestOpens(t *testing.T) {
	g := newManager(t, Config{})
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	id := target.FileID{Dev: st.Dev, Ino: st.Ino}
	open := func(flags int) int {
		file, err := os.OpenFile(path, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd := exec.Command("sleep", "1000")
		cmd.ExtraFiles = []*os.File{file}
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		awaitArguments(t, cmd.Process.Pid)
		return cmd.Process.Pid
	}
	mapping := exec.Command("python3", "-c", "import mmap, os, sys, time\nf = open(sys.argv[1], 'r+b')\nm = mmap.mmap(f.fileno(), 4096)\nf.close()\n"+
		"for fd in range(3, 9):\n  try: os.close(fd)\n  except OSError: pass\nprint(flush=True)\ntime.sleep(1000)", path)
	out, err := mapping.StdoutPipe()
	if err == nil {
		err = mapping.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mapping.Process.Kill(); _ = mapping.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	reader, writer := open(os.O_RDONLY), open(os.O_RDWR)
	open(unix.O_PATH)
	opens := func(job string) map[string]bool {
		list, err := g.Opens(limit(t), job, map[target.FileID]bool{id: true})
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, o := range list {
			if o.File != id {
				t.Errorf("%+v", o)
			}
			found[o.Owner] = o.Write
		}
		return found
	}
	found := opens("j")
	for pid, write := range map[int]bool{reader: false, writer: true, mapping.Process.Pid: true} {
		if got, ok := found[proc.Whose(pid)]; !ok || got != write {
			t.Errorf("%s: %v, %v in %v", proc.Whose(pid), got, ok, found)
		}
	}
	if len(found) != 3 {
		t.Errorf("%v", found)
	}
	if _, err := g.Attach(limit(t), agent.Member{Job: "j", Name: "m", Tree: agent.Tree{Pid: writer}}); err != nil {
		t.Fatal(err)
	}
	if found := opens("j"); len(found) != 2 {
		t.Errorf("what the job's own member has open is in the way: %v", found)
	}
	others := 0
	for owner := range opens("other") {
		if strings.HasPrefix(owner, proc.Whose(writer)) && strings.HasSuffix(owner, " of member m of job j") {
			others++
		}
	}
	if others != 1 {
		t.Errorf("another job's member is not named: %v", opens("other"))
	}
	leased := filepath.Join(t.TempDir(), "leased")
	file, err := os.Create(leased)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(leased, &st); err != nil {
		t.Fatal(err)
	}
	if list, err := g.Opens(limit(t), "j", map[target.FileID]bool{{Dev: st.Dev, Ino: st.Ino}: true}); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if kind, err := unix.FcntlInt(file.Fd(), unix.F_GETLEASE, 0); err != nil || kind != unix.F_WRLCK {
		t.Errorf("the lease was broken: %d, %v", kind, err)
	}
}
