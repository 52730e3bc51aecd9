package cell

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// execArg is the first argument of InitCommand in the process that becomes a member's root. A label of a member has a slash.
const execArg = "exec"

// forkExec starts the member's root and returns its PID. The root adopts what its descendants leave behind, so that a daemon that has left its parent
// stays in the tree that CRIU dumps: PID 1 is not in it. A process can only make itself such a reaper (prctl(2), PR_SET_CHILD_SUBREAPER; it stays one when it executes
// another program), so what is forked is this program, which then executes the command.
func forkExec(path string, command []string, attr *syscall.ProcAttr) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make a pipe: %w", err)
	}
	defer r.Close()
	defer w.Close()
	// What comes before the subcommand is how this program is called.
	self := slices.Clone(os.Args[:slices.Index(os.Args, InitCommand)+1])
	attr.Files = append(attr.Files, w.Fd())
	pid, err := syscall.ForkExec(proc.Path(proc.Self, "exe"), append(append(self, execArg, path), command...), attr)
	if err != nil {
		return 0, fmt.Errorf("execute this program: %w", err)
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	failure, err := io.ReadAll(r) // it ends when the command is executed
	if err == nil && len(failure) > 0 {
		err = errors.New(string(failure))
	}
	if err != nil {
		_, _ = unix.Wait4(pid, nil, 0, nil) // it has ended, or is about to
		return 0, err
	}
	return pid, nil
}

// execMain makes this process the reaper of its descendants and executes a command in it. Descriptor 3 takes why that was not possible.
func execMain(path string, command []string) int {
	unix.CloseOnExec(3)
	err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if err != nil {
		err = fmt.Errorf("adopt orphans: %w", err)
	} else {
		err = syscall.Exec(path, command, os.Environ())
		err = fmt.Errorf("execute %s: %w%s", path, err, execHint(err))
	}
	out := os.NewFile(3, "failure")
	_, _ = out.WriteString(err.Error()) // PID 1 reads it
	return 1
}

func execHint(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return " (the file is there: is its interpreter?)"
	case errors.Is(err, unix.ENOEXEC):
		return " (a script needs a first line like #!/bin/sh)"
	}
	return ""
}
