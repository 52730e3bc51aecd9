package proc

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// fields reads a file of lines NAME:VALUE and calls f with each, until it returns false.
func fields(path string, f func(name, value string) bool) error {
	b, err := read(path)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		name, value, ok := strings.Cut(string(line), ":")
		if ok && !f(strings.TrimSpace(name), strings.TrimSpace(value)) {
			break
		}
	}
	return nil
}

// StatusField returns one field of /proc/PID/status, without its name.
func StatusField(pid int, name string) (string, error) {
	return statusField(Path(pid, "status"), name)
}

// ThreadStatusField returns one field of /proc/PID/task/TID/status, without its name.
func ThreadStatusField(pid, tid int, name string) (string, error) {
	return statusField(threadPath(pid, tid, "status"), name)
}

func statusField(path, name string) (string, error) {
	value, found := "", false
	err := fields(path, func(n, v string) bool {
		if n == name {
			value, found = v, true
		}
		return !found
	})
	if err == nil && !found {
		err = fmt.Errorf("%s has no %s", path, name)
	}
	return value, err
}

// NSPids returns the process's PID in each PID namespace from ours (as /proc has it) inward.
func NSPids(pid int) ([]int, error) {
	s, err := StatusField(pid, "NSpid")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, f := range strings.Fields(s) {
		n, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("parse NSpid of process %d: %w", pid, err)
		}
		out = append(out, n)
	}
	return out, nil
}

// Tracer is the process that traces pid; 0 if none does, or it has ended.
func Tracer(pid int) int {
	v, _ := StatusField(pid, "TracerPid")
	n, _ := strconv.Atoi(v) // 0 where the process is gone
	return n
}

// Arguments are those that a process was started with; nil if it has none or has ended.
func Arguments(pid int) []string {
	b, err := os.ReadFile(Path(pid, "cmdline"))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
}

// Command returns how a person would call the process: its arguments, or its name in brackets.
func Command(pid int) string {
	if args := Arguments(pid); len(args) > 0 {
		return strings.Join(args, " ")
	}
	s, err := ReadStat(pid)
	if err != nil {
		return "?"
	}
	return "[" + s.Name + "]"
}

// whoseMax bounds a command in a message, in bytes.
const whoseMax = 60

// Whose names a process for a message.
func Whose(pid int) string {
	command := Command(pid)
	if len(command) > whoseMax {
		command = strings.ToValidUTF8(command[:whoseMax], "") + "…"
	}
	return fmt.Sprintf("process %d (%s)", pid, command)
}

// Namespace returns the inode that names the process's namespace of that kind ("net", "pid", ...).
func Namespace(pid int, kind string) (uint64, error) {
	var st syscall.Stat_t
	path := Path(pid, "ns/"+kind)
	if err := syscall.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// WorkingDir is a process's working directory; "" if it has ended.
func WorkingDir(pid int) string {
	dir, _ := os.Readlink(Path(pid, "cwd"))
	return dir
}

// Program is the file that a process runs; "" if it has ended.
func Program(pid int) string {
	link, _ := os.Readlink(Path(pid, "exe"))
	return link
}

// PrivateMemory is how much anonymous memory a process has, in memory and in swap, in bytes; 0 of a process that is gone.
func PrivateMemory(pid int) (sum int64) {
	_ = fields(Path(pid, "status"), func(name, value string) bool {
		if name == "RssAnon" || name == "VmSwap" {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
			sum += kib << 10
		}
		return name != "VmSwap" // the later one
	})
	return sum
}

// RSS is how much memory of a process is resident, in bytes.
func RSS(pid int) (int64, error) {
	b, err := read(Path(pid, "statm"))
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("parse %s: %q", Path(pid, "statm"), b)
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// Cgroup is the path of a process's cgroup in the v2 hierarchy (controller "") or in that of a v1 controller, from that hierarchy's root.
func Cgroup(pid int, controller string) (string, error) {
	b, err := read(Path(pid, "cgroup"))
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(b) {
		f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(f) == 3 && (f[1] == controller || controller != "" && slices.Contains(strings.Split(f[1], ","), controller)) {
			return f[2], nil
		}
	}
	return "", fmt.Errorf("%s has no line for the hierarchy %q", Path(pid, "cgroup"), controller)
}

// Mounts are those of this process's mount namespace whose file systems have one of the types.
func Mounts(types ...string) ([]*mountinfo.Info, error) {
	return mountinfo.GetMounts(mountinfo.FSTypeFilter(types...))
}

// MountTable is what is mounted in this process's mount namespace.
type MountTable []*mountinfo.Info

// ReadMountTable reads it (/proc/self/mountinfo). No file system is asked, so none lets it wait.
func ReadMountTable() (MountTable, error) {
	infos, err := mountinfo.GetMounts(nil)
	return infos, err
}

// FileSystem is the type of the file system that a path without links leads to, such as "ext4"; "" if none is mounted there.
func (t MountTable) FileSystem(path string) string {
	kind, longest := "", -1
	for _, m := range t {
		inside := path == m.Mountpoint || strings.HasPrefix(path, strings.TrimSuffix(m.Mountpoint, "/")+"/")
		if inside && len(m.Mountpoint) >= longest { // of several at one place the last one counts
			kind, longest = m.FSType, len(m.Mountpoint)
		}
	}
	return kind
}

// madeUp are the file systems that the kernel makes up for each namespace, as a cell mounts its own.
var madeUp = []string{"proc", "devpts", "mqueue"}

// MountPoints lists where file systems are mounted, as a process sees it (/proc/PID/mountinfo), without those that the kernel makes up for its namespaces.
func MountPoints(pid int) ([]string, error) {
	b, err := read(Path(pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(b), nil)
	var out []string
	for _, m := range infos {
		if slices.Contains(madeUp, m.FSType) {
			continue
		}
		out = append(out, m.Mountpoint)
	}
	return out, err
}

// MountIDs are the mounts of a process's mount namespace; nil if it has ended.
func MountIDs(pid int) map[int]bool {
	f, err := os.Open(Path(pid, "mountinfo"))
	if err != nil {
		return nil
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil
	}
	out := map[int]bool{}
	for _, m := range mounts {
		out[m.ID] = true
	}
	return out
}

// UnixName is a UNIX socket that is bound to a path.
type UnixName struct {
	Inode uint64
	Path  string
}

// UnixNames are the UNIX sockets with a path in a process's network namespace.
func UnixNames(pid int) ([]UnixName, error) {
	b, err := os.ReadFile(Path(pid, "net/unix"))
	if err != nil {
		return nil, err
	}
	var out []UnixName
	for line := range bytes.Lines(b) {
		// Num RefCount Protocol Flags Type St Inode Path (proc_pid_net(5))
		f := strings.Fields(string(line))
		if len(f) < 8 || !strings.HasPrefix(f[7], "/") {
			continue
		}
		ino, err := strconv.ParseUint(f[6], 10, 64)
		if err != nil {
			continue // the head
		}
		out = append(out, UnixName{ino, f[7]})
	}
	return out, nil
}

// Wchan is the function of the kernel that a process waits in; "" if there is none, or it is not known.
func Wchan(pid int) string { return wchan(Path(pid, "wchan")) }

// ThreadWchan is the same of a thread.
func ThreadWchan(pid, tid int) string { return wchan(threadPath(pid, tid, "wchan")) }

func wchan(path string) string {
	b, err := read(path)
	if err != nil || len(b) < 2 { // "0" where it waits for nothing
		return ""
	}
	return string(b)
}

// Whereabouts is a process's state and what its threads wait for in the kernel: "S in do_wait".
func Whereabouts(pid int) string {
	s, err := ReadStat(pid)
	if err != nil {
		return "gone"
	}
	state := string(s.State)
	var waits []string
	tids, _ := Threads(pid) // none of one that has ended
	for _, tid := range tids {
		if w := wchan(threadPath(pid, tid, "wchan")); w != "" && !slices.Contains(waits, w) {
			waits = append(waits, w)
		}
	}
	if len(waits) > 0 {
		state += " in " + strings.Join(waits, ", ")
	}
	return state
}

// SameMemory says whether two processes have one memory (kcmp(2)), as between vfork(2) and exec. Processes of which the kernel does not tell, or that are
// gone, have not.
func SameMemory(a, b int) bool {
	const kcmpVM = 1
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpVM, 0, 0, 0)
	return errno == 0 && order == 0
}

// OnOwnThread calls do on a thread that ends afterwards: the kernel lets go then of whatever the thread still traces.
func OnOwnThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread would stay. While this goroutine has it, another one gets another thread.
			OnOwnThread(do)
			runtime.UnlockOSThread()
			return
		}
		do() // the thread is never unlocked
	}()
	<-done
}
