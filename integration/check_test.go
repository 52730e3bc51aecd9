package integration

import (
	"context"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCheck needs root. `ssctl check` names what a snapshot and a restore elsewhere would be refused for, in their words, on all hosts at once, and nothing
// else.
func TestCheck(t *testing.T) {
	withoutRace(t)
	f := newBadInput(t)
	defer f.rig.relay.close()
	type checked struct {
		Hosts   []struct{ Host, Kernel, CRIU string }
		Members []struct {
			Host, Name string
			Processes  int
			Holdings   struct{ Threads, Sockets []any }
		}
		Moved    map[string]string
		Problems []struct{ Host, Text string }
	}
	var doc checked
	f.CtlJSON(&doc, "check", "words", "--inventory", "--remap", "hostB=hostC")
	if len(doc.Problems) != 0 || len(doc.Hosts) != 3 || len(doc.Members) != 2 || doc.Moved["10.77.0.2"] != "10.77.0.3" {
		t.Errorf("a job in good order: %+v", doc)
	}
	for _, m := range doc.Members {
		if m.Processes == 0 || len(m.Holdings.Threads) == 0 || len(m.Holdings.Sockets) == 0 {
			t.Errorf("%s holds nothing: %+v", m.Name, m)
		}
	}
	if out := f.MustCtl("check", "words"); !strings.Contains(out, "no problems found") {
		t.Errorf("check says:\n%s", out)
	}

	f.hold("secret", "hostA", "secret")
	f.hold("ring", "hostB", "io_uring")
	words := []string{"2 problems", "hostA: process", "maps secret memory", "hostB: process", "io_uring", "nothing was touched"}
	said := f.refuse(4, words, "check", "words")
	for line := range strings.Lines(f.refuse(4, nil, "snapshot", "words")) { // which is refused by the first host that looks
		text, _, _ := strings.Cut(strings.TrimSpace(line), "; the job runs on")
		if strings.HasPrefix(text, "process ") && !strings.Contains(said, text) {
			t.Errorf("a snapshot says %q, and check:\n%s", text, said)
		}
	}
	for _, host := range []string{"hostA", "hostB"} {
		for _, p := range f.processes(host) {
			if strings.Contains(p.command, holdWord) {
				must(t, unix.Kill(p.pid, unix.SIGTERM))
			}
		}
		f.awaitGone(host, holdWord)
	}
	f.members = f.members[:2]

	taken := f.Host("hostC").Command(context.Background(), binary(t, "echo"), "serve", "-listen", ":9001")
	must(t, taken.Start())
	f.awaitListener("hostC", 9001)
	path := binary(t, "words")
	if out, err := f.Host("hostC").Command(t.Context(), "mount", "--bind", "/bin/true", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	words = []string{"hostC", "2 problems", path + " is another build", ":9001"}
	f.refuse(4, words, "check", "words", "--remap", "hostB=hostC")
	f.refuse(4, words, "restore", f.cut, "--remap", "hostB=hostC", "--dry-run")
	if out, err := f.Host("hostC").Command(t.Context(), "umount", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	taken.Kill()

	f.refuse(10, []string{"nojob"}, "check", "nojob")
	f.refuse(10, []string{"nohost", "ssctl host list"}, "check", "words", "--remap", "hostA=nohost")
	f.refuse(10, []string{"hostC", "ssctl ps words"}, "check", "words", "--remap", "hostC=hostA")
	f.Agent("hostB").Kill()
	f.refuse(5, []string{"hostB", "ssagent"}, "check", "words")
	f.Agent("hostB").Start()
	f.mustFlow("after all checks", soon)
	f.nothingLeft()
	f.conclude()
}

// awaitGone returns when no process of a host has the word in its command.
func (f *badInput) awaitGone(host, word string) {
	f.t.Helper()
	await(f.t, "end of what has "+word+" in its command", func() string {
		for _, p := range f.processes(host) {
			if strings.Contains(p.command, word) {
				return p.command
			}
		}
		return ""
	})
}
