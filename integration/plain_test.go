package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"ss/integration/lab"
)

// TestProgramsWithoutSnapshots runs the programs across hosts as they are. When this fails, nothing that the other tests
// of this package say about snapshots means anything.
func TestProgramsWithoutSnapshots(t *testing.T) {
	l := lab.New(t, "hostA", "hostB", "hostC")
	a, b, c := l.Host("hostA"), l.Host("hostB"), l.Host("hostC")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := func(h *lab.Host, name string, args ...string) *lab.Cmd {
		t.Helper()
		cmd := h.Command(ctx, append([]string{binary(t, name)}, args...)...).LogTo("/srv/" + name + ".log")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	cmds := map[*lab.Cmd]string{}
	run := func(h *lab.Host, name string, args ...string) {
		cmds[start(h, name, args...)] = h.Path("/srv/" + name + ".log")
	}
	v6 := fmt.Sprintf("[%s]", b.Addr6())
	run(b, "words", "serve", "-listen", v6+":9001", "-words", "20000000", "-ballast", "8")
	run(a, "words", "connect", "-to", v6+":9001", "-words", "20000000", "-gap", "200ms")
	run(b, "tree", "serve", "-listen", ":9002")
	run(c, "tree", "connect", "-to", b.Addr().String()+":9002", "-messages", "20000")
	run(c, "echo", "serve", "-listen", ":9003", "-ballast", "64")
	run(a, "echo", "loop", "-to", c.Addr().String()+":9003", "-requests", "5000")
	for cmd, log := range cmds {
		err := cmd.Wait()
		data, readErr := a.ReadFile(log)
		last := data[strings.LastIndexByte(strings.TrimSpace("\n"+string(data)), '\n')+1:]
		if err != nil || readErr != nil || !strings.Contains(string(data), "PASS") {
			t.Errorf("%v: %v, %v\n%s", cmd.Args, err, readErr, data)
		}
		t.Logf("%s", last)
	}
	if leaks := l.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(leaks, "\n"))
	}
}

// binary is the path of one of the project's programs.
func binary(t *testing.T, name string) string {
	t.Helper()
	path, err := lab.Binary(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
