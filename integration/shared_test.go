package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// giving is a program that passes what it makes to another one over a UNIX socket, which both close, and then works on.
const giving = `import ctypes, mmap, os, socket, sys, time
side, path, kind = sys.argv[1:4]
libc = ctypes.CDLL(None)
make = {"memfd": lambda: os.memfd_create("shared"), "mapped": lambda: os.memfd_create("shared"), "eventfd": lambda: libc.eventfd(0, 0),
    "timerfd": lambda: libc.timerfd_create(1, 0), "epoll": lambda: libc.epoll_create1(0), "inotify": lambda: libc.inotify_init1(0)}[kind]
s = socket.socket(socket.AF_UNIX)
if side == "give":
    fd = make()
    if kind in ("memfd", "mapped"):
        os.ftruncate(fd, 4096)
    s.bind(path)
    s.listen()
    c, _ = s.accept()
    socket.send_fds(c, [b"x"], [fd])
    c.recv(1)
    c.close()
    os.unlink(path)
else:
    while s.connect_ex(path) != 0:
        time.sleep(0.05)
    fd = socket.recv_fds(s, 1, 1)[1][0]
    s.send(b"x")
s.close()
if kind == "mapped":
    m = mmap.mmap(fd, 4096)
    os.close(fd)
    # mmap keeps a duplicate of the descriptor
    for name in os.listdir("/proc/self/fd"):
        try:
            if "memfd" in os.readlink("/proc/self/fd/" + name):
                os.close(int(name))
        except OSError:
            pass
n = 0
while True:
    n += 1
    print("\nprogress", n, flush=True)
    time.sleep(0.05)
`

// TestSharedIsRefused needs root. What two members share, each CRIU would restore for itself: a snapshot is refused before the freeze. What does no harm is allowed.
func TestSharedIsRefused(t *testing.T) {
	withoutRace(t)
	c := newTargets(t, "hostA", "hostB")
	defer c.relay.close()
	for kind, words := range map[string]string{
		"memfd": "/memfd:shared", "mapped": "/memfd:shared", "eventfd": "the same eventfd open", "timerfd": "the same timerfd", "epoll": "the same eventpoll", "inotify": "the same inotify",
	} {
		c.play(t, kind, func(c *targets) { c.given(kind, words) })
	}
	c.play(t, "one position", func(c *targets) {
		c.childrenOfOneShell(">", "one position", "start both as one member", ">> in a shell")
	})
	c.play(t, "appended", func(c *targets) { c.childrenOfOneShell(">>") })
	c.play(t, "one log", (*targets).oneLog)
	if !t.Failed() {
		c.checkLeaks()
	}
}

func (c *targets) given(kind, words string) {
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	for _, side := range []string{"give", "take"} {
		j.serve(side, "hostA", "/usr/bin/python3", "-u", "-c", giving, side, "/srv/give.sock", kind)
	}
	await(c.t, "both members", func() string {
		for _, m := range j.members {
			if log := j.log(m); !strings.Contains(log, "\nprogress 2\n") {
				return m.name + ": " + log
			}
		}
		return ""
	})
	f := badInput{job: j}
	f.refuseUntouched(4, []string{words, "part of another member", "start both as one member", "the job runs on"}, "snapshot", j.name)
	f.refuseUntouched(4, []string{words}, "check", j.name)
	j.awaitProgress()
	j.end()
}

// childrenOfOneShell attaches two programs that a shell, which goes on, has started with one output. Without words that is allowed, and both come back.
func (c *targets) childrenOfOneShell(redirect string, words ...string) {
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	out := "/srv/" + j.name + ".log"
	script := fmt.Sprintf("exec %s %s 2>&1 < /dev/null; for i in 1 2; do setsid %s idle & echo $! > /srv/%s.$i; done; wait", redirect, out, c.object, j.name)
	shell := c.Host("hostA").Command(context.Background(), "/bin/sh", "-c", script).LogTo("/srv/" + j.name + "-shell.log")
	shell.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := shell.Start(); err != nil {
		c.t.Fatal(err)
	}
	defer shell.Kill()
	lines := func() int {
		b, _ := c.Host("hostA").ReadFile(out)
		return strings.Count(string(b), "progress ")
	}
	more := func() {
		c.t.Helper()
		before := lines()
		await(c.t, "more lines in "+out, func() string {
			if now := lines(); now < before+10 {
				return fmt.Sprint(now)
			}
			return ""
		})
	}
	more()
	for i := range 2 {
		pid := strings.TrimSpace(c.on("hostA", "cat", fmt.Sprintf("/srv/%s.%d", j.name, i+1)))
		j.MustCtl("attach", j.name, "--host", "hostA", "--pid", pid)
	}
	if words != nil {
		f := badInput{job: j}
		f.refuseUntouched(4, append(words, out, "the job runs on"), "snapshot", j.name)
	} else {
		j.MustCtl("snapshot", j.name)
		j.MustCtl("restore", "latest", "--job", j.name)
	}
	more()
	j.end()
}

// oneLog has two members write one log, which the agent opens for each.
func (c *targets) oneLog() {
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	log := "/srv/" + j.name + "-one.log"
	for range 2 {
		j.MustCtl("run", j.name, "--host", "hostA", "--log", log, "--", c.object, "idle")
	}
	j.members = append(j.members, &member{name: "one", host: "hostA", endless: true})
	j.awaitProgress()
	j.MustCtl("snapshot", j.name)
	j.MustCtl("restore", "latest", "--job", j.name)
	j.awaitProgress()
	j.end()
}
