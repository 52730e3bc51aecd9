package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// relay lets one lab serve several tests in turn: what the lab has to say goes to the test that runs now.
type relay struct {
	now      *testing.T
	cleanups []func()
}

func (r *relay) Helper()                           { r.now.Helper() }
func (r *relay) Logf(format string, args ...any)   { r.now.Helper(); r.now.Logf(format, args...) }
func (r *relay) Errorf(format string, args ...any) { r.now.Helper(); r.now.Errorf(format, args...) }
func (r *relay) Fatalf(format string, args ...any) { r.now.Helper(); r.now.Fatalf(format, args...) }
func (r *relay) Failed() bool                      { return r.now.Failed() }
func (r *relay) Cleanup(f func())                  { r.cleanups = append(r.cleanups, f) }

// close runs what was registered with Cleanup, last first.
func (r *relay) close() {
	for ; len(r.cleanups) > 0; r.cleanups = r.cleanups[:len(r.cleanups)-1] {
		r.cleanups[len(r.cleanups)-1]()
	}
}

// rig is a cluster that outlives a test, for as long as each leaves it as it was.
type rig struct {
	*cluster
	relay *relay
	jobs  int // that have been made, by tests that number theirs
}

// newRig makes a cluster whose reports go to t until use names another test.
func newRig(t *testing.T, hosts ...string) *rig {
	t.Helper()
	return newRigWith(t, "", hosts...)
}

// newRigWith does the same with agents whose agent.yaml has some more lines.
func newRigWith(t *testing.T, config string, hosts ...string) *rig {
	t.Helper()
	r := &relay{now: t}
	l := lab.New(r, hosts...)
	l.AgentConfig = config
	l.StartAgents()
	return &rig{cluster: &cluster{Lab: l, t: t}, relay: r}
}

// use makes t the test that runs now.
func (r *rig) use(t *testing.T) { r.relay.now, r.t = t, t }

// trap is a writer that does something at the instant at which a certain line has been written to it.
type trap struct {
	line   string // without its end; "" for none
	spring func()

	mu     sync.Mutex
	text   bytes.Buffer
	rest   []byte
	sprung chan struct{} // closed when spring has returned
}

// Write never fails. It returns when spring has.
func (w *trap) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		w.rest = rest
		if w.line != "" && string(line) == w.line {
			w.line = ""
			w.spring()
			close(w.sprung)
		}
	}
}

func (w *trap) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// trapped is an ssctl that something is done to, or to its hosts, at the instant at which it prints a certain line.
type trapped struct {
	*lab.Cmd
	stdout bytes.Buffer // to be read when Cmd is done
	stderr *trap
}

// ctlTrapped starts ssctl and calls spring with it when it has printed line on standard error. It returns when
// spring has, or ssctl has ended without.
func (c *cluster) ctlTrapped(line string, spring func(*lab.Cmd), args ...string) *trapped {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	c.t.Cleanup(cancel)
	run := &trapped{Cmd: c.CtlCommand(ctx, args...)}
	started := make(chan struct{})
	run.stderr = &trap{line: line, sprung: make(chan struct{}), spring: func() { <-started; spring(run.Cmd) }}
	run.Stdout, run.Stderr = &run.stdout, run.stderr
	if err := run.Start(); err != nil {
		c.t.Fatal(err)
	}
	close(started)
	select {
	case <-run.stderr.sprung:
	case <-run.Done():
		select {
		case <-run.stderr.sprung:
		default:
			c.t.Fatalf("ssctl %s: exit code %d without the line %q:\n%s%s", strings.Join(args, " "), run.ExitCode(), line, run.stderr, &run.stdout)
		}
	}
	return run
}

// process is a process of a host, with its PID on the machine.
type process struct {
	pid     int
	exe     string // name of its program's file
	command string
}

func (p process) isCRIU() bool {
	return (p.exe == "criu" || strings.HasPrefix(p.exe, "ld-")) && (strings.Contains(p.command, " swrk ") || strings.Contains(p.command, "criu: "))
}

// processes lists what runs on a host, in whatever namespaces below it: all of it shares the host's network.
func (c *cluster) processes(host string) []process {
	c.t.Helper()
	net, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", c.Host(host).Pid()))
	if err != nil {
		c.t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		c.t.Fatal(err)
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if theirs, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err != nil || theirs != net {
			continue // another host's, or it has ended
		}
		exe, err := os.Readlink("/proc/" + e.Name() + "/exe")
		if err != nil {
			continue // a zombie
		}
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline") // gone: it reads as empty
		out = append(out, process{pid: pid, exe: filepath.Base(exe), command: strings.ReplaceAll(string(cmdline), "\x00", " ")})
	}
	return out
}

// crius lists the CRIUs on a host that dump or restore. Their programs may be started through a loader of their own.
func (c *cluster) crius(host string) []int {
	c.t.Helper()
	var pids []int
	for _, p := range c.processes(host) {
		if p.isCRIU() {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// helpers lists the processes of a host's agent that it has started as one of its own subcommands.
func (c *cluster) helpers(host, subcommand string) []int {
	c.t.Helper()
	var pids []int
	for _, p := range c.processes(host) {
		if p.exe == "ssagent" && strings.Contains(p.command, " "+subcommand+" ") {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// killAll kills what find finds, as soon as it finds any.
func (c *cluster) killAll(find func() []int) {
	c.t.Helper()
	var pids []int
	deadline := time.Now().Add(soon)
	for len(pids) == 0 && time.Now().Before(deadline) {
		pids = find() // nothing tells of a process's birth
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // one may end with another
	}
}

// instances are the processes on a host of one program under test.
func (c *cluster) instances(host, program string) []int {
	c.t.Helper()
	var pids []int
	for _, p := range c.processes(host) {
		if p.exe == program {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

var statsLine = regexp.MustCompile(`(?m)^stats sent=(\d+) received=(\d+)`)

// passed is how many words have passed at a member, by its own account.
type passed struct{ sent, received uint64 }

// ask has each member print its statistics and returns them, or what is missing. A member that stands still answers
// when it goes on.
func (j *job) ask(deadline time.Time) (map[*member]passed, error) {
	j.t.Helper()
	out := map[*member]passed{}
	for _, m := range j.members {
		if m.endless {
			continue // it has nothing to tell
		}
		grows, err := watchLog(j.Host(m.host).Path(j.logPath(m)), deadline)
		if err != nil {
			return nil, fmt.Errorf("log of %s on %s: %w", m.name, m.host, err)
		}
		defer grows.Close()
		before := len(statsLine.FindAllString(j.log(m), -1))
		pids := j.instances(m.host, "words")
		if len(pids) == 0 {
			return nil, fmt.Errorf("no process of %s on %s; its log ends: %s", m.name, m.host, lastLine(j.log(m)))
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
				return nil, fmt.Errorf("ask %s on %s: %w", m.name, m.host, err)
			}
		}
		for {
			log := j.log(m)
			if strings.Contains(log, "FAIL") {
				return nil, fmt.Errorf("%s on %s: %s", m.name, m.host, lastLine(log))
			}
			if all := statsLine.FindAllStringSubmatch(log, -1); len(all) > before {
				last := all[len(all)-1]
				var p passed
				p.sent, _ = strconv.ParseUint(last[1], 10, 64) // the pattern takes digits only
				p.received, _ = strconv.ParseUint(last[2], 10, 64)
				out[m] = p
				break
			}
			if _, err := grows.Read(make([]byte, 4096)); err != nil {
				return nil, fmt.Errorf("%s on %s does not answer: is it frozen? Its log ends: %s (%w)", m.name, m.host, lastLine(log), err)
			}
		}
	}
	return out, nil
}

// watchLog returns a file that can be read whenever something has been written to the log since (inotify(7)), until the deadline.
func watchLog(path string, deadline time.Time) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY)
	if err = errors.Join(err, f.SetReadDeadline(deadline)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// flows says whether words pass in both directions at every member before the deadline, or why not. That each is the
// right one the members check themselves.
func (j *job) flows(deadline time.Time) error {
	j.t.Helper()
	first, err := j.ask(deadline)
	for err == nil {
		var now map[*member]passed
		if now, err = j.ask(deadline); err != nil {
			break
		}
		stuck := ""
		for m, p := range now {
			if p.sent <= first[m].sent || p.received <= first[m].received {
				stuck = fmt.Sprintf("%s on %s: sent %d and then %d, received %d and then %d words", m.name, m.host,
					first[m].sent, p.sent, first[m].received, p.received)
			}
		}
		if stuck == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nothing passes: %s", stuck)
		}
	}
	return err
}

// mustFlow ends the test if words do not pass within a span.
func (j *job) mustFlow(when string, within time.Duration) {
	j.t.Helper()
	if err := j.flows(time.Now().Add(within)); err != nil {
		j.t.Fatalf("%s: %v", when, err)
	}
}

// cuts are the ids of the job's cuts, oldest first.
func (j *job) cuts() []string {
	j.t.Helper()
	var list struct{ Cuts []struct{ Cut string } }
	j.CtlJSON(&list, "list", j.name)
	var ids []string
	for _, c := range list.Cuts {
		ids = append(ids, c.Cut)
	}
	return ids
}

// leftovers lists what a running job's hosts hold that is neither the job's nor an idle agent's: processes, closed
// gates, work folders, and of images what is partial.
func (j *job) leftovers() []string {
	j.t.Helper()
	ours := []string{"cgroup /", "mount ", "ssagent cell-init", "/words ", ": sleep ", "/nap ", holdWord}
	stray := slices.DeleteFunc(j.Leaks(), func(leak string) bool {
		return slices.ContainsFunc(ours, func(our string) bool { return strings.Contains(leak, our) })
	})
	for _, h := range j.Hosts() {
		for _, pattern := range []string{"images/.*/*", "staging/*", "restore/*", "criu/op-*", "journal/.tmp-*"} {
			found, err := filepath.Glob(h.Path("/var/lib/ss/" + pattern))
			if err != nil {
				j.t.Fatal(err)
			}
			for _, f := range found {
				stray = append(stray, h.Name+": file "+f)
			}
		}
	}
	return stray
}

// nothingLeft returns when there are no leftovers, and ends the test if that takes too long.
func (j *job) nothingLeft() {
	j.t.Helper()
	await(j.t, "nothing left behind", func() string { return strings.Join(j.leftovers(), "\n") })
}

// imagesMatch checks that the hosts hold the images of the catalogue's cuts, told that they belong to a cut, and no others.
func (j *job) imagesMatch() {
	j.t.Helper()
	want := map[string]bool{} // HOST: JOB/CUT/SOURCE
	for _, id := range j.cuts() {
		var cut struct {
			Hosts []struct {
				Host   string
				Copies []string
			}
		}
		j.CtlJSON(&cut, "show", id)
		for _, h := range cut.Hosts {
			for _, holder := range h.Copies {
				want[fmt.Sprintf("%s: %s/%s/%s", holder, j.name, id, h.Host)] = true
			}
		}
	}
	for _, h := range j.Hosts() {
		root := h.Path(imageRoot)
		sets, err := filepath.Glob(root + "/*/sets/*/*")
		if err != nil {
			j.t.Fatal(err)
		}
		for _, set := range sets {
			name := h.Name + ": " + strings.Replace(strings.TrimPrefix(set, root+"/"), "/sets/", "/", 1)
			if !want[name] {
				j.t.Errorf("images of no cut: %s", name)
			}
			if _, err := os.Stat(strings.Replace(set, "/sets/", "/committed/", 1)); err != nil {
				j.t.Errorf("images that nobody has told to be a cut's: %s", name)
			}
			delete(want, name)
		}
	}
	for name := range want {
		j.t.Errorf("images are missing: %s", name)
	}
}
