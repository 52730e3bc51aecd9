package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

// initName is the name, as argv[0] shows it, of the PID 1 of every host. A program that links this package and is started
// under that name becomes one instead of what it is.
const initName = "sslab-init"

// bootSpec tells a PID 1 what to make of its fresh namespaces. It arrives on standard input, which stays
// open as long as the process that made the lab lives.
type bootSpec struct {
	Hostname string
	Binds    map[string]string // mount point → folder on the machine
	Tmpfs    []string          // mount points
}

func init() {
	if os.Args[0] != initName {
		return
	}
	if err := runInit(); err != nil {
		fmt.Fprintf(os.NewFile(3, "ready"), "%v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runInit is a host's PID 1: it prepares the namespaces, says so on descriptor 3, and then reaps until standard
// input ends. When it ends, the kernel kills whatever else runs in its PID namespace.
func runInit() error {
	if os.Getpid() != 1 {
		return errors.New("a host's init must be PID 1 of a PID namespace of its own")
	}
	// The terminal's and the members' signals are none of its business; SIGKILL from outside still works.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)

	var spec bootSpec
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&spec); err != nil {
		return fmt.Errorf("read boot specification: %w", err)
	}
	if err := spec.apply(); err != nil {
		return err
	}
	ready := os.NewFile(3, "ready")
	if _, err := ready.WriteString("ok\n"); err != nil {
		return fmt.Errorf("report readiness: %w", err)
	}
	if err := ready.Close(); err != nil {
		return fmt.Errorf("report readiness: %w", err)
	}

	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	off := make(chan struct{})
	go func() {
		defer close(off)
		_, _ = io.Copy(io.Discard, os.Stdin) // ends, one way or the other, with its owner
	}()
	for {
		reap()
		select {
		case <-died:
		case <-off:
			return nil
		}
	}
}

// reap collects every orphan that has ended.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

// apply gives the namespaces their host name and mounts.
func (b bootSpec) apply() error {
	if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
		return fmt.Errorf("set host name %s: %w", b.Hostname, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for at, from := range b.Binds {
		if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", from, at, err)
		}
	}
	for _, at := range b.Tmpfs {
		mode := "mode=0755"
		if strings.HasPrefix(at, "/dev/") {
			mode = "mode=1777"
		}
		if err := unix.Mount("sslab", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, mode); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", at, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}
