package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ss/integration/lab"
)

// refusal is a command that must fail: with that exit code, and with a message that has each of the words.
type refusal struct {
	args  string // separated by blanks; CUT stands for a cut of the job "words"
	exit  int
	words []string
}

var refusals = []refusal{
	// No such thing.
	{"snapshot nojob", 10, []string{"nojob"}},
	{"ps nojob", 10, []string{"nojob"}},
	{"kill nojob", 10, []string{"nojob"}},
	{"list nojob", 10, []string{"nojob"}},
	{"run other --host nohost -- sleep 1", 10, []string{"nohost", "hostA, hostB, hostC"}},
	{"attach other --host nohost --pid 1", 10, []string{"nohost", "hostA, hostB, hostC"}},
	{"show nocut", 10, []string{"nocut"}},
	{"verify nocut", 10, []string{"nocut"}},
	{"rm nocut", 10, []string{"nocut"}},
	{"restore nocut", 10, []string{"nocut"}},
	{"restore latest --job nojob", 10, []string{"nojob"}},
	{"show latest --job nojob", 10, []string{"nojob"}},
	{"rm latest --job nojob", 10, []string{"nojob"}},
	{"restore CUT --job other", 10, []string{"CUT", "other"}},
	{"restore CUT --remap nohost=hostC", 10, []string{"nohost", "ssctl show CUT"}},
	{"restore CUT --remap hostC=hostA", 10, []string{"hostC", "ssctl show CUT"}},
	{"restore CUT --remap hostA=nohost", 10, []string{"nohost", "ssctl host list"}},
	{"snapshot words --initiator hostC", 10, []string{"hostC", "hostA", "hostB"}},
	{"host rm nohost", 10, []string{"nohost"}},

	// No such words.
	{"restore CUT --remap hostA", 2, []string{"hostA=hostC"}},
	{"restore CUT --remap hostA=hostB=hostC", 2, []string{"hostA=hostC"}},
	{"restore CUT --remap hostA=hostC --remap hostA=hostB", 2, []string{"hostA twice"}},
	{"restore", 2, []string{"usage: ssctl restore "}},
	{"snapshot", 2, []string{"snapshot JOB"}},
	{"snapshot words more", 2, []string{"snapshot JOB"}},
	{"snapshot words --nonsense", 2, []string{"--nonsense"}},
	{"snapshot words --timeout soon", 2, []string{"soon"}},
	{"nonsense", 2, []string{"nonsense"}},
	{"-o xml list", 2, []string{"xml", "json"}},
	{"run other --host hostA", 2, []string{"-- CMD"}},
	{"run other -- sleep 1", 2, []string{"--host"}},
	{"run bad/name --host hostA -- sleep 1", 2, []string{"bad/name"}},
	{"run other --host hostA --cwd srv -- sleep 1", 2, []string{"srv", "absolute"}},
	{"run other --host hostA --log log -- sleep 1", 2, []string{"log", "absolute"}},
	{"run other --host hostA --log /proc/self/fd/1 -- sleep 1", 2, []string{"hostA", "the log /proc/self/fd/1 is in /proc", "ssctl logs"}},
	{"run other --host hostA --log /dev/stdout -- sleep 1", 2, []string{"hostA", "/dev/stdout", "by a link there"}},
	{"run other --host hostA --env X -- sleep 1", 2, []string{"X", "K=V"}},
	{"run other --host hostA --env X=\xff -- sleep 1", 2, []string{"--env", `"X=\xff"`, "a script on the host"}},
	{"run other --host hostA -- sleep \xff", 2, []string{`"\xff"`, "a script on the host"}},
	{"attach other --host hostA", 2, []string{"--pid"}},
	{"attach bad/name --host hostA --pid 1", 2, []string{"bad/name"}},
	{"host add hostD --addr 10.77.0.4 --bundle /srv/d", 2, []string{"10.77.0.4", "IP:PORT"}},
	{"host add hostD --addr 10.77.0.4:7070", 2, []string{"--bundle"}},
	{"host add bad/name --addr 10.77.0.4:7070 --bundle /srv/d", 2, []string{"bad/name"}},

	// There already, or in use.
	{"init", 8, []string{"/var/lib/ssctl", "--dir"}},
	{"host add hostA --addr 10.77.0.1:7070 --bundle /srv/a", 8, []string{"hostA"}},
	{"host rm hostA", 8, []string{"hostA", "words"}},

	// What the host cannot do.
	{"run other --host hostA -- /no/such/program", 1, []string{"hostA", "/no/such/program", "not found"}},
	{"run other --host hostA -- nosuchprogram", 1, []string{"hostA", "nosuchprogram", "PATH"}},
	{"run other --host hostA -- /srv", 1, []string{"hostA", "/srv", "directory"}},
	{"run other --host hostA --cwd /no/such -- sleep 1", 1, []string{"hostA", "/no/such", "working directory"}},
	{"attach other --host hostA --pid 1", 1, []string{"hostA", "other than 1"}},
	{"attach other --host hostA --pid 4000000", 1, []string{"hostA", "4000000", "no such process"}},
	{"attach other --host hostA --pid AGENT", 1, []string{"hostA", "agent itself"}},
	{"attach other --host hostA --pid MEMBER", 1, []string{"hostA", "words/hostA-1"}},
}

// TestBadInput asks for what cannot be, and for what must not be done, of one cluster whose job runs on through all of it.
func TestBadInput(t *testing.T) {
	withoutRace(t)
	f := newBadInput(t)
	for _, step := range []struct {
		name string
		test func(*badInput)
	}{
		{"commands", (*badInput).commands},
		{"agent down", (*badInput).agentDown},
		{"no CRIU", (*badInput).noCRIU},
		{"obstacles", (*badInput).obstacles},
		{"outside connections", (*badInput).outside},
		{"failed dump", (*badInput).failedDump},
		{"second snapshot", (*badInput).second},
		{"interrupt", (*badInput).interrupt},
		{"time is over", (*badInput).timeout},
		{"flipped bits", (*badInput).flipped},
		{"remap onto a host that lacks things", (*badInput).lacking},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			f.use(t)
			step.test(f)
			f.mustFlow("after it", soon)
			f.nothingLeft()
		})
		f.use(t)
		if !ok {
			break // what a failed step has left must not spoil the next
		}
	}
	if !t.Failed() {
		f.conclude()
	}
	f.rig.relay.close()
}

// badInput is the cluster and its job.
type badInput struct {
	*job
	rig *rig
	cut string
}

func newBadInput(t *testing.T) *badInput {
	t.Helper()
	r := newRig(t, "hostA", "hostB", "hostC")
	j := r.newJob("words")
	addr := r.Host("hostB").Addr().String() + ":9001"
	j.program("serve", "hostB", "words", "serve", "-listen", addr, "-ballast", "32")
	j.program("connect", "hostA", "words", "connect", "-to", addr, "-ballast", "8", "-until", j.stop)
	j.awaitProgress()
	return &badInput{job: j, rig: r, cut: j.snapshot().Cut}
}

func (f *badInput) use(t *testing.T) { f.rig.use(t) }

// refuse runs ssctl, which must refuse.
func (f *badInput) refuse(exit int, words []string, args ...string) (stderr string) {
	f.t.Helper()
	stdout, stderr, got := f.Ctl(args...)
	f.expect(strings.Join(args, " "), stdout+stderr, got, exit, words)
	return stderr
}

func (f *badInput) expect(what, said string, got, exit int, words []string) {
	f.t.Helper()
	if got != exit {
		f.t.Errorf("%s: exit code %d, want %d:\n%s", what, got, exit, said)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			f.t.Errorf("%s: no %q in:\n%s", what, w, said)
		}
	}
}

var frozen = regexp.MustCompile(`(?m)^host\w: (recording|dumping|fencing)$`)

// refuseUntouched is refuse for a snapshot or restore that must freeze and end nothing.
func (f *badInput) refuseUntouched(exit int, words []string, args ...string) {
	f.t.Helper()
	if stderr := f.refuse(exit, words, args...); frozen.MatchString(stderr) {
		f.t.Errorf("%v came too far:\n%s", args, stderr)
	}
}

func (f *badInput) commands() {
	before := f.MustCtl("list") + f.MustCtl("host", "list", "-q")
	var ps Members
	f.CtlJSON(&ps, "ps", "words")
	fill := strings.NewReplacer("CUT", f.cut, "AGENT", fmt.Sprint(f.inner("hostA", f.Agent("hostA").Pid())), "MEMBER", fmt.Sprint(ps.Members[0].Pid))
	for _, r := range refusals {
		f.t.Run(r.args, func(t *testing.T) {
			defer f.use(f.t)
			f.use(t)
			words := slices.Clone(r.words)
			for i := range words {
				words[i] = fill.Replace(words[i])
			}
			f.refuse(r.exit, words, strings.Fields(fill.Replace(r.args))...)
		})
	}
	if after := f.MustCtl("list") + f.MustCtl("host", "list", "-q"); column(after) != column(before) {
		f.t.Errorf("before:\n%s\nand after:\n%s", before, after)
	}
	if _, stderr, exit := f.Ctl("ps", "other"); exit != 10 {
		f.t.Errorf("there is a job other now: %s", stderr)
	}
}

// column is the first column of a table.
func column(table string) string {
	var b strings.Builder
	for line := range strings.Lines(table) {
		first, _, _ := strings.Cut(line, " ")
		b.WriteString(first + "\n")
	}
	return b.String()
}

// inner is a process as its host numbers it.
func (f *badInput) inner(host string, pid int) int {
	f.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		f.t.Fatal(err)
	}
	var outer, inner int
	for line := range strings.Lines(string(data)) {
		if _, err := fmt.Sscanf(line, "NSpid: %d %d", &outer, &inner); err == nil {
			return inner
		}
	}
	f.t.Fatalf("process %d is not on %s", pid, host)
	return 0
}

func (f *badInput) agentDown() {
	f.Agent("hostB").Kill()
	defer f.Agent("hostB").Start()
	f.refuseUntouched(5, []string{"hostB", "ssagent"}, "snapshot", "words")
	f.refuseUntouched(5, []string{"hostB", "--remap hostB="}, "restore", f.cut)
	f.refuse(5, []string{"hostB", "ssagent"}, "run", "words", "--host", "hostB", "--", "sleep", "1")
	f.refuse(5, []string{"hostB", "ssagent"}, "verify", f.cut)
	if out, _, exit := f.Ctl("host", "list"); exit != 0 || !strings.Contains(out, "unreachable") {
		f.t.Errorf("host list: exit code %d\n%s", exit, out)
	}
	if out, stderr, exit := f.Ctl("ps", "words"); exit != 0 || !strings.Contains(out, "hostA-1") || !strings.Contains(stderr, "hostB") {
		f.t.Errorf("ps: exit code %d\n%s%s", exit, out, stderr)
	}
	f.mustFlow("without an agent", soon)
}

// noCRIU gives hostB's agent one CRIU after another that does not do.
func (f *badInput) noCRIU() {
	config := filepath.Join(f.Dir(), "bundles", "hostB", "agent.yaml")
	was, err := os.ReadFile(config)
	if err != nil {
		f.t.Fatal(err)
	}
	agent := f.Agent("hostB")
	for path, word := range map[string]string{"/bin/false": "/bin/false", "/no/such/criu": "/no/such/criu"} {
		agent.Stop()
		with := regexp.MustCompile(`(?m)^criu: .*\n`).ReplaceAllString(string(was), "") + "criu: " + path + "\n"
		if err := os.WriteFile(config, []byte(with), 0o600); err != nil {
			f.t.Fatal(err)
		}
		agent.Start()
		words := []string{"hostB", word, "install-criu"}
		f.refuseUntouched(4, words, "snapshot", "words")
		f.refuseUntouched(4, words, "restore", f.cut)
		out, _, exit := f.Ctl("host", "list")
		f.expect("host list", out, exit, 0, []string{"unusable", word})
	}
	agent.Stop()
	if err := os.WriteFile(config, was, 0o600); err != nil {
		f.t.Fatal(err)
	}
	agent.Start()
}

// obstacles are what members hold that CRIU cannot dump and that can be seen beforehand.
func (f *badInput) obstacles() {
	f.t.Run("multipath TCP", func(t *testing.T) {
		defer f.use(f.t)
		f.use(t)
		j := f.newJob("mptcp")
		addr := j.Host("hostA").Addr().String() + ":9010"
		j.MustCtl("run", j.name, "--host", "hostA", "--env", "GODEBUG=multipathtcp=1", "--", binary(t, "words"), "serve", "-listen", addr)
		f.awaitListener("hostA", 9010)
		f.refuseUntouched(4, []string{"hostA", "words serve", "multipath TCP", "GODEBUG=multipathtcp=0"}, "snapshot", j.name)
		j.end()
	})
	f.t.Run("io_uring", func(t *testing.T) {
		defer f.use(f.t)
		f.use(t)
		j := f.newJob("uring")
		if disabled, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); err != nil || strings.TrimSpace(string(disabled)) == "2" {
			t.Logf("this kernel has no io_uring, so no member can hold one: %s, %v", disabled, err)
			return
		}
		j.hold("ring", "hostA", "io_uring")
		f.refuseUntouched(4, []string{"hostA", "process ", holdWord[:10], "io_uring", "turn it off"}, "snapshot", j.name)
		j.end()
	})
}

// awaitListener returns when a port is open on a host.
func (f *badInput) awaitListener(host string, port int) {
	f.t.Helper()
	want := fmt.Sprintf(":%04X ", port)
	await(f.t, "listener", func() string {
		for _, file := range []string{"tcp", "tcp6"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", f.Host(host).Pid(), file))
			if err == nil && strings.Contains(string(data), want) {
				return ""
			}
		}
		return fmt.Sprintf("no port %d on %s", port, host)
	})
}

// outside makes members with connections that leave the job: to a host that has no part in it, and to programs beside the members.
func (f *badInput) outside() {
	for i, server := range []string{lab.AdminName, "hostA", "hostB"} {
		f.t.Run(server, func(t *testing.T) {
			defer f.use(f.t)
			f.use(t)
			addr := fmt.Sprintf("%s:%d", f.Host(server).Addr(), 9020+i)
			stop := filepath.Join(f.Dir(), fmt.Sprintf("outside%d.stop", i))
			ctx, cancel := context.WithTimeout(context.Background(), soon)
			defer cancel()
			cmd := f.Host(server).Command(ctx, binary(t, "words"), "serve", "-listen", addr)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			j := f.newJob("outside")
			j.program("connect", "hostA", "words", "connect", "-to", addr, "-until", stop)
			j.serve("beside", "hostB", "sleep", "1000003") // so that hostB takes part
			j.awaitProgress()
			words := []string{"hostA", "words connect", addr}
			if server == "hostB" {
				// hostA alone cannot know that what is at the other end is not a member: the check of the cut finds it.
				f.refuse(4, []string{"hostA", addr}, "snapshot", j.name)
			} else {
				f.refuseUntouched(4, words, "snapshot", j.name)
			}
			j.mustFlow("after it was refused", theLease+noise)
			if err := f.Host(lab.AdminName).WriteFile(stop, nil); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("the other end: %v\n%s", err, &out)
			}
			await(t, "end of the member", func() string {
				if log := j.log(j.members[0]); !strings.Contains(log, "PASS") {
					return lastLine(log)
				}
				return ""
			})
			j.end()
		})
	}
}

// failedDump has CRIU fail in the midst of it, at what nobody can see beforehand: the job's other members are dumped by then. What can be seen beforehand is
// refused before the freeze.
func (f *badInput) failedDump() {
	f.Host("hostB").FailDumps(true)
	f.refuse(9, []string{"while dumping", lab.FailedDump, "hostB", "the job runs on"}, "snapshot", "words")
	f.mustFlow("after a failed dump", theLease+noise)
	f.Host("hostB").FailDumps(false)
	f.nothingLeft()
	for what, words := range map[string][]string{"mapped": {"maps a bpf-map", "unmap"}, "secret": {"maps secret memory", "mlock"}} {
		m := f.hold(what, "hostB", what)
		f.refuseUntouched(4, append(words, "hostB", "the job runs on"), "snapshot", "words")
		f.mustFlow("after a snapshot that was refused", theLease+noise)
		f.nothingLeft()
		for _, p := range f.processes("hostB") {
			if strings.Contains(p.command, holdWord) {
				_ = unix.Kill(p.pid, unix.SIGTERM) // it ends well; a member that is killed would stop further snapshots
			}
		}
		f.members = slices.DeleteFunc(f.members, func(o *member) bool { return o == m })
		await(f.t, "end of "+what, func() string {
			if slices.ContainsFunc(f.processes("hostB"), func(p process) bool { return strings.Contains(p.command, holdWord) }) {
				return "it is there"
			}
			return ""
		})
	}
}

// second asks for a snapshot, and a restore, and more, while a snapshot is on.
func (f *badInput) second() {
	var said []string
	f.Host("hostB").HoldDumps(true) // the snapshot lasts as long as the commands take
	run := f.ctlTrapped("hostB: preparing", func(*lab.Cmd) {
		defer f.Host("hostB").HoldDumps(false)
		for _, args := range [][]string{{"snapshot", "words"}, {"restore", f.cut}, {"kill", "words"}, {"run", "words", "--host", "hostA", "--", "sleep", "1"}} {
			_, stderr, exit := f.Ctl(args...)
			if exit != 8 || !strings.Contains(stderr, "words") || frozen.MatchString(stderr) {
				said = append(said, fmt.Sprintf("%v: exit code %d, want 8:\n%s", args, exit, stderr))
			}
		}
	}, "snapshot", "words")
	for _, s := range said {
		f.t.Error(s)
	}
	if run.ExitCode() != 0 {
		f.t.Errorf("the first one: exit code %d\n%s", run.ExitCode(), run.stderr)
	}
}

// interrupt presses Ctrl-C.
func (f *badInput) interrupt() {
	before := f.cuts()
	press := func(ctl *lab.Cmd) { _ = ctl.Process.Signal(os.Interrupt) }
	for _, phase := range []string{"preparing", "recording", "dumping", "storing"} {
		run := f.ctlTrapped("hostB: "+phase, press, "snapshot", "words")
		exit := run.ExitCode()
		f.expect("Ctrl-C at "+phase, run.stderr.String(), exit, 130, []string{"the job runs on"})
		f.mustFlow("after Ctrl-C", theLease+noise)
		f.nothingLeft()
	}
	for _, phase := range []string{"checking", "fetching"} {
		run := f.ctlTrapped("hostB: "+phase, press, "restore", f.cut)
		exit := run.ExitCode()
		f.expect("Ctrl-C at "+phase, run.stderr.String(), exit, 130, []string{"nothing was touched"})
		f.mustFlow("after Ctrl-C", theLease+noise)
	}
	if after := f.cuts(); !slices.Equal(before, after) {
		f.t.Errorf("cuts were %v and are %v", before, after)
	}
	for _, phase := range []string{"fencing", "restoring"} {
		run := f.ctlTrapped("hostB: "+phase, press, "restore", f.cut)
		exit := run.ExitCode()
		f.expect("Ctrl-C at "+phase, run.stderr.String(), exit, 130, []string{"the job is stopped", "restore it again"})
		if left := slices.Concat(f.instances("hostA", "words"), f.instances("hostB", "words")); len(left) > 0 {
			f.t.Errorf("after Ctrl-C at %s processes %v are left", phase, left)
		}
		f.nothingLeft()
		f.MustCtl("restore", f.cut)
		f.mustFlow("after Ctrl-C and a restore", soon)
	}
}

// timeout gives a snapshot less time than it needs: an agent is stopped meanwhile.
func (f *badInput) timeout() {
	agent := f.Agent("hostB").Pid()
	must(f.t, unix.Kill(agent, unix.SIGSTOP))
	defer func() { _ = unix.Kill(agent, unix.SIGCONT) }()
	began := time.Now()
	f.refuse(130, []string{"--timeout 150ms is over"}, "snapshot", "words", "--timeout", "150ms")
	if d := time.Since(began); d > theLease+noise {
		f.t.Errorf("that took %v", d)
	}
	must(f.t, unix.Kill(agent, unix.SIGCONT))
	f.mustFlow("after it", theLease+noise)
}

// flipped flips one bit after the other, in each object that a restore would use, on every host that holds it: where no copy is whole,
// nothing is touched. That one copy mends another is for TestHeal.
func (f *badInput) flipped() {
	for _, source := range []string{"hostA", "hostB"} {
		holders := f.holders(f.cut, source)
		paths := map[string][]string{} // by what it is, on all its holders
		for _, h := range holders {
			for _, path := range append(f.objects(h, f.cut, source), f.Host(h).Path(f.setPath(f.cut, source))) {
				paths[filepath.Base(path)] = append(paths[filepath.Base(path)], path)
			}
		}
		for what, copies := range paths {
			if len(copies) != len(holders) {
				f.t.Fatalf("%s is on %d of %d hosts", what, len(copies), len(holders))
			}
			var whole [][]byte
			for _, path := range copies {
				data, err := os.ReadFile(path)
				must(f.t, err)
				whole = append(whole, data)
				flip(f.t, path, int64(len(data)/2))
			}
			f.refuseUntouched(7, []string{source}, "restore", f.cut)
			f.refuse(7, []string{source, "ssctl repair"}, "verify", f.cut)
			for i, path := range copies { // what was found damaged may have been put aside
				must(f.t, os.MkdirAll(filepath.Dir(path), 0o700))
				must(f.t, os.WriteFile(path, whole[i], 0o600))
			}
		}
		f.t.Logf("%d objects of %s on %v", len(paths), source, holders)
	}
	f.MustCtl("verify", f.cut, "--read-data")
}

// flip changes one bit of a file. Doing it twice undoes it.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// lacking sends hostB's part to hostC, where one of its programs is another build, one is not there, and one of its ports is taken.
func (f *badInput) lacking() {
	own := filepath.Join(f.Dir(), "own")
	if err := os.Mkdir(own, 0o755); err != nil {
		f.t.Fatal(err)
	}
	sleep, err := os.ReadFile("/bin/sleep")
	if err == nil {
		err = os.WriteFile(filepath.Join(own, "nap"), sleep, 0o755)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.serve("nap", "hostB", filepath.Join(own, "nap"), "1000004")
	cut := f.snapshot().Cut
	words := binary(f.t, "words")
	on := func(args ...string) {
		f.t.Helper()
		if out, err := f.Host("hostC").Command(f.t.Context(), args...).CombinedOutput(); err != nil {
			f.t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	on("mount", "--bind", "/bin/true", words)
	on("mount", "-t", "tmpfs", "none", own)
	taken := f.Host("hostC").Command(context.Background(), binary(f.t, "echo"), "serve", "-listen", ":9001")
	if err := taken.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.awaitListener("hostC", 9001)

	what := []string{"hostC", "3 problems", words + " is another build", "there is no " + own + "/nap", ":9001"}
	f.refuseUntouched(4, what, "restore", cut, "--remap", "hostB=hostC", "--dry-run")
	f.refuseUntouched(4, append(what, "nothing was touched"), "restore", cut, "--remap", "hostB=hostC")
	f.mustFlow("after a restore that was refused", soon)

	taken.Kill()
	on("umount", own)
	on("umount", words)
	f.MustCtl("restore", cut, "--remap", "hostB=hostC")
	f.moved("hostB", "hostC")
	f.mustFlow("on hostC", soon)
}

// TestAttached takes in a job that was started without us, records it, ends it and puts it back.
func TestAttached(t *testing.T) {
	withoutRace(t)
	c := newCluster(t)
	j := c.newJob("attached")
	addr := c.Host("hostB").Addr().String() + ":9001"
	attach := func(name, host string, args ...string) {
		m := &member{name: name, host: host}
		j.members = append(j.members, m)
		cmd := c.Host(host).Command(context.Background(), append([]string{binary(t, "words")}, args...)...).LogTo(j.logPath(m))
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		cmd.Stdin = nil
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		f := badInput{job: j}
		j.MustCtl("attach", j.name, "--host", host, "--pid", fmt.Sprint(f.inner(host, cmd.Pid())))
	}
	attach("serve", "hostB", "serve", "-listen", addr, "-ballast", "16")
	attach("connect", "hostA", "connect", "-to", addr, "-ballast", "16", "-until", j.stop)
	j.awaitProgress()
	j.snapshot()
	j.mustFlow("after a snapshot", soon)
	second := j.snapshot()
	c.MustCtl("kill", j.name)
	j.restore(second.Cut)
	j.mustFlow("after a restore", soon)
	third := j.snapshot()
	c.Host("hostA").PowerOff()
	j.restore(third.Cut, "hostA=hostC")
	j.mustFlow("on another host", soon)
	j.conclude()
}
