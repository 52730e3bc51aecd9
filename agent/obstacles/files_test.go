package obstacles

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

func obstaclesOf(t *testing.T, pid int) []string {
	t.Helper()
	found, err := Find(t.Context(), Member{
		Procs:    func() ([]int, error) { return []int{pid}, nil },
		Others:   func() ([]int, error) { return nil, nil },
		IsMember: func(int) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// says checks that there is one obstacle, and of what it speaks; without words, that there is none.
func says(t *testing.T, found []string, words ...string) {
	t.Helper()
	if len(found) != min(1, len(words)) {
		t.Fatalf("%q", found)
	}
	for _, w := range words {
		if !strings.Contains(found[0], w) {
			t.Errorf("%q does not say %q", found[0], w)
		}
	}
}

// TestPathOnly has a process hold descriptors that were opened with O_PATH.
func TestPathOnly(t *testing.T) {
	dir, fd := t.TempDir(), fromFd(t)
	fifo, socket := filepath.Join(dir, "fifo"), filepath.Join(dir, "socket")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(int(fd(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)).Fd()), &unix.SockaddrUnix{Name: socket}); err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	for path, words := range map[string][]string{
		fifo:          {fifo + ", a FIFO, open as a path only (descriptor 3"},
		socket:        {socket + ", the file of a UNIX socket, open as a path only (descriptor 3"},
		sleep:         {"which is the program of process", "O_RDONLY"},
		dir:           nil,
		"/dev/null":   nil,
		"/etc/passwd": nil,
	} {
		says(t, obstaclesOf(t, holding(t, fd(unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)))), words...)
	}
	says(t, obstaclesOf(t, holding(t, opened(t, sleep, os.O_RDONLY))))
}

func TestProgramInMemory(t *testing.T) {
	program, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	f := fromFd(t)(unix.MemfdCreate("program", unix.MFD_CLOEXEC))
	if _, err := f.Write(bytes); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	says(t, obstaclesOf(t, cmd.Process.Pid), "/memfd:program", "start it from a file")
}

func TestOtherThread(t *testing.T) {
	for link, want := range map[string]bool{
		"/proc/12/task/13/status": true, "/proc/12/task/13": true, "/proc/12/task/12/status": false, "/proc/12/status": false, "/proc/12/task": false, "/srv/12/task/13": false,
	} {
		if otherThread(link) != want {
			t.Errorf("%s: %v", link, !want)
		}
	}
}

// reading starts a shell that has done what a script says, and reads its input: it opens nothing any more.
func reading(t *testing.T, script string, user *syscall.Credential) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", script+"; echo; read line")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestDescriptorLimit(t *testing.T) {
	pid := reading(t, "true", nil)
	for limit, words := range map[uint64][]string{
		3: {"may open 3 files (ulimit -n) and has 3 of them open", "prlimit --pid " + strconv.Itoa(pid)}, 2 + descriptorsNeeded: {"ulimit -n"}, 3 + descriptorsNeeded: nil,
	} {
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: 100}, nil); err != nil {
			t.Fatal(err)
		}
		says(t, obstaclesOf(t, pid), words...)
	}
}

// TestDescriptorLimitOfAnotherUser needs root. An agent without CAP_SYS_RESOURCE sees the limits of another user's process, too.
func TestDescriptorLimitOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root: make test runs it")
	}
	pid := reading(t, "ulimit -n 6", &syscall.Credential{Uid: 65534, Gid: 65534})
	s := survey{seen: map[string]bool{}}
	proc.OnOwnThread(func() { // which ends without the capability
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capget(&header, &caps[0]); err != nil {
			t.Error(err)
			return
		}
		caps[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
		if err := unix.Capset(&header, &caps[0]); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, new(unix.Rlimit)); !errors.Is(err, unix.EPERM) {
			t.Errorf("prlimit(2) is allowed: %v", err)
		}
		s.descriptorLimit(pid)
	})
	if len(s.found) != 1 || !strings.Contains(s.found[0].text, "may open 6 files (ulimit -n) and has 3 of them open") {
		t.Errorf("%+v", s.found)
	}
}

// TestOfStranger: files of /proc that tell of processes which are not restored.
func TestOfStranger(t *testing.T) {
	other := holding(t)
	dir := proc.Path(other, "")
	for path, words := range map[string][]string{
		proc.Path(other, "stat"): {"has /proc/" + strconv.Itoa(other) + "/stat open (descriptor 3)", "which tells of process " + strconv.Itoa(other), "close it"},
		dir:                      {"no restore brings that process back"},
		"/proc/stat":             nil,
		"/proc/sys":              nil,
	} {
		says(t, obstaclesOf(t, holding(t, opened(t, path, os.O_RDONLY))), words...)
	}
}

// TestRemovedLease: a snapshot would break it.
func TestRemovedLease(t *testing.T) {
	for name, gone := range map[string]bool{"named": false, "gone": true} {
		path := filepath.Join(t.TempDir(), name)
		f := opened(t, path, os.O_RDWR|os.O_CREATE)
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
			t.Fatal(err)
		}
		pid := holding(t, f)
		if !gone {
			says(t, obstaclesOf(t, pid))
			continue
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		says(t, obstaclesOf(t, pid), "has a write lease on "+path, "was removed", "F_UNLCK")
	}
}

// TestRemovedBelow needs root. A program of an overlay's lower layer is replaced, as by an upgrade in a container.
func TestRemovedBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root: make test runs it")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	merged := filepath.Join(dir, "merged")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "lower/below"), program, 0o755), os.WriteFile(filepath.Join(dir, "upper/above"), program, 0o755),
		unix.Mount("none", merged, "overlay", 0, "lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(merged, unix.MNT_DETACH) })
	for name, words := range map[string][]string{"above": nil, "below": {"runs or maps " + merged + "/below", "replaced on an overlay", "start the program again"}} {
		cmd := exec.Command(filepath.Join(merged, name), "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		says(t, obstaclesOf(t, cmd.Process.Pid))
		if err := os.Remove(filepath.Join(merged, name)); err != nil {
			t.Fatal(err)
		}
		says(t, obstaclesOf(t, cmd.Process.Pid), words...)
	}
}

// TestLargeMapping has a process map more in one piece than CRIU can restore, as programs built with a sanitizer do.
func TestLargeMapping(t *testing.T) {
	for name, tt := range map[string]struct {
		prot  string
		words []string
	}{
		"writable": {"mmap.PROT_READ | mmap.PROT_WRITE", []string{"maps 9216 GiB in one piece", "at most 8192 GiB"}},
		"reserved": {"0", nil}, // no page of it can be in use
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("python3", "-c", "import mmap, ctypes; c = ctypes.CDLL(None); c.mmap.restype = ctypes.c_void_p\n"+
				"p = c.mmap(None, ctypes.c_size_t(9 << 40), "+tt.prot+", 0x4022, -1, ctypes.c_long(0)); print(p != ctypes.c_void_p(-1).value, flush=True); input()")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = in.Close(); _ = cmd.Wait() }()
			said := make([]byte, 5)
			if _, err := out.Read(said); err != nil || string(said[:4]) != "True" {
				t.Fatalf("mmap: %q, %v", said, err)
			}
			says(t, obstaclesOf(t, cmd.Process.Pid), tt.words...)
		})
	}
}
