package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"
)

// strangersVariable tells the program that holds strangers where they are to knock and how many there are to be: ADDRESS COUNT.
const strangersVariable = "SS_TEST_STRANGERS"

// holdStrangers opens connections and says nothing on them. Some begin a handshake of TLS.
func holdStrangers() error {
	addr, count, _ := strings.Cut(os.Getenv(strangersVariable), " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	for i := range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if i%3 == 0 {
			_, _ = c.Write([]byte{22, 3, 1, 0, 200, 1}) // the agent may have closed it by now
		}
		held = append(held, c)
	}
	return nil
}

// visitorVariable tells the program that holds a visitor where it is to knock.
const visitorVariable = "SS_TEST_VISITOR"

// holdVisitor opens one connection and says nothing on it. At its end nothing of it is left where it led, accepted or not: it is reset.
func holdVisitor() error {
	c, err := net.Dial("tcp", os.Getenv(visitorVariable))
	if err != nil {
		return err
	}
	held = append(held, c)
	return c.(*net.TCPConn).SetLinger(0)
}

// held keeps the connections from being collected.
var held []net.Conn

// descriptors is how many connections a process can hold, less some for its own use.
func descriptors(t *testing.T) int {
	t.Helper()
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	return int(min(limit.Max, 1<<20)) - 200
}

// TestStrangers: those who open connections and never show a certificate keep nobody else from an agent, do not exhaust it, and
// do not keep it from stopping. 9,000 come from one host, and some from the one that ssctl is on.
func TestStrangers(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	agent := fmt.Sprintf("%s:%d", c.Host("hostA").Addr(), 7070)
	exe, err := os.Executable()
	must(t, err)
	flood := func(host string, n int) (end func()) {
		t.Helper()
		cmd := c.Host(host).Command(t.Context(), exe, holdWord, "strangers").LogTo("/srv/strangers.log")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", strangersVariable, agent, n))
		must(t, cmd.Start())
		await(t, "strangers", func() string {
			log, err := c.Host(host).ReadFile("/srv/strangers.log")
			if err != nil || strings.Contains(string(log), "FAIL") {
				t.Fatalf("%v: %s", err, log)
			}
			if !strings.Contains(string(log), "holding strangers") {
				return "not all of them are there"
			}
			return ""
		})
		return func() { cmd.Kill(); must(t, os.Remove(c.Host(host).Path("/srv/strangers.log"))) }
	}
	n := min(9000, descriptors(t))
	t.Logf("%d connections", n)
	endMany := flood("hostB", n)
	endSome := flood("admin", 300)

	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", c.Agent("hostA").Pid()))
	must(t, err)
	if len(open) > 400 {
		t.Errorf("the agent holds %d descriptors", len(open))
	}
	j := c.newJob("strangers")
	j.program("serve", "hostA", "words", "serve", "-listen", c.Host("hostA").Addr().String()+":9001")
	j.program("connect", "hostB", "words", "connect", "-to", c.Host("hostA").Addr().String()+":9001", "-until", j.stop)
	j.awaitProgress()
	cut := j.snapshot().Cut
	j.restore(cut)
	j.mustFlow("after a restore", soon)
	if out := c.MustCtl("host", "list"); strings.Contains(out, "unreachable") {
		t.Errorf("%s", out)
	}

	// With them there, it ends; lab's patience is the measure, and was far too little for a handshake's own time-out.
	c.Agent("hostA").Stop()
	endMany()
	endSome()
	c.Agent("hostA").Start()
	endOne := flood("hostB", 1)
	c.Agent("hostA").Stop()
	endOne()
	c.Agent("hostA").Start()
	j.conclude()
}

// hostile is what must not reach a terminal as it is: a colour, a title, a line that looks like ours, CSI in one character, a
// reversed direction, a tab, a return to the line's begin.
const hostile = "\x1b[31mred\x1b]0;title\x07\nssctl: note: all is well\u009b2J\u202eabc\tx\rssctl: done"

// TestOutputIsQuoted: what comes from outside stands quoted wherever a person reads it, and is exact in JSON.
func TestOutputIsQuoted(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	j := c.newJob("hostile")
	j.serve("sleep", "hostA", "sh", "-c", "sleep 1000005; :", hostile)
	said := func(args ...string) string {
		t.Helper()
		stdout, stderr, _ := c.Ctl(args...)
		out := stdout + stderr
		for _, r := range out {
			if r != '\n' && unicode.In(r, unicode.Cc, unicode.Cf) {
				t.Errorf("ssctl %.40q: %q is raw in %q", args, r, out)
			}
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "ssctl: note: all is well") || strings.HasPrefix(line, "ssctl: done") {
				t.Errorf("ssctl %.40q: a line of ours was forged in %q", args, out)
			}
		}
		return out
	}
	quoted := func(args ...string) {
		t.Helper()
		if out := said(args...); !strings.Contains(out, `\x1b[31mred`) {
			t.Errorf("ssctl %.40q: nothing is quoted in %q", args, out)
		}
	}
	cut := j.snapshot("--label", hostile).Cut
	quoted("ps", j.name)
	quoted("list")
	quoted("show", cut)
	for _, args := range [][]string{
		{"show", hostile}, {"snapshot", hostile}, {"restore", cut, "--remap", hostile + "=hostA"}, {hostile}, {"--" + hostile},
		{"run", "other", "--host", "hostA", "--", hostile}, {"run", "other", "--host", "hostA", "--cwd", "/" + hostile, "--", "true"},
		{"run", hostile, "--host", "hostA", "--", "true"}, {"import", hostile}, {"export", cut, "--to", "/" + hostile + "/x"},
		{"host", "add", hostile, "--addr", "10.77.0.9:7070", "--bundle", "/srv/x"}, {"verify", hostile}, {"--identity", hostile, "list"},
	} {
		said(args...)
	}

	var ps struct{ Members []struct{ Command []string } }
	c.CtlJSON(&ps, "ps", j.name)
	var show struct {
		Label   string
		Members []struct{ Command []string }
	}
	c.CtlJSON(&show, "show", cut)
	if got := ps.Members[0].Command; got[len(got)-1] != hostile {
		t.Errorf("ps in JSON: %q", got)
	}
	if got := show.Members[0].Command; got[len(got)-1] != hostile || show.Label != hostile {
		t.Errorf("show in JSON: %q, %q", got, show.Label)
	}

	// A program's own name, in what an agent says of it.
	exe, err := os.Executable()
	must(t, err)
	name := "\x1b[31mred\nssctl: done"
	must(t, os.Symlink(exe, c.Host("hostA").Path("/srv/"+name)))
	j.run("ring", "hostA", "/srv/"+name, holdWord, "io_uring")
	await(t, "the member", func() string {
		if !strings.Contains(j.log(j.members[1]), "holding ") {
			return "it holds nothing yet"
		}
		return ""
	})
	quoted("snapshot", j.name)
	j.end()
}
