package obstacles

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// holding starts a process that holds these files from descriptor 3 on.
func holding(t *testing.T, held ...*os.File) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = held
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func opened(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func fromFd(t *testing.T) func(fd int, err error) *os.File {
	return func(fd int, err error) *os.File {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "test")
		t.Cleanup(func() { f.Close() })
		return f
	}
}

// TestShared has two processes hold the same open files, or two of the same file.
func TestShared(t *testing.T) {
	dir, fd := t.TempDir(), fromFd(t)
	file, link := filepath.Join(dir, "out.log"), filepath.Join(dir, "lock")
	one := opened(t, file, os.O_WRONLY|os.O_CREATE)
	read := opened(t, file, os.O_RDONLY)
	add := opened(t, file, os.O_WRONLY|os.O_APPEND)
	locked := opened(t, link, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
	if err := unix.Flock(int(locked.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	memory := fd(unix.MemfdCreate("one", unix.MFD_CLOEXEC))
	again := opened(t, "/proc/self/fd/"+strconv.Itoa(int(memory.Fd())), os.O_RDWR)
	event := fd(unix.Eventfd(0, unix.EFD_CLOEXEC))
	timer := fd(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC))
	epoll := fd(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	notify := fd(unix.InotifyInit1(unix.IN_CLOEXEC))
	signals := fd(unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC))
	datagrams := fd(unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	for _, c := range []struct {
		name         string
		ours, theirs []*os.File
		want         string // words; "": it is allowed
	}{
		{"nothing", nil, nil, ""},
		{"one position", []*os.File{one}, []*os.File{nil, one}, file + " open (descriptor 3)"},
		{"one position to read", []*os.File{read}, []*os.File{read}, "one position"},
		{"two positions", []*os.File{one}, []*os.File{opened(t, file, os.O_WRONLY)}, ""},
		{"appended", []*os.File{add}, []*os.File{add}, ""},
		{"appended, with a lock", []*os.File{locked}, []*os.File{locked}, link},
		{"a path only", []*os.File{fd(unix.Open(file, unix.O_PATH|unix.O_CLOEXEC, 0))}, nil, ""},
		{"a device", []*os.File{opened(t, "/dev/null", os.O_RDWR)}, nil, ""},
		{"a folder", []*os.File{opened(t, dir, os.O_RDONLY)}, nil, ""},
		{"a memfd", []*os.File{memory}, []*os.File{memory}, "/memfd:one"},
		{"a memfd, opened twice", []*os.File{memory}, []*os.File{again}, "/memfd:one"},
		{"two memfds of one name", []*os.File{memory}, []*os.File{fd(unix.MemfdCreate("one", unix.MFD_CLOEXEC))}, ""},
		{"an eventfd", []*os.File{event}, []*os.File{event}, "the same eventfd open (descriptor 3)"},
		{"two eventfds", []*os.File{event}, []*os.File{fd(unix.Eventfd(0, unix.EFD_CLOEXEC))}, ""},
		{"a timerfd", []*os.File{event, timer}, []*os.File{timer}, "the same timerfd open (descriptor 4)"},
		{"an epoll", []*os.File{epoll}, []*os.File{epoll}, "the same eventpoll"},
		{"an inotify", []*os.File{notify}, []*os.File{notify}, "the same inotify"},
		{"a signalfd", []*os.File{signals}, []*os.File{signals}, "the same signalfd"},
		{"a UNIX socket", []*os.File{datagrams}, []*os.File{datagrams}, "the same socket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.ours != nil && c.theirs == nil {
				c.theirs = c.ours
			}
			a, b := holding(t, c.ours...), holding(t, c.theirs...)
			for where, others := range map[string][]int{"which is not part of the member": nil, "which is part of another member": {a, b}} {
				found, err := Find(t.Context(), Member{
					Procs:    func() ([]int, error) { return []int{a}, nil },
					Others:   func() ([]int, error) { return others, nil },
					IsMember: func(int) bool { return true },
				})
				if err != nil {
					t.Fatal(err)
				}
				if c.want == "" {
					if len(found) > 0 {
						t.Errorf("%q", found)
					}
					continue
				}
				if len(found) != 1 {
					t.Fatalf("%q", found)
				}
				for _, w := range []string{"process " + strconv.Itoa(a), "process " + strconv.Itoa(b), c.want, where, "start both as one member"} {
					if !strings.Contains(found[0], w) {
						t.Errorf("%q does not say %q", found[0], w)
					}
				}
			}
		})
	}
}
