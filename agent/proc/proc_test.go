package proc

import (
	"bytes"
	"errors"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// numbers37 are the fields after the state that parseStat asks for.
const numbers37 = " 7 8 9 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 12345 1000 100 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 3 0 0"

func TestParseStat(t *testing.T) {
	for _, name := range []string{"sh", "a b", "a) R 1 (b", ") ", "(", "\n) S 5", ""} {
		got, err := parseStat([]byte("42 (" + name + ") S" + numbers37 + "\n"))
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		want := Stat{Pid: 42, Parent: 7, Session: 9, Name: name, State: 'S', Flags: 4194560, Threads: 1, Start: 12345, CPU: 3, Farewell: 17}
		if got != want {
			t.Errorf("%q: %+v, want %+v", name, got, want)
		}
	}
	for _, bad := range []string{"", "42", "42 (sh", "42 sh) S" + numbers37, "42 (sh) S 7 8", "x (sh) S" + numbers37, "42 (sh) S x" + numbers37[2:], ") ("} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
}

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]Mapping{
		"00400000-00401000 r-xp 00000000 08:01 17                  /bin/a b":             {"400000-401000", "08:01", "17", "/bin/a b", false, true},
		"7f00-7f10 rw-s 00001000 00:05 9 /memfd:x (deleted)":                             {"7f00-7f10", "00:05", "9", "/memfd:x (deleted)", true, false},
		`7f00-7f10 rw-p 00001000 00:05 9 /a\012b`:                                        {"7f00-7f10", "00:05", "9", "/a\nb", false, false},
		"7f00-7f10 rw-p 00000000 00:00 0                          [heap]":                {"7f00-7f10", "00:00", "0", "[heap]", false, false},
		"7f00-7f10 rw-s 00000000 00:0e 12                         anon_inode:[io_uring]": {"7f00-7f10", "00:0e", "12", "anon_inode:[io_uring]", true, false},
	} {
		if got, ok := parseMapping(line); !ok || got != want {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
	for _, none := range []string{"", "7f00-7f10 rw-p 00000000 00:00 0 ", "7f00-7f10 rw-p 00000000 00:00 0", "7f00-7f10 rw 0 00:00 0 /x"} {
		if got, ok := parseMapping(none); ok {
			t.Errorf("%q is read as %+v", none, got)
		}
	}
}

// sleeper starts a process that sleeps, in a folder of its own.
func sleeper(t *testing.T) (*exec.Cmd, string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("sleep", "1000")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	for { // it is a copy of this program until exec
		if args := Arguments(cmd.Process.Pid); len(args) == 2 && args[0] == "sleep" {
			if s, ok, err := ReadSyscall(cmd.Process.Pid, cmd.Process.Pid); err == nil && ok && (s.Number == unix.SYS_NANOSLEEP || s.Number == unix.SYS_CLOCK_NANOSLEEP) {
				return cmd, dir
			}
		}
		if t.Context().Err() != nil {
			t.Fatal("it does not sleep")
		}
	}
}

func TestOfAProcess(t *testing.T) {
	cmd, dir := sleeper(t)
	pid := cmd.Process.Pid
	s, err := ReadStat(pid)
	if err != nil || s.Pid != pid || s.Parent != os.Getpid() || s.Name != "sleep" || s.Dead() || s.OfKernel() {
		t.Errorf("%+v, %v", s, err)
	}
	if th, err := ThreadStat(pid, pid); err != nil || th.Start != s.Start || th.Pending {
		t.Errorf("%+v, %v", th, err)
	}
	if got := Command(pid); got != "sleep 1000" {
		t.Errorf("command %q", got)
	}
	if got, want := Whose(pid), "process "+strconv.Itoa(pid)+" (sleep 1000)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := WorkingDir(pid); got != dir {
		t.Errorf("works in %q", got)
	}
	if rss, err := RSS(pid); err != nil || rss < 4096 {
		t.Errorf("%d bytes, %v", rss, err)
	}
	if tree, err := Tree(os.Getpid()); err != nil || !slices.ContainsFunc(tree, func(s Stat) bool { return s.Pid == pid }) {
		t.Errorf("tree %+v, %v", tree, err)
	}
	if tids, err := Threads(pid); err != nil || !slices.Equal(tids, []int{pid}) {
		t.Errorf("threads %v, %v", tids, err)
	}
	if highest, err := HighestThread(); err != nil || highest < pid {
		t.Errorf("the highest is %d, %v", highest, err)
	}
	if nested, err := NSPids(pid); err != nil || nested[0] != pid {
		t.Errorf("%v, %v", nested, err)
	}
	if tracer := Tracer(pid); tracer != 0 {
		t.Errorf("traced by %d", tracer)
	}
	if a, err := Namespace(pid, "net"); err != nil || a == 0 {
		t.Errorf("namespace %d, %v", a, err)
	} else if b, err := Namespace(os.Getpid(), "net"); err != nil || a != b {
		t.Errorf("%d and %d, %v", a, b, err)
	}
	if got := Whereabouts(pid); !strings.HasPrefix(got, "S") {
		t.Errorf("it is %q", got)
	}
	if sig, err := ReadSignals(pid, pid); err != nil || sig.Pending != 0 || sig.Caught != 0 || sig.Inner == 0 {
		t.Errorf("%+v, %v", sig, err)
	}
}

// TestOfOneThatEnded: a process that ends while it is looked at is gone, and nothing else.
func TestOfOneThatEnded(t *testing.T) {
	cmd, _ := sleeper(t)
	pid := cmd.Process.Pid
	id, err := Identify(pid)
	if err != nil || !id.Alive() {
		t.Fatal(id, err)
	}
	fd, err := OpenChild(pid, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	if fd, err := OpenChild(pid, 1); !Gone(err) || fd != -1 {
		t.Errorf("the child of another: %d, %v", fd, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if id.Alive() {
		t.Error("it lives")
	}
	_, errs := ReadStat(pid)
	_, errt := Threads(pid)
	_, erri := Identify(pid)
	_, errp := id.OpenPidfd()
	_, errf := ReadFdInfo(pid, 0)
	for _, err := range []error{errs, errt, erri, errp, errf} {
		if !Gone(err) {
			t.Errorf("%v does not say that it is gone", err)
		}
	}
	if err := EachFd([]int{pid}, func(int, int, string) { t.Error("a descriptor") }); err != nil {
		t.Error(err)
	}
	for _, err := range Mappings(pid) {
		if !Gone(err) {
			t.Errorf("mappings: %v", err)
		}
	}
	if MountIDs(pid) != nil || Whereabouts(pid) != "gone" || Arguments(pid) != nil || Tracer(pid) != 0 {
		t.Error("it is not gone")
	}
}

// TestDescriptors needs root for the lease of a file and for the pseudoterminal.
func TestDescriptors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a file")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	links := map[int]string{}
	if err := EachFd([]int{os.Getpid()}, func(_, fd int, link string) { links[fd] = link }); err != nil || links[int(f.Fd())] != path {
		t.Errorf("%v, %v", links, err)
	}
	var mine, again unix.Stat_t
	if err := unix.Stat(OwnFd(int(f.Fd())), &again); err != nil || unix.Fstat(int(f.Fd()), &mine) != nil || mine.Ino != again.Ino {
		t.Errorf("inode %d by its name, %d: %v", again.Ino, mine.Ino, err)
	}
	info, err := ReadFdInfo(os.Getpid(), int(f.Fd()))
	if err != nil || info.Flags&unix.O_ACCMODE != unix.O_WRONLY || info.Flags&unix.O_APPEND == 0 || info.Leased || info.Terminal != -1 {
		t.Errorf("%+v, %v", info, err)
	}
	if mounts := MountIDs(os.Getpid()); !mounts[info.Mount] {
		t.Errorf("mount %d is not among %v", info.Mount, mounts)
	}
	span := unix.Flock_t{Type: unix.F_WRLCK, Start: 5, Len: 10}
	rest := unix.Flock_t{Type: unix.F_WRLCK, Start: 20}
	if err := errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_SH), unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &span), unix.FcntlFlock(f.Fd(), unix.F_SETLK, &rest)); err != nil {
		t.Fatal(err)
	}
	info, err = ReadFdInfo(os.Getpid(), int(f.Fd()))
	for _, want := range []Lock{{Flock: true, End: math.MaxInt64}, {Write: true, Start: 5, End: 14}, {Process: true, Write: true, Start: 20, End: math.MaxInt64}} {
		if err != nil || len(info.Locks) != 3 || !slices.Contains(info.Locks, want) {
			t.Errorf("%+v is not among %+v, %v", want, info.Locks, err)
		}
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	if info, err := ReadFdInfo(os.Getpid(), int(f.Fd())); err != nil || !info.Leased || !info.WriteLease {
		t.Errorf("%+v, %v", info, err)
	}
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	number, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := ReadFdInfo(os.Getpid(), int(pty.Fd())); err != nil || info.Terminal != number {
		t.Errorf("terminal %d: %+v, %v", number, info, err)
	}
}

// TestMappedFile needs root: map_files is for it alone.
func TestMappedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a\nfile")
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	var want unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &want); err != nil {
		t.Fatal(err)
	}
	found, program := 0, false
	for m, err := range Mappings(os.Getpid()) {
		if err != nil {
			t.Fatal(err)
		}
		program = program || m.Executable && strings.HasSuffix(m.Path, ".test")
		if m.Path != path {
			continue
		}
		found++
		var st unix.Stat_t
		if err := unix.Stat(MappedFile(os.Getpid(), m.Range), &st); err != nil || st.Ino != want.Ino || !m.Shared || m.Executable || m.Inode != strconv.FormatUint(want.Ino, 10) {
			t.Errorf("%+v: inode %d, %v", m, st.Ino, err)
		}
	}
	if found != 1 || !program {
		t.Errorf("mapped %d times; the program among them: %v", found, program)
	}
}

func TestUnixNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	link, err := FdLink(os.Getpid(), int(raw.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	ino, ok := SocketInode(link)
	names, err := UnixNames(os.Getpid())
	if !ok || err != nil || !slices.Contains(names, UnixName{ino, path}) {
		t.Errorf("%q: inode %d (%v), among %d names, %v", link, ino, ok, len(names), err)
	}
}

// TestWhereThisProcessLives: Self is this process, and its cgroup is what the kernel says of its number.
func TestWhereThisProcessLives(t *testing.T) {
	mounts, err := Mounts("cgroup", "cgroup2")
	if err != nil || len(mounts) == 0 {
		t.Fatal(mounts, err)
	}
	for _, m := range mounts {
		controller := ""
		if m.FSType == "cgroup" {
			controller = strings.Split(m.VFSOptions, ",")[len(strings.Split(m.VFSOptions, ","))-1]
		}
		own, err := Cgroup(Self, controller)
		byNumber, err2 := Cgroup(os.Getpid(), controller)
		if err != nil || err2 != nil || own != byNumber || !strings.HasPrefix(own, "/") {
			t.Errorf("%s: %q, %q, %v, %v", m.Mountpoint, own, byNumber, err, err2)
		}
	}
	if _, err := Cgroup(Self, "no such controller"); err == nil {
		t.Error("a controller that is not there has a cgroup")
	}
	if BootID() == "" || Sysctl("kernel/osrelease") == "" || Sysctl("no/such/setting") != "" {
		t.Error("settings of the kernel")
	}
}

func TestIdentityOutlivesPidReuse(t *testing.T) {
	id, err := Identify(os.Getpid())
	if err != nil || !id.Alive() {
		t.Fatal(id, err)
	}
	for _, other := range []Identity{{id.Pid, id.Start + 1, id.Boot}, {id.Pid, id.Start, "another boot"}, {}} {
		if other.Alive() {
			t.Errorf("%+v is not this process", other)
		}
		if _, err := other.OpenPidfd(); other.Pid != 0 && !Gone(err) {
			t.Errorf("pidfd of %+v: %v", other, err)
		}
	}
}
