package criu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/proc"
)

// kill kills an operation's CRIU as anyone could.
func kill(t testing.TB, p *operation) {
	t.Helper()
	p.mu.Lock()
	pid := p.news.Criu
	p.mu.Unlock()
	if pid == 0 {
		t.Fatal("CRIU's PID is not known")
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// subject is a member that takes a while to dump, with the other end of its one connection, and a descriptor of its own end.
type subject struct {
	*cell
	ours net.Conn
	end  *os.File
}

func newSubject(t *testing.T) *subject {
	t.Helper()
	n := newNamespace(t)
	ours, theirs := n.pair("127.0.0.1", "127.0.0.1")
	end := handOver(t, theirs)
	c := startIn(t, n, false, []*os.File{end}, "echo", "256")
	ping(t, ours, "before")
	return &subject{c, ours, end}
}

// repairing says whether the member's connection is in repair mode.
func (s *subject) repairing() bool {
	s.t.Helper()
	on, err := unix.GetsockoptInt(int(s.end.Fd()), unix.SOL_TCP, unix.TCP_REPAIR)
	if err != nil {
		s.t.Fatal(err)
	}
	return on != 0
}

// unharmed checks that the member does what it did, in the end.
func (s *subject) unharmed() {
	s.t.Helper()
	if s.repairing() {
		s.t.Error("the connection is in repair mode")
	}
	if pid := proc.Tracer(s.member.Pid); pid != 0 {
		s.t.Errorf("process %d traces the member", pid)
	}
	if !s.frozen() {
		s.t.Error("the member is not frozen any more")
	}
	s.thaw()
	ping(s.t, s.ours, "after")
}

// stage is how far a dump has come.
type stage string

const (
	waiting  stage = "at the pre-dump notification"
	dumping  stage = "in the midst of the memory"
	complete stage = "at the post-dump notification"
)

// reach lets a dump run as far as the stage. At complete it is held there until let go.
func reach(t *testing.T, s *subject, d *dump, at stage, run func()) (release func()) {
	t.Helper()
	if at == waiting {
		return func() {}
	}
	s.freeze()
	go run()
	eventually(t, "the dump to run", func() bool {
		d.smu.Lock()
		if d.state == dumpRuns {
			return true // with the lock, at which PostDump stops
		}
		d.smu.Unlock()
		return false
	})
	if at == dumping {
		d.smu.Unlock()
		eventually(t, "CRIU to write pages", func() bool { return pagesIn(d.dir) > 0 })
		return func() {}
	}
	eventually(t, "CRIU to be done", func() bool { return logSays(d.dir, "Running post-dump scripts") })
	return d.smu.Unlock
}

func pagesIn(dir string) int64 {
	info, err := os.Stat(filepath.Join(dir, "pages-1.img"))
	if err != nil {
		return 0
	}
	return info.Size()
}

func logSays(dir, words string) bool {
	text, err := os.ReadFile(filepath.Join(dir, dumpLog))
	return err == nil && bytes.Contains(text, []byte(words))
}

func TestCancelDump(t *testing.T) {
	for _, at := range []stage{waiting, dumping, complete} {
		t.Run(string(at), func(t *testing.T) {
			r, s := newRunner(t), newSubject(t)
			lock := lockFile(t)
			started, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(s.member), Dir: imageDir(t), LockFile: lock})
			if err != nil {
				t.Fatal(err)
			}
			if !locked(t, lock) {
				t.Error("CRIU does not hold the lock")
			}
			d := started.(*dump)
			ended := make(chan error, 1)
			release := reach(t, s, d, at, func() { _, err := d.Run(context.Background(), uncounted, func() {}); ended <- err })
			go func() {
				// Cancel needs the lock that holds PostDump back.
				release()
			}()
			began := time.Now()
			if err := d.Cancel(testContext(t)); err != nil {
				t.Fatal(err)
			}
			t.Logf("cancelled in %v, with %d bytes of pages", time.Since(began), pagesIn(d.dir))
			if at != waiting {
				if err := <-ended; !errors.Is(err, ErrCancelled) && at == dumping {
					t.Errorf("Run of a cancelled dump: %v", err)
				}
			} else {
				if _, err := d.Run(testContext(t), uncounted, func() {}); !errors.Is(err, ErrCancelled) {
					t.Errorf("Run of a cancelled dump: %v", err)
				}
				s.freeze()
			}
			if locked(t, lock) {
				t.Error("the lock is held after the end")
			}
			s.unharmed()
			if err := d.Cancel(testContext(t)); err != nil {
				t.Errorf("Cancel again: %v", err)
			}
		})
	}
}

func TestStartDumpCancelled(t *testing.T) {
	r, s := newRunner(t), newSubject(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	lock := lockFile(t)
	_, err := r.StartDump(ctx, agent.DumpSpec{Unit: unit(s.member), Dir: imageDir(t), LockFile: lock})
	if !errors.Is(err, ErrCancelled) {
		t.Fatalf("StartDump with a context that has ended: %v", err)
	}
	if locked(t, lock) {
		t.Error("the lock is held after the end")
	}
	s.freeze()
	s.unharmed()
}

// TestKilledWhileItTries kills CRIUs that have just started, at ever later instants: while they try the kernel's features some have
// children, which stop themselves and wait. None may be left.
func TestKilledWhileItTries(t *testing.T) {
	s := newSubject(t)
	r := newRunner(t)
	for i := range 80 {
		ctx, cancel := context.WithTimeout(testContext(t), time.Duration(i)*500*time.Microsecond)
		d, err := r.StartDump(ctx, agent.DumpSpec{Unit: unit(s.member), Dir: imageDir(t), LockFile: lockFile(t)})
		cancel()
		if err == nil {
			if err := d.Cancel(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "end of every CRIU", func() bool {
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(lines, func(path string) bool {
			line, _ := os.ReadFile(path) // gone: it reads as empty
			return bytes.Contains(line, []byte("criu\x00")) && bytes.Contains(line, []byte("\x00swrk\x00"))
		})
	})
	s.freeze()
	s.unharmed()
}

// What a CRIU that is killed leaves: before it touched the member, nothing. Later, a member that is frozen,
// its connection in repair mode, and CRIU's code in its threads, which goes away by itself.
func TestKilledCriu(t *testing.T) {
	for _, at := range []stage{waiting, dumping, complete} {
		t.Run(string(at), func(t *testing.T) {
			r, s := newRunner(t), newSubject(t)
			lock := lockFile(t)
			started, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(s.member), Dir: imageDir(t), LockFile: lock})
			if err != nil {
				t.Fatal(err)
			}
			d := started.(*dump)
			ended := make(chan error, 1)
			release := reach(t, s, d, at, func() { _, err := d.Run(context.Background(), uncounted, func() {}); ended <- err })
			kill(t, d.operation)
			release()
			if at == waiting {
				_, err = d.Run(testContext(t), uncounted, func() {})
				s.freeze()
			} else {
				err = <-ended
			}
			var failure *Error
			if !errors.As(err, &failure) || !failure.Killed {
				t.Fatalf("the dump of a killed CRIU: %v", err)
			}
			t.Log(err)
			if locked(t, lock) {
				t.Error("the lock is held after the end")
			}
			if want := at != waiting; s.repairing() != want {
				t.Errorf("in repair mode: %v instead of %v", !want, want)
			}
			if !s.frozen() {
				t.Error("the member is not frozen any more")
			}
			report(t, s)
			if at != waiting {
				if err := unix.SetsockoptInt(int(s.end.Fd()), unix.SOL_TCP, unix.TCP_REPAIR, 0); err != nil {
					t.Fatal(err)
				}
			}
			s.unharmed()
			report(t, s)
			// And it can be dumped again.
			if _, err := os.Stat(d.dir); err != nil {
				t.Fatal(err)
			}
			dumpCell(t, r, s.cell)
			s.unharmed()
		})
	}
}

// A CRIU that hangs before it is ready is given up, and the error says where it hung.
func TestHungStart(t *testing.T) {
	r, s := newRunner(t), newSubject(t)
	r.startLimit = 2 * time.Second // ample for the keeper to come up, beside other tests too
	r.cfg.Path = filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(r.cfg.Path, []byte("#!/bin/sh\nexec sleep 600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock := lockFile(t)
	_, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(s.member), Dir: imageDir(t), LockFile: lock})
	hung(t, err, "criu did not become ready to dump within 2s: try again")
	if locked(t, lock) {
		t.Error("the lock is held after the end")
	}
	s.freeze()
	s.unharmed()
}

// So is a keeper that hangs before it has started CRIU: here, since nobody reads what CRIU is to write to.
func TestHungKeeper(t *testing.T) {
	r, s := newRunner(t), newSubject(t)
	r.startLimit = 2 * time.Second // ample for the keeper to come up, beside other tests too
	dir := imageDir(t)
	if err := unix.Mkfifo(filepath.Join(dir, "dump.out"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(s.member), Dir: dir, LockFile: lockFile(t)})
	hung(t, err, "criu had not been started")
	s.freeze()
	s.unharmed()
}

// A CRIU that does not give up when it is told to is killed, and the error says where it hung.
func TestHungCancel(t *testing.T) {
	r, s := newRunner(t), newSubject(t)
	started, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(s.member), Dir: imageDir(t), LockFile: lockFile(t)})
	if err != nil {
		t.Fatal(err)
	}
	d := started.(*dump)
	d.mu.Lock()
	pid := d.news.Criu
	d.mu.Unlock()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	hung(t, d.Cancel(ctx), "criu had to be killed")
	s.freeze()
	s.unharmed()
}

// hung checks the error of a CRIU that was killed since it did not go on.
func hung(t *testing.T, err error, says string) {
	t.Helper()
	var failure *Error
	if !errors.As(err, &failure) || !failure.Killed || !strings.HasPrefix(failure.Stood, "criu ") || !strings.Contains(failure.Stood, ", its keeper ") {
		t.Fatalf("a hung CRIU: %v", err)
	}
	if !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), failure.Stood) {
		t.Errorf("%q does not say %q", err, says)
	}
	t.Log(err)
}

// report logs what CRIU's code left in the member.
func report(t *testing.T, s *subject) {
	t.Helper()
	maps, _ := os.ReadFile(filepath.Join("/proc", fmt.Sprint(s.member.Pid), "maps"))
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "memfd") || strings.Contains(line, "rwxs") || strings.Contains(line, "rwxp") {
			t.Log("mapped: ", strings.TrimSpace(line))
		}
	}
	status, _ := os.ReadFile(filepath.Join("/proc", fmt.Sprint(s.member.Pid), "status"))
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "SigBlk") || strings.HasPrefix(line, "State") || strings.HasPrefix(line, "TracerPid") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// agentProgram is an agent that dumps, or restores, and is killed when it has come somewhere.
func agentProgram(args []string) int {
	var o agentOrder
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		fmt.Println(err)
		return 1
	}
	exe, _ := os.Executable()
	r, err := New(Config{Path: criuPath(), Exe: []string{exe, "criu-exec"}, WorkDir: o.Work, LogLevel: debugLog})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx := context.Background()
	if o.Restore {
		_, err := r.StartRestore(ctx, agent.RestoreSpec{Unit: unit(o.Member), Dir: o.Dir, LogDir: o.Work, LockFile: o.Lock})
		fmt.Println("there", err)
		select {}
	}
	started, err := r.StartDump(ctx, agent.DumpSpec{Unit: unit(o.Member), Dir: o.Dir, LockFile: o.Lock})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	d := started.(*dump)
	if o.At == waiting {
		fmt.Println("there")
		select {}
	}
	go func() { _, err := d.Run(ctx, uncounted, func() {}); fmt.Println("run:", err) }()
	for {
		d.smu.Lock()
		if d.state == dumpRuns {
			break
		}
		d.smu.Unlock()
	}
	if o.At == dumping {
		d.smu.Unlock()
		err = awaitFiles(o.Dir, func() bool { return pagesIn(o.Dir) > 0 })
	} else {
		err = awaitFiles(o.Dir, func() bool { return logSays(o.Dir, "Running post-dump scripts") })
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("there")
	select {}
}

// awaitFiles returns when what is said of the files in dir is true. It looks whenever one of them is written to (inotify(7)). CRIU writes a line
// of its log after each step, so it looks at the latest then, where a kernel does not tell of spliced pages.
func awaitFiles(dir string, is func() bool) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE); err != nil {
		return err
	}
	for b := make([]byte, 4096); !is(); {
		if _, err := unix.Read(fd, b); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

type agentOrder struct {
	Member          agent.Member
	Work, Dir, Lock string
	At              stage
	Restore         bool
}

// killAgent starts an agent, kills it when it is there, and waits until no CRIU is left.
func killAgent(t *testing.T, o agentOrder) time.Duration {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	exe, _ := os.Executable()
	cmd := exec.Command(exe, "agent", string(text))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "there") || strings.Contains(line, "criu") {
		t.Fatalf("the agent says %q, %v", line, err)
	}
	if !locked(t, o.Lock) {
		t.Error("no CRIU holds the lock")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	began := time.Now()
	f, err := os.Open(o.Lock)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func TestKilledAgent(t *testing.T) {
	for _, at := range []stage{waiting, dumping, complete} {
		t.Run(string(at), func(t *testing.T) {
			s := newSubject(t)
			if at != waiting {
				s.freeze()
			}
			o := agentOrder{Member: s.member, Work: t.TempDir(), Dir: imageDir(t), Lock: lockFile(t), At: at}
			took := killAgent(t, o)
			t.Logf("CRIU was gone %v after its agent; %d bytes of pages", took, pagesIn(o.Dir))
			if at == waiting {
				s.freeze()
			}
			s.unharmed()
			// The next agent cleans up.
			if _, err := New(Config{Path: criuPath(), Exe: []string{"/bin/true"}, WorkDir: o.Work}); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(o.Work); len(left) != 0 {
				t.Errorf("left in the work folder: %v", left)
			}
		})
	}
}

func TestKilledAgentRestoring(t *testing.T) {
	r := newRunner(t)
	c := startIn(t, nil, false, nil, "parent")
	counts(t, c.dir, 0)
	dir := dumpCell(t, r, c)
	c.kill()
	c2 := newCell(t, nil, false)
	took := killAgent(t, agentOrder{Member: c2.member, Work: t.TempDir(), Dir: dir, Lock: lockFile(t), Restore: true})
	t.Logf("CRIU was gone %v after its agent", took)
	eventually(t, "the restored tree to be gone", func() bool { return len(cgroupTasks(c2.member.Cgroup)) == 0 })
}

// TestLostSocket: a keeper that does not get the socket of go-criu, as package syscall has closed its number in the child, is started again.
func TestLostSocket(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		times int
	}{{"twice", 2}, {"always", 1000}} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSubject(t)
			dir := t.TempDir()
			script, starts := filepath.Join(dir, "keeper"), filepath.Join(dir, "starts")
			// go-criu's arguments are ORDER swrk DESCRIPTOR.
			body := fmt.Sprintf("echo >>%s\nif [ $(wc -l <%s) -le %d ]; then eval \"exec $3>&-\"; fi\nexec %s criu-exec \"$@\"\n", starts, starts, tt.times, exe)
			if err := os.WriteFile(script, []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := New(Config{Path: criuPath(), Exe: []string{"/bin/bash", script}, WorkDir: t.TempDir(), LogLevel: debugLog})
			if err != nil {
				t.Fatal(err)
			}
			s.freeze()
			d, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(s.member), Dir: imageDir(t), LockFile: lockFile(t)})
			if tt.times > startsMost {
				if err == nil || !strings.Contains(err.Error(), errNoSocket.Error()) {
					t.Errorf("without a socket: %v", err)
				}
				s.unharmed()
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Run(testContext(t), uncounted, func() {}); err != nil {
				t.Error(err)
			}
			s.unharmed()
			if b, _ := os.ReadFile(starts); len(b) != tt.times+1 {
				t.Errorf("%d starts", len(b))
			}
		})
	}
}
