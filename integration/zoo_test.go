package integration

import (
	"errors"
	"fmt"
	"maps"
	"os"
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
	"thread_affinity", "thread_policy", "thread_nice", "thread_slack", "thread_ioprio", "thread_mask", "thread_altstack", "thread_name",
	"thread_storage", "thread_pending", "thread_user", "thread_caps", "thread_timer", "thread_seccomp", "seccomp", "registers", "clone_files", "oom",
	"core_filter", "cpu_timer", "group", "epoll_nested", "epoll_oneshot", "epoll_exclusive", "epoll_inherited", "epoll_pipe", "epoll_timer", "timerfd_expired",
	"timerfd_cancel", "inotify_many", "fanotify", "lease_read", "lease_write", "pidfd_dead", "proc_net", "proc_ns", "proc_mem", "proc_dead", "sysfs",
	"flags", "path_symlink", "far_offset", "renamed", "linked", "gone_folder", "gone_cwd", "flock_shared", "lock_wait", "pipe_broken", "pipe_child",
	"pipe_vmspliced", "fifo_deleted", "pty_session", "pty_unread", "pty_alone", "tty_closed", "unix_ended", "unix_accepted", "unix_cred",
	"unix_unlinked", "unix_mode", "unix_relative", "unix_abstract_dgram", "unix_memfd", "netlink_generic", "netlink_uevent", "netlink_diag",
	"packet_filter", "packet_member", "raw6", "raw_header", "icmp", "udplite", "udp_reuseport", "udp_mapped", "udp_sources", "tcp_fresh", "tcp_bound",
	"tcp_dual", "tcp_mapped", "tcp_reuseport", "tcp_stopped", "tcp_corked", "tcp_full", "tcp_lowat", "tcp_child", "tcp_device", "deathsig",
	"tty_master_closed", "hugepage", "sequential", "random", "noreserve", "guard", "zero_shared", "shm_posix", "file_readonly", "memfd_noexec",
	"memfd_future", "memfd_sealed", "memfd_child", "heap", "title",
}

// zooNoted are the modes that a restore does not put back and names in a notice, with words of it.
var zooNoted = map[string][]string{
	"personality":      {"personality"},
	"udp_queue":        {"datagrams that had not been read"},
	"inotify_pending":  {"events of inotify that had not been read"},
	"ksm":              {"merging of equal pages"},
	"fanotify_pending": {"events of fanotify that had not been read"},
	"tcp_failed":       {"an error that had not been read (SO_ERROR)"},
	"exit_signal":      {"its parent gets when it ends was SIGUSR2"},
}

// zooRefused are the modes that are refused before anything is frozen, with words of the refusal.
var zooRefused = map[string][]string{
	"efd_semaphore":    {"EFD_SEMAPHORE"},
	"efd_large":        {"an eventfd", "whose counter is 1099511627781"},
	"udp_cork":         {"UDP_CORK"},
	"epoll_closed":     {"still watches a file", "EPOLL_CTL_DEL"},
	"netlink_unread":   {"netlink socket"},
	"oob_inline":       {"urgent byte"},
	"packet_pipe":      {"pipe of packets"},
	"own_uts":          {"a UTS namespace"},
	"own_time":         {"time namespace"},
	"own_net":          {"a network namespace"},
	"own_ipc":          {"an IPC namespace"},
	"own_cgroup":       {"cgroup namespace"},
	"own_user":         {"user namespace"},
	"own_pid":          {"a PID namespace"},
	"clone_vm":         {"shares its memory"},
	"secret_memory":    {"secret memory"},
	"tcp_in_flight":    {"sent to it over a UNIX socket"},
	"message_queue":    {"POSIX message queue"},
	"mptcp":            {"multipath TCP"},
	"io_uring":         {"io_uring"},
	"perf":             {"perf_event"},
	"uffd":             {"userfaultfd"},
	"device":           {"/dev/kmsg"},
	"own_mounts":       {"file system mounted"},
	"thread_fs":        {"working folder and umask"},
	"thread_files":     {"its own descriptors"},
	"thread_net":       {"a network namespace"},
	"thread_uts":       {"a UTS namespace"},
	"leader_gone":      {"without its first thread"},
	"clone_sighand":    {"shares its signal handlers"},
	"traced":           {"is being traced"},
	"led_session":      {"session whose leader"},
	"adopted_session":  {"in the session of another process"},
	"unix_backlog":     {"nobody has accepted"},
	"unix_oob":         {"urgent byte"},
	"own_mount":        {"mount namespace"},
	"clone_fs":         {"CLONE_FS"},
	"bpf_map":          {"bpf-map"},
	"bpf_mapped":       {"maps a bpf-map"},
	"bpf_prog":         {"bpf-prog"},
	"append_only":      {"chattr -a"},
	"vsock":            {"AF_VSOCK"},
	"mount_fd":         {"fscontext"},
	"landlock_ruleset": {"landlock-ruleset"},
	"unix_empty":       {"has not read an empty datagram"},
	"unix_unaccepted":  {"whose other end was closed"},
	"unix_cred_unread": {"SO_PASSCRED"},
	"tcp_signed":       {"TCP_MD5SIG"},
}

// zooLost are the modes that a restore loses without a word, as the kernel does not tell of them, with words of docs/limits.md that say so.
var zooLost = map[string]string{
	"multicast_ifindex": "IP_MULTICAST_IF",
	"sem_undo":          "SEM_UNDO",
	"keyring":           "session keyrings",
	"mempolicy":         "set_mempolicy",
	"mbind":             "mbind",
	"landlock":          "Landlock",
	"mdwe":              "PR_SET_MDWE",
	"mce_kill":          "PR_MCE_KILL",
	"cpu_time":          "processor time",
	"mlockall":          "MCL_FUTURE",
	"sealed":            "mseal",
	"dnotify":           "F_NOTIFY",
	"mlock_on_fault":    "MLOCK_ONFAULT",
	"ldt":               "modify_ldt",
}

// TestZoo needs root and gcc. Each mode of testdata/zoo is one process that holds one object of the kernel in one state. It is as it was in place and on
// another host, or a restore names what is lost, or the snapshot is refused before it freezes anything,
// or docs/limits.md says that it is lost.
func TestZoo(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	program := c.compileZoo()
	for _, host := range []string{"hostA", "hostB"} { // what a distribution's systemd sets: everybody may have sockets for echoes
		c.inHost(host, "sysctl", "-w", "net.ipv4.ping_group_range=0 2147483647")
	}
	c.zooRefuses(program)
	j := c.newJob("zoo")
	noted, lost := slices.Sorted(maps.Keys(zooNoted)), slices.Sorted(maps.Keys(zooLost))
	for i, modes := range [][]string{zooComesBack, noted, lost} {
		j.serve(fmt.Sprint("zoo", i), "hostA", append([]string{program, "all"}, modes...)...)
		j.zooSays(j.members[i], modes, "ready")
	}
	cut := j.snapshot().Cut
	c.askZoo("hostA", program) // each member that goes on has lost nothing
	for i, modes := range [][]string{zooComesBack, noted, lost} {
		j.zooSays(j.members[i], modes, "ok")
	}
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
		j.zooLoses(j.members[2], lost)
		for mode, kept := range j.zooVerdicts(j.members[1], noted) {
			for _, w := range zooNoted[mode] {
				if !kept && !strings.Contains(said, w) {
					t.Errorf("%s, restored %v: no %q in:\n%s", mode, remap, w, said)
				}
			}
			if kept {
				t.Logf("%s, restored %v, is as it was", mode, remap)
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

// zooVerdicts waits until each mode has said whether what it held is as it was.
func (j *job) zooVerdicts(m *member, modes []string) map[string]bool {
	j.t.Helper()
	verdicts := map[string]bool{}
	await(j.t, "what the zoo says", func() string {
		said := "\n" + j.log(m)
		for _, mode := range modes {
			ok := strings.Contains(said, "\n"+mode+" ok\n")
			if !ok && !strings.Contains(said, "\n"+mode+" FAIL ") {
				return mode
			}
			verdicts[mode] = ok
		}
		return ""
	})
	return verdicts
}

// zooLoses waits until each mode has said that it has lost what it held. What comes back is to leave the list, and docs/limits.md.
func (j *job) zooLoses(m *member, modes []string) {
	j.t.Helper()
	limits, err := os.ReadFile("../docs/limits.md")
	must(j.t, err)
	for _, mode := range modes {
		if !strings.Contains(string(limits), zooLost[mode]) {
			j.t.Errorf("%s is lost, and docs/limits.md does not say %q", mode, zooLost[mode])
		}
	}
	await(j.t, "the zoo to say what it has lost", func() string {
		said := "\n" + j.log(m)
		var left []string
		for _, mode := range modes {
			switch {
			case strings.Contains(said, "\n"+mode+" FAIL "):
			case strings.Contains(said, "\n"+mode+" ok\n"):
				j.t.Fatalf("%s was not lost", mode)
			default:
				left = append(left, mode)
			}
		}
		return strings.Join(left, ", ")
	})
}

// zooRefuses has one check, of a job whose members are all that is refused, name every one of them.
func (c *cluster) zooRefuses(program string) {
	t := c.t
	j := c.newJob("refused")
	modes := slices.Sorted(maps.Keys(zooRefused))
	j.serve("zoo", "hostA", append([]string{program, "all"}, modes...)...)
	j.zooSays(j.members[0], modes, "ready")
	_, said, exit := j.Ctl("check", j.name)
	if exit != 4 {
		t.Errorf("exit code %d", exit)
	}
	for _, mode := range modes {
		if !slices.ContainsFunc(strings.Split(said, "\n"), func(line string) bool {
			return (strings.Contains(line, "(zoo "+mode+")") || mode == "leader_gone" && strings.Contains(line, "([zoo])") || // it has no command line any more
				strings.Contains(line, "/"+mode+"/")) && !slices.ContainsFunc(zooRefused[mode], func(w string) bool { return !strings.Contains(line, w) })
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
	c.inHost("hostA", "chattr", "-a", "/srv/zoo/append_only/log") // or the lab could not remove it
}

// zooFolders makes what a restore elsewhere needs: folders that members work in, watch, or have sockets in, and the FIFO.
func (c *cluster) zooFolders(host string) {
	c.t.Helper()
	c.inHost(host, "sh", "-ec", `cd /srv; mkdir zoo; cd zoo
mkdir -p cwd/below inotify inotify_pending inotify_many/one inotify_many/two unix_named_queue fifo lease_read lease_write path_symlink
mkfifo -m 640 fifo/fifo
touch inotify_many/two/file
install -m 640 /dev/null lease_read/leased
install -m 640 /dev/null lease_write/leased
ln -s /nowhere path_symlink/link`)
}

// inHost runs a command on a host, which must succeed.
func (c *cluster) inHost(host string, args ...string) {
	c.t.Helper()
	if out, err := c.Host(host).Command(c.t.Context(), args...).CombinedOutput(); err != nil {
		c.t.Fatalf("%v on %s: %v\n%s", args, host, err, out)
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
