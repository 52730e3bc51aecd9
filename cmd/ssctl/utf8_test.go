package main

import (
	"errors"
	"strings"
	"testing"
)

// TestTextOnly: what is sent to hosts and stored must be text. The error names what is not, and nothing is done; files of this machine may have any name.
func TestTextOnly(t *testing.T) {
	for _, c := range []struct {
		argv string // separated by blanks
		want string // "": it is not refused for this
	}{
		{"run job --host hostA -- sh -c x\xff", `"x\xff" of the command`},
		{"run job --host hostA -- x\xff", "a script on the host"},
		{"run job --host hostA --env X=\xff -- sleep 1", `--env: "X=\xff"`},
		{"run job --host hostA --env A=1 --env X=\xff -- sleep 1", `--env: "X=\xff"`},
		{"run job --host hostA --cwd /\xfe -- sleep 1", `--cwd: "/\xfe"`},
		{"run job --host hostA --log /\xfe -- sleep 1", "ssctl logs"},
		{"run job --host hostA --files /\xfe -- sleep 1", `--files: "/\xfe"`},
		{"run job\xff --host hostA -- sleep 1", `the argument "job\xff"`},
		{"run job --host host\xff -- sleep 1", `--host: "host\xff"`},
		{"snapshot job --label \xff", `--label: "\xff"`},
		{"restore cut --remap a=\xff", `--remap: "a=\xff"`},
		{"job set job --vault file:///\xff", `--vault: "file:///\xff"`},
		{"export c\xff /tmp/x", `the argument "c\xff"`},
		{"run job --host hostA --env X=ä -- sleep 1", ""},
		{"export cut /tmp/\xff", ""},
		{"import /tmp/\xff", ""},
		{"host add hostA --addr 192.0.2.1:7070 --bundle /tmp/none/\xff", ""},
	} {
		a := &app{stdout: new(strings.Builder), stderr: new(strings.Builder), documents: new(strings.Builder)}
		cmd := a.command()
		cmd.SetArgs(append([]string{"--dir", t.TempDir() + "/none\xff"}, strings.Fields(c.argv)...))
		err := cmd.ExecuteContext(t.Context())
		if c.want == "" {
			if err == nil || strings.Contains(err.Error(), "UTF-8") {
				t.Errorf("%q: %v", c.argv, err)
			}
			continue
		}
		if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%q: %v, want %s", c.argv, err, c.want)
		}
	}
}
