package integration

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// zooComesBack are the modes of testdata/zoo that are as they were after a restore, by the program's own word.
var zooComesBack = []string{
	"multicast_if", "unix_dgram_queue", "unix_seqpacket_queue", "unix_stream_queue", "unix_named_queue", "unix_abstract", "unix_shutdown", "unix_passcred",
	"unix_rights", "udp_connected", "udp6", "raw", "packet", "netlink", "tcp_listen", "tcp_own", "tcp_oob", "epoll", "epoll_dup", "efd_count",
	"inotify", "offset", "deleted", "tmpfile", "flock", "posix_lock", "ofd_lock", "owner", "pipe", "pipe_closed", "fifo", "cwd", "pty", "msg", "sem", "devices",
	"proc", "kept",
	"subreaper", "orphan", "nice", "fifo_policy", "rr_policy", "batch_policy", "idle_policy", "reset_on_fork", "affinity", "ioprio", "slack", "rlimit", "umask",
	"name", "dumpable", "no_new_privs", "thp", "securebits", "capabilities", "user", "session", "zombie", "stopped", "pending", "handler", "signalfd",
	"timerfd_monotonic", "timerfd_boottime", "timerfd_realtime", "posix_timer", "itimer", "threads", "robust", "pidfd",
	"dontfork", "wipeonfork", "dontdump", "nohugepage", "mergeable", "mlock", "anonymous", "shared", "growsdown", "memfd", "shm", "cow", "file_mapping",
	"deleted_mapping", "executable",
}

// zooNoted are the modes that a restore does not put back and names in a notice, with words of it.
var zooNoted = map[string][]string{
	"personality":     {"personality"},
	"udp_queue":       {"datagrams that had not been read"},
	"inotify_pending": {"events of inotify that had not been read"},
	"ksm":             {"merging of equal pages"},
}

// zooRefused are the modes that are refused before anything is frozen, with words of the refusal.
var zooRefused = map[string][]string{
	"efd_semaphore":  {"EFD_SEMAPHORE"},
	"udp_cork":       {"UDP_CORK"},
	"epoll_closed":   {"still watches a file", "EPOLL_CTL_DEL"},
	"netlink_unread": {"netlink socket"},
	"oob_inline":     {"urgent byte"},
	"packet_pipe":    {"pipe of packets"},
	"own_uts":        {"uts namespace"},
	"own_time":       {"time namespace"},
	"own_net":        {"net namespace"},
	"own_ipc":        {"ipc namespace"},
	"own_cgroup":     {"cgroup namespace"},
	"own_user":       {"user namespace"},
	"own_pid":        {"pid namespace"},
	"clone_vm":       {"shares its memory"},
	"secret_memory":  {"secret memory"},
	"tcp_in_flight":  {"sent to it over a UNIX socket"},
	"message_queue":  {"POSIX message queue"},
	"mptcp":          {"multipath TCP"},
	"io_uring":       {"io_uring"},
	"perf":           {"perf_event"},
	"uffd":           {"userfaultfd"},
	"device":         {"/dev/kmsg"},
	"own_mounts":     {"file system mounted"},
}

// TestZoo needs root and gcc. Each mode of testdata/zoo is one process that holds one object of the kernel in one state. It is as it was in place and on
// another host, or a restore names what is lost, or the snapshot is refused before it freezes anything.
func TestZoo(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	program := c.compileZoo()
	c.zooRefuses(program)
	j := c.newJob("zoo")
	var noted []string
	for mode := range zooNoted {
		noted = append(noted, mode)
	}
	slices.Sort(noted)
	for i, modes := range [][]string{zooComesBack, noted} {
		j.serve(fmt.Sprint("zoo", i), "hostA", append([]string{program, "all"}, modes...)...)
		j.zooSays(j.members[i], modes, "ready")
	}
	cut := j.snapshot().Cut
	for _, remap := range [][]string{nil, {"hostA=hostB"}} {
		if remap != nil {
			c.zooFolders("hostB")
		}
		said := j.restoreNoted(cut, remap...)
		host := "hostA"
		if remap != nil {
			host = "hostB"
		}
		c.askZoo(host, program)
		j.zooSays(j.members[0], zooComesBack, "ok")
		for mode, words := range zooNoted {
			for _, w := range words {
				if !strings.Contains(said, w) {
					t.Errorf("%s, restored %v: no %q in:\n%s", mode, remap, w, said)
				}
			}
		}
	}
	j.end()
	c.checkLeaks()
}

// restoreNoted is restore; it returns what was said on standard error.
func (j *job) restoreNoted(cut string, remap ...string) string {
	j.t.Helper()
	args := []string{"restore", cut}
	for _, r := range remap {
		args = append(args, "--remap", r)
		from, to, _ := strings.Cut(r, "=")
		defer j.moved(from, to)
	}
	_, stderr, exit := j.Ctl(args...)
	if exit != 0 {
		j.t.Fatalf("%v: exit code %d\n%s", args, exit, stderr)
	}
	return stderr
}

// zooSays waits until each mode has said something more, which must end with the word.
func (j *job) zooSays(m *member, modes []string, word string) {
	j.t.Helper()
	left := slices.Clone(modes)
	var said string
	await(j.t, "the zoo to say "+word, func() string {
		said = j.log(m)
		left = slices.DeleteFunc(left, func(mode string) bool { return strings.Contains("\n"+said, "\n"+mode+" "+word+"\n") })
		if strings.Contains(said, " FAIL ") || len(left) == 0 {
			return ""
		}
		return strings.Join(left, ", ")
	})
	for line := range strings.Lines(said) {
		if strings.Contains(line, " FAIL ") {
			j.t.Error(strings.TrimSpace(line))
		}
	}
	if j.t.Failed() {
		j.t.FailNow()
	}
}

// zooRefuses has one check, of a job whose members are all that is refused, name every one of them.
func (c *cluster) zooRefuses(program string) {
	t := c.t
	j := c.newJob("refused")
	var modes []string
	for mode := range zooRefused {
		modes = append(modes, mode)
	}
	slices.Sort(modes)
	j.serve("zoo", "hostA", append([]string{program, "all"}, modes...)...)
	j.zooSays(j.members[0], modes, "ready")
	_, said, exit := j.Ctl("check", j.name)
	if exit != 4 {
		t.Errorf("exit code %d", exit)
	}
	for _, mode := range modes {
		if !slices.ContainsFunc(strings.Split(said, "\n"), func(line string) bool {
			return (strings.Contains(line, "(zoo "+mode+")") || strings.Contains(line, "/"+mode+"/")) && !slices.ContainsFunc(zooRefused[mode], func(w string) bool { return !strings.Contains(line, w) })
		}) {
			t.Errorf("%s: no line with %q", mode, zooRefused[mode])
		}
	}
	if _, stderr, exit := j.Ctl("snapshot", j.name); exit != 4 || frozen.MatchString(stderr) {
		t.Errorf("a snapshot ends with %d and\n%s", exit, stderr)
	}
	if t.Failed() {
		t.Log(said)
	}
	c.MustCtl("kill", j.name)
}

// zooFolders makes what a restore elsewhere needs: folders that members work in, watch, or have sockets in, and the FIFO.
func (c *cluster) zooFolders(host string) {
	c.t.Helper()
	for _, args := range [][]string{
		{"mkdir", "-p", "/srv/zoo/cwd/below", "/srv/zoo/inotify", "/srv/zoo/inotify_pending", "/srv/zoo/unix_named_queue", "/srv/zoo/fifo"},
		{"mkfifo", "-m", "640", "/srv/zoo/fifo/fifo"},
	} {
		if out, err := c.Host(host).Command(c.t.Context(), args...).CombinedOutput(); err != nil {
			c.t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
}

// compileZoo builds testdata/zoo into the lab's folder.
func (c *cluster) compileZoo() string {
	c.t.Helper()
	sources, err := filepath.Glob("testdata/zoo/*.c")
	must(c.t, err)
	program := filepath.Join(c.Dir(), "zoo")
	args := append([]string{"-O1", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-Wno-parentheses", "-o", program}, sources...)
	if out, err := exec.CommandContext(c.t.Context(), "gcc", append(args, "-pthread", "-lrt", "-lutil")...).CombinedOutput(); err != nil {
		c.t.Fatalf("compile the zoo: %v\n%s", err, out)
	}
	return program
}

// askZoo has every process of the zoo on a host say whether what it holds is as it was.
func (c *cluster) askZoo(host, program string) {
	c.t.Helper()
	for _, pid := range c.instances(host, filepath.Base(program)) {
		if err := unix.Kill(pid, unix.SIGUSR1); err != nil && !errors.Is(err, unix.ESRCH) { // a mode ends a child that it has
			c.t.Fatal(err)
		}
	}
}
