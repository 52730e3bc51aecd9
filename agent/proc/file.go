package proc

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone says that a process ended while it was looked at.
var ErrGone = errors.New("the process is gone")

// Gone says whether an error of this package, of kill(2) or of a pidfd means that the process has ended.
func Gone(err error) bool {
	return errors.Is(err, ErrGone) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// small is more than the kernel says in the files that read is for.
const small = 8192

// read reads a file that the kernel makes in one piece: open, read, close, and no more, since such files are read by the thousand while
// members stand still.
func read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	buf := make([]byte, small)
	n, err := unix.Read(fd, buf)
	_ = unix.Close(fd)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	if n == len(buf) { // against expectation
		return os.ReadFile(path)
	}
	return buf[:n], nil
}

// Root is where the kernel shows processes.
const Root = "/proc"

// Self is this process, also where /proc is of another PID namespace and getpid(2) is of no use in it.
const Self = -1

// Path names a file of a process, for calls that take a path: "root", "exe", "ns/net".
func Path(pid int, name string) string {
	if pid == Self {
		return "/proc/self/" + name
	}
	return "/proc/" + strconv.Itoa(pid) + "/" + name
}

// FdPath names a descriptor of a process, for calls that take a path. Opening it opens the file again.
func FdPath(pid, fd int) string { return Path(pid, "fd/"+strconv.Itoa(fd)) }

// IPC is what the kernel tells of the IPC namespace of the calling thread (ipc_namespaces(7)), by file: its System V objects, their limits, and those of POSIX
// message queues. A kernel without such objects has none of the files.
func IPC() (map[string]string, error) {
	found := make(map[string]string)
	for _, pattern := range []string{"/proc/sysvipc/*", "/proc/sys/kernel/sem*", "/proc/sys/kernel/msg*", "/proc/sys/kernel/shm*", "/proc/sys/fs/mqueue/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := read(file)
			if err != nil {
				return nil, err
			}
			found[file] = string(text)
		}
	}
	return found, nil
}

// OwnFd names a descriptor of this process, for calls that take a path and must reach the very file that is open.
func OwnFd(fd int) string { return FdPath(Self, fd) }

func threadPath(pid, tid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(tid) + "/" + name
}

// Text is what a small file of a process says, without the newline at its end.
func Text(pid int, name string) (string, error) {
	b, err := read(Path(pid, name))
	return strings.TrimSpace(string(b)), err
}

// SetText writes a file of a process.
func SetText(pid int, name, value string) error {
	return os.WriteFile(Path(pid, name), []byte(value), 0)
}

// EachLine calls f with each line of a file of a process. One that has ended, or has no such file, has no lines.
func EachLine(pid int, name string, f func(line string)) {
	b, err := os.ReadFile(Path(pid, name))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		f(strings.TrimSuffix(line, "\n"))
	}
}

// numbers are the names in a folder that are numbers: processes, threads, descriptors.
func numbers(dir string) ([]int, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	out := make([]int, 0, len(names))
	for _, n := range names {
		if i, err := strconv.Atoi(n); err == nil {
			out = append(out, i)
		}
	}
	return out, nil
}

// Sysctl reads a setting of the kernel, by its path below /proc/sys, without the newline at its end. Where there is no such file it is "".
func Sysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// SetSysctl changes a setting of the kernel.
func SetSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}

// BootID is another one after each boot; "" where the kernel does not say.
func BootID() string { return Sysctl("kernel/random/boot_id") }
