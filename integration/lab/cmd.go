package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// pipeGrace is how long a Cmd's output may stay open after the command has ended: a child of it may have
// inherited it.
const pipeGrace = 2 * time.Second

// hostNamespaces are the namespaces that make a host.
const hostNamespaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// inside runs fn on a thread that is in the host's namespaces; what fn starts lives on the host. The
// thread's working directory is /.
func (h *Host) inside(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine and takes the foreign namespaces with it.
		runtime.LockOSThread()
		done <- func() error {
			// setns(2) refuses a mount namespace to a thread that shares its root and working directory with others.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			if err := unix.Setns(h.pidfd, hostNamespaces); err != nil {
				return fmt.Errorf("enter %s: %w", h.Name, err)
			}
			return fn()
		}()
	}()
	return <-done
}

// Cmd is an exec.Cmd that runs on a host. It is used like one, but for three things: Start, Run, Output, CombinedOutput and
// Wait are its own; StdoutPipe and StderrPipe must not be used (set Stdout and Stderr instead), since the
// lab itself waits for the command, lest a zombie keep a dying host's PID namespace alive; and Dir "" means /.
type Cmd struct {
	*exec.Cmd

	host *Host
	log  string
	done chan struct{}
	err  error
}

// Command prepares a program to be run on the host. When ctx ends, it is killed. The program is looked up on the machine, whose
// files all hosts share but for the private folders.
func (h *Host) Command(ctx context.Context, args ...string) *Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = pipeGrace
	return &Cmd{Cmd: cmd, host: h, done: make(chan struct{})}
}

// LogTo sends standard output and error to a file of the host, appended. The file is opened on the host, so CRIU
// can find it there, which is not so for a descriptor handed in from elsewhere.
func (c *Cmd) LogTo(path string) *Cmd {
	c.log = path
	return c
}

// Start starts the command on its host.
func (c *Cmd) Start() error {
	err := c.host.inside(func() error {
		if c.log != "" {
			f, err := os.OpenFile(c.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
			if err != nil {
				return fmt.Errorf("open log: %w", err)
			}
			defer f.Close()
			c.Stdout, c.Stderr = f, f
		}
		return c.Cmd.Start()
	})
	if err != nil {
		return fmt.Errorf("start %s on %s: %w", c.Path, c.host.Name, err)
	}
	go func() {
		c.err = c.Cmd.Wait()
		close(c.done)
	}()
	return nil
}

// Wait returns when the command has ended, with what exec.Cmd.Wait returned. It may be called more than once.
func (c *Cmd) Wait() error {
	<-c.done
	return c.err
}

// Done is closed when the command has ended.
func (c *Cmd) Done() <-chan struct{} { return c.done }

// Pid is the command's process ID as the machine sees it.
func (c *Cmd) Pid() int { return c.Process.Pid }

// Kill ends the command with SIGKILL and waits for its end.
func (c *Cmd) Kill() {
	_ = c.Process.Kill() // it may have ended; then there is nothing to kill
	<-c.done
}

// Run starts the command and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output. A failure quotes its standard error.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("%s: %w: %s", c.Path, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// CombinedOutput runs the command and returns its standard output and error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// exitCode says how a command that was waited for has ended; -1 means that a signal ended it.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	default:
		return -1, err
	}
}
