package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"ss/integration/lab"
)

// conns starts a member that makes, answers or ends connections; see testdata/conns.c.
func (j *job) conns(name, host, kind, to string, port int, args ...string) *member {
	j.t.Helper()
	program := j.compiled("testdata/conns.c", "conns", "-pthread")
	j.serve(name, host, append([]string{program, kind, j.Host(to).Addr().String(), fmt.Sprint(port)}, args...)...)
	return j.members[len(j.members)-1]
}

// says waits until a member's log has a line.
func (j *job) says(m *member, line string) {
	j.t.Helper()
	await(j.t, fmt.Sprintf("%q of %s", line, m.name), func() string {
		log := j.log(m)
		if strings.Contains(log, "FAIL") {
			j.t.Fatalf("%s on %s:\n%s", m.name, m.host, log)
		}
		if !strings.Contains("\n"+log, "\n"+line+"\n") {
			return lastLine(log)
		}
		return ""
	})
}

// attempts takes a snapshot, and returns how many attempts it took and the cut.
func (j *job) attempts() (n int, cut string) {
	j.t.Helper()
	stdout, stderr, exit := j.Ctl("snapshot", j.name, "-q")
	if exit != 0 {
		j.t.Fatalf("snapshot: exit code %d\n%s%s", exit, stdout, stderr)
	}
	cut, _, _ = strings.Cut(strings.TrimSpace(stdout), ":")
	return 1 + strings.Count(stderr, "trying again"), cut
}

// TestConnecting: a connect that nobody answers is in the cut as what it is, holds no snapshot up, and connects after a restore, in place
// and elsewhere. Needs root, CRIU and gcc.
func TestConnecting(t *testing.T) {
	c := newCluster(t, "hostA", "hostB", "hostC", "hostD")
	must(t, c.Host("hostC").DropPort(9300))
	j := c.newJob("knocks")
	j.conns("server", "hostC", "serve", "hostC", 9300, "0", "many")
	j.program("serve", "hostA", "words", "serve", "-listen", c.Host("hostA").Addr().String()+":9001")
	j.program("connect", "hostB", "words", "connect", "-to", c.Host("hostA").Addr().String()+":9001", "-until", j.stop)
	knocker := j.conns("knock", "hostB", "knock", "hostC", 9300)
	j.says(knocker, "knocking")
	j.awaitProgress()
	var cut string
	for range 5 {
		var n int
		if n, cut = j.attempts(); n != 1 {
			t.Errorf("a connect without an answer cost %d attempts", n)
		}
	}
	j.restore(cut)
	j.awaitProgress()
	if strings.Contains(j.log(knocker), "answered") {
		t.Fatalf("nobody can have answered:\n%s", j.log(knocker))
	}
	j.restore(cut, "hostB=hostD")
	j.awaitProgress()
	must(t, c.Host("hostC").DropNothing())
	j.says(knocker, "answered")
	j.awaitProgress()
	j.snapshot()
	j.finish()
	j.end()
	c.checkLeaks()
}

// TestChurn: snapshots of a job that makes, uses and ends 100 connections a second, in three ways of ending, and with a server that needs 200 ms for each.
// At most two attempts each, and no connection breaks; after a restore all goes on. SS_CHURN_SNAPSHOTS is how many are taken of each (5). Needs root, CRIU and gcc.
func TestChurn(t *testing.T) {
	snapshots := int(number(t, "SS_CHURN_SNAPSHOTS", 5))
	c := newCluster(t, "hostA", "hostB")
	for _, row := range []struct {
		name, delay string
		ends        []string
	}{
		{"quick", "0", []string{"close", "reset", "shutdown"}},
		{"slow", "200", []string{"close"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			c.t = t
			j := c.newJob(row.name)
			j.conns("server", "hostA", "serve", "hostA", 9400, row.delay, "many")
			for _, end := range row.ends {
				j.conns(end, "hostB", "churn", "hostA", 9400, fmt.Sprint(100/len(row.ends)), end)
			}
			j.churns(snapshots)
			j.end()
		})
	}
	c.t = t
	c.checkLeaks()
}

// nginxConfig is that of a web server with two workers. Its folder is the host's own.
const nginxConfig = `daemon off; user nobody nogroup; worker_processes 2; pid /srv/nginx/pid; error_log /srv/nginx/error.log;
events { worker_connections 512; }
http {
  access_log off; client_body_temp_path /srv/nginx/1; proxy_temp_path /srv/nginx/2; fastcgi_temp_path /srv/nginx/3; uwsgi_temp_path /srv/nginx/4; scgi_temp_path /srv/nginx/5;
  server { listen %s:9410; location / { return 200 "hello from nginx\n"; } }
}
`

// TestChurnNginx: likewise with Debian's nginx, which closes each of the 100 connections a second first. Needs root, CRIU, gcc and nginx.
func TestChurnNginx(t *testing.T) {
	withoutRace(t)
	snapshots := int(number(t, "SS_CHURN_SNAPSHOTS", 5))
	c := newCluster(t, "hostA", "hostB")
	must(t, os.MkdirAll(c.Host("hostA").Path("/srv/nginx"), 0o755))
	must(t, c.Host("hostA").WriteFile("/srv/nginx/conf", fmt.Appendf(nil, nginxConfig, c.Host("hostA").Addr())))
	j := c.newJob("web")
	j.serve("nginx", "hostA", "nginx", "-p", "/srv/nginx", "-c", "/srv/nginx/conf", "-e", "/srv/nginx/error.log")
	await(t, "nginx", func() string {
		if _, err := c.Host("hostA").ReadFile("/srv/nginx/pid"); err != nil {
			return err.Error()
		}
		return ""
	})
	j.conns("clients", "hostB", "churn", "hostA", 9410, "100", "http")
	j.churns(snapshots)
	j.end()
	c.checkLeaks()
}

// churns takes snapshots of a job that makes and ends connections all the time, and restores the last one.
func (j *job) churns(snapshots int) {
	j.t.Helper()
	j.awaitProgress()
	cut := ""
	counts := map[int]int{}
	for range snapshots {
		var n int
		n, cut = j.attempts()
		counts[n]++
		if n > 2 {
			j.t.Errorf("a snapshot took %d attempts", n)
		}
		j.awaitProgress()
	}
	j.t.Logf("%d snapshots by the number of attempts: %v", snapshots, counts)
	j.restore(cut)
	j.awaitProgress()
}

// TestNotAccepted: connections that a busy server has not accepted are put back as being made, if nothing was sent on them: after the restore each is served.
// If bytes have come on one, the snapshot is refused, and says which program is to accept it. Needs root, CRIU and gcc.
func TestNotAccepted(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	j := c.newJob("busy")
	j.conns("greet", "hostA", "greet", "hostA", 9500, "1000")
	client := j.conns("listen", "hostB", "listen", "hostA", 9500, "250")
	j.awaitProgress()
	waiting := func(least int) {
		t.Helper()
		await(t, "connections that wait", func() string {
			if n := j.served(client); n < least {
				return fmt.Sprintf("%d were served", n)
			}
			return ""
		})
	}
	waiting(3) // and three times as many wait
	n, cut := j.attempts()
	if n > 2 {
		t.Errorf("%d attempts", n)
	}
	var show struct {
		Ends []struct{ Host, Member, Local, Remote, As string }
	}
	c.CtlJSON(&show, "show", cut)
	if len(show.Ends) < 3 {
		t.Errorf("the cut has %d connections that connect once more: %+v", len(show.Ends), show.Ends)
	}
	for _, e := range show.Ends {
		if e.As != "connecting" || e.Host != "hostB" || !strings.HasSuffix(e.Remote, ":9500") {
			t.Errorf("%+v", e)
		}
	}
	j.mustVerify(cut)
	before := j.served(client)
	waiting(before + 2) // in the running job nothing has changed
	j.restore(cut)
	waiting(before + len(show.Ends))
	j.awaitProgress()
	j.end()

	k := c.newJob("deaf")
	k.conns("server", "hostA", "serve", "hostA", 9501, "5000", "one")
	k.conns("close", "hostB", "churn", "hostA", 9501, "10", "close")
	k.awaitProgress()
	stdout, stderr, exit := c.Ctl("snapshot", "deaf", "--settle", "100ms")
	if exit == 0 || !strings.Contains(stderr, "has not accepted a connection") || !strings.Contains(stderr, "--settle") || !strings.Contains(stderr, ":9501") {
		t.Errorf("exit code %d\n%s%s", exit, stdout, stderr)
	}
	k.awaitProgress()
	k.end()
	c.checkLeaks()
}

// served is how many connections a member says were served to their end.
func (j *job) served(m *member) int {
	j.t.Helper()
	n, done := 0, 0
	_, _ = fmt.Sscanf(lastLine(j.log(m)), "progress %d %d", &n, &done)
	return done
}

// mustVerify checks all copies of a cut, and the connections in its images.
func (j *job) mustVerify(cut string) {
	j.t.Helper()
	j.MustCtl("verify", cut)
}

// TestOutsideConnections: connections with programs that are not members refuse a snapshot, unless the job's policy says otherwise. Those that it closes are named
// in the cut and are closed after a restore, and the job's own go on. Needs root, CRIU and gcc.
func TestOutsideConnections(t *testing.T) {
	c := newCluster(t, "hostA", "hostB")
	j := c.newJob("open")
	j.conns("server", "hostA", "serve", "hostA", 9600, "0", "many")
	inside := j.conns("inside", "hostB", "knock", "hostA", 9600)
	j.says(inside, "answered")
	program := j.compiled("testdata/conns.c", "conns", "-pthread")
	stranger := func(host string) *lab.Cmd {
		t.Helper()
		log := "/srv/stranger.log"
		must(t, c.Host(host).WriteFile(log, nil))
		cmd := c.Host(host).Command(t.Context(), program, "knock", c.Host("hostA").Addr().String(), "9600").LogTo(log)
		must(t, cmd.Start())
		await(t, "the stranger's connection", func() string {
			if out, _ := c.Host(host).ReadFile(log); !strings.Contains(string(out), "answered") {
				return string(out)
			}
			return ""
		})
		return cmd
	}
	gone := func(host string, cmd *lab.Cmd) {
		t.Helper()
		if err := cmd.Wait(); err == nil {
			t.Error("the stranger's program ended well")
		}
		if out, _ := c.Host(host).ReadFile("/srv/stranger.log"); !strings.Contains(string(out), "FAIL") {
			t.Errorf("%s: %s", host, out)
		}
	}
	refused := func(words ...string) {
		t.Helper()
		stdout, stderr, exit := c.Ctl("snapshot", j.name)
		for _, w := range words {
			if exit == 0 || !strings.Contains(stderr, w) {
				t.Errorf("exit code %d, no %q in\n%s%s", exit, w, stdout, stderr)
			}
		}
	}
	far, near := stranger("admin"), stranger("hostB")
	refused(c.Host("admin").Addr().String(), "no host of the job", "--outside close")
	c.MustCtl("job", "set", j.name, "--outside-except", c.Host("admin").Addr().String()+"=close")
	refused(c.Host("hostB").Addr().String(), "--outside close")
	c.MustCtl("job", "set", j.name, "--outside", "close", "--outside-except", ":9999=keep")
	if out := c.MustCtl("job", "show", j.name); !strings.Contains(out, ":9999=keep, close") {
		t.Errorf("%s", out)
	}
	cut := j.snapshot().Cut
	var show struct {
		Ends []struct{ Remote, As string }
	}
	c.CtlJSON(&show, "show", cut)
	if len(show.Ends) != 2 || show.Ends[0].As != "closed" || show.Ends[1].As != "closed" {
		t.Errorf("the cut closes %+v", show.Ends)
	}
	j.mustVerify(cut)
	j.awaitProgress()
	j.restore(cut)
	gone("admin", far)
	gone("hostB", near)
	j.awaitProgress()
	if n := j.served(j.members[0]); n < 2 {
		t.Errorf("the server has found %d connections closed", n)
	}
	if _, stderr, exit := c.Ctl("job", "set", j.name, "--outside", "maybe"); exit != 2 && exit != 3 {
		t.Errorf("exit code %d\n%s", exit, stderr)
	}
	j.end()
	c.checkLeaks()
}
