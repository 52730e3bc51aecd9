package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"ss/integration/lab"
)

// targetRoundsVariable names the environment variable that says how often each row of the tables in this file is played; once without it.
const targetRoundsVariable = "TARGET_ROUNDS"

func targetRounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv(targetRoundsVariable)
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q", targetRoundsVariable, text)
	}
	return n
}

// targets is a cluster for many small jobs, one after the other.
type targets struct {
	*rig
	object string // the program that holds one object of the kernel
	made   int
}

func newTargets(t *testing.T, hosts ...string) *targets {
	t.Helper()
	r := newRig(t, hosts...)
	return &targets{rig: r, object: r.compile("object", "-lutil")}
}

// play runs a test as often as it is to be, each time as a test of its own.
func (c *targets) play(t *testing.T, name string, test func(c *targets)) {
	t.Helper()
	for i := range targetRounds(t) {
		ok := t.Run(fmt.Sprintf("%s/%d", name, i), func(t *testing.T) {
			c.use(t)
			test(c)
		})
		c.use(t)
		if !ok {
			return
		}
	}
}

// port is one that no job before has left anything on.
func (c *targets) port() string {
	c.made++
	return strconv.Itoa(10000 + c.made)
}

// hold starts a job whose one member holds an object, and returns when it works.
func (c *targets) hold(host, kind, argument string) *job {
	c.t.Helper()
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	j.holdToo(c, host, kind, argument)
	return j
}

// holdToo adds a member that holds an object.
func (j *job) holdToo(c *targets, host, kind, argument string) {
	j.t.Helper()
	j.serve(fmt.Sprintf("%s%d", kind, len(j.members)), host, c.object, kind, argument)
	j.awaitProgress()
}

// refuses checks that a restore is refused before anything is touched, by the dry run as well, with these words, and that the job goes on.
func (j *job) refuses(cut string, remap []string, words ...string) {
	j.t.Helper()
	f := badInput{job: j}
	args := append([]string{"restore", cut}, remap...)
	f.refuseUntouched(4, words, append(args, "--dry-run")...)
	f.refuseUntouched(4, append(words, "nothing was touched"), args...)
	j.awaitProgress()
}

// comesBack restores a cut and checks that the dry run called it fine, and that every member goes on.
func (j *job) comesBack(cut string, remap ...string) {
	j.t.Helper()
	args := []string{"restore", cut}
	for _, r := range remap {
		if strings.Contains(r, "hostA=") || strings.Contains(r, "hostB=") {
			args = append(args, "--remap", r)
		} else {
			args = append(args, "--remap-addr", r)
		}
	}
	j.MustCtl(append(args, "--dry-run")...)
	j.MustCtl(args...)
	for _, r := range remap {
		from, to, _ := strings.Cut(r, "=")
		j.moved(from, to)
	}
	j.awaitProgress()
}

// on runs a command on a host.
func (c *targets) on(host string, args ...string) string {
	c.t.Helper()
	out, err := c.Host(host).Command(c.t.Context(), args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: %v: %v\n%s", host, args, err, out)
	}
	return string(out)
}

// stranger starts a program on a host that is not a member of any job, and returns when it works.
func (c *targets) stranger(host, kind, argument string) *lab.Cmd {
	c.t.Helper()
	log := fmt.Sprintf("/srv/stranger-%d.log", c.made)
	c.made++
	cmd := c.Host(host).Command(context.Background(), c.object, kind, argument).LogTo(log)
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	await(c.t, "stranger", func() string {
		b, err := c.Host(host).ReadFile(log)
		if err != nil || !strings.Contains(string(b), "\nprogress 2\n") {
			return fmt.Sprintf("%v: %s", err, lastLine(string(b)))
		}
		return ""
	})
	return cmd
}

// TestObjectsComeBack needs root. A cut of a member with any of these objects is put back in place; what cannot be put back is refused before
// the freeze, with a remedy, and the job goes on. TARGET_ROUNDS says how often each is tried.
func TestObjectsComeBack(t *testing.T) {
	withoutRace(t)
	c := newTargets(t, "hostA", "hostB")
	defer c.relay.close()
	for _, tt := range []struct {
		kind, argument string
		refused        []string // words; none if it comes back
	}{
		{kind: "pdeathsig"},
		{kind: "pdeathsig-kill"},
		{kind: "pdeathsig-child"},
		{kind: "deadline", refused: []string{"SCHED_DEADLINE", "chrt --other --pid 0"}},
		{kind: "fifo-policy"},
		{kind: "batch"},
		{kind: "idle-policy"},
		{kind: "memfd-write"},
		{kind: "memfd-write-closed"},
		{kind: "memfd-write-private"},
		{kind: "memfd-future"},
		{kind: "memfd-future-closed"},
		{kind: "memfd-size"},
		{kind: "memfd-size-closed"},
		{kind: "memfd-seal"},
		{kind: "userns", refused: []string{"user namespace of its own", "start it without"}},
		{kind: "userns-child", refused: []string{"user namespace of its own"}},
		{kind: "utsns"},
		{kind: "ipcns"},
		{kind: "netns"},
		{kind: "netns-connected", refused: []string{"has a TCP connection", "in a network namespace other than this host's", "start it without"}},
		{kind: "cgroupns"},
		{kind: "utsns-child", refused: []string{"a UTS namespace of its own"}},
		{kind: "ipcns-child", refused: []string{"an IPC namespace of its own"}},
		{kind: "cgroupns-child", refused: []string{"cgroup namespace of its own"}},
		{kind: "timens", refused: []string{"time namespace of its own"}},
		{kind: "timer"},
		{kind: "timer-absolute"},
		{kind: "timer-expired"},
		{kind: "timer-disarmed"},
		{kind: "fifo", argument: "/srv/fifo"},
		{kind: "unix", argument: "/srv/socket"},
		{kind: "unix", argument: "@abstract"},
		{kind: "watch", argument: "/srv/watched"},
		{kind: "pty"},
		{kind: "serve", argument: "0.0.0.0:PORT"},
		{kind: "serve", argument: "127.0.0.1:PORT"},
		{kind: "serve-reuseaddr", argument: "0.0.0.0:PORT"},
		{kind: "serve-reuseport", argument: "0.0.0.0:PORT"},
		{kind: "udp", argument: "0.0.0.0:PORT"},
		{kind: "udplite", argument: "0.0.0.0:PORT"},
		{kind: "udp-reuseaddr", argument: "224.1.1.9:PORT"},
		{kind: "bound", argument: "PORT"},
		{kind: "ghost", argument: "314572800"},
		{kind: "ghost", argument: "4294967296", refused: []string{"/srv/ghost", "4096 MiB", "no name any more", "give it a name"}},
		{kind: "mqueue", refused: []string{"POSIX message queue /ss-object", "close it"}},
		{kind: "packets", refused: []string{"pipe of packets"}},
		{kind: "from-memory", refused: []string{"was started from memory (/memfd:program", "start it from a file"}},
		{kind: "path-program", refused: []string{"open as a path only", "which is the program of", "open it with O_RDONLY"}},
		{kind: "path-socket", refused: []string{"/srv/path-socket, the file of a UNIX socket, open as a path only", "close it"}},
		{kind: "path-fifo", refused: []string{"/srv/path-fifo, a FIFO, open as a path only", "close it"}},
		{kind: "path", argument: "/dev/null"},
		{kind: "path", argument: "/etc/passwd"},
		{kind: "path", argument: "/srv"},
		{kind: "thread-file", refused: []string{"/status open", "which tells of a thread", "close it"}},
		{kind: "thread-folder", refused: []string{"works in /proc/", "a folder of a process", "change to another folder"}},
		{kind: "first-thread-file"},
		{kind: "open", argument: "/proc/1", refused: []string{"has /proc/1 open", "CRIU can't restore", "open the files in it"}},
		{kind: "open", argument: "/proc/1/stat"},
		{kind: "open", argument: "/dev/shm"},
		{kind: "lease-gone", refused: []string{"has a write lease on /srv/lease-gone", "was removed", "F_UNLCK"}},
		{kind: "child-lock"},
		{kind: "few-files", argument: "3", refused: []string{"may open 3 files (ulimit -n)", "prlimit --pid"}},
		{kind: "few-files", argument: "6", refused: []string{"may open 6 files (ulimit -n)", "prlimit --pid"}},
		{kind: "few-files", argument: "7"},
		{kind: "unspeakable", refused: []string{`"/srv/\xff\xfe"`, "not UTF-8", "rename it"}},
	} {
		c.play(t, tt.kind+strings.ReplaceAll(tt.argument, "/", "_"), func(c *targets) {
			j := c.hold("hostA", tt.kind, strings.Replace(tt.argument, "PORT", c.port(), 1))
			if tt.refused != nil {
				f := badInput{job: j}
				f.refuseUntouched(4, append(tt.refused, "the job runs on"), "snapshot", j.name)
				j.awaitProgress()
			} else {
				cut := j.snapshot().Cut
				j.comesBack(cut)
				j.MustCtl("kill", j.name) // what it leaves behind stays for the next restore
				j.comesBack(cut)
			}
			j.end()
		})
	}
	if !t.Failed() {
		c.checkLeaks()
	}
}

// TestTargetIsPlanned needs root. What would be in the way on a host is found by the dry run and by the restore, before the live job is touched; when it
// has been put right, the same cut is restored there.
func TestTargetIsPlanned(t *testing.T) {
	withoutRace(t)
	c := newTargets(t, "hostA", "hostB", "hostC")
	defer c.relay.close()
	for _, tt := range []struct {
		name string
		test func(*targets)
	}{
		{"two members of one port", (*targets).onePort},
		{"two addresses become one", (*targets).oneAddress},
		{"a stranger's port", (*targets).strangersPort},
		{"datagram sockets of one port", (*targets).datagramPort},
		{"FIFO", (*targets).fifo},
		{"folder of a UNIX socket", (*targets).unixFolder},
		{"UNIX socket in use", (*targets).unixInUse},
		{"log of another program", (*targets).logOfAnother},
		{"watched folder", (*targets).watchedFolder},
		{"terminals of one number", (*targets).terminals},
		{"blocked path", (*targets).blockedPath},
		{"mode of a path", (*targets).modeOfPath},
		{"one file of two hosts", (*targets).oneFile},
		{"a file that another job writes", (*targets).writtenFile},
		{"two hosts that do not reach each other", (*targets).unreached},
		{"another network", (*targets).anotherNetwork},
		{"the member that holds a port", (*targets).holderOfPort},
		{"what a killed CRIU left", (*targets).leftLink},
		{"connected datagram sockets", (*targets).datagramPairs},
		{"link-local addresses", (*targets).linkLocal},
		{"locks", (*targets).locks},
		{"leases", (*targets).leases},
		{"lock that was inherited", (*targets).inheritedLock},
		{"number of a device", (*targets).numberOfDevice},
		{"room where files are put back", (*targets).room},
		{"deleted files", (*targets).deletedFiles},
		{"places of sockets and FIFOs", (*targets).placesMade},
		{"programs that may not run", (*targets).mayNotRun},
		{"files of the kernel", (*targets).kernelsFiles},
	} {
		c.play(t, tt.name, tt.test)
	}
	if !t.Failed() {
		c.checkLeaks()
	}
}

// onePort restores two servers of one port to one host: with any options, one would get all connections.
func (c *targets) onePort() {
	for _, kind := range []string{"serve", "serve-reuseaddr", "serve-reuseport"} {
		at := "0.0.0.0:" + c.port()
		j := c.hold("hostA", kind, at)
		j.holdToo(c, "hostB", kind, at)
		cut := j.snapshot().Cut
		j.refuses(cut, []string{"--remap", "hostA=hostB"}, "hostB", "port "+at+" would be", "restore them to different hosts")
		j.refuses(cut, []string{"--remap", "hostA=hostC", "--remap", "hostB=hostC"}, "hostC", "port "+at+" would be")
		j.comesBack(cut, "hostA=hostC")
		j.end()
	}
}

// oneAddress is onePort with servers that are bound to the address of their host.
func (c *targets) oneAddress() {
	port := c.port()
	a, b := c.Host("hostA").Addr().String()+":"+port, c.Host("hostB").Addr().String()+":"+port
	j := c.hold("hostA", "serve-reuseaddr", a)
	j.holdToo(c, "hostB", "serve-reuseaddr", b)
	cut := j.snapshot().Cut
	j.refuses(cut, []string{"--remap", "hostA=hostB"}, "hostB", b+" would be", a+" on hostA")
	j.comesBack(cut, "hostA=hostC")
	j.end()
}

// strangersPort has a program listen on the port of a member, on the host where that is to go, and on the member's own, with it: what
// could not be put back in place is not a cut.
func (c *targets) strangersPort() {
	at := "0.0.0.0:" + c.port()
	j := c.hold("hostA", "listen-reuseport", at)
	cut := j.snapshot().Cut
	other := c.stranger("hostC", "listen-reuseport", at)
	j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", at, "in use", "object listen-reuseport")
	beside := c.stranger("hostA", "listen-reuseport", at)
	f := badInput{job: j}
	f.refuse(9, []string{"hostA", at, "object listen-reuseport", "the job runs on"}, "snapshot", j.name)
	j.refuses(cut, nil, "hostA", at, "in use")
	beside.Kill()
	other.Kill()
	j.comesBack(cut, "hostA=hostC")
	j.end()
}

// datagramPort has two datagram sockets come to one port, and one come to a port that a program there has. With any options, one would get what is for the other. A multicast
// group is everyone's.
func (c *targets) datagramPort() {
	for _, kind := range []string{"udplite", "udp-reuseaddr", "udp-reuseport"} {
		at := "0.0.0.0:" + c.port()
		j := c.hold("hostA", kind, at)
		j.holdToo(c, "hostB", kind, at)
		cut := j.snapshot().Cut
		j.refuses(cut, []string{"--remap", "hostA=hostB"}, "hostB", "port "+at+" would be", "restore them to different hosts")
		other := c.stranger("hostC", kind, at)
		j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", at, "in use", "object "+kind)
		other.Kill()
		j.comesBack(cut, "hostA=hostC")
		j.end()
	}
	at := "224.1.1.9:" + c.port()
	j := c.hold("hostA", "udp-reuseaddr", at)
	j.holdToo(c, "hostB", "udp-reuseaddr", at)
	other := c.stranger("hostC", "udp-reuseaddr", at)
	j.comesBack(j.snapshot().Cut, "hostA=hostC", "hostB=hostC")
	other.Kill()
	j.end()
	at = "0.0.0.0:" + c.port()
	j = c.hold("hostA", "udp-reuseaddr", at)
	j.holdToo(c, "hostA", "udp-reuseaddr", at)
	j.comesBack(j.snapshot().Cut, "hostA=hostC")
	j.end()
}

// holderOfPort has two members on one host, and a program elsewhere in the way of the second one's socket: a check names that member, as the dry run does.
func (c *targets) holderOfPort() {
	first, second := "0.0.0.0:"+c.port(), "0.0.0.0:"+c.port()
	j := c.hold("hostA", "serve", first)
	j.holdToo(c, "hostA", "unix", "@first-of-two")
	j.holdToo(c, "hostA", "serve", second)
	cut := j.snapshot().Cut
	other := c.stranger("hostC", "serve", second)
	f := badInput{job: j}
	f.refuseUntouched(4, []string{"hostC", "hostA-3: ", second}, "check", j.name, "--remap", "hostA=hostC")
	j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", "hostA-3: ", second)
	other.Kill()
	other = c.stranger("hostC", "unix", "@first-of-two")
	f.refuseUntouched(4, []string{"hostC", "hostA-2: ", "first-of-two"}, "check", j.name, "--remap", "hostA=hostC")
	other.Kill()
	j.MustCtl("check", j.name, "--remap", "hostA=hostC")
	j.end()
}

// leftLink has a member whose program was replaced while it ran, and the link beside the program that a CRIU leaves when it is killed. CRIU would fail at it
// after the live members have ended.
func (c *targets) leftLink() {
	const path = "/srv/replaced"
	replace := func(host string) { c.on(host, "sh", "-c", "cp "+c.object+" "+path+".new && mv "+path+".new "+path) }
	replace("hostA")
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	j.serve("replaced", "hostA", path, "idle", "")
	j.awaitProgress()
	replace("hostA")
	cut := j.snapshot().Cut
	c.on("hostA", "touch", path+".cr_link")
	words := []string{"hostA: ", "hostA-1: ", path + ".cr_link is in its way", "rm " + path + ".cr_link"}
	j.refuses(cut, nil, words...)
	f := badInput{job: j}
	f.refuse(9, append(words, "the job runs on"), "snapshot", j.name)
	c.on("hostA", "rm", path+".cr_link")
	c.on("hostC", "touch", path, path+".cr_link")
	words[0] = "hostC: "
	f.refuseUntouched(4, words, "check", j.name, "--remap", "hostA=hostC")
	j.refuses(cut, []string{"--remap", "hostA=hostC"}, words...)
	c.on("hostC", "rm", path+".cr_link")
	j.comesBack(cut)
	j.comesBack(cut, "hostA=hostC")
	j.end()
	c.on("hostA", "rm", path)
	c.on("hostC", "rm", path)
}

// datagramPairs has datagram sockets that are connected to each other: of two members on one host, and of two hosts.
func (c *targets) datagramPairs() {
	a, b := c.Host("hostA").Addr().String(), c.Host("hostB").Addr().String()
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	for _, x := range []struct{ host, own, peer, other string }{{"hostA", a, "hostA", a}, {"hostA", a, "hostB", b}} {
		own, other := x.own+":"+c.port(), x.other+":"+c.port()
		for _, end := range []struct{ host, argument string }{{x.host, own + ">" + other}, {x.peer, other + ">" + own}} {
			j.serve(fmt.Sprintf("pair%d", len(j.members)), end.host, c.object, "udp-pair", end.argument)
		}
	}
	j.awaitProgress()
	cut := j.snapshot().Cut
	j.comesBack(cut)
	j.comesBack(cut, "hostA=hostC")
	j.end()
}

// linkLocal has a connection over link-local IPv6 addresses, which say nothing of which host has them: it is refused before the freeze, with what to do.
func (c *targets) linkLocal() {
	fields := strings.Fields(c.on("hostA", "ip", "-6", "-o", "addr", "show", "scope", "link"))
	if len(fields) < 4 {
		c.t.Fatalf("hostA has no link-local address: %q", fields)
	}
	own, _, _ := strings.Cut(fields[3], "/")
	port := c.port()
	const program = `import socket, sys, time
at = (sys.argv[2], int(sys.argv[4]), 0, socket.if_nametoindex(sys.argv[3]))
s = socket.socket(socket.AF_INET6)
if sys.argv[1] == "serve":
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(at)
    s.listen()
    c, _ = s.accept()
else:
    while s.connect_ex(at) != 0:
        time.sleep(0.05)
n = 0
while True:
    n += 1
    print("progress", n, flush=True)
    time.sleep(0.05)
`
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	j.serve("server", "hostA", "/usr/bin/python3", "-u", "-c", program, "serve", own, fields[1], port)
	device := strings.Fields(c.on("hostB", "ip", "-6", "-o", "addr", "show", "scope", "link"))[1]
	j.serve("client", "hostB", "/usr/bin/python3", "-u", "-c", program, "dial", own, device, port)
	j.awaitProgress()
	f := badInput{job: j}
	f.refuseUntouched(4, []string{"is a link-local address", "connect to another address of that host", "the job runs on"}, "snapshot", j.name)
	j.MustCtl("job", "set", j.name, "--outside", "close")
	j.snapshot()
	j.end()
}

// locks has others hold locks that conflict with a member's: on the host where it is to go, on its own when the job has ended, and a member of another host that
// comes with it. CRIU would wait for them.
func (c *targets) locks() {
	const path = "/srv/locked"
	to := []string{"--remap", "hostA=hostC"}
	f := badInput{}
	for _, x := range []struct {
		kind, other, how string
		folder           bool
	}{
		{kind: "flock", other: "flock-shared", how: "exclusive lock on " + path + " (flock)"},
		{kind: "flock", other: "flock", how: "exclusive lock on " + path + " (flock)", folder: true},
		{kind: "lockf-shared", other: "ofd-lock", how: "shared lock on " + path + " (fcntl)"},
		{kind: "ofd-lock", other: "lockf", how: "exclusive lock on " + path + " (fcntl)"},
	} {
		for _, h := range c.Hosts() {
			if x.folder {
				c.on(h.Name, "mkdir", path)
			} else {
				c.on(h.Name, "sh", "-c", "echo 0123456789 > "+path)
			}
		}
		j := c.hold("hostA", x.kind, path)
		j.holdToo(c, "hostB", x.other, path)
		cut := j.snapshot().Cut
		words := []string{"conflicts with one that process", "object " + x.other, "end that"}
		other := c.stranger("hostC", x.other, path)
		f.job = j
		f.refuseUntouched(4, append(words, "hostC", x.how), "check", j.name, "--remap", "hostA=hostC")
		j.refuses(cut, to, append(words, "hostC", x.how)...)
		other.Kill()
		j.refuses(cut, []string{"--remap", "hostA=hostB"}, "hostB", "lock on "+path, "conflicts with one of", "restore them to different hosts")
		j.comesBack(cut, "hostA=hostC")
		j.MustCtl("kill", j.name)
		other = c.stranger("hostA", x.other, path)
		f.refuse(4, append(words, "hostA", x.how), "restore", cut)
		other.Kill()
		j.moved("hostC", "hostA")
		j.comesBack(cut)
		j.end()
		for _, h := range c.Hosts() {
			c.on(h.Name, "rm", "-r", path)
		}
	}
	// What does not conflict is in nobody's way.
	j := c.hold("hostA", "flock-shared", path)
	j.holdToo(c, "hostA", "flock-shared", path)
	j.holdToo(c, "hostB", "flock-shared", path)
	other := c.stranger("hostC", "lockf", path)
	cut := j.snapshot().Cut
	j.comesBack(cut)
	j.comesBack(cut, "hostA=hostC", "hostB=hostC")
	other.Kill()
	j.end()
	for _, h := range c.Hosts() {
		c.on(h.Name, "rm", "-f", path)
	}
}

// leases has others have files open on which members have leases: on the host where such a member is to go, on its own when the job has ended, and a member of another host that comes with
// it. CRIU would fail.
func (c *targets) leases() {
	const path = "/srv/leased"
	to := []string{"--remap", "hostA=hostC"}
	f := badInput{}
	for _, x := range []struct{ kind, other, how string }{
		{"lease-write", "opened", "its write lease on " + path + " can't be taken again while "},
		{"lease-read", "opened-writing", "its read lease on " + path + " can't be taken again while "},
		{"lease-read", "mapped-writing", "its read lease on " + path + " can't be taken again while "},
	} {
		for _, h := range c.Hosts() {
			c.on(h.Name, "sh", "-c", "echo 0123456789 > "+path)
		}
		j := c.hold("hostA", x.kind, path)
		j.holdToo(c, "hostB", x.other, path)
		cut := j.snapshot().Cut
		words := []string{x.how + "process ", "object " + x.other, "has the file open", "end that"}
		other := c.stranger("hostC", x.other, path)
		f.job = j
		f.refuseUntouched(4, append(words, "hostC"), "check", j.name, "--remap", "hostA=hostC")
		j.refuses(cut, to, append(words, "hostC")...)
		other.Kill()
		together := []string{"hostB", x.how, "of hostB has the file open", "restore them to different hosts"}
		j.refuses(cut, []string{"--remap", "hostA=hostB"}, together...)
		j.comesBack(cut, "hostA=hostC")
		j.MustCtl("kill", j.name)
		other = c.stranger("hostA", x.other, path)
		f.refuse(4, append(words, "hostA"), "restore", cut)
		other.Kill()
		j.moved("hostC", "hostA")
		j.comesBack(cut)
		j.end()
	}
	// Readers are in no read lease's way.
	j := c.hold("hostA", "lease-read", path)
	j.holdToo(c, "hostB", "opened", path)
	other := c.stranger("hostC", "opened", path)
	cut := j.snapshot().Cut
	j.comesBack(cut)
	j.comesBack(cut, "hostA=hostC", "hostB=hostC")
	other.Kill()
	j.end()
	for _, h := range c.Hosts() {
		c.on(h.Name, "rm", "-f", path)
	}
}

// inheritedLock attaches what a shell has started that holds a lock: the shell has the same file open, and the lock with it. So has a second program of that shell.
func (c *targets) inheritedLock() {
	const path = "/srv/inherited"
	for _, x := range []struct {
		script string
		pids   int
		words  string // "" if there is a cut
	}{
		{"exec 9>" + path + "; flock 9; sleep 100000 & echo pid $!; wait", 1, "(bash -c exec 9>"},
		{"exec 9>" + path + "; flock 9; sleep 100000 & echo pid $!; sleep 100001 & echo pid $!; exec 9>&-; wait", 2, "(sleep 10000"},
		{"exec 9>>" + path + "; flock -s 9; sleep 100000 & echo pid $!; wait", 1, ""},
		{"exec 9>" + path + "; flock 9; sleep 100000 & echo pid $!; exec 9>&-; wait", 1, ""},
	} {
		log := fmt.Sprintf("/srv/stranger-%d.log", c.made)
		c.made++
		shell := c.Host("hostA").Command(context.Background(), "setsid", "bash", "-c", x.script).LogTo(log)
		must(c.t, shell.Start())
		var pids []string
		await(c.t, "programs of the shell", func() string {
			b, _ := c.Host("hostA").ReadFile(log)
			pids = strings.Fields(strings.ReplaceAll(string(b), "pid ", ""))
			if len(pids) < x.pids {
				return fmt.Sprintf("only %q", pids)
			}
			return ""
		})
		j := c.newJob(fmt.Sprintf("target%d", c.made))
		for _, pid := range pids {
			j.MustCtl("attach", j.name, "--host", "hostA", "--pid", pid)
		}
		f := badInput{job: j}
		if x.words != "" {
			f.refuseUntouched(4, []string{path, "lock that", x.words, "have it close its descriptor", "the job runs on"}, "snapshot", j.name)
		} else {
			j.MustCtl("snapshot", j.name)
			j.MustCtl("restore", "latest", "--job", j.name, "--dry-run")
			j.MustCtl("restore", "latest", "--job", j.name)
		}
		j.end()
		shell.Kill()
	}
	c.on("hostA", "rm", path)
}

func (c *targets) fifo() {
	j := c.hold("hostA", "fifo", "/srv/fifo")
	cut := j.snapshot().Cut
	to := []string{"--remap", "hostA=hostC"}
	j.comesBack(cut, "hostA=hostC") // it is made
	if got := c.on("hostC", "stat", "-c", "%F %a", "/srv/fifo"); got != "fifo 640\n" {
		c.t.Errorf("the FIFO that was made is a %s", got)
	}
	j.moved("hostC", "hostA")
	j.comesBack(cut)
	c.on("hostC", "rm", "/srv/fifo")
	c.on("hostC", "touch", "/srv/fifo")
	j.refuses(cut, to, "hostC", "/srv/fifo is a regular file")
	c.on("hostC", "sh", "-c", "rm /srv/fifo && mkfifo -m 600 /srv/fifo")
	j.refuses(cut, to, "hostC", "/srv/fifo has the mode 0600", "chmod 640 /srv/fifo")
	c.on("hostC", "chmod", "640", "/srv/fifo")
	j.comesBack(cut, "hostA=hostC")
	j.end()
	c.on("hostC", "rm", "/srv/fifo")
}

func (c *targets) unixFolder() {
	c.on("hostA", "install", "-d", "-m", "2751", "-o", "1000", "-g", "1001", "/srv/sockets/of")
	c.on("hostA", "mkdir", "-p", "/srv/sockets")
	j := c.hold("hostA", "unix", "/srv/sockets/of/one")
	cut := j.snapshot().Cut
	to := []string{"--remap", "hostA=hostC"}
	c.on("hostC", "mkdir", "-p", "/srv/sockets/of/one")
	j.refuses(cut, to, "hostC", "/srv/sockets/of/one is a folder")
	c.on("hostC", "rmdir", "/srv/sockets/of/one")
	c.on("hostC", "touch", "/srv/sockets/of/one")
	j.refuses(cut, to, "hostC", "/srv/sockets/of/one is a regular file")
	c.on("hostC", "rm", "-r", "/srv/sockets")
	j.comesBack(cut, "hostA=hostC") // the folders are made
	if got := c.on("hostC", "stat", "-c", "%a %u %g", "/srv/sockets", "/srv/sockets/of"); got != c.on("hostA", "stat", "-c", "%a %u %g", "/srv/sockets", "/srv/sockets/of") {
		c.t.Errorf("the folders that were made: %s", got)
	}
	j.end()
	c.on("hostC", "rm", "-r", "/srv/sockets")
}

// logOfAnother has a member log to a daemon that is not a member, over a socket like /dev/log. Elsewhere it logs to that host's.
func (c *targets) logOfAnother() {
	const path = "/srv/log"
	for _, h := range c.Hosts() {
		must(c.t, os.Chmod(h.Path("/srv"), 0o755))
	}
	here := c.stranger("hostA", "log-daemon", path)
	j := c.hold("hostA", "log", path)
	cut := j.snapshot().Cut
	j.comesBack(cut)
	to := []string{"--remap", "hostA=hostC"}
	j.refuses(cut, to, "hostC", "connected to the UNIX socket "+path, "start the one that does")
	there := c.stranger("hostC", "log-daemon", path)
	// CRIU connects as root: what is root's alone, or leads where a user says, is refused.
	c.on("hostC", "chmod", "600", path)
	j.refuses(cut, to, "hostC", "connected to the UNIX socket "+path, "not every user")
	c.on("hostC", "chmod", "666", path)
	c.on("hostC", "sh", "-c", "mkdir -p /srv/users && chown 1000 /srv/users && mv "+path+" /srv/users/control && ln -s /srv/users/control "+path)
	j.refuses(cut, to, "hostC", "connected to the UNIX socket "+path, "another user than root can change")
	c.on("hostC", "mv", "/srv/users/control", path)
	log := fmt.Sprintf("/srv/stranger-%d.log", c.made-1)
	j.comesBack(cut, "hostA=hostC")
	await(c.t, "lines at the other host's daemon", func() string {
		out, err := c.Host("hostC").ReadFile(log)
		if err != nil || !strings.Contains(string(out), "received") {
			return fmt.Sprintf("%v: %s", err, lastLine(string(out)))
		}
		return ""
	})
	j.end()
	here.Kill()
	c.on("hostA", "sh", "-c", "mkdir -p /srv/users && chown 1000 /srv/users")
	users := c.stranger("hostA", "log-daemon", "/srv/users/log")
	j = c.hold("hostA", "log", "/srv/users/log")
	b := badInput{job: j}
	b.refuseUntouched(4, []string{"connected to", "another user than root can change"}, "snapshot", j.name)
	j.end()
	users.Kill()
	j = c.hold("hostA", "log-daemon", path)
	j.holdToo(c, "hostA", "log", path)
	f := badInput{job: j}
	f.refuseUntouched(4, []string{"connected to", "not part of the member"}, "snapshot", j.name)
	j.end()
	there.Kill()
}

func (c *targets) unixInUse() {
	for _, name := range []string{"/srv/socket", "@target"} {
		j := c.hold("hostA", "unix", name)
		cut := j.snapshot().Cut
		other := c.stranger("hostC", "unix", name)
		j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", name, "in use here")
		other.Kill() // a path stays where it was
		j.comesBack(cut, "hostA=hostC")
		j.end()
	}
}

func (c *targets) watchedFolder() {
	j := c.hold("hostA", "watch", "/srv/watched")
	cut := j.snapshot().Cut
	j.comesBack(cut, "hostA=hostC")
	j.end()
	c.on("hostC", "rm", "-r", "/srv/watched") // the member may have been ended with its file made and not yet removed
}

// terminals has members of two hosts come to a third, where a stranger has a terminal open. All of them have the same number.
func (c *targets) terminals() {
	j := c.hold("hostA", "pty", "")
	j.holdToo(c, "hostB", "pty", "")
	cut := j.snapshot().Cut
	other := c.stranger("hostC", "pty", "")
	j.comesBack(cut, "hostA=hostC", "hostB=hostC")
	other.Kill()
	j.comesBack(j.snapshot().Cut)
	j.end()
}

// blockedPath puts what cannot be replaced where the log of a member is to be.
func (c *targets) blockedPath() {
	c.on("hostA", "mkdir", "-p", "/srv/logs")
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	m := &member{name: "idle", host: "hostA", endless: true}
	j.members = append(j.members, m)
	path := "/srv/logs/out"
	j.MustCtl("run", j.name, "--host", "hostA", "--log", path, "--", c.object, "idle")
	grows := func() {
		c.t.Helper()
		read := func() int { b, _ := j.Host(m.host).ReadFile(path); return strings.Count(string(b), "progress") }
		before := read()
		await(c.t, "log", func() string {
			if n := read(); n < before+2 {
				return fmt.Sprint(n)
			}
			return ""
		})
	}
	grows()
	cut := j.snapshot().Cut
	f := badInput{job: j}
	refuses := func(words ...string) {
		c.t.Helper()
		f.refuseUntouched(4, append(words, "hostC", path), "restore", cut, "--remap", "hostA=hostC", "--dry-run")
		f.refuseUntouched(4, append(words, "hostC", path, "nothing was touched"), "restore", cut, "--remap", "hostA=hostC")
		grows()
	}
	c.on("hostC", "mkdir", "-p", path)
	refuses("a folder stands there")
	c.on("hostC", "rmdir", path)
	c.on("hostC", "rmdir", "/srv/logs")
	c.on("hostC", "touch", "/srv/logs")
	refuses("/srv/logs is a regular file")
	c.on("hostC", "rm", "/srv/logs")
	c.on("hostC", "mkdir", "/srv/logs")
	c.on("hostC", "mount", "-t", "tmpfs", "-o", "ro", "none", "/srv/logs")
	refuses("read-only")
	c.on("hostC", "umount", "/srv/logs")
	if immutable(c.Host("hostC").Path("/srv/logs"), true) == nil {
		refuses("immutable", "chattr -i")
		must(c.t, immutable(c.Host("hostC").Path("/srv/logs"), false))
	} else {
		c.t.Log("root may make no file immutable here (CAP_LINUX_IMMUTABLE): that was not tried")
	}
	c.on("hostC", "rmdir", "/srv/logs")
	j.MustCtl("restore", cut, "--remap", "hostA=hostC")
	m.host = "hostC"
	grows()
	j.end()
}

// modeOfPath gives the working folder of a member another mode on the host where it is to go: CRIU compares modes.
func (c *targets) modeOfPath() {
	for _, h := range []string{"hostA", "hostC"} {
		c.on(h, "sh", "-c", "mkdir -p /srv/work && chmod 750 /srv/work")
	}
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	m := &member{name: "idle", host: "hostA", endless: true}
	j.members = append(j.members, m)
	j.MustCtl("run", j.name, "--host", "hostA", "--cwd", "/srv/work", "--log", j.logPath(m), "--", c.object, "idle")
	j.awaitProgress()
	cut := j.snapshot().Cut
	c.on("hostC", "chmod", "755", "/srv/work")
	j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", "/srv/work has the mode 0755, and had 0750", "chmod 750 /srv/work")
	c.on("hostC", "chmod", "750", "/srv/work")
	j.comesBack(cut, "hostA=hostC")
	j.end()
	c.on("hostC", "rmdir", "/srv/work")
}

// oneFile restores two members to one host whose logs have one path.
func (c *targets) oneFile() {
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	for _, h := range []string{"hostA", "hostB"} {
		m := &member{name: "same", host: h, endless: true}
		j.members = append(j.members, m)
		j.MustCtl("run", j.name, "--host", h, "--log", j.logPath(m), "--", c.object, "idle")
	}
	j.awaitProgress()
	cut := j.snapshot().Cut
	j.refuses(cut, []string{"--remap", "hostA=hostB"}, "hostB", "the file "+j.logPath(j.members[0])+" would be", "restore them to different hosts")
	j.comesBack(cut, "hostA=hostC")
	j.end()
}

// writtenFile restores a member whose log is another job's by now. Where both live on one host, no snapshot of either could be put back.
func (c *targets) writtenFile() {
	j := c.hold("hostA", "idle", "")
	cut := j.snapshot().Cut
	c.made++
	beside := c.newJob(fmt.Sprintf("target%d", c.made))
	beside.MustCtl("run", beside.name, "--host", "hostA", "--log", j.logPath(j.members[0]), "--", c.object, "idle")
	j.refusedEarly(j.logPath(j.members[0]), "member hostA-1 of job "+beside.name+" has it open for writing")
	beside.end()
	j.snapshot()
	c.made++
	other := c.newJob(fmt.Sprintf("target%d", c.made))
	other.MustCtl("run", other.name, "--host", "hostC", "--log", j.logPath(j.members[0]), "--", c.object, "idle")
	j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", j.logPath(j.members[0]), "member hostC-1 of job "+other.name+" has it open for writing")
	other.end()
	j.comesBack(cut, "hostA=hostC")
	j.end()
}

// unreached cuts two hosts off from each other; ssctl reaches both.
func (c *targets) unreached() {
	j := c.hold("hostA", "idle", "")
	j.holdToo(c, "hostB", "idle", "")
	cut := j.snapshot().Cut
	addr := c.Host("hostA").Addr().String()
	c.on("hostC", "ip", "route", "add", "unreachable", addr)
	j.refuses(cut, []string{"--remap", "hostB=hostC"}, "hostC", "does not reach the agent of hostA at "+addr)
	c.on("hostC", "ip", "route", "del", "unreachable", addr)
	j.comesBack(cut, "hostB=hostC")
	j.end()
}

// anotherNetwork moves a connection to a host that has no address on its network, and a bridge whose network looks alike.
func (c *targets) anotherNetwork() {
	c.on("hostA", "ip", "addr", "add", "172.18.0.1/24", "dev", "eth0")
	c.on("hostB", "ip", "addr", "add", "172.18.0.2/24", "dev", "eth0")
	c.on("hostC", "sh", "-c", "ip link add docker0 type bridge && ip link set docker0 up && ip addr add 172.17.0.1/16 dev docker0")
	defer func() {
		c.on("hostA", "ip", "addr", "del", "172.18.0.1/24", "dev", "eth0")
		c.on("hostB", "ip", "addr", "del", "172.18.0.2/24", "dev", "eth0")
		c.on("hostC", "ip", "link", "del", "docker0")
	}()
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	j.program("serve", "hostB", "words", "serve", "-listen", "172.18.0.2:9320")
	j.program("connect", "hostA", "words", "connect", "-to", "172.18.0.2:9320", "-until", j.stop)
	j.awaitProgress()
	cut := j.snapshot().Cut
	j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", "172.18.0.1, which is on none of its networks", "172.17.0.1/16", "--remap-addr 172.18.0.1=ADDRESS")
	c.on("hostC", "sh", "-c", "ip addr add 198.51.100.3/24 dev eth0 && ip route add 172.18.0.0/24 dev eth0")
	c.on("hostB", "ip", "route", "add", "198.51.100.0/24", "dev", "eth0")
	j.comesBack(cut, "hostA=hostC", "172.18.0.1=198.51.100.3")
	c.mustPass(j)
	j.finish()
	j.end()
	c.on("hostB", "ip", "route", "del", "198.51.100.0/24", "dev", "eth0")
	c.on("hostC", "sh", "-c", "ip route del 172.18.0.0/24 dev eth0; ip addr del 198.51.100.3/24 dev eth0")
}

// mustPass ends the test if words do not pass.
func (c *targets) mustPass(j *job) {
	c.t.Helper()
	j.mustFlow("on another network", soon)
}

// TestHostIsBack needs root. A host that lost its power is back with another agent: the others' connections to the old one are stale, which the
// first restore onto it must not find out when it has ended members.
func TestHostIsBack(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	for i := range targetRounds(t) {
		j := c.newJob(fmt.Sprintf("back%d", i))
		startWords(j)
		j.awaitProgress()
		cut := j.snapshot()
		j.awaitProgress()
		c.Host("hostA").PowerOff()
		c.Host("hostA").PowerOn()
		c.Agent("hostA").Start()
		j.restore(cut.Cut)
		j.awaitProgress()
		j.finish()
		j.end()
	}
	c.checkLeaks()
}

// immutable sets or takes the attribute of a file or folder that keeps everyone from changing it.
func immutable(path string, on bool) error {
	sign := "-i"
	if on {
		sign = "+i"
	}
	return exec.CommandContext(context.Background(), "chattr", sign, path).Run()
}

// numberOfDevice has a packet socket on a device that has another number elsewhere. CRIU would bind it to whatever has that number.
func (c *targets) numberOfDevice() {
	c.on("hostA", "ip", "link", "add", "captured", "type", "bridge")
	c.on("hostC", "ip", "link", "add", "other1", "type", "bridge")
	c.on("hostC", "ip", "link", "add", "captured", "type", "bridge")
	j := c.hold("hostA", "capture", "captured")
	cut := j.snapshot().Cut
	j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", "hostA-1: ", "a packet socket of it is bound to the network device captured")
	j.comesBack(cut)
	c.on("hostA", "ip", "link", "del", "captured")
	j.refuses(cut, nil, "hostA", "this host has none of that number")
	j.end()
	c.on("hostC", "ip", "link", "del", "other1")
	c.on("hostC", "ip", "link", "del", "captured")
}
