package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Of ioctl(2), include/uapi/linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// freezeFileSystem has all who write to a file system wait, until the function that it returns is called, or for five minutes if the test is killed.
func freezeFileSystem(t *testing.T, at string) (thaw func()) {
	t.Helper()
	guard := exec.CommandContext(context.Background(), "sh", "-c", `sleep 300; exec fsfreeze -u "$0"`, at)
	guard.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	must(t, guard.Start())
	dir, err := os.Open(at)
	must(t, err)
	must(t, unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0))
	done := false
	thaw = func() {
		if done {
			return
		}
		done = true
		must(t, unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0))
		must(t, dir.Close())
		_ = unix.Kill(-guard.Process.Pid, unix.SIGKILL)
		_ = guard.Wait() // it was killed
	}
	t.Cleanup(thaw)
	return thaw
}

// refusedEarly has check and snapshot say the words on one line, and neither stop anything.
func (j *job) refusedEarly(words ...string) {
	j.t.Helper()
	for _, args := range [][]string{{"check", j.name}, {"snapshot", j.name}} {
		stdout, stderr, exit := j.Ctl(args...)
		if exit != 4 || frozen.MatchString(stderr) {
			j.t.Errorf("%v: exit code %d\n%s%s", args, exit, stdout, stderr)
		}
		if !slices.ContainsFunc(strings.Split(stdout+stderr, "\n"), func(line string) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
		}) {
			j.t.Errorf("%v: no line with %q in:\n%s%s", args, words, stdout, stderr)
		}
	}
}

// TestWaitsThatDoNotEnd needs root, gcc, btrfs-progs and a loop device. A process that waits in the kernel where nothing can stop it is refused before the
// freeze, with what it waits for. When the wait is over, a snapshot succeeds.
func TestWaitsThatDoNotEnd(t *testing.T) {
	disk := btrfs(t, 200<<20)
	c := newCluster(t, "hostA", "hostB")
	lines, stuck := c.compile("lines"), c.compile("stuck")
	for _, row := range []struct {
		name    string
		command []string
		before  bool // the wait can begin with the member
		begin   func(t *testing.T) (end func())
		words   []string
	}{
		{
			name: "frozen", command: []string{lines, disk + "/f", "append"},
			begin: func(t *testing.T) func() { return freezeFileSystem(t, disk) },
			words: []string{"(" + lines, "waits in the kernel", disk + "/f (descriptor 3)", "Fix it"},
		},
		{
			name: "fuse", command: []string{stuck, "ask", "/srv/fuse"}, before: true,
			begin: func(t *testing.T) func() { return c.serveFUSE(t, stuck, "/srv/fuse") },
			words: []string{stuck + " ask", "waits in the kernel", "request_wait_answer", "end the process"},
		},
		{
			name: "vfork", command: []string{stuck, "vfork", "/srv/go-on"}, before: true,
			begin: func(t *testing.T) func() {
				return func() { must(t, c.Host("hostA").WriteFile("/srv/go-on", nil)) }
			},
			words: []string{stuck + " vfork", "waits for its child", "(vfork)", "calls exec or ends"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := &cluster{Lab: c.Lab, t: t}
			j := c.newJob(row.name)
			j.serve("beside", "hostB", lines, "/srv/beside-"+row.name, "append") // it runs on all the time
			var end func()
			if row.before {
				end = row.begin(t)
			}
			j.serve("waits", "hostA", row.command...)
			if !row.before {
				j.awaitProgress()
				end = row.begin(t)
			}
			await(t, "a wait", func() string { return c.waitless("hostA", filepath.Base(row.command[0])) })
			j.refusedEarly(append(row.words, "process ")...)
			end()
			j.awaitProgress()
			cut := j.snapshot().Cut
			j.restore(cut)
			j.awaitProgress()
			j.end()
			if row.name == "fuse" {
				c.inHost("hostA", "umount", "/srv/fuse")
			}
		})
	}
	c.checkLeaks()
}

// serveFUSE mounts a file system on hostA whose server answers nothing, until the function that it returns is called. It stays mounted.
func (c *cluster) serveFUSE(t *testing.T, program, folder string) (end func()) {
	t.Helper()
	c.inHost("hostA", "mkdir", folder)
	server := c.Host("hostA").Command(context.Background(), program, "fuse", folder).LogTo(c.Host("hostA").Path("/srv/fuse.log"))
	must(t, server.Start())
	await(t, "the file system", func() string {
		log, _ := c.Host("hostA").ReadFile("/srv/fuse.log") // it comes with the first line
		if !strings.Contains(string(log), "serving") {
			return string(log)
		}
		return ""
	})
	return server.Kill // which ends all that waits, with an error
}

// waitless says that no process of the program waits where only the kernel can wake it; "" if one does.
func (c *cluster) waitless(host, program string) string {
	for _, pid := range c.instances(host, program) {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // gone: it reads as empty
		wchan, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
		if strings.Contains(string(stat), ") D ") || string(wchan) == "request_wait_answer" {
			return ""
		}
	}
	return program + " does not wait"
}

// TestWatchesOnOverlays needs root and gcc. CRIU finds what inotify watches by the handle that the file system gave. Most overlay file systems give handles that
// they do not know again: refused before the freeze. One that is mounted with nfs_export does, and the watch comes back.
func TestWatchesOnOverlays(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	program := c.compileZoo()
	for _, row := range []struct{ name, options string }{{"plain", ""}, {"exported", ",index=on,nfs_export=on"}} {
		t.Run(row.name, func(t *testing.T) {
			c := &cluster{Lab: c.Lab, t: t}
			dir := "/srv/" + row.name
			c.inHost("hostA", "sh", "-ec", `mkdir -p "$0/lower" "$0/upper" "$0/work" /srv/zoo
mount -t overlay zoo -o "lowerdir=$0/lower,upperdir=$0/upper,workdir=$0/work$1" /srv/zoo`, dir, row.options)
			defer c.inHost("hostA", "umount", "/srv/zoo")
			j := c.newJob(row.name)
			j.serve("beside", "hostB", "sleep", "1000005")
			modes := []string{"inotify", "fanotify"}
			j.serve("zoo", "hostA", append([]string{program, "all"}, modes...)...)
			j.zooSays(j.members[1], modes, "ready")
			if row.options == "" {
				j.refusedEarly("(zoo inotify)", "(inotify, descriptor 3)", "overlay file system at /srv/zoo", "another file system")
				j.refusedEarly("(zoo fanotify)", "(fanotify, descriptor 3)", "overlay file system at /srv/zoo", "nfs_export=on")
				c.askZoo("hostA", program)
				j.zooSays(j.members[1], modes, "ok")
			} else {
				j.restore(j.snapshot().Cut)
				c.askZoo("hostA", program)
				j.zooSays(j.members[1], modes, "ok")
			}
			j.end()
		})
	}
	c.checkLeaks()
}

// TestClockSkew needs root. Where the clocks of hosts differ, check says so, with the host and by how much. A snapshot, a restore and a move are right all the same.
func TestClockSkew(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	j := c.newJob("words")
	startWords(j)
	j.awaitProgress()
	c.Agent("hostB").SkewClock(3600)
	c.Agent("hostC").SkewClock(-30)
	_, said, exit := c.Ctl("check", "words", "--remap", "hostB=hostC")
	if exit != 4 || strings.Contains(said, "hostA: ") {
		t.Errorf("exit code %d:\n%s", exit, said)
	}
	for _, words := range []string{"2 problems", "hostB: its clock differs from this one's by 1h0m", "hostC: its clock differs from this one's by -", "set it"} {
		if !strings.Contains(said, words) {
			t.Errorf("no %q in:\n%s", words, said)
		}
	}
	cut := j.snapshot().Cut
	j.mustFlow("after a snapshot", soon)
	j.restore(cut)
	j.mustFlow("after a restore", soon)
	j.restore(cut, "hostB=hostC")
	j.mustFlow("after a move", soon)
	j.finish()
	j.end()
	c.checkLeaks()
}

// TestMidstreamTracking needs root. Where a firewall drops what its connection tracking has not seen begin (nf_conntrack_tcp_loose=0), connections that move would
// stand still: a restore there is refused before anything is touched. With the setting that the message names, they flow.
func TestMidstreamTracking(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	j := c.newJob("words")
	startWords(j)
	j.awaitProgress()
	cut := j.snapshot().Cut
	setting := "net.netfilter.nf_conntrack_tcp_loose="
	c.inHost("hostC", "sysctl", "-w", setting+"0")
	must(t, c.Host("hostC").DropInvalid())
	words := []string{"hostC: ", "would stand still", "connection tracking", "sysctl -w " + setting + "1"}
	f := badInput{job: j}
	f.refuseUntouched(4, words, "check", "words", "--remap", "hostB=hostC")
	j.refuses(cut, []string{"--remap", "hostB=hostC"}, words...)
	c.inHost("hostC", "sysctl", "-w", setting+"1")
	j.restore(cut, "hostB=hostC")
	j.mustFlow("after a move", soon)
	c.inHost("hostC", "sysctl", "-w", setting+"0")
	j.mustFlow("with the setting as it was", soon)
	j.finish()
	j.end()
	must(t, c.Host("hostC").DropNothing())
	c.checkLeaks()
}

// TestFIFOsToOthers needs root. A FIFO that a program outside of the member has open is refused before the freeze, with both programs; without that program the
// member is recorded.
func TestFIFOsToOthers(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	c.inHost("hostA", "mkfifo", "/srv/pipe")
	j := c.newJob("pipes")
	j.serve("beside", "hostB", "sleep", "1000005")
	j.serve("writer", "hostA", "sh", "-c", "exec 3<>/srv/pipe; while echo; echo progress 1; do echo line >&3; read line <&3; sleep 0.05; done")
	j.awaitProgress()
	reader := c.Host("hostA").Command(context.Background(), "sh", "-c", "exec sleep 1000006 </srv/pipe")
	must(t, reader.Start())
	await(t, "the reader", func() string {
		if len(c.instances("hostA", "sleep")) == 0 {
			return "it has not begun"
		}
		return ""
	})
	j.refusedEarly("process ", "has the FIFO /srv/pipe open (descriptor 3)", "sleep 1000006", "not part of the member", "have it use a file")
	reader.Kill()
	j.awaitProgress()
	j.restore(j.snapshot().Cut)
	j.awaitProgress()
	j.end()
	c.checkLeaks()
}
