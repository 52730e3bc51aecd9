package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// childRole is the first argument of a child. The second is "threads" or "plain"; it reads from descriptor 3 and writes to
// descriptor 4.
const childRole = "child"

// family is a parent's two children and the ends of the pipes that it holds.
type family struct {
	children []*exec.Cmd
	in       *os.File // into the first child
	out      *os.File // out of the second
}

// plant starts the children and connects all of them.
func plant(log io.Writer) (f *family, err error) {
	firstRead, firstWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	lastRead, lastWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	left, right := os.NewFile(uintptr(pair[0]), "left"), os.NewFile(uintptr(pair[1]), "right")
	// The children's ends are theirs alone: whoever loses its writer is to notice.
	defer func() {
		for _, file := range []*os.File{firstRead, left, right, lastWrite} {
			err = errors.Join(err, file.Close())
		}
	}()
	f = &family{in: firstWrite, out: lastRead}
	if err := f.start(log, "threads", firstRead, left); err != nil {
		return nil, err
	}
	if err := f.start(log, "plain", right, lastWrite); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *family) start(log io.Writer, kind string, from, to *os.File) error {
	child := exec.Command("/proc/self/exe", childRole, kind)
	child.Stdout, child.Stderr = log, log
	child.ExtraFiles = []*os.File{from, to}
	if err := child.Start(); err != nil {
		return fmt.Errorf("start a child: %w", err)
	}
	f.children = append(f.children, child)
	return nil
}

func (f *family) pids() []int {
	var pids []int
	for _, child := range f.children {
		pids = append(pids, child.Process.Pid)
	}
	return pids
}

// wait closes the parent's ends and returns when the children have ended.
func (f *family) wait() error {
	failures := []error{f.in.Close(), f.out.Close()}
	for _, child := range f.children {
		if err := child.Wait(); err != nil {
			failures = append(failures, fmt.Errorf("child %d: %w", child.Process.Pid, err))
		}
	}
	return errors.Join(failures...)
}

// runChild is a child's whole life.
func runChild(args []string) (summary string, err error) {
	in := &station{name: "child", from: os.NewFile(3, "in")}
	out := os.NewFile(4, "out")
	if len(args) == 1 && args[0] == "threads" {
		err = throughThreads(in, out)
	} else {
		err = relay(in, out)
	}
	return fmt.Sprintf("messages=%d", in.next), err
}

// throughThreads relays messages through two operating system threads, which hand them over in memory.
func throughThreads(in *station, out io.Writer) error {
	handed := make(chan uint64)
	sent := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		sent <- func() error {
			var expected uint64
			for number := range handed {
				if number != expected && number != endNumber {
					return fmt.Errorf("thread: message %d came, want %d", number, expected)
				}
				expected++
				if err := send(out, number); err != nil {
					return err
				}
			}
			return nil
		}()
		for range handed { // after a failure nobody is to wait for this thread
		}
	}()
	runtime.LockOSThread()
	for {
		number, end, err := in.receive()
		if err != nil {
			close(handed)
			return errors.Join(err, <-sent)
		}
		handed <- number
		if end {
			close(handed)
			return <-sent
		}
	}
}
