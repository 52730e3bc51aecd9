package criu

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
)

func TestErrorLines(t *testing.T) {
	log := "(00.1) Running\n" +
		"(00.2) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n" +
		"(00.3)   1001: Error (criu/files.c:1): first\n" +
		strings.Repeat("(00.4) Error (criu/files.c:2): middle\n", 100) +
		"(00.5) Error (criu/cr-dump.c:3): last\n(00.6) Unlock network\n"
	lines, _ := errorLines([]byte(log))
	if len(lines) != 8 || lines[0] != "Error (criu/files.c:1): first" || lines[7] != "Error (criu/cr-dump.c:3): last" {
		t.Errorf("error lines %q", lines)
	}
	if lines, last := errorLines([]byte("\ncannot execute\n")); len(lines) != 0 || last != "cannot execute" {
		t.Errorf("of a log without errors: %q, %q", lines, last)
	}
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 3*tailSize)+"\n"+log), 0o600); err != nil {
		t.Fatal(err)
	}
	if lines := logErrors(path, path+".missing"); len(lines) != 8 {
		t.Errorf("of the end of a large log: %q", lines)
	}
}

// TestErrorsOfCapturedLogs reads logs that CRIU 4.2.1 wrote: what is quoted is what CRIU marks as an error, and no line of its log beside it.
func TestErrorsOfCapturedLogs(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	captured := func(name string) string { return filepath.Join("testdata", "logs", name+".log") }
	text, err := os.ReadFile(captured("epoll-debug"))
	if err != nil {
		t.Fatal(err)
	}
	debug := strings.Repeat("(00.382543) Daemon 14516 exited trapping\n", tailSize/40)
	eventpoll := "Error (criu/cr-dump.c:1550): Dump eventpoll (pid: 14516) failed with -1"
	failed := "Error (criu/cr-dump.c:1975): Dumping FAILED."
	for name, tt := range map[string]struct {
		output, log string
		lines       []string
		hint        string
	}{
		"an epoll, all logged":  {"", captured("epoll-debug"), []string{eventpoll, failed}, "EPOLL_CTL_DEL"},
		"an epoll":              {"", captured("epoll"), []string{strings.ReplaceAll(eventpoll, "14516", "10713"), failed}, "EPOLL_CTL_DEL"},
		"a pipe of packets":     {"", captured("packet-pipe"), []string{"Error (criu/pipes.c:490): The packetized mode for pipes is not supported yet", "Error (criu/cr-dump.c:1545): Dump files (pid: 10869) failed with -1", failed}, "O_DIRECT"},
		"shared memory":         {"", captured("shared-memory"), []string{"Error (criu/cr-dump.c:669): Can't make VM id for 11540", failed}, "CLONE_VM"},
		"a namespace":           {"", captured("own-uts"), []string{"Error (criu/namespaces.c:460): Can't dump nested uts namespace for 11389", "Error (criu/namespaces.c:721): Can't make utsns id", failed}, "namespace of its own"},
		"a restore, all logged": {"", captured("restore-debug"), []string{"Error (criu/cr-restore.c:1237): Can't fork for 14643: File exists", "Error (criu/cr-restore.c:2331): Restoring FAILED."}, "fresh cell"},
		"a log without errors":  {"", captured("succeeded"), nil, ""},
		"a warning, and errors": {write("warning", "Warn  (criu/log.c:203): The early log isn't empty\n"), captured("epoll"), []string{strings.ReplaceAll(eventpoll, "14516", "10713"), failed}, "EPOLL_CTL_DEL"},
		"what a shell says":     {write("shell", "sh: 1: exec: /opt/criu: not found\n"), captured("succeeded"), []string{"sh: 1: exec: /opt/criu: not found"}, ""},
		"debug lines only":      {"", write("debug", debug), nil, ""},
		"errors before the end": {"", write("early", string(text)+debug), []string{eventpoll, failed}, "EPOLL_CTL_DEL"},
		"a path like an error":  {"", write("path", "(00.382324) Dumping path for 1 fd via self 16 [/srv/Error (1): io_uring]\n"+string(text)), []string{eventpoll, failed}, "EPOLL_CTL_DEL"},
	} {
		t.Run(name, func(t *testing.T) {
			lines := logErrors(tt.output, tt.log)
			if !slices.Equal(lines, tt.lines) {
				t.Errorf("quoted %q, want %q", lines, tt.lines)
			}
			if hint := hintFor(lines); !strings.Contains(hint, tt.hint) || tt.hint == "" && hint != "" {
				t.Errorf("the hint %q", hint)
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string][3]int{
		"Version: 4.2.1\n": {4, 2, 1}, "x\nVersion: 4.2\nGitID: v4.2\n": {4, 2, 0}, "Version: 4.2-dev\n": {4, 2, 0},
	} {
		if _, got, err := parseVersion(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "Version: new", "4.2.1"} {
		if _, got, err := parseVersion(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
	if !older([3]int{4, 1, 9}, passcredCRIU) || older([3]int{4, 2, 0}, passcredCRIU) || older([3]int{5, 0, 0}, passcredCRIU) {
		t.Error("which versions are older")
	}
}

func TestCheckSaysWhatToDo(t *testing.T) {
	for script, want := range map[string]string{
		"echo Version: 3.17.1": "install-criu",
		"echo nothing":         "version",
		"[ $2 = check ] && { echo 'Error (criu/cr-check.c:1): Unexpected rt vDSO area bounds'; exit 1; }; echo Version: 9.0": "install-criu",
	} {
		r := newRunner(t)
		r.cfg.Path = filepath.Join(t.TempDir(), "criu")
		if err := os.WriteFile(r.cfg.Path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Check(testContext(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// failedDump dumps a member that cannot be dumped, and returns the error.
func failedDump(t *testing.T, r *Runner, c *cell) *Error {
	t.Helper()
	d, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(c.member), Dir: imageDir(t), LockFile: lockFile(t)})
	if err == nil {
		c.freeze()
		_, err = d.Run(testContext(t), uncounted, func() {})
		if !c.frozen() {
			t.Error("the member is not frozen after a failed dump")
		}
		c.thaw()
	}
	var failure *Error
	if !errors.As(err, &failure) {
		t.Fatalf("the error is %v", err)
	}
	t.Log(err)
	return failure
}

func TestDumpErrors(t *testing.T) {
	r := newRunner(t)
	t.Run("mptcp", func(t *testing.T) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
		if err != nil {
			t.Fatal(err)
		}
		sk := os.NewFile(uintptr(fd), "mptcp")
		defer sk.Close()
		e := failedDump(t, r, startIn(t, nil, false, []*os.File{sk}, "hold", "1"))
		if !strings.Contains(e.Error(), "multipathtcp=0") || e.Criu == 0 || e.Exit != "exit status 1" || e.Pid == 0 {
			t.Errorf("the error: %+v", e)
		}
	})
	t.Run("outside file", func(t *testing.T) {
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		e := failedDump(t, r, startIn(t, nil, false, []*os.File{null}, "hold", "1"))
		if !strings.Contains(e.Hint, "mount namespace") {
			t.Errorf("the hint: %q", e.Hint)
		}
	})
	// It is recorded with its client connecting (M4b), so it does not stop a dump.
	t.Run("connection not accepted yet", func(t *testing.T) {
		n := newNamespace(t)
		var files []*os.File
		n.do(func() error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			f, err := l.(*net.TCPListener).File()
			files = append(files, f)
			l.Close()
			return err
		})
		dumpCell(t, r, startIn(t, n, false, files, "hold", "1"))
	})
	t.Run("no such process", func(t *testing.T) {
		c := newCell(t, nil, false)
		c.member.Pid, c.member.InnerPid = c.member.InitPid, 4711
		failedDump(t, r, c)
	})
	t.Run("no cell", func(t *testing.T) {
		c := startIn(t, nil, false, nil, "hold", "1")
		c.member.InitPid = 1 << 22
		e := failedDump(t, r, c)
		if !strings.Contains(e.Error(), "first process") {
			t.Errorf("the error: %v", e)
		}
	})
	t.Run("lock taken", func(t *testing.T) {
		c := startIn(t, nil, false, nil, "hold", "1")
		lock, err := os.Create(lockFile(t))
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		_, err = r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(c.member), Dir: imageDir(t), LockFile: lock.Name()})
		if err == nil || !strings.Contains(err.Error(), "lock") {
			t.Errorf("the error: %v", err)
		}
	})
	t.Run("no CRIU", func(t *testing.T) {
		c := startIn(t, nil, false, nil, "hold", "1")
		r := newRunner(t)
		r.cfg.Path = "/nonexistent/criu"
		if e := failedDump(t, r, c); !strings.Contains(e.Error(), "/nonexistent/criu") {
			t.Errorf("the error: %v", e)
		}
	})
}

func TestRestoreErrors(t *testing.T) {
	r := newRunner(t)
	c := startIn(t, nil, false, nil, "parent")
	counts(t, c.dir, 0)
	dir := dumpCell(t, r, c)
	c.thaw()
	restore := func(t *testing.T, m agent.Member) *Error {
		t.Helper()
		logs := t.TempDir()
		s, err := r.StartRestore(testContext(t), agent.RestoreSpec{Unit: unit(m), Dir: dir, LogDir: logs, LockFile: lockFile(t)})
		if err == nil {
			_ = s.Cancel(testContext(t))
			t.Fatal("restored")
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		t.Log(err)
		// Rolling back takes the images and what lies with them away.
		if err := os.RemoveAll(logs); err != nil {
			t.Fatal(err)
		}
		if log, err := os.ReadFile(e.Log); err != nil || !strings.Contains(string(log), "Error") {
			t.Errorf("the log that the error names: %d bytes, %v", len(log), err)
		}
		return e
	}
	t.Run("pid taken", func(t *testing.T) {
		other := startIn(t, nil, false, nil, "hold", "1") // has the same PID in its cell
		empty := newCell(t, nil, false)
		m := other.member
		m.Cgroup = empty.member.Cgroup
		if e := restore(t, m); !strings.Contains(e.Hint, "fresh cell") {
			t.Errorf("the hint: %q", e.Hint)
		}
		if left := cgroupTasks(empty.member.Cgroup); len(left) != 0 {
			t.Errorf("processes %v are left", left)
		}
		if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(other.member.Pid))); err != nil {
			t.Error("the process whose PID was wanted is gone")
		}
	})
	t.Run("file gone", func(t *testing.T) {
		count := filepath.Join(c.dir, "count")
		c.kill()
		if err := os.Rename(count, count+".away"); err != nil {
			t.Fatal(err)
		}
		e := restore(t, newCell(t, nil, false).member)
		if !strings.Contains(strings.Join(e.Lines, " "), "count") {
			t.Errorf("the lines: %q", e.Lines)
		}
	})
}
