package criu

import (
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ss/agent"
	"ss/agent/criu/image"
	"ss/agent/proc"
	"ss/fault"
)

// What is in a cell's IPC namespace is dumped when there is something. What comes there between the start of CRIU and the freeze ends the attempt, and
// the next one has it. Needs root and CRIU.
func TestIPCNamespaceIsDumpedIfItHoldsSomething(t *testing.T) {
	r := newRunner(t)
	c := startIn(t, nil, false, nil, "parent")
	dir := dumpCell(t, r, c)
	if image.HoldsIPC(dir) {
		t.Error("an empty namespace is in the images")
	}
	c.thaw()
	d, err := r.StartDump(testContext(t), agent.DumpSpec{Unit: unit(c.member), Dir: imageDir(t), LockFile: lockFile(t)})
	if err != nil {
		t.Fatal(err)
	}
	inIPC(t, c.member.InitPid, makeQueue)
	c.freeze()
	if _, err := d.Run(testContext(t), uncounted, func() {}); !fault.Is(err, fault.Unsettled) || !strings.Contains(err.Error(), "System V") {
		t.Errorf("a message queue was made: %v", err)
	}
	if err := d.Cancel(testContext(t)); err != nil {
		t.Error(err)
	}
	c.thaw()
	if dir = dumpCell(t, r, c); !image.HoldsIPC(dir) {
		t.Error("the message queue is not in the images")
	}
	c.kill()
	c2, s := restoreCell(t, r, nil, false, dir)
	if err := s.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	c2.adopt(strconv.Itoa(s.InnerPid()))
	if text, plain, err := plainIPC(c2.member.Pid); err != nil || plain || !strings.Contains(text["/proc/sysvipc/msg"], strconv.Itoa(testKey)) {
		t.Errorf("the restored namespace: %v, %v, %q", plain, err, text["/proc/sysvipc/msg"])
	}
}

const testKey = 0x5354

func makeQueue() error {
	if _, _, errno := unix.Syscall(unix.SYS_MSGGET, testKey, unix.IPC_CREAT|0o600, 0); errno != 0 {
		return errno
	}
	return nil
}

// inIPC does something in the IPC namespace of a process.
func inIPC(t *testing.T, pid int, do func() error) {
	t.Helper()
	ns, err := unix.Open(proc.Path(pid, "ns/ipc"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ns)
	if _, err := inThread(func() error {
		if err := unix.Setns(ns, unix.CLONE_NEWIPC); err != nil {
			return err
		}
		return do()
	}); err != nil {
		t.Fatal(err)
	}
}
