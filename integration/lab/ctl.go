package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"time"
)

// ctlPatience is how long one ssctl may take.
const ctlPatience = 3 * time.Minute

// Ctl runs ssctl on the host "admin" and returns what it wrote and its exit code.
func (l *Lab) Ctl(args ...string) (stdout, stderr string, exit int) {
	l.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), ctlPatience)
	defer cancel()
	cmd := l.CtlCommand(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	exit, err := exitCode(cmd.Run())
	switch {
	case ctx.Err() != nil:
		l.tb.Fatalf("ssctl %s: not done within %v; so far it said:\n%s%s", strings.Join(args, " "), ctlPatience, &out, &errs)
	case err != nil:
		l.tb.Fatalf("ssctl %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), exit
}

// MustCtl runs ssctl and ends the test if it fails. It returns standard output.
func (l *Lab) MustCtl(args ...string) string {
	l.tb.Helper()
	stdout, stderr, exit := l.Ctl(args...)
	if exit != 0 {
		l.tb.Fatalf("ssctl %s: exit code %d\n%s%s", strings.Join(args, " "), exit, stdout, stderr)
	}
	return stdout
}

// CtlJSON runs ssctl with -o json, decodes its standard output into v, and ends the test if either fails.
func (l *Lab) CtlJSON(v any, args ...string) {
	l.tb.Helper()
	args = append([]string{"-o", "json"}, args...)
	stdout := l.MustCtl(args...)
	if err := json.Unmarshal([]byte(stdout), v); err != nil {
		l.tb.Fatalf("ssctl %s: %v in\n%s", strings.Join(args, " "), err, stdout)
	}
}

// CtlCommand prepares an ssctl on the host "admin", for a test that wants to signal it or read along.
func (l *Lab) CtlCommand(ctx context.Context, args ...string) *Cmd {
	l.tb.Helper()
	bin, err := binaryIn(l.Bin, "ssctl")
	if err != nil {
		l.tb.Fatalf("%v", err)
	}
	cmd := l.Host(AdminName).Command(ctx, append([]string{bin}, args...)...)
	cmd.Env = append(os.Environ(), "SSCTL_DIR=/var/lib/ssctl", "NO_COLOR=1")
	return cmd
}

// ExitCode says how a Cmd that has been waited for ended: its exit code, or -1 after a signal.
func (c *Cmd) ExitCode() int {
	code, err := exitCode(c.Wait())
	if err != nil {
		return -1
	}
	return code
}
