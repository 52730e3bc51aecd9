package integration

import (
	"os/exec"
	"path/filepath"
)

// compile builds a C program of testdata into the lab's folder, whose path is the same on every host.
func (c *cluster) compile(name string, flags ...string) string {
	c.t.Helper()
	program := filepath.Join(c.Dir(), name)
	args := append([]string{"-O1", "-Wall", "-o", program, filepath.Join("testdata", name+".c")}, flags...)
	if out, err := exec.CommandContext(c.t.Context(), "gcc", args...).CombinedOutput(); err != nil {
		c.t.Fatalf("compile %s: %v\n%s", name, err, out)
	}
	return program
}

// asUser is a command that runs as a user and group other than root, without root's supplementary groups.
func asUser(command ...string) []string {
	return append([]string{"setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--"}, command...)
}
