package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// What this program is called, as argv[0] shows it, when it is the PID 1 of the namespaces of a bare restore, and when it is the one
// that starts that PID 1: a PID namespace can only be made by a process that is in its parent wholly (clone(2), EINVAL).
const (
	cellName  = "ssbench-cell"
	makerName = "ssbench-cell-maker"
)

func init() {
	var err error
	switch os.Args[0] {
	case makerName:
		err = makerMain()
	case cellName:
		err = cellMain()
	default:
		return
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func makerMain() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.Background(), exe)
	cmd.Args = []string{cellName}
	cmd.Env = os.Environ()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC, Setsid: true}
	return cmd.Run()
}

// cellMain prepares its namespaces as an agent's cell does, says so, and lives until its standard input ends. The kernel
// kills with it what was restored there. CRIU's own PIDs lie below those of members, which begin at 1001.
func cellMain() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if _, err := fmt.Println("ok"); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // it ends with its owner
	return nil
}

// startCell makes PID, mount and IPC namespaces on a host and returns how to end them, and their PID 1's folder in /proc.
func (j *job) startCell(h *lab.Host) (end func(), proc string) {
	end, proc, err := startCell(h)
	if err != nil {
		j.Fatalf("make a cell on %s: %v", h.Name, err)
	}
	return end, proc
}

func startCell(h *lab.Host) (end func(), proc string, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	in, hold, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	defer in.Close()
	said, say, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	defer said.Close()
	cmd := h.Command(context.Background(), exe)
	cmd.Args = []string{makerName}
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, say, say
	if err := errors.Join(cmd.Start(), say.Close()); err != nil {
		return nil, "", err
	}
	end = func() {
		_ = hold.Close() // which ends PID 1 and then its maker
		_ = cmd.Wait()   // how they ended says nothing of the restore
	}
	answer := make([]byte, 200)
	n, err := said.Read(answer)
	if string(answer[:n]) != "ok\n" {
		end()
		return nil, "", fmt.Errorf("it said: %s (%w)", answer[:n], err)
	}
	pid, err := onlyChild(cmd.Pid())
	if err != nil {
		end()
		return nil, "", err
	}
	return end, "/proc/" + pid, nil
}

// onlyChild is the PID of the one child that a process has.
func onlyChild(pid int) (string, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return "", err
	}
	var all []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		all = append(all, strings.Fields(string(data))...)
	}
	if len(all) != 1 {
		return "", fmt.Errorf("process %d has %d children, want 1", pid, len(all))
	}
	return all[0], nil
}
